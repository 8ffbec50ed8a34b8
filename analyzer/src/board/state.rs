//! How a process stands, bounded: what the page at `/` and `avleak top` show. It may change with them; programs read reports.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::Watched;
use super::living::{self, Living};
use crate::render::brief;
use crate::render::columns::Columns;
use crate::report::model::{Check, Class, Group, Totals, Verdict};
use crate::session::drain::Numbers;

/// Groups of a process that are listed.
const MOST_GROUPS: usize = 300;

/// All processes, for the page.
#[derive(Serialize)]
struct State {
    avleak: &'static str,
    processes: Vec<Process>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// File name of its executable.
    pub process: String,
    /// What is alive; `None` where it ended.
    pub numbers: Option<Numbers>,
    /// What was alive since arming.
    pub line: Option<Columns>,
    /// Checks that were begun.
    pub checks: u64,
    /// Those that came to nothing.
    pub failed: u64,
    /// For how long they made the process stand still.
    pub stopped_ms: f64,
    /// One is under way.
    pub checking: bool,
    /// Alerts so far, where it is monitored.
    pub alerts: Option<u64>,
    /// The last check that was kept.
    pub last: Option<Last>,
    /// What is alive by stack. Only told where it is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub living: Vec<Living>,
    /// `living` is all that is alive, not the most numerous only.
    #[serde(default)]
    pub living_is_all: bool,
}

/// The last check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// What it found.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// The same in a few words.
    pub finding: String,
    /// What the verdict counts.
    pub leaks: Totals,
    /// How the check went.
    pub check: Check,
    /// Of a Go program.
    pub goroutines: Option<u64>,
    /// The first groups, in the order of reports.
    pub groups: Vec<Row>,
    /// How many there are beyond.
    pub more_groups: usize,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As in reports.
    pub id: String,
    /// What stands for its stack, see [`living::key`].
    pub key: String,
    /// C type of its objects.
    pub object: String,
    /// Its class in words.
    pub class: String,
    /// The verdict counts it.
    pub leak: bool,
    /// It is lost: definitely, indirectly or possibly.
    pub lost: bool,
    /// Objects.
    pub count: u64,
    /// Bytes that they pin.
    pub pinned: u64,
    /// Age of the youngest and of the oldest, seconds.
    pub age: [f64; 2],
    /// The frame to blame.
    pub place: String,
    /// Who called it, see [`brief::callers`].
    pub callers: String,
    /// Counts of the last checks, where it is monitored.
    pub series: Vec<u64>,
    /// Objects an hour, where that is significant.
    pub growth: Option<f64>,
}

/// The state of all processes as JSON.
pub fn json(processes: &[Arc<Watched>]) -> Vec<u8> {
    let state = State { avleak: env!("CARGO_PKG_VERSION"), processes: processes.iter().map(|one| of(one)).collect() };
    // It has no maps, and no serializer that fails.
    serde_json::to_vec(&state).unwrap_or_default()
}

/// How one stands, with what is alive by stack. It is not checked for that, nor stopped, nor read.
pub fn with_living(watched: &Watched) -> Process {
    let (living, living_is_all) = living::of(watched).unwrap_or_default();
    Process { living, living_is_all, ..of(watched) }
}

fn of(watched: &Watched) -> Process {
    let tally = watched.inspector.tally();
    let monitor = watched.monitor.as_ref().map(|monitor| monitor.lock().unwrap_or_else(PoisonError::into_inner));
    let row = |group: &Group| {
        let series = monitor.as_ref().and_then(|monitor| monitor.series(&group.id));
        Row {
            id: group.id.clone(),
            key: living::key(&group.stack),
            object: group.object.clone(),
            class: group.class.phrase().into(),
            leak: group.leak,
            lost: !matches!(group.class, Class::StillReachable | Class::Unclassified),
            count: group.count,
            pinned: group.pinned_bytes,
            age: [group.age_min_s, group.age_max_s],
            place: brief::clean(&brief::blamed(group).map(brief::site).unwrap_or_default()),
            callers: brief::clean(&brief::callers(&group.stack, living::CALLERS)),
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
    drop(monitor);
    let line = watched.inspector.timeline().filter(|(_, samples)| !samples.is_empty());
    Process {
        pid: watched.pid(),
        process: brief::clean(&watched.process),
        numbers: watched.inspector.numbers(),
        line: line.map(|(dt, samples)| Columns::of(dt, &samples)),
        checks: tally.checks,
        failed: tally.failed,
        stopped_ms: tally.stopped_s * 1e3,
        checking: watched.inspector.is_checking(),
        alerts,
        last,
        living: Vec::new(),
        living_is_all: false,
    }
}
