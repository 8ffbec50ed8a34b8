//! Processes that die with nobody to look at them: what was known before is reported.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use avleak_tests::avleak::{LIMIT, read_report};
use avleak_tests::process::Running;
use avleak_tests::truth::{groups, number};
use avleak_tests::{avleak_binary, avleak_library, media, process, programs, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A process that nobody traces and that waits; `twin`: leak or clean.
fn waiting(folder: &Path, twin: &str, options: &str) -> (Running, i32) {
    let mut program = Command::new(programs::program("crash"));
    program.arg(media("sample.mp4")).args(["wait", twin, "2"]).current_dir(folder).env("TMPDIR", folder);
    program.env("LD_PRELOAD", avleak_library()).env("AVLEAK_ANALYZER", avleak_binary());
    program.env("AVLEAK_OPTIONS", format!("ptrace=0:quiet=1:{options}"));
    let mut running = process::start_marked(&mut program, LIMIT, folder.to_str().expect("a path"));
    let pid = said(&mut running, "ready ");
    (running, pid)
}

fn said(running: &mut Running, word: &str) -> i32 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// A check of it while it lives: frames that it found lost.
fn check(pid: i32, options: &[&str]) -> u64 {
    let folder = scratch();
    let json = folder.path().join("check.json");
    let mut command = Command::new(avleak_binary());
    command.args(["check", &pid.to_string(), "--quiet", "--json"]).arg(&json).args(options);
    let done = process::run(&mut command, LIMIT);
    let report = read_report(&json).unwrap_or_else(|why| panic!("{why}: {}", done.stderr));
    number(&report["leaks"]["frames"])
}

/// The report that its analyzer leaves once it is killed.
fn after_kill(running: Running, pid: i32, folder: &Path) -> Value {
    signal(pid, Signal::KILL);
    running.finish();
    // Not one that was left beside an alert.
    read_report(&folder.join(format!("avleak.{pid}.json"))).expect("a report")
}

#[test]
fn what_a_check_had_judged_lost_is_a_certain_leak() {
    let folder = scratch();
    let (mut running, pid) = waiting(folder.path(), "leak", "");
    let lost = check(pid, &[]);
    assert!((1..=7).contains(&lost), "{lost}");
    // Lost after the check: alive, and nothing is known of them.
    signal(pid, Signal::USR1);
    said(&mut running, "lost ");
    let report = after_kill(running, pid, folder.path());
    assert_eq!(report["verdict"], "leaks", "{:#}", report["reason"]);
    assert_eq!(number(&report["leaks"]["frames"]), lost, "{:#}", report["leaks"]);
    assert_eq!(number(&report["totals"]["definitely_lost"]["frames"]), lost);
    assert_eq!(number(&report["totals"]["unclassified"]["frames"]), 7 - lost + 9 + 3, "{:#}", report["totals"]);
    let last = &report["post_mortem"]["last_check"];
    assert!(number(&last["lost"]) >= lost && number(&last["freed_since"]) == 0, "{last:#}");
    assert!(last["before_end_s"].as_f64().is_some_and(|before| before > 0.0 && before < 120.0), "{last:#}");
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains("last check before the end")), "{report:#}");
    assert_eq!(report["target"]["ended"]["signal"], 9);
    // With all that the check knew of them.
    let group = groups(&report, "AVFrame").find(|group| group["leak"] == true).expect("the leak").clone();
    assert!(number(&group["width"]) > 0 && number(&group["pinned_bytes"]) > 0, "{group:#}");
}

#[test]
fn a_check_that_found_nothing_makes_nothing_clean() {
    let folder = scratch();
    let (running, pid) = waiting(folder.path(), "clean", "");
    assert_eq!(check(pid, &[]), 0);
    let report = after_kill(running, pid, folder.path());
    assert_eq!(report["verdict"], "inconclusive", "{:#}", report["reason"]);
    assert_eq!(number(&report["post_mortem"]["last_check"]["lost"]), 0, "{report:#}");
}

#[test]
fn without_a_check_there_is_nothing_to_say() {
    let folder = scratch();
    let (running, pid) = waiting(folder.path(), "leak", "");
    let report = after_kill(running, pid, folder.path());
    assert_eq!((&report["verdict"], &report["post_mortem"]), (&"inconclusive".into(), &Value::Null), "{report:#}");
    assert_eq!(number(&report["totals"]["unclassified"]["frames"]), 16, "{:#}", report["totals"]);
}

/// The analyzer that watches `pid`: started by the one whose door it is.
fn kill_analyzers(mark: &Path) -> usize {
    let carries = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mark = format!("TMPDIR={}", mark.display());
        environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
            && words.split(|&byte| byte == 0).nth(1) == Some(b"analyze")
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids: Vec<i32> =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(carries).collect();
    pids.iter().for_each(|&pid| signal(pid, Signal::KILL));
    pids.len()
}

#[test]
fn what_was_judged_outlives_the_analyzer() {
    let folder = scratch();
    let (running, pid) = waiting(folder.path(), "leak", "");
    let lost = check(pid, &[]);
    assert_eq!(kill_analyzers(folder.path()), 1);
    // The next one is there once it answers; only what is new, so that it judges nothing for the end.
    let since = Instant::now();
    let again = ["check", &pid.to_string(), "--quiet", "--hold", "1000"].map(str::to_string);
    while process::run(Command::new(avleak_binary()).args(&again), LIMIT).code() == 2 {
        assert!(since.elapsed() < Duration::from_secs(60), "no other analyzer came");
    }
    let report = after_kill(running, pid, folder.path());
    assert_eq!((&report["verdict"], number(&report["leaks"]["frames"])), (&"leaks".into(), lost), "{report:#}");
}

#[test]
fn what_its_monitor_saw_growing_is_named() {
    let folder = scratch();
    let (mut running, pid) = waiting(folder.path(), "leak", "check_interval=100ms");
    // Until it is told: how many checks that takes is certain, how long they take is not.
    let alerts = folder.path().join("avleak.alerts.ndjson");
    let told = || std::fs::read_to_string(&alerts).is_ok_and(|lines| lines.contains("growth"));
    let begun = Instant::now();
    while !told() {
        assert!(begun.elapsed() < LIMIT, "nothing grew");
        signal(pid, Signal::USR1);
        said(&mut running, "lost ");
        std::thread::sleep(Duration::from_millis(150));
    }
    let report = after_kill(running, pid, folder.path());
    let grew = report["post_mortem"]["grew"].as_array().unwrap_or_else(|| panic!("what grew is not said: {report:#}"));
    let frames = grew.iter().find(|grown| grown["object"] == "AVFrame");
    let grown = frames.unwrap_or_else(|| panic!("{:#} {:#}", report["post_mortem"], report["leaks"]));
    assert!(grown["per_hour"].as_f64().is_some_and(|rate| rate > 0.0) && number(&grown["count"]) > 10, "{grown:#}");
    assert!(report["post_mortem"]["last_check"].is_object() && report["verdict"] == "leaks", "{report:#}");
}
