//! Processes that run on while they are checked: `avleak check`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use avleak_tests::avleak::{LIMIT, Run, Started, read_report};
use avleak_tests::process::{Finished, Running};
use avleak_tests::truth::{self, number};
use avleak_tests::{avleak_binary, avleak_library, media, process, programs, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn check<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    process::run(Command::new(avleak_binary()).arg("check").args(arguments), LIMIT)
}

/// Exit status and report of a check with these options.
fn checked(pid: i32, options: &[&str]) -> (i32, Value) {
    let folder = scratch();
    let file = folder.path().join("check.json");
    let json = file.to_str().expect("a path").to_owned();
    let pid = pid.to_string();
    let done = check(options.iter().copied().chain(["--quiet", "--json", &json, &pid]));
    let report = read_report(&file).unwrap_or_else(|why| panic!("{why}: {} {}", done.code(), done.stderr));
    (done.code(), report)
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// The number behind a word that the server says.
fn said(running: &mut Running, word: &str) -> i32 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

fn server(options: &str) -> (Started, i32) {
    let mut started = Run::new([programs::program("live_server")]).env("AVLEAK_OPTIONS", options).start();
    let pid = said(&mut started.running, "ready ");
    (started, pid)
}

fn lose(started: &mut Started, pid: i32) -> u64 {
    signal(pid, Signal::USR1);
    said(&mut started.running, "lost ") as u64
}

fn frames(report: &Value) -> u64 {
    number(&report["leaks"]["frames"])
}

#[test]
fn a_server_is_asked_again_and_again() {
    let (mut started, pid) = server("");
    for _ in 0..5 {
        let (code, report) = checked(pid, &[]);
        assert_eq!((code, report["verdict"].as_str()), (0, Some("clean")), "{report:#}");
        assert!(number(&report["totals"]["still_reachable"]["frames"]) >= 21, "{report:#}");
        assert!(report["target"]["ended"].is_null() && number(&report["check"]["scans"]) >= 2, "{report:#}");
    }
    let lost = lose(&mut started, pid);
    let (code, report) = checked(pid, &[]);
    assert_eq!((code, frames(&report)), (1, lost), "{:#}", report["leaks"]);
    assert!(report["check"]["stopped_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{:#}", report["check"]);
    // Only what came since.
    let more = lose(&mut started, pid);
    let (code, report) = checked(pid, &["--increased"]);
    assert_eq!((code, frames(&report)), (1, more - lost), "{:#}", report["leaks"]);
    let (code, report) = checked(pid, &["--increased"]);
    assert_eq!((code, frames(&report)), (0, 0), "{:#}", report["leaks"]);
    assert!(report["completeness"]["notes"].to_string().contains("are not listed again"), "{report:#}");
    // None is so old.
    assert_eq!(checked(pid, &["--hold", "1000"]).0, 0);
    let (code, report) = checked(pid, &["--error-exitcode", "9"]);
    assert_eq!((code, frames(&report)), (9, more), "{:#}", report["leaks"]);
    // What it goes through does not change what it does, nor what is found at its end.
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

/// A check passes over what held no pointer at the check before. What only a pointer there holds now is looked for everywhere.
#[test]
fn what_moves_to_where_nothing_was_is_not_lost() {
    let (mut started, pid) = server("");
    for moved in 1..=4 {
        let (code, report) = checked(pid, &[]);
        assert_eq!((code, frames(&report)), (0, 0), "{report:#}");
        signal(pid, Signal::USR2);
        assert_eq!(said(&mut started.running, "moved "), moved);
    }
    let lost = lose(&mut started, pid);
    signal(pid, Signal::USR2);
    said(&mut started.running, "moved ");
    for _ in 0..2 {
        let (code, report) = checked(pid, &[]);
        assert_eq!((code, frames(&report)), (1, lost), "{report:#}");
        assert!(number(&report["totals"]["still_reachable"]["frames"]) >= 21, "{report:#}");
    }
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

#[test]
fn without_ptrace_it_never_stands_still() {
    let (mut started, pid) = server("ptrace=0");
    let (code, report) = checked(pid, &[]);
    assert_eq!((code, frames(&report)), (0, 0), "{report:#}");
    let lost = lose(&mut started, pid);
    let (_, report) = checked(pid, &["--level", "strict"]);
    assert!(frames(&report) <= lost, "{:#}", report["leaks"]);
    assert_eq!(report["check"]["stopped_ms"].as_f64(), Some(0.0));
    assert_eq!(report["completeness"]["memory"], "vm_readv");
    assert!(report["completeness"]["notes"].to_string().contains("scans while it ran"), "{report:#}");
    signal(pid, Signal::TERM);
    started.finish();
}

/// Stopped by job control, it is checked, and stays stopped.
#[test]
fn a_process_that_is_stopped_stays_stopped() {
    let (mut started, pid) = server("");
    let lost = lose(&mut started, pid);
    signal(pid, Signal::STOP);
    std::thread::sleep(Duration::from_millis(200));
    let (code, report) = checked(pid, &[]);
    assert_eq!((code, frames(&report)), (1, lost), "{report:#}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    assert!(status.contains("State:\tT") || status.contains("State:\tt"), "{status}");
    signal(pid, Signal::CONT);
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

/// All of many threads are stopped, and each one's stack is looked at: they hold what nothing else holds.
#[test]
fn fifty_threads_are_stopped_for_a_moment() {
    let mut command = vec![programs::program("live_heap").into_os_string()];
    command.extend(["50", "64", "4"].map(Into::into));
    let mut started = Run::new(command).start();
    let pid = said(&mut started.running, "ready ");
    for _ in 0..3 {
        let (code, report) = checked(pid, &[]);
        assert_eq!((code, frames(&report)), (0, 0), "{report:#}");
        let notes = report["completeness"]["notes"].to_string();
        assert!(!notes.contains("could not be stopped"), "{notes}");
    }
    let lost = lose(&mut started, pid);
    let (code, report) = checked(pid, &[]);
    assert_eq!((code, frames(&report)), (1, lost), "{report:#}");
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

/// At full speed nothing is called lost, whatever moves. `make test-all` checks longer.
#[test]
fn ffmpeg_at_full_speed_is_clean() {
    let rounds = if std::env::var_os("AVLEAK_AT_LARGE").is_some() { 300 } else { 25 };
    let decode = ["ffmpeg", "-nostdin", "-v", "error", "-stream_loop", "-1", "-i"].map(Into::into);
    let rest = ["-vf", "scale=160:90", "-c:v", "libx264", "-preset", "ultrafast", "-f", "null", "-"].map(Into::into);
    let command = decode.into_iter().chain([media("sample.mp4").into_os_string()]).chain(rest);
    let started = Run::new(command.collect::<Vec<std::ffi::OsString>>()).limit(Duration::from_secs(600)).start();
    let pid = child_that_has_armed(&started);
    let mut stopped: Vec<f64> = Vec::new();
    for round in 0..rounds {
        let (code, report) = checked(pid, &[]);
        assert_eq!(code, 0, "check {round}: {:#}", report["groups"]);
        stopped.push(report["check"]["stopped_ms"].as_f64().expect("a time"));
    }
    stopped.sort_by(f64::total_cmp);
    println!("{rounds} checks: stood still for {:.2} ms, at most {:.2}", stopped[rounds / 2], stopped[rounds - 1]);
    signal(pid, Signal::TERM);
    started.finish();
}

/// The child that a check can be asked of.
fn child_that_has_armed(started: &Started) -> i32 {
    let parent = started.running.pid();
    for _ in 0..600 {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        for pid in pids {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            // The analyzer has the same memory, and is a child as well.
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if maps.contains("/memfd:avleak") && exe != avleak_binary() {
                // Its analyzer opens the door right after it has answered.
                std::thread::sleep(Duration::from_millis(500));
                return pid;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no child of {parent} used FFmpeg");
}

#[test]
fn a_bare_preload_is_asked_too() {
    let folder = scratch();
    let mut command = Command::new(programs::program("live_server"));
    command.env("LD_PRELOAD", avleak_library()).env("AVLEAK_OPTIONS", "quiet=1").current_dir(folder.path());
    let mut running = process::start(&mut command, LIMIT);
    let pid = said(&mut running, "ready ");
    signal(pid, Signal::USR1);
    assert_eq!(said(&mut running, "lost "), 3);
    let (code, report) = checked(pid, &[]);
    assert_eq!((code, frames(&report)), (1, 3), "{report:#}");
    let text = check([pid.to_string()]);
    assert!(text.text().contains("3 frames leaked") && text.text().contains("live_server.c"), "{}", text.text());
    signal(pid, Signal::TERM);
    assert_eq!(running.finish().code(), 0);
    let left = wait_for(&folder.path().join(format!("avleak.{pid}.json")));
    assert_eq!(frames(&left), 3, "{left:#}");
    assert_no_report(&[&pid.to_string()], &["there is no process"]);
}

fn wait_for(file: &Path) -> Value {
    for _ in 0..200 {
        if let Ok(report) = read_report(file) {
            return report;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no report in {}", file.display());
}

fn assert_no_report(arguments: &[&str], words: &[&str]) {
    let done = check(arguments);
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert!(words.iter().all(|word| done.stderr.contains(word)), "{arguments:?}: {}", done.stderr);
}

#[test]
fn who_cannot_be_asked() {
    assert_no_report(&["2147483647"], &["there is no process"]);
    assert_no_report(&["ffmpeg"], &["ffmpeg", "neither a process id nor `all`"]);
    assert_no_report(&[&std::process::id().to_string()], &["without libavleak.so", "LD_PRELOAD"]);
    assert_no_report(&["--hold", "soon", "1"], &["soon", "seconds"]);
    assert_no_report(&[], &["PID|all"]);
    let asleep = process::start(Command::new("sleep").arg("60").env("LD_PRELOAD", avleak_library()), LIMIT);
    std::thread::sleep(Duration::from_millis(300));
    assert_no_report(&[&asleep.pid().to_string()], &["has not used FFmpeg yet"]);
    asleep.signal(asleep.pid(), Signal::TERM);
    asleep.finish();
}
