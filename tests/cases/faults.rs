//! Faults: avleak stopped in the middle of its work, a target killed, a target that writes over its own segment.
//!
//! How often is `AVLEAK_KILLS`, 100 in `make test-all`. When is random; a test that fails says when it was.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use avleak_tests::avleak::{Run, Started};
use avleak_tests::truth::{self, number};
use avleak_tests::{programs, scratch};

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

/// How long the analyzer stands still.
const STOPPED: Duration = Duration::from_secs(10);

/// The process that analyzes.
fn analyzer_of(started: &Started) -> u32 {
    started.running.pid()
}

/// Nobody drains the rings: the host goes on, what could not be told is counted, and nothing is claimed. Frames whose end nobody saw are
/// no leaks.
fn stopped_in_a_flood(twin: &str, options: &str) {
    let folder = scratch();
    let go = folder.path().join("go");
    let program = programs::program("faulted");
    let run = Run::new([program.as_os_str(), "flood".as_ref(), go.as_os_str(), twin.as_ref()]);
    let mut started = run.env("AVLEAK_OPTIONS", options).start();
    started.running.wait_for_line("ready");
    let analyzer = analyzer_of(&started);
    started.running.signal(analyzer, Signal::STOP);
    let stopped = Instant::now();
    std::fs::write(&go, "").expect("the word to begin");
    // The host has come to the end of it, and started and ended a thread, while the analyzer stands still.
    started.running.wait_for_line("flooded");
    let took = stopped.elapsed();
    assert!(took < STOPPED, "the host was held up for {took:?}");
    std::thread::sleep(STOPPED.saturating_sub(took));
    started.running.signal(analyzer, Signal::CONT);
    std::fs::remove_file(&go).expect("the word to go on");
    let outcome = started.finish();
    let report = outcome.report();
    let dropped = number(&report["observed"]["events_dropped"]);
    assert!(dropped > 100_000, "{dropped} events were dropped");
    assert_eq!(report["verdict"], "inconclusive", "{twin}: {}", report["reason"]);
    assert_eq!(outcome.finished.code(), 3);
    let text = report["reason"].as_str().expect("a reason").to_owned();
    assert!(text.contains("dropped"), "{text}");
    println!("{twin} {options}: the host took {took:?}; {text}");
}

#[test]
fn an_analyzer_that_is_stopped_holds_nobody_up_and_nothing_is_claimed() {
    stopped_in_a_flood("leak", "");
}

#[test]
fn an_analyzer_that_is_stopped_makes_no_leaks_of_frames_whose_end_it_missed() {
    stopped_in_a_flood("clean", "patience_ms=100");
}

/// The program comes to its end while nobody looks: it is held until the analyzer goes on, and nothing is missing.
#[test]
fn an_analyzer_that_is_stopped_at_the_end_finds_what_it_would_have() {
    let folder = scratch();
    let go = folder.path().join("go");
    let program = programs::program("faulted");
    let mut started = Run::new([program.as_os_str(), "last".as_ref(), go.as_os_str()]).start();
    started.running.wait_for_line("ready");
    let analyzer = analyzer_of(&started);
    started.running.signal(analyzer, Signal::STOP);
    std::fs::write(&go, "").expect("the word to end");
    started.running.wait_for_line("\"truth\"");
    std::thread::sleep(STOPPED);
    started.running.signal(analyzer, Signal::CONT);
    truth::check(&started.finish());
}

/// The counts in the file of `faulted endless`: made, lost.
fn counts(file: &Path) -> Option<(u64, u64)> {
    let bytes = std::fs::read(file).ok()?;
    let words = bytes.as_chunks::<8>().0;
    Some((u64::from_le_bytes(*words.first()?), u64::from_le_bytes(*words.get(1)?)))
}

/// A report of a killed process says what its counts say: both threads may have been between a count and the frame.
fn assert_counted(report: &Value, (made, lost): (u64, u64), moment: u64) {
    if made == 0 {
        // It was killed while it registered: perhaps before it was traced.
        assert_ne!(report["verdict"], "clean", "after {moment} ms: {report:#}");
        return;
    }
    assert_eq!(report["target"]["ended"], serde_json::json!({"signal": 9}), "after {moment} ms: {report:#}");
    let observed = &report["observed"];
    assert_eq!(number(&observed["events_dropped"]), 0, "after {moment} ms");
    let frames = number(&observed["frames_allocated"]);
    assert!((made..=made + 2).contains(&frames), "after {moment} ms: {frames} frames, {made} made");
    let class = |name: &str| number(&report["totals"][name]["frames"]);
    let (definitely, possibly) = (class("definitely_lost"), class("possibly_lost"));
    assert_eq!(number(&report["leaks"]["frames"]), definitely, "after {moment} ms");
    // What the heap held before FFmpeg's first use is not known, and now and then leads into the middle of three or four frames.
    assert!(possibly <= 8, "after {moment} ms: {report:#}");
    let found = definitely + possibly;
    assert!((lost.saturating_sub(2)..=lost).contains(&found), "after {moment} ms: {found} of {lost} lost\n{report:#}");
    assert_eq!(report["completeness"]["memory"], "ptrace", "after {moment} ms");
}

/// The process in which `avleak` (process `parent`) runs this program.
fn child_of(parent: u32, program: &Path) -> u32 {
    loop {
        let threads = std::fs::read_dir(format!("/proc/{parent}/task")).expect("avleak's threads");
        let lists = threads.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<u32> = lists
            .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect::<Vec<_>>())
            .collect();
        let runs = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        match pids.into_iter().find(runs) {
            Some(pid) => return pid,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_target_that_is_killed_is_always_reported() {
    let mut random = Random::new();
    let mut reported = 0;
    for _ in 0..kills() {
        let folder = scratch();
        let file = folder.path().join("counts");
        let program = programs::program("faulted");
        let started = Run::new([program.as_os_str(), "endless".as_ref(), file.as_os_str()]).start();
        let moment = random.below(800);
        // Now and then before anything else, and in the middle of the loader.
        if moment > 100 {
            std::thread::sleep(Duration::from_millis(moment));
        }
        let target = child_of(started.running.pid(), &program);
        started.running.signal(target, Signal::KILL);
        let outcome = started.finish();
        assert_eq!(outcome.finished.code(), 128 + 9, "{}", outcome.finished.stderr);
        match (&outcome.reports[..], counts(&file)) {
            // Before its first frame there is nothing to report of it but that.
            ([], None | Some((0, _))) => assert_eq!(outcome.document["verdict"], "inconclusive"),
            ([report], Some(counts)) => {
                assert_counted(report, counts, moment);
                reported += 1;
            }
            (reports, counts) => panic!("{} reports after {moment} ms, {counts:?}", reports.len()),
        }
    }
    println!("{reported} of {} were killed after their first frame", kills());
}

#[test]
fn a_target_that_scribbles_over_its_segment_is_reported() {
    for seed in 0..kills() {
        let program = programs::program("scribbler");
        let seed = (seed * 0x9E37_79B9 + 1).to_string();
        let outcome = Run::new([program.as_os_str(), seed.as_ref()]).finish();
        assert_eq!(outcome.finished.text(), "done\n", "the host was disturbed: {}", outcome.finished.stderr);
        let report = outcome.report();
        // Each word that hits an event on its way has the ring given up.
        assert_eq!(report["verdict"], "inconclusive", "{}", report["reason"]);
        assert!(number(&report["completeness"]["corrupt_rings"]) > 0, "{report:#}");
    }
}
