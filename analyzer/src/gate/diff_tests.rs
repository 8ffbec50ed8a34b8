//! Tests of the difference.

use super::*;
use crate::report::sample;
use crate::report::verdict::sum_up;

fn one(report: Report) -> AnyReport {
    AnyReport::Process(Box::new(report))
}

fn of(a: &AnyReport, b: &AnyReport) -> Diff {
    diff(("a.json", a), ("b.json", b), Measure::default())
}

fn changes(diff: &Diff) -> Vec<Change> {
    diff.groups.iter().map(|group| group.change).collect()
}

use Change::{Gone, Grown, New, Same, Shrunk};

#[test]
fn a_report_and_itself() {
    let diff = of(&one(sample::leaking()), &one(sample::leaking()));
    assert_eq!((changes(&diff), diff.exit_status(), diff.worse), (vec![Same, Same], 0, false));
    assert_eq!((diff.a.count, diff.a.frames_allocated, diff.notes.len()), (34, 2013, 0));
}

#[test]
fn new_grown_shrunk_gone() {
    let mut after = sample::leaking();
    after.groups[0].count = 31;
    after.groups[1].id = "00000000000000aa".into();
    after.groups[1].stack[2].function = Some("elsewhere".into());
    let (before, after) = (one(sample::leaking()), one(after));
    let forth = of(&before, &after);
    assert_eq!((changes(&forth), forth.exit_status()), (vec![New, Grown, Gone], 1));
    assert_eq!(forth.groups[1].a.unwrap().count, 30);
    assert_eq!((forth.groups[0].a, forth.groups[2].b), (None, None));
    let back = of(&after, &before);
    assert_eq!(changes(&back), [New, Shrunk, Gone]);
    let fewer = of(&before, &one(sample::clean()));
    assert_eq!((changes(&fewer), fewer.exit_status()), (vec![Gone, Gone], 0));
}

#[test]
fn a_new_build_and_another_class_are_matched_and_marked() {
    let mut after = sample::leaking();
    after.groups[0].id = "00000000000000aa".into();
    after.groups[0].stack[1].line = Some(93);
    after.groups[1].id = "00000000000000ab".into();
    after.groups[1].class = Class::DefinitelyLost;
    let diff = of(&one(sample::leaking()), &one(after));
    assert_eq!((changes(&diff), diff.summary.moved, diff.exit_status()), (vec![Same, Same], 2, 0));
    let before = sample::leaking();
    let from: Vec<&str> = diff.groups.iter().filter_map(|group| group.moved_from.as_deref()).collect();
    assert_eq!(from.len(), 2);
    assert!(from.contains(&before.groups[0].id.as_str()) && from.contains(&before.groups[1].id.as_str()));
}

#[test]
fn runs_of_different_length_are_compared_by_rate() {
    let mut longer = sample::leaking();
    longer.observed.frames_allocated *= 2;
    longer.groups[0].count *= 2;
    longer.groups[1].count *= 2;
    longer.groups[1].outermost *= 2;
    let (before, longer) = (one(sample::leaking()), one(longer));
    assert_eq!(changes(&of(&before, &longer)), [Grown, Grown]);
    let by_rate =
        |slack_percent| diff(("a", &before), ("b", &longer), Measure { per_1000_frames: true, slack_percent });
    assert_eq!((changes(&by_rate(0.0)), by_rate(0.0).exit_status()), (vec![Same, Same], 0));
    let back = diff(
        ("a", &one(sample::leaking())),
        ("b", &one(sample::leaking())),
        Measure { per_1000_frames: true, slack_percent: 0.0 },
    );
    assert_eq!(changes(&back), [Same, Same]);
    let mut worse = sample::leaking();
    worse.groups[0].count = 33;
    let worse = one(worse);
    let with = |slack_percent, per_1000_frames| {
        diff(("a", &before), ("b", &worse), Measure { per_1000_frames, slack_percent }).worse
    };
    assert_eq!([with(9.0, false), with(10.0, false), with(9.0, true), with(10.1, true)], [true, false, true, false]);
}

#[test]
fn inconclusive_is_no_all_clear() {
    let diff = of(&one(sample::clean()), &one(sample::inconclusive()));
    assert_eq!(diff.exit_status(), 3);
    let diff = of(&one(sample::inconclusive()), &one(sample::leaking()));
    assert_eq!(diff.exit_status(), 1, "what is worse is known");
}

#[test]
fn processes_are_matched_by_what_they_run() {
    let process = |exe: &str, argument: &str, count: u64| {
        let mut report = sample::leaking();
        report.groups.truncate(1);
        report.groups[0].count = count;
        report.target.exe = exe.into();
        report.target.argv = vec![exe.into(), argument.into()];
        report
    };
    let run = |processes| AnyReport::Run(Box::new(sum_up(vec!["make".into()], None, 1, processes)));
    let before = run(vec![process("/b/one", "x", 5), process("/b/two", "x", 7), process("/b/gone", "x", 2)]);
    let after = run(vec![
        process("/b/two", "/tmp/other", 7),
        process("/c/one", "x", 6),
        process("/b/new", "x", 1),
        process("/b/new", "y", 1),
    ]);
    let diff = of(&before, &after);
    let found: Vec<(Change, &str)> = diff.groups.iter().map(|group| (group.change, group.program.as_str())).collect();
    assert_eq!(found, [(New, "new"), (New, "new"), (Grown, "one"), (Gone, "gone"), (Same, "two")]);
    assert!(diff.notes.iter().any(|note| note == "gone used FFmpeg only in a.json"), "{:?}", diff.notes);
    // The same program several times: together.
    let twice = run(vec![process("/b/one", "x", 5), process("/b/one", "x", 5)]);
    let once = run(vec![process("/b/one", "x", 9)]);
    assert_eq!(changes(&of(&twice, &once)), [Shrunk]);
    assert_eq!(changes(&of(&once, &twice)), [Grown]);
    // One process whose name changed is still the one.
    assert_eq!(changes(&of(&one(process("/a/x", "1", 3)), &one(process("/a/y", "2", 3)))), [Same]);
}

#[test]
fn suppressed_groups_are_left_out_and_known_ones_are_not() {
    let mut after = sample::leaking();
    after.groups[0].leak = false;
    after.groups[0].suppressed_by = Some("x".into());
    let diff = of(&one(sample::leaking()), &one(after));
    assert_eq!(changes(&diff), [Gone, Same]);
}

#[test]
fn other_levels_are_noted() {
    let diff = of(&one(sample::leaking()), &one(sample::full()));
    assert!(diff.notes[0].contains("the levels differ (normal and strict)"), "{:?}", diff.notes);
}

/// Many groups, half of them moved: this test would hang if they took their square.
#[test]
fn many_groups() {
    let many = |shift: u32| {
        let mut report = sample::leaking();
        let group = report.groups[0].clone();
        report.groups = (0..40_000_u32)
            .map(|i| {
                let mut group = group.clone();
                let moved = if i % 2 == 0 { shift } else { 0 };
                group.id = format!("{:016x}", u64::from(i) << 8 | u64::from(moved));
                group.stack[1].function = Some(format!("f{}", i % 20_000));
                group.stack[1].line = Some(i + moved + 1);
                group
            })
            .collect();
        one(report)
    };
    let diff = of(&many(0), &many(1));
    assert_eq!((diff.summary.same, diff.summary.moved), (40_000, 20_000));
}
