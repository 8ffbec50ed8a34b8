//! Holds the groups of a run against a baseline: which are known, which are new, which have grown, which are gone.
//!
//! A run's groups are counted together: of one id, over all processes; and over all classes at one stack, for a stale word in
//! memory makes the same leak definitely lost in one run and possibly lost in the next.

use super::baseline::Baseline;
use super::counted;
use super::kinship::{self, Kin};
use crate::report::gated::{BaselineStatus, BaselineSummary, GoneGroup, InBaseline};
use crate::report::model::{Group, Report};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// What of a group the verdict counts, by id, over the processes of a run.
struct Seen {
    count: u64,
    kin: Kin,
}

/// Entries that are one leak in several classes.
#[derive(Default)]
struct Family {
    allowed: u64,
    seen: u64,
}

/// Objects that a group of `count` may have with this slack.
pub fn allowed(count: u64, slack_percent: f64) -> u64 {
    // The float is at least 0 and saturates; a count beyond 2^53 would be rounded.
    let more = (count as f64 * slack_percent.max(0.0) / 100.0 + 1e-9).floor() as u64;
    count.saturating_add(more)
}

/// Marks the groups that count: those that the baseline knows do not any more. `file`: for the summary.
pub fn compare(reports: &mut [Report], baseline: &Baseline, slack_percent: f64, file: &str) -> BaselineSummary {
    let (seen, present) = collect(reports);
    let entry_of = assign(&seen, &present, baseline);
    // One leak in several classes is one family; without a stack every entry is one of its own.
    let mut numbers: FxHashMap<(&str, &[String], &str), usize> = FxHashMap::default();
    let mut family_of: FxHashMap<&str, usize> = FxHashMap::default();
    for (id, entry) in &baseline.groups {
        let lone = if entry.kin.stack.is_empty() { id.as_str() } else { "" };
        let next = numbers.len();
        let number = *numbers.entry((&entry.kin.object, &entry.kin.stack, lone)).or_insert(next);
        family_of.insert(id, number);
    }
    let mut families: Vec<Family> = Vec::new();
    families.resize_with(numbers.len(), Family::default);
    for (id, entry) in &baseline.groups {
        let family = &mut families[family_of[id.as_str()]];
        family.allowed = family.allowed.saturating_add(entry.count);
    }
    for (id, entry) in &entry_of {
        let family = &mut families[family_of[entry]];
        family.seen = family.seen.saturating_add(seen[*id].count);
    }
    let mut summary = BaselineSummary { path: file.to_string(), slack_percent, ..BaselineSummary::default() };
    let mut marks: FxHashMap<&str, InBaseline> = FxHashMap::default();
    for (id, group) in &seen {
        let mark = match entry_of.get(id.as_str()) {
            None => InBaseline { status: BaselineStatus::New, allowed: 0, seen: group.count, moved_from: None },
            Some(entry) => {
                let family = &families[family_of[entry]];
                let allowed = allowed(family.allowed, slack_percent);
                let grown = family.seen > allowed;
                InBaseline {
                    status: if grown { BaselineStatus::Grown } else { BaselineStatus::Known },
                    allowed,
                    seen: family.seen,
                    moved_from: (*entry != id.as_str()).then(|| (*entry).to_string()),
                }
            }
        };
        match mark.status {
            BaselineStatus::New => summary.new += 1,
            BaselineStatus::Grown => summary.grown += 1,
            BaselineStatus::Known => {
                summary.known += 1;
                summary.moved += u64::from(mark.moved_from.is_some());
            }
        }
        marks.insert(id, mark);
    }
    let met: FxHashSet<usize> = entry_of.values().map(|entry| family_of[entry]).collect();
    summary.gone = baseline
        .groups
        .iter()
        .filter(|(id, _)| !present.contains(id.as_str()) && !met.contains(&family_of[id.as_str()]))
        .map(|(id, entry)| GoneGroup {
            id: id.clone(),
            object: entry.kin.object.clone(),
            count: entry.count,
            at: entry.kin.at.clone(),
        })
        .collect();
    for group in reports.iter_mut().flat_map(|report| &mut report.groups).filter(|group| group.leak) {
        group.baseline = marks.get(group.id.as_str()).cloned();
        group.leak = group.baseline.as_ref().is_none_or(|mark| mark.status != BaselineStatus::Known);
    }
    summary
}

/// The groups that count, and the ids of all groups.
fn collect(reports: &[Report]) -> (BTreeMap<String, Seen>, FxHashSet<String>) {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut present = FxHashSet::default();
    for report in reports {
        for group in &report.groups {
            present.insert(group.id.clone());
            if group.leak {
                let count = counted(group, report.level);
                seen.entry(group.id.clone())
                    .and_modify(|seen| seen.count = seen.count.saturating_add(count))
                    .or_insert_with(|| Seen { count, kin: Kin::of(group) });
            }
        }
    }
    (seen, present)
}

/// Which entry each group is held against: its id's; else one of the same stack in another class or build; else one that is
/// kin and not there any more.
fn assign<'a>(
    seen: &'a BTreeMap<String, Seen>,
    present: &FxHashSet<String>,
    baseline: &'a Baseline,
) -> FxHashMap<&'a str, &'a str> {
    let mut assigned: FxHashMap<&str, &str> = FxHashMap::default();
    let mut same: FxHashMap<(&str, &[String]), &str> = FxHashMap::default();
    for (id, entry) in baseline.groups.iter().filter(|(_, entry)| !entry.kin.stack.is_empty()) {
        same.entry((&entry.kin.object, &entry.kin.stack)).or_insert(id);
    }
    let mut left = Vec::new();
    for (id, group) in seen {
        if let Some((known, _)) = baseline.groups.get_key_value(id) {
            assigned.insert(id, known);
        } else if let Some(entry) = same.get(&(group.kin.object.as_str(), group.kin.stack.as_slice())) {
            assigned.insert(id, entry);
        } else {
            left.push((id, &group.kin));
        }
    }
    let taken: FxHashSet<&str> = assigned.values().copied().collect();
    let gone: Vec<(&String, &Kin)> = baseline
        .groups
        .iter()
        .filter(|(id, _)| !taken.contains(id.as_str()) && !present.contains(id.as_str()))
        .map(|(id, entry)| (id, &entry.kin))
        .collect();
    let kin = |list: &[(&String, &Kin)]| -> Vec<Kin> { list.iter().map(|(_, kin)| (*kin).clone()).collect() };
    for (from, to) in kinship::pair(&kin(&gone), &kin(&left)) {
        assigned.insert(left[to].0, gone[from].0);
    }
    assigned
}

/// How the groups compare, in the words of the text report: `grown: 8 objects where the baseline lets 5 through`.
pub fn phrase(group: &Group) -> Option<String> {
    let mark = group.baseline.as_ref()?;
    let text = match mark.status {
        BaselineStatus::New => "new: not in the baseline".to_string(),
        BaselineStatus::Grown => format!("grown: {} where the baseline lets {} through", mark.seen, mark.allowed),
        BaselineStatus::Known => format!("known to the baseline, which lets {} through", mark.allowed),
    };
    Some(match &mark.moved_from {
        Some(id) => format!("{text}, moved from {id}"),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::load::AnyReport;
    use crate::report::model::Class;
    use crate::report::sample;

    fn baseline(report: &Report) -> Baseline {
        Baseline::of(&[AnyReport::Process(Box::new(report.clone()))])
    }

    /// Status of each group that would count, in the report's order.
    fn held(report: Report, baseline: &Baseline, slack: f64) -> (Vec<BaselineStatus>, BaselineSummary) {
        let mut reports = [report];
        let summary = compare(&mut reports, baseline, slack, "b.toml");
        let marks = reports[0].groups.iter().filter_map(|group| group.baseline.as_ref());
        (marks.map(|mark| mark.status).collect(), summary)
    }

    use BaselineStatus::{Grown, Known, New};

    #[test]
    fn known_groups_do_not_count_any_more() {
        let known = baseline(&sample::leaking());
        let mut reports = [sample::leaking()];
        let summary = compare(&mut reports, &known, 0.0, "b.toml");
        assert_eq!((summary.known, summary.new, summary.grown, summary.moved), (2, 0, 0, 0));
        assert!(summary.gone.is_empty());
        assert!(reports[0].groups.iter().all(|group| !group.leak));
    }

    #[test]
    fn new_grown_and_gone() {
        let known = baseline(&sample::leaking());
        let mut report = sample::leaking();
        report.groups[0].count = 31;
        assert_eq!(held(report.clone(), &known, 0.0).0, [Grown, Known]);
        assert_eq!(held(report.clone(), &known, 3.0).0, [Grown, Known], "30 and 3 % are 30");
        assert_eq!(held(report.clone(), &known, 3.4).0, [Known, Known], "30 and 3.4 % are 31");
        report.groups[1].stack.clear();
        report.groups[1].id = "00000000000000aa".into();
        let (status, summary) = held(report, &known, 0.0);
        assert_eq!(status, [Grown, New]);
        assert_eq!((summary.gone.len(), summary.gone[0].count), (1, 4));
        assert_eq!(summary.gone[0].at, "cache::Session::remember(AVFrame const*) cache.cpp:51 in server");
        let (status, summary) = held(sample::clean(), &known, 0.0);
        assert_eq!((status.len(), summary.gone.len()), (0, 2));
        assert_eq!(held(sample::leaking(), &Baseline::default(), 0.0).0, [New, New]);
    }

    #[test]
    fn a_new_build_is_recognised_and_still_counted() {
        let known = baseline(&sample::leaking());
        let mut report = sample::leaking();
        report.groups[0].id = "00000000000000aa".into();
        report.groups[0].stack[1].line = Some(99);
        let mut reports = [report.clone()];
        let summary = compare(&mut reports, &known, 0.0, "b.toml");
        assert_eq!((summary.known, summary.moved, summary.gone.len()), (2, 1, 0));
        let old = sample::leaking().groups[0].id.clone();
        assert_eq!(reports[0].groups[0].baseline.as_ref().unwrap().moved_from, Some(old));
        report.groups[0].count = 31;
        assert_eq!(held(report, &known, 0.0).0, [Grown, Known]);
    }

    #[test]
    fn the_old_place_still_leaks_so_the_other_is_new() {
        let known = baseline(&sample::leaking());
        let mut report = sample::leaking();
        let mut second = report.groups[0].clone();
        second.id = "00000000000000aa".into();
        second.stack[1].line = Some(99);
        report.groups.push(second);
        assert_eq!(held(report, &known, 0.0).0, [Known, Known, New]);
    }

    #[test]
    fn classes_of_one_stack_are_counted_together() {
        let known = baseline(&sample::leaking());
        let split = |possibly: u64| {
            let mut report = sample::leaking();
            let mut other = report.groups[0].clone();
            (other.id, other.class, other.count) = ("00000000000000aa".into(), Class::PossiblyLost, possibly);
            report.groups[0].count -= 2;
            report.groups.push(other);
            report
        };
        assert_eq!(held(split(2), &known, 0.0).0, [Known, Known, Known]);
        assert_eq!(held(split(3), &known, 0.0).0, [Grown, Known, Grown]);
        // And the other way round: the baseline has both.
        let both = baseline(&split(2));
        assert_eq!(held(sample::leaking(), &both, 0.0).0, [Known, Known]);
        let mut more = sample::leaking();
        more.groups[0].count += 1;
        let (status, summary) = held(more, &both, 0.0);
        assert_eq!((status, summary.gone.len()), (vec![Grown, Known], 0));
    }

    #[test]
    fn processes_are_counted_together() {
        let known = baseline(&sample::leaking());
        let mut reports = [sample::leaking(), sample::leaking()];
        let summary = compare(&mut reports, &known, 0.0, "b.toml");
        assert_eq!((summary.grown, summary.known), (2, 0));
        let mark = reports[1].groups[0].baseline.as_ref().unwrap();
        assert_eq!((mark.seen, mark.allowed), (60, 30));
        assert_eq!(compare(&mut [sample::leaking(), sample::leaking()], &known, 100.0, "b").known, 2);
    }

    #[test]
    fn slack_never_takes_away() {
        let table = [(0, 50.0, 0), (1, 50.0, 1), (2, 50.0, 3), (10, 10.0, 11), (30, 3.0, 30), (7, -5.0, 7)];
        for (count, slack, expected) in table {
            assert_eq!(allowed(count, slack), expected, "{count} {slack}");
        }
        assert_eq!(allowed(u64::MAX, 100.0), u64::MAX);
    }
}
