//! Processes that are checked again and again while they run on, and what is alerted of.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use avleak_tests::avleak::{LIMIT, Run, Started, read_report};
use avleak_tests::process::Running;
use avleak_tests::truth::{self, number};
use avleak_tests::{avleak_binary, avleak_library, process, programs, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// The number behind a word that the server says.
fn said(running: &mut Running, word: &str) -> u64 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

/// The server under `avleak run` with these options.
fn server(options: &[&str]) -> (Started, i32) {
    let mut started = Run::new([programs::program("live_server")]).options(options).start();
    let pid = said(&mut started.running, "ready ") as i32;
    (started, pid)
}

fn lose(running: &mut Running, pid: i32) -> u64 {
    signal(pid, Signal::USR1);
    said(running, "lost ")
}

/// Loses frames until that was noticed.
fn lose_until(running: &mut Running, pid: i32, is_noticed: impl Fn() -> bool) {
    for _ in 0..60 {
        lose(running, pid);
        for _ in 0..40 {
            if is_noticed() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    panic!("nobody noticed");
}

/// The alerts in a file, once there are so many.
fn alerts(file: &Path, least: usize) -> Vec<Value> {
    let mut found = Vec::new();
    for _ in 0..1200 {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        // A line without its end is still being written.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        found = lines.map(|line| serde_json::from_str(line).expect("an alert")).collect();
        if found.len() >= least {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} alerts in {}, not {least}: {found:#?}", found.len(), file.display());
}

/// A program that notes what it is told in `folder`.
fn notifier(folder: &Path) -> PathBuf {
    let program = folder.join("notify me; touch owned");
    let script = format!(
        "#!/bin/sh\n{{ env | grep ^AVLEAK_ALERT_; echo; cat; }} >\"{0}/part\"\nmv \"{0}/part\" \"{0}/told\"\n",
        folder.display()
    );
    std::fs::write(&program, script).expect("a script");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    program
}

#[test]
fn a_server_that_leaks_is_told_of_once_until_it_is_worse() {
    let folder = scratch();
    let (file, program) = (folder.path().join("alerts.ndjson"), notifier(folder.path()));
    let (mut started, pid) = server(&[
        "--check-interval",
        "200ms",
        "--alert-frames",
        "6",
        "--alert-file",
        file.to_str().expect("a path"),
        "--alert-command",
        program.to_str().expect("a path"),
    ]);
    // Clean at first: many checks, no alert.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!file.exists(), "{:?}", std::fs::read_to_string(&file));
    lose(&mut started.running, pid);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!file.exists(), "three are fewer than six: {:?}", std::fs::read_to_string(&file));
    lose_until(&mut started.running, pid, || file.exists());
    let first = &alerts(&file, 1)[0];
    assert_eq!((first["schema"].as_str(), first["pid"].as_i64()), (Some("avleak-alert/1"), Some(pid.into())));
    let count = number(&first["count"]);
    assert!(count >= 6, "{first:#}");
    assert_eq!((&first["reasons"][0], &first["group"]["class"]), (&"frames".into(), &"definitely_lost".into()));
    assert!(
        first["message"].as_str().is_some_and(|text| text.contains("AVFrame definitely lost, allocated in")),
        "{first:#}"
    );
    assert!(number(&first["checks"]) >= 1 && number(&first["checks_failed"]) == 0, "{first:#}");
    // The report of that check lies beside it.
    let report = read_report(Path::new(first["report"].as_str().expect("a path"))).expect("a report");
    assert_eq!(report["leaks"], first["leaks"]);
    let groups = report["groups"].as_array().expect("groups");
    assert!(groups.iter().any(|group| group["id"] == first["group"]["id"] && number(&group["count"]) == count));
    // The command was told, and no shell read its name.
    let told = wait_for(&folder.path().join("told"));
    let line = format!("AVLEAK_ALERT_PID={pid}\n");
    assert!(told.contains(&line) && told.contains("AVLEAK_ALERT_REASONS=frames\n"), "{told}");
    let (_, on_stdin) = told.split_once("\n\n").expect("a line on stdin");
    assert_eq!(&serde_json::from_str::<Value>(on_stdin).expect("an alert"), first);
    assert!(!Path::new("owned").exists() && !folder.path().join("owned").exists());
    // Half as many again is nothing new; twice as many is.
    lose(&mut started.running, pid);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(alerts(&file, 1).len(), 1);
    lose_until(&mut started.running, pid, || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() > 1));
    assert!(number(&alerts(&file, 2)[1]["count"]) >= 2 * count);
    let stderr = end(started, pid);
    assert!(stderr.contains("avleak: alert: live_server"), "{stderr}");
}

/// Ends the server, whose report is true; returns avleak's stderr.
fn end(started: Started, pid: i32) -> String {
    signal(pid, Signal::TERM);
    let outcome = started.finish();
    // On a machine that is too busy events are dropped; then the report says so, and other tests what it is worth.
    if number(&outcome.report()["observed"]["events_dropped"]) == 0 {
        truth::check(&outcome);
    }
    outcome.finished.stderr
}

fn wait_for(file: &Path) -> String {
    for _ in 0..600 {
        if let Ok(text) = std::fs::read_to_string(file) {
            return text;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no {}", file.display());
}

/// Growth is seen by its slope, without any threshold of frames; a server that moves thousands of frames and holds some is none.
#[test]
fn growth_is_told_of_and_a_busy_server_is_not() {
    let folder = scratch();
    let file = folder.path().join("alerts.ndjson");
    let (mut started, pid) = server(&["--check-interval", "100ms", "--alert-file", file.to_str().expect("a path")]);
    std::thread::sleep(Duration::from_secs(12));
    assert!(!file.exists(), "{:?}", std::fs::read_to_string(&file));
    let mut lost = 0;
    // Three at a time, until it was noticed.
    while !file.exists() && lost < 600 {
        lost = lose(&mut started.running, pid);
        std::thread::sleep(Duration::from_millis(300));
    }
    let alert = &alerts(&file, 1)[0];
    assert_eq!((&alert["reasons"][0], &alert["group"]["object"]), (&"growth".into(), &"AVFrame".into()), "{alert:#}");
    let growth = &alert["growth"];
    assert!(growth["per_hour"].as_f64().is_some_and(|slope| slope > 0.0), "{growth}");
    assert!(growth["p"].as_f64().is_some_and(|p| p < 1e-3) && number(&growth["checks"]) >= 8, "{growth}");
    end(started, pid);
}

/// Started by the library alone, nobody looks at stderr: the file is there all the same.
#[test]
fn a_bare_preload_is_monitored_too() {
    let folder = scratch();
    let mut command = Command::new(programs::program("live_server"));
    command.env("LD_PRELOAD", avleak_library()).current_dir(folder.path());
    command.env("AVLEAK_OPTIONS", "quiet=1:check_interval=200ms:alert_frames=3:alert_file=alerts");
    let mut running = process::start(&mut command, LIMIT);
    let pid = said(&mut running, "ready ") as i32;
    // A bare preload rather drops events than holds up its host for long; what was lost before they were dropped is no alert.
    let file = folder.path().join("alerts");
    lose_until(&mut running, pid, || file.exists());
    assert!(number(&alerts(&file, 1)[0]["count"]) >= 3);
    assert!(folder.path().join(format!("avleak.{pid}.alert-1.json")).exists());
    signal(pid, Signal::TERM);
    let done = running.finish();
    assert_eq!((done.code(), done.stderr.as_str()), (0, ""));
}

/// A series, and what was told, outlive the analyzer.
#[test]
fn an_analyzer_that_is_killed_tells_nothing_twice() {
    let folder = scratch();
    let file = folder.path().join("alerts.ndjson");
    let (mut started, pid) =
        server(&["--check-interval", "200ms", "--alert-frames", "3", "--alert-file", file.to_str().expect("a path")]);
    lose_until(&mut started.running, pid, || file.exists());
    let first = alerts(&file, 1);
    let before = number(&first[0]["checks"]);
    // What the next one goes on with is kept after the alert was written.
    std::thread::sleep(Duration::from_secs(1));
    let keeper = started.running.pid() as i32;
    signal(analyzer_of(keeper), Signal::KILL);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(alerts(&file, 1).len(), 1, "it was told already");
    lose_until(&mut started.running, pid, || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() > 1));
    let both = alerts(&file, 2);
    assert!(number(&both[1]["count"]) >= 6, "{both:#?}");
    assert!(number(&both[1]["checks"]) > before, "{both:#?}");
    end(started, pid);
}

/// The child of avleak's that is its analyzer.
fn analyzer_of(keeper: i32) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
    // Another thread may have started it.
    let tasks = std::fs::read_dir(format!("/proc/{keeper}/task")).expect("its threads").flatten();
    let others = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let all: Vec<i32> = others
        .chain([children])
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let is_analyzer = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).nth(1) == Some(b"analyze")
    };
    all.into_iter().find(is_analyzer).expect("an analyzer")
}

#[test]
fn what_cannot_be_is_refused_before_the_command_is_started() {
    let refused = |options: &[&str], words: &[&str]| {
        let folder = scratch();
        let mut command = Command::new(avleak_binary());
        command.arg("run").args(options).args(["--", "touch", "started"]).current_dir(folder.path());
        let done = process::run(&mut command, LIMIT);
        assert_eq!(done.code(), 2, "{}", done.stderr);
        assert!(words.iter().all(|word| done.stderr.contains(word)), "{options:?}: {}", done.stderr);
        assert!(!folder.path().join("started").exists());
    };
    refused(&["--check-interval", "soon"], &["soon", "100ms to 24h"]);
    refused(&["--check-interval", "1ms"], &["1ms", "100ms to 24h"]);
    refused(&["--alert-frames", "0"], &["--alert-frames", "1 or more"]);
    refused(&["--alert-bytes", "many"], &["many", "such as 100M"]);
    refused(&["--alert-command", "mail -s leak"], &["mail -s leak", "ENOENT", "without arguments"]);
    refused(&["--alert-file", "/nonexistent/alerts"], &["/nonexistent", "not started"]);
}

#[test]
fn a_bad_value_is_named_with_the_valid_ones_and_the_host_runs_on() {
    let folder = scratch();
    for (options, words) in [
        ("check_interval=often", ["often", "check_interval", "100ms to 24h"]),
        ("alert_frames=0", ["'0'", "alert_frames", "1 or more"]),
        ("alert_bytes=1T", ["1T", "alert_bytes", "such as 100M"]),
        ("alert_colour=red", ["alert_colour", "alert_file", "check_interval"]),
    ] {
        let mut command = Command::new(programs::program("leak_batch"));
        command.arg("clean").env("LD_PRELOAD", avleak_library()).env("AVLEAK_OPTIONS", options);
        let done = process::run(command.current_dir(folder.path()), LIMIT);
        assert_eq!(done.code(), 0, "{}", done.stderr);
        let lines = done.stderr.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
        assert_eq!(lines, 1, "{options}: {}", done.stderr);
    }
}
