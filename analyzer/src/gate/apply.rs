//! Applies suppressions and a baseline to the reports of a run: marks groups, sums what remains, and judges that.

use super::baseline::Baseline;
use super::compare;
use super::counted;
use super::matching::{Columns, Matcher};
use super::suppression_file::Suppressions;
use crate::kind::ObjectKind;
use crate::report::gated::{BUILT_IN, BaselineSummary, Gate, SuppressionPlace, SuppressionUse};
use crate::report::model::{Group, Level, Report, RunReport, Totals, Verdict};
use crate::report::words::{contents, counted as number_of, listed};
use crate::report::{groups, verdict};
use rustc_hash::{FxHashMap, FxHashSet};

/// What is let through.
#[derive(Debug, Default)]
pub struct Rules {
    /// `None`: what a stored report says of suppressions stays as it is.
    pub suppressions: Option<Suppressions>,
    /// Known groups.
    pub baseline: Option<KnownGroups>,
}

/// A baseline as it was asked for.
#[derive(Debug)]
pub struct KnownGroups {
    /// What is in the file.
    pub baseline: Baseline,
    /// Its path as it was given.
    pub file: String,
    /// How much a group may grow, percent.
    pub slack_percent: f64,
}

impl Rules {
    /// Marks the groups of all processes of a run, and makes sums, verdicts and reasons of each anew; what a stored report says of
    /// an earlier baseline is undone. Returns what holds for all processes together; `None` where nothing was let through and no
    /// file was given.
    pub fn apply(&self, reports: &mut [Report]) -> Option<Gate> {
        for report in reports.iter_mut() {
            undo(report, self.suppressions.is_some());
        }
        let (mut gates, mut unused) = match &self.suppressions {
            Some(suppressions) => suppress(reports, suppressions),
            None => (reports.iter_mut().map(|report| report.gate.take().unwrap_or_default()).collect(), Vec::new()),
        };
        let summary = self.baseline.as_ref().map(|known| {
            let before: Vec<Totals> = reports.iter().map(|report| report.leaks).collect();
            let summary = compare::compare(reports, &known.baseline, known.slack_percent, &known.file);
            for ((report, gate), before) in reports.iter_mut().zip(&mut gates).zip(before) {
                let taken = |group: &Group| group.baseline.is_some() && !group.leak;
                report.leaks = remaining(report, before, taken);
                gate.known = difference(&before, &report.leaks);
                gate.baseline = Some(of_process(report, &summary));
            }
            summary
        });
        for (report, gate) in reports.iter_mut().zip(&gates) {
            judge(report, gate);
            groups::sort(&mut report.groups);
        }
        let mut whole = gates.iter().fold(Gate::default(), together);
        whole.baseline = summary;
        if let Some(suppressions) = &self.suppressions {
            whole.unused.append(&mut unused);
            whole.notes.clone_from(&suppressions.notes);
        }
        for (report, gate) in reports.iter_mut().zip(gates) {
            report.gate = says_something(&gate).then_some(gate);
        }
        says_something(&whole).then_some(whole)
    }

    /// As [`Self::apply`], on a stored run; its verdict, sums and exit status follow. `error_exitcode`: as for
    /// [`verdict::exit_status`].
    pub fn apply_to_run(&self, run: &mut RunReport, error_exitcode: i32) {
        let before = run.gate.take().filter(|_| self.suppressions.is_none());
        run.gate = self.apply(&mut run.processes);
        if let Some(before) = before {
            let gate = run.gate.get_or_insert_default();
            (gate.unused, gate.notes) = (before.unused, before.notes);
        }
        let judged = verdict::run_verdict(&run.processes);
        // Nobody looked again at what outlived the command: that it was inconclusive stays.
        if !(judged.verdict == Verdict::Clean && run.verdict == Verdict::Inconclusive) {
            (run.verdict, run.reason) = (judged.verdict, judged.reason);
        }
        run.leaks = run.processes.iter().fold(Totals::default(), |sum, process| verdict::add(sum, &process.leaks));
        run.exit = verdict::exit_status(run.ended, Some(run.verdict), error_exitcode);
    }

    /// As [`Self::apply`], on the stored report of one process.
    pub fn apply_to_process(&self, report: &mut Report, error_exitcode: i32) {
        let whole = self.apply(std::slice::from_mut(report));
        report.gate = whole;
        if report.exit.is_some() {
            report.exit = Some(verdict::exit_status(report.target.ended, Some(report.verdict), error_exitcode));
        }
    }
}

fn says_something(gate: &Gate) -> bool {
    *gate != Gate::default()
}

/// As it was before the gate; the suppressions' part only if `suppressions`.
fn undo(report: &mut Report, suppressions: bool) {
    for group in &mut report.groups {
        group.leak |= group.baseline.take().is_some();
        if suppressions && group.suppressed_by.take().is_some() {
            group.leak = true;
        }
    }
    if let Some(gate) = &mut report.gate {
        report.leaks = verdict::add(report.leaks, &gate.known);
        (gate.known, gate.baseline) = (Totals::default(), None);
        if suppressions {
            report.leaks = verdict::add(report.leaks, &gate.suppressed);
            report.gate = None;
        }
    }
}

/// Marks what is suppressed; also returns the user's suppressions that matched no group of any process, counted or not.
fn suppress(reports: &mut [Report], suppressions: &Suppressions) -> (Vec<Gate>, Vec<SuppressionPlace>) {
    let columns = Columns::new(suppressions);
    let mut matched: FxHashSet<usize> = FxHashSet::default();
    let gates = reports
        .iter_mut()
        .map(|report| {
            let modules = std::mem::take(&mut report.modules);
            let mut matcher = Matcher::new(suppressions, &columns, &modules);
            let mut uses: FxHashMap<usize, SuppressionUse> = FxHashMap::default();
            for group in &mut report.groups {
                let found = matcher.find(group.class, &group.stack);
                matched.extend(&found);
                let Some(&first) = found.first().filter(|_| group.leak) else { continue };
                let suppression = &suppressions.list[first].place;
                let used = uses.entry(first).or_insert_with(|| SuppressionUse {
                    suppression: suppression.clone(),
                    groups: 0,
                    count: 0,
                    bytes: 0,
                });
                let share = share(group, report.level);
                used.groups += 1;
                used.count = used.count.saturating_add(share.blocks);
                used.bytes = used.bytes.saturating_add(share.bytes);
                group.suppressed_by = Some(suppression.name.clone());
                group.leak = false;
            }
            drop(matcher);
            report.modules = modules;
            let before = report.leaks;
            report.leaks = remaining(report, before, |group| group.suppressed_by.is_some());
            let mut used: Vec<(usize, SuppressionUse)> = uses.into_iter().collect();
            used.sort_by_key(|(at, _)| *at);
            Gate {
                suppressed: difference(&before, &report.leaks),
                used: used.into_iter().map(|(_, used)| used).collect(),
                ..Gate::default()
            }
        })
        .collect();
    let unused = suppressions.list.iter().enumerate().filter(|(at, _)| !reports.is_empty() && !matched.contains(at));
    let places = unused.map(|(_, suppression)| suppression.place.clone());
    (gates, places.filter(|place| place.file != BUILT_IN).collect())
}

/// What a group adds to the sum of what counts, without pinned buffers, which groups may share.
fn share(group: &Group, level: Level) -> Totals {
    let counted = counted(group, level);
    // Objects of one stack are of one size but where the program says otherwise.
    let bytes = if counted == group.count {
        group.bytes
    } else {
        (u128::from(group.bytes) * u128::from(counted) / u128::from(group.count.max(1))) as u64
    };
    let of = |kinds: &[ObjectKind]| if kinds.iter().any(|kind| kind.name() == group.object) { counted } else { 0 };
    Totals {
        frames: of(&[ObjectKind::Frame]),
        packets: of(&[ObjectKind::Packet]),
        buffer_refs: of(&[ObjectKind::BufferRef]),
        contexts: of(&[
            ObjectKind::IoContext,
            ObjectKind::SwsContext,
            ObjectKind::SwrContext,
            ObjectKind::FilterContext,
            ObjectKind::FilterGraph,
            ObjectKind::ParserContext,
            ObjectKind::BsfContext,
            ObjectKind::CodecContext,
            ObjectKind::FormatContext,
            ObjectKind::HwContext,
        ]),
        blocks: counted,
        bytes,
        pinned_bytes: 0,
    }
}

/// `before` without the groups of which `taken` is true.
///
/// A buffer that two groups pin is pinned as long as one of them counts: of the pinned bytes as many remain as the remaining
/// groups pin together, and no more than there were. Groups that were too many for the report stay in the sum.
fn remaining(report: &Report, before: Totals, taken: impl Fn(&Group) -> bool) -> Totals {
    let gone = report.groups.iter().filter(|group| taken(group));
    let gone = gone.fold(Totals::default(), |sum, group| verdict::add(sum, &share(group, report.level)));
    let mut left = difference(&before, &gone);
    let pinned: u64 =
        report.groups.iter().filter(|group| group.leak).fold(0, |sum, group| sum.saturating_add(group.pinned_bytes));
    let listed: u64 = report.groups.iter().filter(|group| group.leak).map(|group| counted(group, report.level)).sum();
    left.pinned_bytes = match left.blocks {
        0 => 0,
        all if all > listed => before.pinned_bytes,
        _ => before.pinned_bytes.min(pinned),
    };
    if left.blocks == 0 { Totals::default() } else { left }
}

fn difference(a: &Totals, b: &Totals) -> Totals {
    Totals {
        frames: a.frames.saturating_sub(b.frames),
        packets: a.packets.saturating_sub(b.packets),
        buffer_refs: a.buffer_refs.saturating_sub(b.buffer_refs),
        contexts: a.contexts.saturating_sub(b.contexts),
        blocks: a.blocks.saturating_sub(b.blocks),
        bytes: a.bytes.saturating_sub(b.bytes),
        pinned_bytes: a.pinned_bytes.saturating_sub(b.pinned_bytes),
    }
}

/// The numbers of one process; what is gone is known of all processes only.
fn of_process(report: &Report, whole: &BaselineSummary) -> BaselineSummary {
    use crate::report::gated::BaselineStatus::{Grown, Known, New};
    let marks = || report.groups.iter().filter_map(|group| group.baseline.as_ref());
    let number = |status| marks().filter(|mark| mark.status == status).count() as u64;
    BaselineSummary {
        path: whole.path.clone(),
        slack_percent: whole.slack_percent,
        known: number(Known),
        moved: marks().filter(|mark| mark.status == Known && mark.moved_from.is_some()).count() as u64,
        new: number(New),
        grown: number(Grown),
        gone: Vec::new(),
    }
}

/// Verdict and reason of what remains.
fn judge(report: &mut Report, gate: &Gate) {
    let judged = verdict::verdict(report.level, &report.leaks, &report.observed, &report.completeness);
    let mut through = Vec::new();
    if gate.suppressed != Totals::default() {
        through.push(format!("{} suppressed", contents(&gate.suppressed)));
    }
    if gate.known != Totals::default() {
        through.push(format!("{} known to the baseline", contents(&gate.known)));
    }
    let mut reason = judged.reason;
    if judged.verdict == Verdict::Clean && !through.is_empty() {
        // "Nothing is lost" would not be true.
        let rest = reason.split_once(": ").map_or("", |(_, rest)| rest);
        reason = format!("no leak but what is let through, {}: {rest}", listed(&through));
    } else if !through.is_empty() {
        reason = format!("{reason}; let through: {}", listed(&through));
    }
    if let (Verdict::Leaks, Some(baseline)) = (judged.verdict, &gate.baseline) {
        let groups = [(baseline.new, "is new", "are new"), (baseline.grown, "has grown", "have grown")];
        let groups: Vec<String> = groups
            .iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, more)| {
                format!("{} {}", number_of(*number, "group"), if *number == 1 { one } else { more })
            })
            .collect();
        if !groups.is_empty() {
            reason = format!("{reason}; {} since the baseline", listed(&groups));
        }
    }
    (report.verdict, report.reason) = (judged.verdict, reason);
}

/// Both processes' parts of a gate that add up.
fn together(mut whole: Gate, one: &Gate) -> Gate {
    whole.suppressed = verdict::add(whole.suppressed, &one.suppressed);
    whole.known = verdict::add(whole.known, &one.known);
    for used in &one.used {
        match whole.used.iter_mut().find(|known| known.suppression == used.suppression) {
            Some(known) => {
                known.groups += used.groups;
                known.count = known.count.saturating_add(used.count);
                known.bytes = known.bytes.saturating_add(used.bytes);
            }
            None => whole.used.push(used.clone()),
        }
    }
    whole.unused.extend(one.unused.iter().cloned());
    whole.notes.extend(one.notes.iter().cloned());
    whole
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
