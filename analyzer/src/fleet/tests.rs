//! Tests of the sum of many reports.

use super::*;
use crate::report::sample;

/// The sample's leaking server on another machine.
fn on(host: &str, pid: u32) -> Report {
    let mut report = sample::leaking();
    report.target.origin.host = Some(host.into());
    report.target.pid = pid;
    report
}

/// The sample's clean server.
fn clean(pid: u32) -> Report {
    let mut report = sample::clean();
    report.target.pid = pid;
    report
}

fn merged(reports: impl IntoIterator<Item = Report>) -> Fleet {
    let mut merger = Merger::default();
    reports.into_iter().for_each(|report| merger.add(AnyReport::Process(Box::new(report))));
    merger.finish(false)
}

#[test]
fn one_report_is_its_own_sum() {
    let report = sample::leaking();
    let fleet = merged([report.clone()]);
    assert_eq!((fleet.verdict, fleet.leaks, fleet.totals), (report.verdict, report.leaks, report.totals));
    let ids: Vec<&str> = fleet.groups.iter().map(|group| group.id.as_str()).collect();
    let theirs: Vec<&str> = report.groups.iter().map(|group| group.id.as_str()).collect();
    assert_eq!(ids, theirs);
    assert!(fleet.groups.iter().all(|group| group.also.is_empty() && group.processes == 1 && group.hosts == 1));
    assert_eq!(fleet.reason, "1 of 1 process leak");
}

#[test]
fn the_same_group_is_one_over_machines_and_processes() {
    let one = sample::leaking();
    let mut worse = on("edge-9", 7);
    worse.groups[0].count += 100;
    let fleet = merged([on("edge-7", 812), on("edge-7", 813), worse, clean(9)]);
    assert_eq!((fleet.processes, fleet.leaking, fleet.hosts.len()), (4, 3, 2));
    let group = &fleet.groups[0];
    assert_eq!((group.count, group.processes, group.hosts), (3 * one.groups[0].count + 100, 3, 2));
    assert_eq!(group.pinned_bytes, 3 * one.groups[0].pinned_bytes);
    assert_eq!((group.most[0].host.as_deref(), group.most[0].pid), (Some("edge-9"), 7));
    assert_eq!(fleet.leaks.frames, 3 * one.leaks.frames);
    assert_eq!(fleet.services["live"], 4);
    let per_1000 = group.count as f64 * 1000.0 / (3.0 * one.observed.frames_allocated as f64);
    assert!((group.per_1000_frames - per_1000).abs() < 1e-9);
}

#[test]
fn of_a_process_the_latest_report_counts_in_whatever_order_they_come() {
    let older = sample::leaking();
    let mut newer = sample::leaking();
    newer.check.started = "2025-03-01T12:20:00Z".into();
    newer.groups[0].count += 5;
    for reports in [[older.clone(), newer.clone()], [newer.clone(), older.clone()]] {
        let fleet = merged(reports);
        assert_eq!((fleet.processes, fleet.reports), (1, 2));
        assert_eq!(fleet.groups[0].count, newer.groups[0].count);
        assert_eq!(fleet.notes.len(), 1, "{:?}", fleet.notes);
    }
}

#[test]
fn two_builds_share_their_groups_unless_asked_otherwise() {
    let mut built_anew = on("edge-9", 9);
    built_anew.target.origin.build_id = Some("00ff".into());
    for (at, group) in built_anew.groups.iter_mut().enumerate() {
        group.id = format!("{at:016x}");
        group.stack.iter_mut().for_each(|frame| frame.offset += 64);
    }
    let (before, after) = (sample::leaking(), built_anew);
    let fleet = merged([before.clone(), after.clone()]);
    assert_eq!(
        fleet.groups.len(),
        before.groups.len(),
        "{:?}",
        fleet.groups.iter().map(|group| &group.id).collect::<Vec<_>>()
    );
    assert!(fleet.groups.iter().all(|group| group.also.len() == 1 && group.builds.len() == 2 && group.processes == 2));
    let mut merger = Merger::default();
    [before.clone(), after].into_iter().for_each(|report| merger.add(AnyReport::Process(Box::new(report))));
    assert_eq!(merger.finish(true).groups.len(), 2 * before.groups.len());
}

#[test]
fn what_could_not_be_read_is_never_clean() {
    let mut merger = Merger::default();
    merger.add(AnyReport::Process(Box::new(sample::clean())));
    assert_eq!(merger.finish(false).verdict, Verdict::Clean);
    let mut merger = Merger::default();
    merger.add(AnyReport::Process(Box::new(sample::clean())));
    merger.add_unreadable("a.json".into(), "a.json: the report is truncated".into());
    let fleet = merger.finish(false);
    assert_eq!((fleet.verdict, fleet.reports, fleet.processes), (Verdict::Inconclusive, 2, 1));
}
