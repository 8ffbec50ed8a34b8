//! `/state.json`: what the page shows, bounded. It is the page's own and may change with it; programs read `/report.json`.

use std::sync::{Arc, PoisonError};

use serde::Serialize;

use super::board::Watched;
use crate::render::brief;
use crate::report::model::{Check, Group, Totals, Verdict};
use crate::report::timeline::{Sample, Span};
use crate::session::drain::Numbers;

/// Groups of a process that the page lists.
const MOST_GROUPS: usize = 300;

#[derive(Serialize)]
struct State {
    avleak: &'static str,
    processes: Vec<Process>,
}

#[derive(Serialize)]
struct Process {
    pid: i32,
    process: String,
    numbers: Option<Numbers>,
    line: Option<Line>,
    checks: u64,
    failed: u64,
    stopped_ms: f64,
    alerts: Option<u64>,
    last: Option<Last>,
}

/// The timeline as the charts take it.
#[derive(Serialize)]
struct Line {
    dt: f64,
    frames: [Vec<u64>; 3],
    blocks: [Vec<u64>; 3],
    payload: [Vec<u64>; 3],
    allocs: Vec<u64>,
    frees: Vec<u64>,
    peaks: [Option<()>; 2],
}

/// The last check.
#[derive(Serialize)]
struct Last {
    verdict: Verdict,
    reason: String,
    finding: String,
    leaks: Totals,
    check: Check,
    goroutines: Option<u64>,
    groups: Vec<Row>,
    more_groups: usize,
}

#[derive(Serialize)]
struct Row {
    id: String,
    object: String,
    class: &'static str,
    leak: bool,
    count: u64,
    pinned: u64,
    age: [f64; 2],
    place: String,
    /// Counts of the last checks, where it is monitored.
    series: Vec<u64>,
    /// Objects an hour, where that is significant.
    growth: Option<f64>,
}

/// The state of all processes.
pub fn json(processes: &[Arc<Watched>]) -> Vec<u8> {
    let state =
        State { avleak: env!("CARGO_PKG_VERSION"), processes: processes.iter().map(|one| process(one)).collect() };
    // It has no maps, and no serializer that fails.
    serde_json::to_vec(&state).unwrap_or_default()
}

fn process(watched: &Watched) -> Process {
    let tally = watched.inspector.tally();
    let history = watched.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let monitor = watched.monitor.as_ref().map(|monitor| monitor.lock().unwrap_or_else(PoisonError::into_inner));
    let row = |group: &Group| {
        let series = monitor.as_ref().and_then(|monitor| monitor.series(&group.id));
        Row {
            id: group.id.clone(),
            object: group.object.clone(),
            class: group.class.phrase(),
            leak: group.leak,
            count: group.count,
            pinned: group.pinned_bytes,
            age: [group.age_min_s, group.age_max_s],
            place: brief::clean(&brief::blamed(group).map(brief::site).unwrap_or_default()),
            series: series.iter().flat_map(|series| series.samples().map(|sample| sample.count)).collect(),
            growth: series.and_then(|series| series.growth()).map(|growth| growth.per_second * 3600.0),
        }
    };
    let last = watched.inspector.kept().map(|report| Last {
        verdict: report.verdict,
        reason: report.reason.clone(),
        finding: brief::finding(report.verdict, &report.leaks),
        leaks: report.leaks,
        check: report.check.clone(),
        goroutines: report.go.as_ref().map(|go| go.goroutines),
        groups: report.groups.iter().take(MOST_GROUPS).map(row).collect(),
        more_groups: report.groups.len().saturating_sub(MOST_GROUPS),
    });
    let alerts = monitor.as_ref().map(|monitor| monitor.alerts());
    Process {
        pid: watched.pid(),
        process: brief::clean(&watched.process),
        numbers: watched.inspector.numbers(),
        line: history.samples().map(|(dt, samples)| line(dt, samples)),
        checks: tally.checks,
        failed: tally.failed,
        stopped_ms: tally.stopped_s * 1e3,
        alerts,
        last,
    }
}

fn line(dt: f64, samples: &[Sample]) -> Line {
    let spans = |of: fn(&Sample) -> Span| {
        let column = |part: fn(Span) -> u64| samples.iter().map(|sample| part(of(sample))).collect();
        [column(|span| span.min), column(|span| span.max), column(|span| span.last)]
    };
    Line {
        dt,
        frames: spans(|sample| sample.frames),
        blocks: spans(|sample| sample.blocks),
        payload: spans(|sample| sample.payload_bytes),
        allocs: samples.iter().map(|sample| sample.allocations).collect(),
        frees: samples.iter().map(|sample| sample.frees).collect(),
        peaks: [None, None],
    }
}
