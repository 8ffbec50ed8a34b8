//! Faults: avleak killed or stopped in the middle of its work, a target killed, a target that writes over its own segment.
//!
//! How often is `AVLEAK_KILLS`, 100 in `make test-all`. When is random; a test that fails says when it was.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use avleak_tests::avleak::{LIMIT, Outcome, Run, Started, read_report};
use avleak_tests::truth::{self, number};
use avleak_tests::{avleak_binary, avleak_library, process, programs, scratch};

fn kills() -> u64 {
    std::env::var("AVLEAK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// xorshift, begun by the clock.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 | 1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// The process that `avleak` (process `parent`) started as its analyzer, if it lives.
fn analyzer_of(parent: u32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?;
    let children = threads.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut pids =
        children.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).collect::<Vec<_>>());
    pids.find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).nth(1) == Some(b"analyze")
    })
}

/// Kills the analyzer of a run; false where there is none at the moment.
fn kill_analyzer(parent: u32) -> bool {
    let pid = analyzer_of(parent).and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
}

fn steady(twin: &str) -> Started {
    let program = programs::program("faulted");
    Run::new([program.as_os_str(), "steady".as_ref(), twin.as_ref()]).start()
}

/// What two runs of one program have in common: all but times, process ids, and what threads do at once.
fn essence(outcome: &Outcome) -> Value {
    let report = outcome.report();
    let groups = report["groups"].as_array().into_iter().flatten().map(|group| {
        let freed = group["freed_elsewhere"].as_array().into_iter().flatten();
        serde_json::json!({
            "id": group["id"], "object": group["object"], "class": group["class"], "count": group["count"],
            "outermost": group["outermost"], "bytes": group["bytes"], "leak": group["leak"],
            "pinned": group["pinned_bytes"], "stack": group["stack"],
            "freed": freed.map(|site| site["count"].clone()).collect::<Vec<_>>(),
        })
    });
    let mut groups: Vec<Value> = groups.collect();
    groups.sort_by_key(|group| group["id"].to_string() + &group["class"].to_string());
    let mut observed = report["observed"].clone();
    if let Some(observed) = observed.as_object_mut() {
        observed.remove("peak_blocks");
    }
    serde_json::json!({
        "verdict": report["verdict"], "reason": report["reason"], "leaks": report["leaks"], "totals": report["totals"],
        "ended": report["target"]["ended"], "observed": observed, "groups": groups, "exit": report["exit"],
        "completeness": report["completeness"],
    })
}

/// Kills the analyzer `times` times, at random moments of the run and of the check after it; the report is the same.
fn survives(twin: &str, times: u64, expected: &Value, random: &mut Random) {
    let started = steady(twin);
    let mut moments: Vec<u64> = (0..times).map(|_| random.below(1500)).collect();
    moments.sort_unstable();
    let (mut at, mut done) = (0, 0);
    for &moment in &moments {
        std::thread::sleep(Duration::from_millis(moment - at));
        at = moment;
        done += u64::from(kill_analyzer(started.running.pid()));
    }
    let outcome = started.finish();
    truth::check(&outcome);
    let found = essence(&outcome);
    assert_eq!(&found, expected, "killed after {moments:?} ms\n{}", outcome.finished.stderr);
    // What was killed was started again, and that is said; in the very last moment there is nobody to notice it.
    let said = outcome.finished.stderr.contains("was started again");
    assert!(said || done <= 1, "{done} kills, and nothing is said of them:\n{}", outcome.finished.stderr);
    println!("{twin}: {done} of {times} kills met an analyzer, at {moments:?} ms");
}

#[test]
fn an_analyzer_that_is_killed_once_reports_what_it_would_have() {
    let mut random = Random::new();
    for twin in ["leak", "clean"] {
        let undisturbed = steady(twin).finish();
        truth::check(&undisturbed);
        let expected = essence(&undisturbed);
        for _ in 0..kills().div_ceil(2) {
            survives(twin, 1, &expected, &mut random);
        }
    }
}

#[test]
fn an_analyzer_that_is_killed_again_and_again_reports_what_it_would_have() {
    let undisturbed = steady("leak").finish();
    let expected = essence(&undisturbed);
    for _ in 0..kills().div_ceil(8) {
        survives("leak", 10, &expected, &mut Random::new());
    }
}

/// The same without `avleak run`: the analyzer's keeper is the process that the library started.
#[test]
fn a_bare_preload_survives_its_analyzer() {
    let folder = scratch();
    let mut command = Command::new(programs::program("faulted"));
    command.args(["steady", "leak"]).current_dir(folder.path()).env("LD_PRELOAD", avleak_library());
    command.env("AVLEAK_ANALYZER", avleak_binary()).env("AVLEAK_OPTIONS", "quiet=1:patience_ms=60000");
    command.env("TMPDIR", folder.path());
    let running = process::start_marked(&mut command, LIMIT, folder.path().to_str().expect("UTF-8"));
    let mut random = Random::new();
    let mut killed = 0;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(50 + random.below(200)));
        let marked = |pid: u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mark = folder.path().as_os_str().as_encoded_bytes();
            environment.windows(mark.len()).any(|part| part == mark)
        };
        let keepers = std::fs::read_dir("/proc").expect("/proc").flatten();
        let mut keepers = keepers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let keeper = keepers.find(|&pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|&byte| byte == 0).nth(1) == Some(b"serve") && marked(pid)
        });
        killed += u32::from(keeper.is_some_and(kill_analyzer));
    }
    let done = running.finish();
    assert!(killed > 0, "nobody was there to be killed");
    let truths = truth::truths(&done.text());
    let report = read_report(&folder.path().join(format!("avleak.{}.json", truths[0]["pid"]))).expect("a report");
    let faults = truth::faults(&truths, std::slice::from_ref(&report));
    assert!(faults.is_empty(), "{}\n{report:#}\n{}", faults.join("\n"), done.stderr);
}

/// Nobody drains the rings: the host goes on, what could not be told is counted, and nothing is claimed.
#[test]
fn an_analyzer_that_is_stopped_holds_nobody_up_and_leaves_nothing_claimed() {
    let folder = scratch();
    let go = folder.path().join("go");
    let program = programs::program("faulted");
    let run = Run::new([program.as_os_str(), "flood".as_ref(), go.as_os_str()]);
    let mut started = run.env("AVLEAK_OPTIONS", "patience_ms=100").start();
    started.running.wait_for_line("ready");
    let analyzer = analyzer_of(started.running.pid()).expect("an analyzer");
    started.running.signal(analyzer, Signal::STOP);
    std::fs::write(&go, "").expect("the word to begin");
    // The program has come to its end while the analyzer stands still.
    started.running.wait_for_line("\"truth\"");
    started.running.signal(analyzer, Signal::CONT);
    let outcome = started.finish();
    let report = outcome.report();
    let dropped = number(&report["observed"]["events_dropped"]);
    assert!(dropped > 100_000, "{dropped} events were dropped");
    assert_eq!(report["verdict"], "inconclusive", "{}", report["reason"]);
    assert_eq!(outcome.finished.code(), 3);
    println!("{dropped} events were dropped: {}", report["reason"]);
}

/// The counts in the file of `faulted endless`: made, lost.
fn counts(file: &Path) -> Option<(u64, u64)> {
    let bytes = std::fs::read(file).ok()?;
    let words = bytes.as_chunks::<8>().0;
    Some((u64::from_le_bytes(*words.first()?), u64::from_le_bytes(*words.get(1)?)))
}

/// A report of a killed process says what its counts say: both threads may have been between a count and the frame.
fn assert_counted(report: &Value, (made, lost): (u64, u64), moment: u64) {
    assert_eq!(report["target"]["ended"], serde_json::json!({"signal": 9}), "after {moment} ms: {report:#}");
    let observed = &report["observed"];
    assert_eq!(number(&observed["events_dropped"]), 0, "after {moment} ms");
    let frames = number(&observed["frames_allocated"]);
    assert!((made..=made + 2).contains(&frames), "after {moment} ms: {frames} frames, {made} made");
    let found = number(&report["leaks"]["frames"]);
    // In the middle of a round its frames are only in a dead stack's slots.
    assert!((lost.saturating_sub(2)..=lost).contains(&found), "after {moment} ms: {found} of {lost} lost");
    assert_eq!(report["completeness"]["memory"], "ptrace", "after {moment} ms");
}

#[test]
fn a_target_that_is_killed_is_always_reported() {
    let mut random = Random::new();
    for _ in 0..kills() {
        let folder = scratch();
        let file = folder.path().join("counts");
        let program = programs::program("faulted");
        let started = Run::new([program.as_os_str(), "endless".as_ref(), file.as_os_str()]).start();
        let moment = random.below(800);
        std::thread::sleep(Duration::from_millis(moment));
        // The command is avleak's child that is neither analyzer nor tracer.
        let target = loop {
            let threads = std::fs::read_dir(format!("/proc/{}/task", started.running.pid())).expect("avleak's threads");
            let lists = threads.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
            let pids: Vec<u32> = lists
                .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect::<Vec<_>>())
                .collect();
            let command = pids.into_iter().find(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|words| words.windows(7).any(|part| part == b"endless"))
            });
            match command {
                Some(pid) => break pid,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        started.running.signal(target, Signal::KILL);
        let outcome = started.finish();
        assert_eq!(outcome.finished.code(), 128 + 9, "{}", outcome.finished.stderr);
        match (&outcome.reports[..], counts(&file)) {
            // Before its first frame there is nothing to report of it but that.
            ([], None | Some((0, _))) => assert_eq!(outcome.document["verdict"], "inconclusive"),
            ([report], Some(counts)) => assert_counted(report, counts, moment),
            ([report], None) => panic!("FFmpeg was used before there were counts: {report:#}"),
            (reports, counts) => panic!("{} reports after {moment} ms, {counts:?}", reports.len()),
        }
    }
}

#[test]
fn a_target_that_scribbles_over_its_segment_is_reported() {
    for seed in 0..kills() {
        let program = programs::program("scribbler");
        let seed = (seed * 0x9E37_79B9 + 1).to_string();
        let outcome = Run::new([program.as_os_str(), seed.as_ref()]).finish();
        assert_eq!(outcome.finished.text(), "done\n", "the host was disturbed: {}", outcome.finished.stderr);
        let report = outcome.report();
        // Three in four words hit a record, a node or an event: the ring is given up, sooner or later.
        assert_eq!(report["verdict"], "inconclusive", "{}", report["reason"]);
        assert!(number(&report["completeness"]["corrupt_rings"]) > 0, "{report:#}");
    }
}
