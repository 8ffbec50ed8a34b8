//! Tests of the gate: what is marked, what remains in the sums, what the verdict is.

use super::*;
use crate::render::load::AnyReport;
use crate::report::model::{Class, Ended};
use crate::report::sample;

fn suppressions(text: &str) -> Rules {
    let mut all = Suppressions::default();
    all.add("ours.supp", text.as_bytes()).unwrap();
    Rules { suppressions: Some(all), baseline: None }
}

fn baseline(report: &Report) -> Rules {
    let baseline = Baseline::of(&[AnyReport::Process(Box::new(report.clone()))]);
    let known = KnownGroups { baseline, file: "b.toml".into(), slack_percent: 0.0 };
    Rules { suppressions: None, baseline: Some(known) }
}

#[test]
fn what_is_suppressed_leaves_the_sums_and_keeps_its_class() {
    let mut report = sample::leaking();
    let before = report.leaks;
    let gate = suppressions("leak:^cache::\nleak:nothing").apply(std::slice::from_mut(&mut report)).unwrap();
    assert_eq!(report.verdict, Verdict::Leaks);
    assert_eq!((report.leaks.frames, report.leaks.bytes), (30, 30 * 440));
    assert_eq!(report.leaks.pinned_bytes, 30 * 12_441_600);
    assert_eq!((gate.suppressed.frames, gate.suppressed.pinned_bytes), (4, 4 * 1_382_400));
    assert_eq!(verdict::add(report.leaks, &gate.suppressed), before);
    let taken = report.groups.iter().find(|group| group.suppressed_by.is_some()).unwrap();
    assert_eq!(
        (taken.class, taken.leak, taken.suppressed_by.as_deref()),
        (Class::IndirectlyLost, false, Some("leak:^cache::"))
    );
    assert_eq!((gate.used.len(), gate.used[0].groups, gate.used[0].count), (1, 1, 4));
    assert_eq!((gate.unused.len(), gate.unused[0].name.as_str(), gate.unused[0].line), (1, "leak:nothing", 2));
    assert_eq!(report.reason, "30 frames: lost; let through: 4 frames suppressed");
}

#[test]
fn where_all_is_suppressed_the_verdict_is_clean_and_says_so() {
    let mut report = sample::leaking();
    suppressions("leak:main").apply(std::slice::from_mut(&mut report));
    assert_eq!((report.verdict, report.leaks), (Verdict::Clean, Totals::default()));
    assert_eq!(
        report.reason,
        "no leak but what is let through, 34 frames suppressed: 2,013 frames allocated, 1,976 freed, 0 events dropped"
    );
}

#[test]
fn inconclusive_stays_inconclusive() {
    let mut report = sample::leaking();
    report.observed.events_dropped = 1;
    let known = baseline(&report);
    suppressions("leak:main").apply(std::slice::from_mut(&mut report));
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(report.reason.contains("1 event was dropped"), "{}", report.reason);
    let mut report = sample::leaking();
    report.observed.events_dropped = 1;
    known.apply(std::slice::from_mut(&mut report));
    assert_eq!(report.verdict, Verdict::Inconclusive);
    let mut run = sample::run();
    run.processes.truncate(1);
    (run.verdict, run.reason) = (Verdict::Inconclusive, "server outlived the command".into());
    suppressions("leak:main").apply_to_run(&mut run, 1);
    assert_eq!((run.verdict, run.exit.code), (Verdict::Inconclusive, 3));
    assert_eq!(run.reason, "server outlived the command");
}

/// Whatever is applied, and again: sums and what was let through add up to what there was.
#[test]
fn the_gate_can_be_set_anew() {
    let before = sample::leaking();
    let mut report = before.clone();
    let known = baseline(&before);
    let mut both = suppressions("leak:^cache::");
    both.baseline = baseline(&before).baseline;
    let nothing = Rules { suppressions: Some(Suppressions::default()), baseline: None };
    for (rules, leaks, suppressed) in [
        (suppressions("leak:^cache::"), 30, 4),
        (known, 0, 4),
        (suppressions("leak:decode_one"), 4, 30),
        (both, 0, 4),
        (suppressions("leak:main"), 0, 34),
        (nothing, 34, 0),
    ] {
        rules.apply_to_process(&mut report, 1);
        let gate = report.gate.clone().unwrap_or_default();
        assert_eq!((report.leaks.frames, gate.suppressed.frames), (leaks, suppressed));
        assert_eq!(verdict::add(verdict::add(report.leaks, &gate.suppressed), &gate.known), before.leaks);
    }
    assert_eq!(report, before);
}

#[test]
fn new_and_grown_groups_come_first_and_are_counted_in_the_reason() {
    let known = baseline(&sample::leaking());
    let mut report = sample::leaking();
    // Known, and pinning most: it would come first.
    let cached = report.groups.iter_mut().find(|group| group.leak && group.count == 4).unwrap();
    (cached.count, cached.outermost) = (5, 5);
    report.leaks.frames += 1;
    report.leaks.blocks += 1;
    report.leaks.bytes += 88;
    known.apply_to_process(&mut report, 1);
    assert!(report.groups[0].leak && report.groups[0].count == 5 && !report.groups[1].leak);
    assert_eq!(compare::phrase(&report.groups[0]).unwrap(), "grown: 5 where the baseline lets 4 through");
    assert_eq!(
        report.reason,
        "5 frames: lost; let through: 30 frames known to the baseline; 1 group has grown since the baseline"
    );
    assert_eq!(report.gate.unwrap().baseline.unwrap().grown, 1);
}

#[test]
fn of_a_group_with_inner_objects_only_the_counted_leave_the_sum() {
    let mut report = sample::leaking();
    let cached = report.groups.iter_mut().find(|group| group.leak && group.count == 4).unwrap();
    (cached.count, cached.bytes) = (40, 40 * 440);
    suppressions("leak:^cache::").apply(std::slice::from_mut(&mut report));
    assert_eq!((report.leaks.frames, report.leaks.bytes), (30, 30 * 440));
}

#[test]
fn buffers_that_another_group_pins_stay_pinned() {
    let mut report = sample::leaking();
    // The 4 clones share the buffers of the 30 frames.
    report.leaks.pinned_bytes = 30 * 12_441_600;
    let gate = suppressions("leak:^cache::").apply(std::slice::from_mut(&mut report)).unwrap();
    assert_eq!((report.leaks.pinned_bytes, gate.suppressed.pinned_bytes), (30 * 12_441_600, 0));
    // Two groups that remain share them as well: no more is pinned than there was.
    let mut report = sample::leaking();
    let mut twin = report.groups[0].clone();
    twin.id = "00000000000000aa".into();
    report.groups.push(twin);
    report.leaks = verdict::add(report.leaks, &Totals { frames: 30, blocks: 30, bytes: 30 * 440, ..Totals::default() });
    report.leaks.pinned_bytes = 30 * 12_441_600;
    suppressions("leak:^cache::").apply(std::slice::from_mut(&mut report));
    assert_eq!((report.leaks.frames, report.leaks.pinned_bytes), (60, 30 * 12_441_600));
}

#[test]
fn groups_that_are_not_in_the_report_cannot_be_let_through() {
    let mut report = sample::leaking();
    report.leaks = verdict::add(report.leaks, &Totals { blocks: 2, bytes: 64, ..Totals::default() });
    suppressions("leak:*").apply(std::slice::from_mut(&mut report));
    assert_eq!((report.verdict, report.leaks.blocks), (Verdict::Leaks, 2));
    assert!(report.reason.starts_with("2 blocks: lost"), "{}", report.reason);
}

#[test]
fn unused_is_what_no_process_needed() {
    let mut run = sample::run();
    suppressions("leak:^cache::\nleak:nothing\nleak:avcodec_alloc_context3").apply_to_run(&mut run, 1);
    let gate = run.gate.unwrap();
    let names: Vec<&str> = gate.unused.iter().map(|place| place.name.as_str()).collect();
    assert_eq!(names, ["leak:nothing"], "a group that does not count makes a suppression useful all the same");
    assert_eq!(run.leaks.frames, 30);
    assert!(run.processes.iter().all(|process| process.gate.as_ref().is_none_or(|gate| gate.unused.is_empty())));
}

#[test]
fn without_anything_to_say_there_is_no_gate() {
    let mut report = sample::leaking();
    let rules = Rules { suppressions: Some(Suppressions::load(&[], false).unwrap()), baseline: None };
    assert_eq!(rules.apply(std::slice::from_mut(&mut report)), None);
    assert_eq!(report, sample::leaking());
}

#[test]
fn the_exit_status_follows() {
    let mut report = sample::leaking();
    report.exit = Some(verdict::exit_status(Some(Ended::Exit(0)), Some(Verdict::Leaks), 1));
    suppressions("leak:main").apply_to_process(&mut report, 1);
    assert_eq!(report.exit.unwrap().code, 0);
    let mut run = sample::run();
    run.processes.truncate(2);
    suppressions("leak:main").apply_to_run(&mut run, 1);
    assert_eq!((run.verdict, run.exit.code, run.leaks), (Verdict::Clean, 0, Totals::default()));
}
