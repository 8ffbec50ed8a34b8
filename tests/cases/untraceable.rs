//! Processes that may not be traced: what was seen is reported, and never called clean.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Run, read_report};
use avleak_tests::truth::number;
use avleak_tests::{avleak_binary, avleak_library, process, programs, scratch};
use serde_json::Value;

/// The report says that not everything was seen, but all that was.
fn assert_honest(report: &Value, code: i32, frames: u64) {
    assert_ne!(report["verdict"], "clean", "{report:#}");
    assert_ne!(report["completeness"]["memory"], "ptrace", "{report:#}");
    assert_eq!(number(&report["observed"]["frames_allocated"]), frames, "{report:#}");
    let why = report["completeness"]["memory_reason"].as_str().unwrap_or("");
    assert!(!why.is_empty(), "it says nothing of the refusal: {report:#}");
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{report:#}");
    assert_eq!(code, if report["verdict"] == "leaks" { 1 } else { 3 });
}

#[test]
fn a_process_that_is_not_dumpable_seen_by_an_ordinary_user() {
    let folder = scratch();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("the folder's mode");
    // Copies, for another user may not reach the build folder.
    for file in [avleak_binary(), avleak_library(), programs::program("untraceable")] {
        std::fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("a copy of the programs");
    }
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]).arg("./avleak");
        command
    } else {
        Command::new("./avleak")
    };
    command.args(["run", "--quiet", "--json", "report.json", "--", "./untraceable"]).current_dir(folder.path());
    command.env_remove("AVLEAK_LIB");
    let done = process::run(&mut command, LIMIT);
    assert!(done.text().contains("\"truth\""), "the program was disturbed: {}", done.stderr);
    let report = read_report(&folder.path().join("report.json")).unwrap_or_else(|why| panic!("{why}\n{}", done.stderr));
    assert_honest(&report, done.code(), 2);
}

#[test]
fn a_process_that_has_a_tracer_already() {
    let program = programs::program("exits");
    let outcome =
        Run::new(["strace".as_ref(), "-f".as_ref(), "-o".as_ref(), "/dev/null".as_ref(), program.as_os_str()]).finish();
    assert!(outcome.finished.text().contains("\"truth\""), "the program was disturbed: {}", outcome.finished.stderr);
    assert_honest(outcome.report(), outcome.finished.code(), 3);
}

#[test]
fn tracing_can_be_switched_off() {
    let outcome = Run::new([programs::program("exits")]).env("AVLEAK_OPTIONS", "ptrace=0").finish();
    assert!(outcome.finished.text().contains("\"truth\""), "the program was disturbed: {}", outcome.finished.stderr);
    assert_honest(outcome.report(), outcome.finished.code(), 3);
}
