//! A bare LD_PRELOAD: the interposer starts its own analyzer, and the host never notices.

use std::path::Path;
use std::process::Command;

use avleak_tests::avleak::{LIMIT, read_report};
use avleak_tests::process::{self, Finished};
use avleak_tests::{avleak_binary, avleak_library, programs, scratch, truth};
use serde_json::Value;

/// Runs a fixture with the library preloaded, in `folder`, whose path marks the analyzer (it is passed these options).
fn preloaded(folder: &Path, program: &str, arguments: &[&str], options: &str) -> Finished {
    let mut command = Command::new(programs::program(program));
    command.args(arguments).current_dir(folder).env("LD_PRELOAD", avleak_library());
    command.env("AVLEAK_ANALYZER", avleak_binary()).env("AVLEAK_OPTIONS", options).env("TMPDIR", folder);
    // These programs end within a moment; on a busy machine the analyzer takes longer than a server would be made to wait for it.
    command.env("AVLEAK_PATIENCE_MS", "20000");
    process::start_marked(&mut command, LIMIT, folder.to_str().expect("a path in UTF-8")).finish()
}

/// The reports that were left in a folder, by name.
fn reports(folder: &Path) -> Vec<(String, Value)> {
    let files = std::fs::read_dir(folder).expect("the folder").flatten();
    let names = files.map(|file| file.file_name().display().to_string()).filter(|name| name.ends_with(".json"));
    names.map(|name| (name.clone(), read_report(&folder.join(&name)).expect("a report"))).collect()
}

fn assert_true(done: &Finished, found: &[(String, Value)]) {
    let truths = truth::truths(&done.text());
    let values: Vec<Value> = found.iter().map(|(_, report)| report.clone()).collect();
    let faults = truth::faults(&truths, &values);
    assert!(faults.is_empty(), "{}\n{truths:?}\n{}\n{values:#?}", faults.join("\n"), done.stderr);
    for (name, report) in found {
        assert_eq!(*name, format!("avleak.{}.json", report["target"]["pid"]));
    }
}

#[test]
fn leaves_its_report_in_the_working_folder() {
    for twin in ["leak", "clean"] {
        let folder = scratch();
        let done = preloaded(folder.path(), "leak_batch", &[twin], "");
        assert_eq!(done.code(), 0, "the status is the program's own");
        assert_true(&done, &reports(folder.path()));
    }
}

#[test]
fn leaves_its_report_where_the_options_say() {
    let (folder, elsewhere) = (scratch(), scratch());
    let options = format!("report_dir={}:quiet=1:level=strict", elsewhere.path().display());
    let done = preloaded(folder.path(), "leak_batch", &["leak"], &options);
    assert_eq!(done.stderr, "", "quiet=1");
    assert!(reports(folder.path()).is_empty());
    let found = reports(elsewhere.path());
    assert_true(&done, &found);
    assert_eq!(found[0].1["level"], "strict");
}

#[test]
fn is_unseen_by_wait_and_sigchld() {
    let folder = scratch();
    let done = preloaded(folder.path(), "wait_any", &["leak"], "quiet=1");
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_true(&done, &reports(folder.path()));
}

#[test]
fn follows_a_fork() {
    let folder = scratch();
    let done = preloaded(folder.path(), "fork_leaks", &["both"], "quiet=1");
    assert_true(&done, &reports(folder.path()));
}

#[test]
fn reports_a_fatal_signal() {
    let folder = scratch();
    let done = preloaded(folder.path(), "exits", &["segv"], "quiet=1");
    assert_eq!(done.code(), 128 + 11);
    assert_true(&done, &reports(folder.path()));
}

/// One line of stderr holds all of these words, and the host ran on.
fn assert_said(done: &Finished, words: &[&str]) {
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!(truth::truths(&done.text()).len(), 1, "the program was disturbed: {}", done.stderr);
    let lines: Vec<&str> = done.stderr.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(lines.len(), 1, "not one line with {words:?}:\n{}", done.stderr);
    assert!(lines[0].starts_with("avleak: "), "{}", lines[0]);
}

#[test]
fn names_a_wrong_key_and_the_valid_ones() {
    let folder = scratch();
    let done = preloaded(folder.path(), "leak_batch", &["clean"], "levle=strict");
    assert_said(&done, &["AVLEAK_OPTIONS", "levle", "level", "report_dir"]);
    assert_true(&done, &reports(folder.path()));
}

#[test]
fn names_a_wrong_value_and_the_valid_ones() {
    let folder = scratch();
    let done = preloaded(folder.path(), "leak_batch", &["clean"], "level=hard");
    assert_said(&done, &["AVLEAK_OPTIONS", "hard", "level", "draconian"]);
    assert_true(&done, &reports(folder.path()));
}

#[test]
fn says_that_there_is_no_analyzer() {
    let folder = scratch();
    let mut command = Command::new(programs::program("leak_batch"));
    command
        .current_dir(folder.path())
        .env("LD_PRELOAD", avleak_library())
        .env("AVLEAK_ANALYZER", "/nonexistent/avleak");
    let done = process::run(&mut command, LIMIT);
    assert_said(&done, &["/nonexistent/avleak", "AVLEAK_ANALYZER"]);
    assert!(reports(folder.path()).is_empty());
}

#[test]
fn says_that_the_report_cannot_be_written() {
    let folder = scratch();
    let done = preloaded(folder.path(), "leak_batch", &["leak"], "report_dir=/nonexistent/folder");
    assert_said(&done, &["/nonexistent/folder", "ENOENT"]);
}

#[test]
fn is_silent_in_programs_without_ffmpeg() {
    let program = programs::special("no_ffmpeg", "no_ffmpeg", &[]);
    let folder = scratch();
    let mut command = Command::new(program);
    command.current_dir(folder.path()).env("LD_PRELOAD", avleak_library()).env("AVLEAK_OPTIONS", "nonsense");
    let done = process::run(&mut command, LIMIT);
    assert_eq!((done.text().as_str(), done.stderr.as_str(), done.code()), ("no FFmpeg here\n", "", 0));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
