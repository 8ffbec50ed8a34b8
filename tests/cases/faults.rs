//! Faults: avleak killed or stopped in the middle of its work, a target killed, a target that writes over its own segment.
//!
//! How often is `AVLEAK_KILLS`, 100 in `make test-all`. When is random; a test that fails says when it was.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

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

/// How long the analyzer stands still.
const STOPPED: Duration = Duration::from_secs(10);

/// The process that `parent` (`avleak run`, or the `avleak serve` of a bare preload) started as its analyzer, if it lives.
fn analyzer_of(parent: u32) -> Option<u32> {
    let is_analyzer = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).nth(1) == Some(b"analyze")
    };
    children_of(parent).into_iter().find(is_analyzer)
}

pub fn children_of(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Kills the analyzer of a run; false where there is none at the moment.
pub fn kill_analyzer(parent: u32) -> bool {
    let pid = analyzer_of(parent).and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
}

/// `faulted steady` with these words.
fn steady(words: &[&str]) -> Started {
    let program = programs::program("faulted");
    let command = [program.as_os_str(), "steady".as_ref()];
    Run::new(command.into_iter().chain(words.iter().map(OsStr::new))).start()
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
        // Where the young find room depends on their addresses.
        observed.remove("peak_blocks");
        observed.remove("cancelled_young");
    }
    let mut completeness = report["completeness"].clone();
    if let Some(notes) = completeness["notes"].as_array_mut() {
        notes.retain(|note| !note.as_str().is_some_and(|note| note.contains("waited")));
    }
    serde_json::json!({
        "verdict": report["verdict"], "reason": report["reason"], "leaks": report["leaks"], "totals": report["totals"],
        "ended": report["target"]["ended"], "observed": observed, "groups": groups, "exit": report["exit"],
        "completeness": completeness,
    })
}

/// No word in memory that is older than avleak happens to lead into the middle of a lost frame: that differs from run to run, whoever is killed.
fn is_comparable(outcome: &Outcome) -> bool {
    number(&outcome.report()["totals"]["possibly_lost"]["frames"]) == 0
}

/// What is reported of it when nobody is killed, and how long that takes, milliseconds.
fn undisturbed(words: &[&str]) -> (Value, u64) {
    for _ in 0..5 {
        let begun = Instant::now();
        let outcome = steady(words).finish();
        if is_comparable(&outcome) {
            truth::check(&outcome);
            return (essence(&outcome), begun.elapsed().as_millis() as u64);
        }
    }
    panic!("in five runs some of the lost frames were possibly lost");
}

/// Kills the analyzer `times` times, at random moments of the run and of the check after it; the report is the same. Returns how many of the
/// kills met one: there is none yet in the first moment, and none any more in the last. 0 for a run that cannot be compared.
fn survives(words: &[&str], times: u64, (expected, span): &(Value, u64), random: &mut Random) -> u64 {
    let started = steady(words);
    let mut moments: Vec<u64> = (0..times).map(|_| random.below(*span)).collect();
    moments.sort_unstable();
    let (mut at, mut done) = (0, 0);
    for &moment in &moments {
        std::thread::sleep(Duration::from_millis(moment - at));
        at = moment;
        done += u64::from(kill_analyzer(started.running.pid()));
    }
    let outcome = started.finish();
    if !is_comparable(&outcome) {
        return 0;
    }
    truth::check(&outcome);
    let found = essence(&outcome);
    let (found, expected) = (found.as_object().expect("parts"), expected.as_object().expect("parts"));
    for (part, expected) in expected {
        let found = &found[part];
        assert_eq!(found, expected, "{part}, killed after {moments:?} ms\n{}", outcome.finished.stderr);
    }
    // What was killed was started again, and that is said; in the very last moment there is nobody to notice it.
    let said = outcome.finished.stderr.contains("was started again");
    assert!(said || done <= 1, "{done} kills, and nothing is said of them:\n{}", outcome.finished.stderr);
    done
}

/// Until so many kills have met an analyzer.
fn survives_all(words: &[&str], wanted: u64, at_once: u64) {
    let (expected, mut random) = (undisturbed(words), Random::new());
    let (mut met, mut tried) = (0, 0);
    while met < wanted {
        assert!(tried < 10 * wanted, "{met} of {tried} kills met an analyzer");
        met += survives(words, at_once, &expected, &mut random);
        tried += at_once;
    }
    println!("{words:?}: {met} of {tried} kills met an analyzer within {} ms", expected.1);
}

#[test]
fn an_analyzer_that_is_killed_reports_what_it_would_have() {
    survives_all(&["leak"], kills().div_ceil(2), 1);
    survives_all(&["clean"], kills().div_ceil(2), 1);
}

#[test]
fn an_analyzer_that_is_killed_again_and_again_reports_what_it_would_have() {
    survives_all(&["leak"], kills(), 10);
}

/// In the middle of a checkpoint, or over a journal of hundreds of thousands of events.
#[test]
fn an_analyzer_with_much_to_remember_that_is_killed_reports_what_it_would_have() {
    survives_all(&["leak", "much"], kills(), 2);
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

/// Nobody drains the rings: the host goes on, what could not be told is counted, and nothing is claimed. Frames whose end nobody saw are
/// no leaks.
fn stopped_in_a_flood(twin: &str, options: &str) {
    let folder = scratch();
    let go = folder.path().join("go");
    let program = programs::program("faulted");
    let run = Run::new([program.as_os_str(), "flood".as_ref(), go.as_os_str(), twin.as_ref()]);
    let mut started = run.env("AVLEAK_OPTIONS", options).start();
    started.running.wait_for_line("ready");
    let analyzer = analyzer_of(started.running.pid()).expect("an analyzer");
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
    let analyzer = analyzer_of(started.running.pid()).expect("an analyzer");
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
        let runs = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        match children_of(parent).into_iter().find(runs) {
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

/// There is nobody left to report; but nothing is left of avleak either, and the host goes on.
#[test]
fn a_command_whose_avleak_is_killed_runs_on() {
    let folder = scratch();
    let file = folder.path().join("counts");
    let program = programs::program("faulted");
    let started = Run::new([program.as_os_str(), "endless".as_ref(), file.as_os_str()]).start();
    let keeper = started.running.pid();
    let target = child_of(keeper, &program);
    let until = Instant::now() + Duration::from_secs(60);
    let wait_for = |what: &str, is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for("it made no frame", &|| counts(&file).is_some_and(|(made, _)| made > 0));
    let others: Vec<u32> = children_of(keeper).into_iter().filter(|&pid| pid != target).collect();
    assert_eq!(others.len(), 2, "an analyzer and a tracer");
    started.running.signal(keeper, Signal::KILL);
    let is_gone = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
    wait_for("analyzer or tracer live on", &|| others.iter().all(|&pid| is_gone(pid)));
    let (made, _) = counts(&file).expect("counts");
    wait_for("the host does not go on", &|| counts(&file).is_some_and(|(now, _)| now > made + 10_000));
    started.running.signal(target, Signal::KILL);
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
