//! Many threads that free each other's blocks: nothing is wrongly alive or wrongly gone, however addresses go round.

use std::time::Duration;

use serde_json::Value;

use avleak_tests::avleak::{Outcome, Run};
use avleak_tests::truth::{functions, number};
use avleak_tests::{process, programs, truth};

/// No event may be dropped here, however slow the machine: the programs wait for the analyzer.
const PATIENT: &str = "patience_ms=60000";
/// glibc's own blocks that may be alive at the end (stdio's buffer …).
const OTHERS: u64 = 8;

/// How long a storm lasts: `AVLEAK_STORM_SECONDS`, minutes in `make test-all`.
fn seconds() -> u64 {
    std::env::var("AVLEAK_STORM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

fn patient(name: &str, arguments: &[&str]) -> Outcome {
    let mut command = vec![programs::program(name).into_os_string()];
    command.extend(arguments.iter().map(Into::into));
    let limit = Duration::from_secs(300 + 3 * seconds());
    let outcome = Run::new(command).level("strict").env("AVLEAK_OPTIONS", PATIENT).limit(limit).finish();
    assert_eq!(number(&outcome.report()["observed"]["events_dropped"]), 0);
    outcome
}

/// A line of JSON that the program printed: what is under `name`.
fn printed(output: &str, name: &str) -> Value {
    let start = format!("{{\"{name}\"");
    let line = output.lines().find(|line| line.starts_with(&start)).expect("the program's line");
    serde_json::from_str::<Value>(line).expect("JSON")[name].take()
}

fn sum(report: &Value, what: &str) -> u64 {
    report["totals"].as_object().expect("totals").values().map(|class| number(&class[what])).sum()
}

fn storm(threads: &str) {
    for end in ["held", "lost"] {
        let outcome = patient("storm", &[threads, &seconds().to_string(), end]);
        let storm = printed(&outcome.finished.text(), "storm");
        let kinds = &storm["kinds"];
        let of = |name: &str| number(&kinds[name]);
        let report = outcome.report();
        let (frames, refs) = (of("frame") + of("sound"), of("ref") + of("sound"));
        assert_eq!(sum(report, "frames"), frames, "{storm}");
        assert_eq!(sum(report, "packets"), of("packet"), "{storm}");
        assert_eq!(sum(report, "buffer_refs"), refs, "{storm}");
        let plain = ["storm_plain", "storm_resized", "storm_aligned", "storm_av"].map(of).iter().sum::<u64>();
        // A ref has a buffer and its payload beside it.
        let all = plain + frames + of("packet") + 3 * refs;
        let blocks = sum(report, "blocks");
        assert!((all..=all + OTHERS).contains(&blocks), "{blocks} blocks are alive, the program has {all}: {storm}");
        let truth = &truth::truths(&outcome.finished.text())[0];
        assert_eq!(report["observed"]["frames_allocated"], truth["observed"]["frames_allocated"]);
        assert_eq!(report["observed"]["packets_allocated"], truth["observed"]["packets_allocated"]);
        assert_eq!(report["verdict"], if end == "held" { "clean" } else { "leaks" }, "{}", report["reason"]);
        println!("{threads} threads, {}: {} operations, {blocks} blocks left", end, storm["operations"]);
    }
}

#[test]
fn of_two_threads() {
    storm("2");
}

#[test]
fn of_four_threads() {
    storm("4");
}

#[test]
fn of_eight_threads() {
    storm("8");
}

#[test]
fn blocks_handed_over_between_two_threads() {
    let millions = if seconds() >= 60 { "20" } else { "1" };
    for twin in ["leak", "clean"] {
        let outcome = patient("hand_over", &[millions, twin]);
        let report = outcome.report();
        let handed = report["groups"].as_array().into_iter().flatten();
        let wrong = handed.filter(|group| functions(&group["stack"]).contains(&"handed_over")).count();
        assert_eq!(wrong, 0, "a block that was freed is alive");
        assert!(sum(report, "blocks") <= 4 + OTHERS, "{}", report["totals"]);
        assert_eq!(report["verdict"], if twin == "leak" { "leaks" } else { "clean" });
    }
}

/// A thread may cost 256 KiB, and the process 16 MiB: rings, stacks remembered, tables copied.
#[test]
fn memory_of_a_thousand_threads() {
    let memory = |output: &str| number(&printed(output, "memory")["rss_kib"]);
    let mut plain = std::process::Command::new(programs::program("threads_memory"));
    let plain = process::run(plain.args(["at_once", "1000", "leak"]), Duration::from_secs(120)).expect_success();
    let outcome = patient("threads_memory", &["at_once", "1000", "leak"]);
    truth_at_normal(&outcome, 10);
    let (plain, with) = (memory(&plain.text()), memory(&outcome.finished.text()));
    println!("1000 threads: {plain} KiB alone, {with} KiB with avleak");
    assert!(with <= plain + 16 * 1024 + 1000 * 256, "{with} KiB with avleak, {plain} without");
}

#[test]
fn many_threads_in_a_row() {
    let count: u64 = if seconds() >= 60 { 100_000 } else { 10_000 };
    let outcome = patient("threads_memory", &["in_a_row", &count.to_string(), "leak"]);
    truth_at_normal(&outcome, count.div_ceil(10_000));
    assert_eq!(number(&outcome.report()["observed"]["frames_allocated"]), count);
}

/// So many frames are lost, all of them found but for one in five, which a stale word may hide.
fn truth_at_normal(outcome: &Outcome, lost: u64) {
    let found = number(&outcome.report()["leaks"]["frames"]);
    assert!((lost - lost / 5..=lost).contains(&found), "{found} of {lost}");
    assert_eq!(sum(outcome.report(), "frames"), lost, "all that are alive");
}
