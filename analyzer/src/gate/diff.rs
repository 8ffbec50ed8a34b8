//! What differs between two reports, group by group: new, gone, grown, shrunk, the same.
//!
//! Groups are those that the verdicts count, known to a baseline or not; suppressed ones are left out. They are matched by id within
//! the same program, then by stack (the class changed), then by kinship (the program was built anew): those are marked as moved.

use super::compare::allowed;
use super::kinship::{self, Kin};
use super::{counted, would_count};
use crate::render::load::AnyReport;
use crate::report::model::{Class, Frame, Group, Report, Target, Verdict};
use crate::report::verdict::{EXIT_CLEAN, EXIT_INCONCLUSIVE};
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::collections::BTreeMap;

/// `schema` of every difference written by this version: name, slash, major.
pub const DIFF_SCHEMA: &str = "avleak-diff/1";
/// Exit status where something is new or has grown.
pub const EXIT_WORSE: i32 = 1;

/// How growth is measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    /// For each thousand frames that were allocated, not in all: for runs of different length.
    pub per_1000_frames: bool,
    /// Percent that a group may grow or shrink and be called the same.
    pub slack_percent: f64,
}

/// The difference of two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// [`DIFF_SCHEMA`].
    pub schema: &'static str,
    /// avleak's version that wrote it.
    pub avleak: &'static str,
    /// Something is new or has grown.
    pub worse: bool,
    /// Growth was measured for each thousand frames.
    pub per_1000_frames: bool,
    /// Percent within which a group is the same.
    pub slack_percent: f64,
    /// The first report.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// Numbers of groups.
    pub summary: Summary,
    /// The groups: new, grown, shrunk, gone, same; within these the most objects first.
    pub groups: Vec<GroupDiff>,
    /// What makes the two hard to compare, one sentence each.
    pub notes: Vec<String>,
}

/// One of the two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Path as it was given.
    pub file: String,
    /// The command, or the process's.
    pub argv: Vec<String>,
    /// Its verdict.
    pub verdict: Verdict,
    /// Processes that used FFmpeg.
    pub processes: u64,
    /// AVFrames that they allocated.
    pub frames_allocated: u64,
    /// Objects that the verdict counts, known to a baseline or not.
    pub count: u64,
    /// Bytes of these objects' own blocks.
    pub bytes: u64,
}

/// Numbers of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the statuses'")]
pub struct Summary {
    pub new: u64,
    pub grown: u64,
    pub shrunk: u64,
    pub gone: u64,
    pub same: u64,
    /// Of the last four, those that were matched by their stack.
    pub moved: u64,
}

/// How a group changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Change {
    New,
    Grown,
    Shrunk,
    Gone,
    Same,
}

/// One group in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupDiff {
    /// How it changed.
    pub change: Change,
    /// Its id: in the second report, where it is in there.
    pub id: String,
    /// Its id in the first report, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<String>,
    /// C type of its objects.
    pub object: String,
    /// Its class: in the second report, where it is in there.
    pub class: Class,
    /// File name of the program's executable.
    pub program: String,
    /// The innermost frame of the program's own.
    pub at: String,
    /// In the first report; absent where it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Amount>,
    /// In the second; absent where it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Amount>,
    /// Who allocated, innermost first: in the second report, where it is in there.
    pub stack: Vec<Frame>,
}

/// How much of a group there is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Amount {
    /// Objects that the verdict counts.
    pub count: u64,
    /// Bytes of the group's own blocks.
    pub bytes: u64,
    /// Bytes of the buffers that they pin.
    pub pinned_bytes: u64,
    /// Objects for each thousand frames that the program allocated.
    pub rate_per_1000_frames: f64,
    /// Objects a minute.
    pub rate_per_minute: f64,
}

impl Diff {
    /// What the process exits with: 0 nothing is worse, 1 something is new or has grown, 3 nothing is, but one of the reports is
    /// inconclusive.
    pub fn exit_status(&self) -> i32 {
        match self.worse {
            true => EXIT_WORSE,
            false if [&self.a, &self.b].iter().any(|side| side.verdict == Verdict::Inconclusive) => EXIT_INCONCLUSIVE,
            false => EXIT_CLEAN,
        }
    }
}

fn processes(report: &AnyReport) -> Vec<&Report> {
    match report {
        AnyReport::Process(report) => vec![report],
        AnyReport::Run(run) => run.processes.iter().collect(),
    }
}

/// Compares two reports; the names are the files' as they were given.
pub fn diff(a: (&str, &AnyReport), b: (&str, &AnyReport), measure: Measure) -> Diff {
    let (ours, theirs) = (processes(a.1), processes(b.1));
    let mut notes = notes(&ours, &theirs);
    let mut groups = Vec::new();
    for pair in programs(&ours, &theirs) {
        if pair.a.is_empty() != pair.b.is_empty() {
            let (there, file) = if pair.b.is_empty() { (&pair.a, a.0) } else { (&pair.b, b.0) };
            notes.push(format!("{} used FFmpeg only in {file}", program(&there[0].target)));
        }
        compare(&pair, measure, &mut groups);
    }
    let amount = |group: &GroupDiff| group.b.or(group.a).unwrap_or_default();
    groups.sort_by(|x, y| {
        (x.change.cmp(&y.change))
            .then(amount(y).pinned_bytes.cmp(&amount(x).pinned_bytes))
            .then(amount(y).count.cmp(&amount(x).count))
            .then_with(|| x.id.cmp(&y.id))
    });
    let number = |change| groups.iter().filter(|group| group.change == change).count() as u64;
    let summary = Summary {
        new: number(Change::New),
        grown: number(Change::Grown),
        shrunk: number(Change::Shrunk),
        gone: number(Change::Gone),
        same: number(Change::Same),
        moved: groups.iter().filter(|group| group.moved_from.is_some()).count() as u64,
    };
    Diff {
        schema: DIFF_SCHEMA,
        avleak: env!("CARGO_PKG_VERSION"),
        worse: summary.new + summary.grown > 0,
        per_1000_frames: measure.per_1000_frames,
        slack_percent: measure.slack_percent,
        a: side(a.0, a.1, &ours),
        b: side(b.0, b.1, &theirs),
        summary,
        groups,
        notes,
    }
}

fn side(file: &str, report: &AnyReport, processes: &[&Report]) -> Side {
    let (argv, verdict) = match report {
        AnyReport::Process(report) => (report.target.argv.clone(), report.verdict),
        AnyReport::Run(run) => (run.argv.clone(), run.verdict),
    };
    let of = |add: fn(&Group, &Report) -> u64| {
        let groups = processes.iter().flat_map(|report| report.groups.iter().map(move |group| (group, *report)));
        groups
            .filter(|(group, _)| is_meant(group))
            .fold(0_u64, |sum, (group, report)| sum.saturating_add(add(group, report)))
    };
    Side {
        file: file.to_string(),
        argv,
        verdict,
        processes: processes.len() as u64,
        frames_allocated: processes.iter().map(|report| report.observed.frames_allocated).sum(),
        count: of(|group, report| counted(group, report.level)),
        bytes: of(|group, _| group.bytes),
    }
}

fn is_meant(group: &Group) -> bool {
    would_count(group) && group.suppressed_by.is_none()
}

fn notes(a: &[&Report], b: &[&Report]) -> Vec<String> {
    let mut notes = Vec::new();
    let level = |reports: &[&Report]| reports.first().map(|report| report.level.key());
    if let (Some(one), Some(other)) = (level(a), level(b))
        && one != other
    {
        notes.push(format!("the levels differ ({one} and {other}): what only the one counts is new or gone"));
    }
    notes
}

/// The processes of one program in both reports.
struct Programs<'a> {
    a: Vec<&'a Report>,
    b: Vec<&'a Report>,
}

/// Processes belong together by executable and arguments; what is left by the executable's path, then by its name; one and one
/// that are left belong together whatever they are.
fn programs<'a>(a: &[&'a Report], b: &[&'a Report]) -> Vec<Programs<'a>> {
    let keys: [fn(&Target) -> String; 3] = [
        |target| format!("{}\0{}", target.exe, target.argv.join("\0")),
        |target| target.exe.clone(),
        |target| program(target).to_string(),
    ];
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    let mut pairs = Vec::new();
    for key in keys {
        let mut rooms: BTreeMap<String, Programs<'a>> = BTreeMap::new();
        let room = || Programs { a: Vec::new(), b: Vec::new() };
        a.iter().for_each(|report| rooms.entry(key(&report.target)).or_insert_with(room).a.push(report));
        b.iter().for_each(|report| rooms.entry(key(&report.target)).or_insert_with(room).b.push(report));
        (a, b) = (Vec::new(), Vec::new());
        for room in rooms.into_values() {
            if room.a.is_empty() || room.b.is_empty() {
                a.extend(room.a);
                b.extend(room.b);
            } else {
                pairs.push(room);
            }
        }
    }
    match (a.as_slice(), b.as_slice()) {
        ([_], [_]) => pairs.push(Programs { a, b }),
        _ => {
            pairs.extend(a.into_iter().map(|report| Programs { a: vec![report], b: Vec::new() }));
            pairs.extend(b.into_iter().map(|report| Programs { a: Vec::new(), b: vec![report] }));
        }
    }
    pairs
}

fn program(target: &Target) -> &str {
    match target.exe.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => target.argv.first().map_or("?", String::as_str),
    }
}

/// One group over the processes of a program.
struct Sum<'a> {
    group: &'a Group,
    report: &'a Report,
    amount: Amount,
    kin: Kin,
}

/// By id.
fn sums<'a>(reports: &[&'a Report]) -> BTreeMap<&'a str, Sum<'a>> {
    let mut sums: BTreeMap<&str, Sum<'a>> = BTreeMap::new();
    let frames: u64 = reports.iter().map(|report| report.observed.frames_allocated).sum();
    let seconds: f64 = reports.iter().map(|report| report.target.duration_s).sum();
    for report in reports {
        for group in report.groups.iter().filter(|group| is_meant(group)) {
            let sum = sums.entry(&group.id).or_insert_with(|| Sum {
                group,
                report,
                amount: Amount::default(),
                kin: Kin::of(group),
            });
            sum.amount.count = sum.amount.count.saturating_add(counted(group, report.level));
            sum.amount.bytes = sum.amount.bytes.saturating_add(group.bytes);
            sum.amount.pinned_bytes = sum.amount.pinned_bytes.saturating_add(group.pinned_bytes);
        }
    }
    for sum in sums.values_mut() {
        let count = sum.amount.count as f64;
        sum.amount.rate_per_1000_frames = if frames > 0 { count * 1000.0 / frames as f64 } else { 0.0 };
        sum.amount.rate_per_minute = if seconds > 0.0 { count * 60.0 / seconds } else { 0.0 };
    }
    sums
}

fn compare(pair: &Programs<'_>, measure: Measure, out: &mut Vec<GroupDiff>) {
    let (mut a, b) = (sums(&pair.a), sums(&pair.b));
    let mut left = Vec::new();
    for (id, now) in b {
        match a.remove(id) {
            Some(before) => out.push(group_diff(Some(&before), Some(&now), measure)),
            None => left.push(now),
        }
    }
    // The same stack in another class first, for kinship does not look at names that are not there.
    let mut same: FxHashMap<(&str, &[String]), &str> = FxHashMap::default();
    for (id, before) in a.iter().filter(|(_, before)| !before.kin.stack.is_empty()) {
        same.insert((&before.kin.object, &before.kin.stack), id);
    }
    let mut pairs: Vec<Option<&str>> =
        left.iter().map(|now| same.remove(&(now.kin.object.as_str(), now.kin.stack.as_slice()))).collect();
    let taken: Vec<&str> = pairs.iter().flatten().copied().collect();
    let gone: Vec<&str> = {
        let taken: rustc_hash::FxHashSet<&str> = taken.into_iter().collect();
        a.keys().copied().filter(|id| !taken.contains(id)).collect()
    };
    let open: Vec<usize> = (0..left.len()).filter(|&at| pairs[at].is_none()).collect();
    let before: Vec<Kin> = gone.iter().map(|id| a[id].kin.clone()).collect();
    let now: Vec<Kin> = open.iter().map(|&at| left[at].kin.clone()).collect();
    for (from, to) in kinship::pair(&before, &now) {
        pairs[open[to]] = Some(gone[from]);
    }
    let pairs: Vec<Option<String>> = pairs.into_iter().map(|id| id.map(String::from)).collect();
    for (now, before) in left.iter().zip(pairs) {
        let before = before.and_then(|id| a.remove(id.as_str()));
        out.push(group_diff(before.as_ref(), Some(now), measure));
    }
    out.extend(a.values().map(|before| group_diff(Some(before), None, measure)));
}

fn group_diff(a: Option<&Sum<'_>>, b: Option<&Sum<'_>>, measure: Measure) -> GroupDiff {
    let change = match (a, b) {
        (None, _) => Change::New,
        (_, None) => Change::Gone,
        (Some(a), Some(b)) => change(&a.amount, &b.amount, measure),
    };
    let shown = b.or(a);
    let (group, report) = match shown {
        Some(sum) => (sum.group, sum.report),
        None => unreachable!("a difference has at least one side"),
    };
    GroupDiff {
        change,
        id: group.id.clone(),
        moved_from: a.filter(|a| a.group.id != group.id).map(|a| a.group.id.clone()),
        object: group.object.clone(),
        class: group.class,
        program: program(&report.target).to_string(),
        at: shown.map(|sum| sum.kin.at.clone()).unwrap_or_default(),
        a: a.map(|a| a.amount),
        b: b.map(|b| b.amount),
        stack: group.stack.clone(),
    }
}

fn change(a: &Amount, b: &Amount, measure: Measure) -> Change {
    if measure.per_1000_frames {
        let within = 1.0 + measure.slack_percent / 100.0;
        // What a float loses is no growth.
        let more = |x: f64, y: f64| x > y * within * (1.0 + 1e-9);
        let (a, b) = (a.rate_per_1000_frames, b.rate_per_1000_frames);
        return match (more(b, a), more(a, b)) {
            (true, _) => Change::Grown,
            (_, true) => Change::Shrunk,
            _ => Change::Same,
        };
    }
    if b.count > allowed(a.count, measure.slack_percent) {
        Change::Grown
    } else if a.count > allowed(b.count, measure.slack_percent) {
        Change::Shrunk
    } else {
        Change::Same
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
