use super::*;
use crate::report::golang::Go;
use crate::report::sample;

fn settings(frames: Option<u64>, bytes: Option<u64>, growth: Option<u64>) -> Settings {
    Settings { interval_ms: 60_000, frames, bytes, growth, command: None, file: "alerts".into() }
}

/// A report with so many lost frames in a group each, at this check.
fn report(check: u32, lost: &[(&str, u64)]) -> Report {
    let mut report = sample::leaking();
    report.target.duration_s = f64::from(check) * 60.0;
    let group = |&(id, count): &(&str, u64)| Group {
        id: id.into(),
        object: "AVFrame".into(),
        class: Class::DefinitelyLost,
        leak: true,
        outermost: count,
        count,
        pinned_bytes: count * 1_000,
        ..sample::plain_group()
    };
    report.groups = lost.iter().map(group).collect();
    report.leaks.frames = lost.iter().map(|(_, count)| count).sum();
    report.leaks.pinned_bytes = report.leaks.frames * 1_000;
    report.verdict = if report.leaks.frames > 0 { Verdict::Leaks } else { Verdict::Clean };
    report
}

fn ids(alerts: &[Alert]) -> Vec<&str> {
    alerts.iter().map(|alert| alert.group.as_ref().map_or(PROCESS, |about| &about.id)).collect()
}

#[test]
fn a_threshold_is_told_once_and_again_when_it_is_twice_as_bad() {
    let mut monitor = Monitor::new(settings(Some(10), None, None), None);
    let mut told = Vec::new();
    for (check, frames) in (1..).zip([9, 10, 11, 19, 20, 39, 40, 40]) {
        told.extend(monitor.checked(&report(check, &[("a", frames)])).into_iter().map(|alert| alert.count));
    }
    assert_eq!(told, [10, 20, 40]);
    assert_eq!((monitor.checks(), monitor.alerts()), ((8, 0), 3));
}

#[test]
fn bytes_and_frames_make_one_alert() {
    let mut monitor = Monitor::new(settings(Some(3), Some(4_000), None), None);
    assert_eq!(monitor.checked(&report(1, &[("a", 4), ("b", 2)]))[0].reasons, [Reason::Frames, Reason::Bytes]);
    let next = monitor.checked(&report(2, &[("a", 4), ("b", 3)]));
    assert_eq!((ids(&next), &next[0].reasons[..]), (vec!["b"], &[Reason::Frames][..]));
    assert_eq!(next[0].samples.iter().map(|sample| sample.count).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn many_small_leaks_make_one_of_the_process() {
    let mut monitor = Monitor::new(settings(Some(10), None, None), None);
    assert_eq!(monitor.checked(&report(1, &[("a", 4), ("b", 4)])), []);
    let alerts = monitor.checked(&report(2, &[("a", 4), ("b", 4), ("c", 2)]));
    assert_eq!((ids(&alerts), alerts[0].count), (vec![PROCESS], 10));
    assert!(alerts[0].message.contains("several groups"), "{}", alerts[0].message);
    // What was told of by itself is not counted among them.
    let mut monitor = Monitor::new(settings(Some(10), None, None), None);
    assert_eq!(ids(&monitor.checked(&report(1, &[("a", 12), ("b", 4)]))), ["a"]);
}

#[test]
fn what_may_be_dropped_ends_is_no_alert_and_what_comes_later_is() {
    let mut monitor = Monitor::new(settings(Some(5), Some(5_000), Some(1)), None);
    let mut check = |check: u32, frames: u64, dropped: u64, corrupt_rings: u64| {
        let mut report = report(check, &[("a", frames)]);
        report.verdict = Verdict::Inconclusive;
        report.observed.events_dropped = dropped;
        report.completeness.corrupt_rings = corrupt_rings;
        ids(&monitor.checked(&report)).len()
    };
    // As long as events are dropped anything may be made up.
    for at in 1..=20 {
        assert_eq!(check(at, u64::from(at), u64::from(at) * 1_000, 0), 0);
    }
    assert_eq!((check(21, 24, 20_000, 0), check(22, 25, 20_000, 1)), (0, 0));
    assert_eq!(check(23, 25, 20_000, 0), 1, "five more than there were when events were dropped last");
    assert_eq!(check(24, 40, 20_001, 0), 0);
}

#[test]
fn growth_is_told_with_its_slope_and_significance() {
    let mut monitor = Monitor::new(settings(None, None, Some(60)), None);
    let mut first = None;
    for check in 1..30 {
        let alerts = monitor.checked(&report(check, &[("slow", u64::from(check / 4)), ("a", u64::from(check))]));
        first = first.or_else(|| alerts.into_iter().next().map(|alert| (check, alert)));
    }
    let (check, alert) = first.expect("an alert");
    assert_eq!((check, alert.group.as_ref().map(|about| about.id.as_str())), (8, Some("a")));
    let growth = alert.growth.expect("growth");
    assert!((growth.per_hour - 60.0).abs() < 1e-6 && growth.p < 1e-3, "{growth:?}");
    assert!(alert.message.contains("60 more an hour"), "{}", alert.message);
    assert_eq!(monitor.alerts(), 2, "at 8, at 16, and none of the slow one");
}

/// A pause in what was lost at each check: soon it is no growth any more, and yet it has grown.
#[test]
fn what_grew_is_known_until_it_is_fewer_or_long_ago() {
    let grew = |monitor: &Monitor| -> Vec<(u64, u64)> {
        monitor.grew().iter().map(|grown| (grown.count, grown.checks_ago)).collect()
    };
    let mut grown = Monitor::new(settings(None, None, None), None);
    (1..=8).for_each(|check| drop(grown.checked(&report(check, &[("a", u64::from(check) * 3)]))));
    assert_eq!(grew(&grown), [(24, 0)]);
    let mut stalled = Monitor::new(grown.settings.clone(), Some(&grown.state()));
    let mut ago = Vec::new();
    for check in 9..80 {
        stalled.checked(&report(check, &[("a", 24)]));
        ago.extend(grew(&stalled).into_iter().map(|(count, ago)| (count == 24).then_some(ago)));
    }
    let seen = ago.iter().take_while(|&&ago| ago == Some(0)).count();
    assert!(seen < 8, "{ago:?}");
    assert_eq!(ago[seen..], (1..series::WINDOW as u64).map(Some).collect::<Vec<_>>());
    grown.checked(&report(9, &[("a", 3)]));
    assert_eq!(grew(&grown), []);
}

/// A frame's refs and buffers grow with it, and are no second leak; where only refs grow it is they.
/// A leak that was told of because it grows passes the threshold of frames all the same, and is told of then, once.
#[test]
fn growth_that_was_told_of_silences_no_threshold() {
    let mut monitor = Monitor::new(settings(Some(10), None, Some(1)), None);
    let mut told = Vec::new();
    for check in 1..=13 {
        told.extend(monitor.checked(&report(check, &[("a", u64::from(check).min(11))])));
    }
    let counts: Vec<(u64, &[Reason])> = told.iter().map(|alert| (alert.count, &alert.reasons[..])).collect();
    assert_eq!(counts, [(8, &[Reason::Growth][..]), (10, &[Reason::Frames, Reason::Growth][..])]);
}

#[test]
fn parts_are_told_of_only_by_themselves() {
    for (with_frames, expected) in [(true, vec!["frames"]), (false, vec!["refs"])] {
        let mut monitor = Monitor::new(settings(None, None, Some(1)), None);
        let mut told = Vec::new();
        for check in 1..12 {
            let count = u64::from(check);
            let mut report =
                report(check, &[("refs", count), ("inner", count), ("frames", if with_frames { count } else { 4 })]);
            for group in &mut report.groups[..2] {
                (group.object, group.leak) = ("AVBufferRef".into(), false);
            }
            report.groups[1].class = Class::IndirectlyLost;
            told.extend(monitor.checked(&report));
        }
        assert_eq!(ids(&told), expected);
    }
}

#[test]
fn what_is_suppressed_or_plain_is_no_growth() {
    let mut monitor = Monitor::new(settings(None, None, Some(1)), None);
    for check in 1..60 {
        let mut report = report(check, &[("known", u64::from(check)), ("plain", u64::from(check))]);
        (report.groups[0].leak, report.groups[0].suppressed_by) = (false, Some("rule".into()));
        report.groups[1].object = "block".into();
        assert_eq!(monitor.checked(&report), []);
    }
}

#[test]
fn another_analyzer_goes_on_and_does_not_repeat() {
    let wanted = || settings(Some(10), None, Some(60));
    let mut monitor = Monitor::new(wanted(), None);
    for check in 1..=6 {
        monitor.checked(&report(check, &[("a", 12), ("b", u64::from(check))]));
    }
    let mut next = Monitor::new(wanted(), Some(&monitor.state()));
    assert_eq!(next.checked(&report(7, &[("a", 12), ("b", 7)])), []);
    assert_eq!(ids(&next.checked(&report(8, &[("a", 12), ("b", 8)]))), ["b"], "the series went on");
    assert_eq!(next.checks().0, 8);
    // What cannot be read is begun anew, and growth is not made up.
    let mut anew = Monitor::new(settings(None, None, Some(1)), Some(b"?"));
    assert_eq!(anew.checked(&report(9, &[("a", 500)])), []);
}

#[test]
fn a_group_that_comes_late_had_nothing_before() {
    let mut monitor = Monitor::new(settings(None, None, Some(1)), None);
    for check in 1..=10 {
        monitor.checked(&report(check, &[]));
    }
    monitor.checked(&report(11, &[("a", 5)]));
    let counts: Vec<u64> = monitor.series("a").expect("a series").samples().map(|sample| sample.count).collect();
    assert_eq!(counts, [vec![0; 10], vec![5]].concat());
}

#[test]
fn goroutines_that_grow_are_told_of() {
    let mut monitor = Monitor::new(settings(None, None, Some(30)), None);
    let mut alerts = Vec::new();
    for check in 1..120 {
        let mut report = report(check, &[]);
        report.go = Some(Go { goroutines: 20 + u64::from(check), ..Go::default() });
        alerts.extend(monitor.checked(&report));
    }
    assert_eq!(ids(&alerts), [GOROUTINES]);
    assert!(alerts[0].message.contains("goroutines, 60 more an hour"), "{}", alerts[0].message);
    assert!(alerts[0].goroutines.is_some_and(|goroutines| goroutines.growth.is_some()));
}

#[test]
fn an_alert_is_a_line_that_reads_back() {
    let mut monitor = Monitor::new(settings(Some(1), None, None), None);
    let alert = monitor.checked(&report(1, &[("a", 4)])).remove(0);
    let line = serde_json::to_string(&alert).expect("a line");
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Alert>(&line).expect("an alert"), alert);
}
