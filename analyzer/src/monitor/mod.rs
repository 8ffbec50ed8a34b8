//! Watches a process that runs on by periodic checks, and says when it gets worse.
//!
//! [`settings`] what is wished for · [`trend`] and [`series`] whether something grows · this file what one check after the other comes to ·
//! [`alert`] what is said · [`deliver`] to whom · [`rounds`] the thread that checks.
//!
//! A group of reports (an allocation stack, and a class) is what a series is kept of. It is alerted of once, and again when it has become
//! twice as bad: an operator who knows of a leak need not hear of it each minute. Each threshold is told of where it is passed, though: that
//! something grows, as was told before, is not what whoever waits for a threshold waits for.

pub mod alert;
pub mod deliver;
pub mod rounds;
pub mod series;
pub mod settings;
pub mod trend;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use self::alert::{About, Alert, Finding, Goroutines, Reason};
use self::series::{Growth, Sample, Series};
use self::settings::Settings;
use crate::check::as_json;
use crate::render::brief;
use crate::report::model::{Class, Group, Report, Verdict};
use crate::report::post_mortem::Grown;

/// Groups of which series are kept: the worst ones, as reports order them.
const MOST_SERIES: usize = 2_000;
/// Groups that are remembered as growing.
const MOST_GROWN: usize = 20;
/// Alerts of one check; the others come with the next ones.
const MOST_ALERTS: usize = 10;
/// Groups of which it is remembered that they were alerted of.
const MOST_REMEMBERED: usize = 10_000;
/// So many times as bad is notably worse.
const NOTABLY: u64 = 2;
/// In place of a group's id.
const PROCESS: &str = "process";
const GOROUTINES: &str = "goroutines";

/// How bad something was when it was alerted of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Told {
    count: u64,
    pinned_bytes: u64,
    /// For what, so far.
    reasons: Vec<Reason>,
}

/// What outlives the analyzer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    checks: u64,
    failed: u64,
    alerts: u64,
    /// When the last checks were, seconds since arming: what is new had none of these.
    times: Vec<f64>,
    groups: FxHashMap<String, Series>,
    goroutines: Series,
    /// Events that were lost by the last check.
    dropped: u64,
    /// What groups had when events were lost last: their ends may be among those.
    doubtful: FxHashMap<String, Told>,
    /// By a group's id, [`PROCESS`] or [`GOROUTINES`].
    told: FxHashMap<String, Told>,
    /// What grew at one of the last [`series::WINDOW`] checks, and has not become fewer.
    #[serde(with = "as_json")]
    grew: Vec<Grown>,
}

/// The monitor of one process.
#[derive(Debug, Clone)]
pub struct Monitor {
    settings: Settings,
    state: State,
}

impl Monitor {
    /// A fresh one, or one that goes on with what another analyzer left.
    pub fn new(settings: Settings, left: Option<&[u8]>) -> Self {
        let state = left.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        Self { settings, state }
    }

    /// What another analyzer would go on with.
    pub fn state(&self) -> Vec<u8> {
        // It has no maps but of strings, and no serializer that fails.
        postcard::to_stdvec(&self.state).unwrap_or_default()
    }

    /// A check came to nothing.
    pub fn failed(&mut self) {
        self.state.failed += 1;
    }

    /// How many alerts there were before this.
    pub fn alerts(&self) -> u64 {
        self.state.alerts
    }

    /// Checks so far, and those that came to nothing.
    pub fn checks(&self) -> (u64, u64) {
        (self.state.checks, self.state.failed)
    }

    /// What grew lately: what it comes to is known though nobody may be there to look when the process ends.
    pub fn grew(&self) -> &[Grown] {
        &self.state.grew
    }

    /// What grows at this check, and what did at one before and is still there: a server that chokes on its leak makes a pause in it, and what
    /// is noticed just so is not at the next check.
    fn grown_lately(&self, report: &Report) -> Vec<Grown> {
        let mut all = self.growing(report);
        let now: FxHashMap<&str, u64> = report.groups.iter().map(|group| (group.id.as_str(), group.count)).collect();
        let is_there = |grown: &Grown| now.get(grown.group.as_str()).is_some_and(|&count| count >= grown.count);
        let new: Vec<String> = all.iter().map(|grown| grown.group.clone()).collect();
        let before = self.state.grew.iter().filter(|grown| !new.contains(&grown.group) && is_there(grown)).cloned();
        let before = before.map(|grown| Grown { checks_ago: grown.checks_ago + 1, ..grown });
        all.extend(before.filter(|grown| grown.checks_ago < series::WINDOW as u64));
        // What frames and contexts are made of grows with them.
        if all.iter().any(|grown| is_whole(&grown.object)) {
            all.retain(|grown| is_whole(&grown.object));
        }
        all.sort_by(|a, b| b.per_hour.total_cmp(&a.per_hour));
        all.truncate(MOST_GROWN);
        all
    }

    fn growing(&self, report: &Report) -> Vec<Grown> {
        let grown = |group: &Group| {
            let growth = self.series(&group.id)?.growth()?;
            Some(Grown {
                group: group.id.clone(),
                class: group.class,
                object: group.object.clone(),
                count: group.count,
                per_hour: growth.per_second * 3600.0,
                checks: growth.checks as u64,
                checks_ago: 0,
                stack: group.stack.clone(),
            })
        };
        report.groups.iter().filter_map(grown).collect()
    }

    /// The series of a group, by its id.
    pub fn series(&self, id: &str) -> Option<&Series> {
        self.state.groups.get(id)
    }

    /// Another check; returns what is worth an alert.
    pub fn checked(&mut self, report: &Report) -> Vec<Alert> {
        self.state.checks += 1;
        if report.observed.events_dropped > self.state.dropped {
            self.doubt(report);
        }
        self.record(report);
        self.state.grew = self.grown_lately(report);
        let mut findings = Vec::new();
        let whole_rises = |group: &Group| is_whole(&group.object) && self.series(&group.id).is_some_and(Series::rises);
        let parts_count = !report.groups.iter().any(whole_rises);
        for group in &report.groups {
            let reasons = self.reasons(group, report, parts_count);
            let now = sample(group, report);
            if reasons.is_empty() || findings.len() == MOST_ALERTS || !self.tell(&group.id, now, &reasons) {
                continue;
            }
            let about = About { id: group.id.clone(), object: group.object.clone(), class: Some(group.class) };
            findings.push((reasons, Some(about), brief::line(group), now));
        }
        findings.extend(self.scattered(report).map(|(reasons, now)| {
            let what = brief::finding(report.verdict, &report.leaks);
            (reasons, None, format!("{what}, by several groups"), now)
        }));
        let goroutines = self.goroutines();
        if let Some(Goroutines { count, growth: Some(growth) }) = goroutines
            && self.settings.growth.is_some_and(|least| growth.per_hour >= least as f64)
        {
            let now = self.state.goroutines.last().copied().unwrap_or_default();
            if self.tell(GOROUTINES, now, &[Reason::Growth]) {
                let about = About { id: GOROUTINES.into(), object: "goroutine".into(), class: None };
                findings.push((vec![Reason::Growth], Some(about), format!("{count} goroutines"), now));
            }
        }
        self.state.alerts += findings.len() as u64;
        let finish = |(reasons, about, what, now): (Vec<Reason>, Option<About>, String, Sample)| {
            let series = about.as_ref().and_then(|about| match &about.class {
                Some(_) => self.state.groups.get(&about.id),
                None => Some(&self.state.goroutines),
            });
            let growth = series.and_then(Series::growth);
            let finding = Finding { reasons, about, what, now, growth, series };
            Alert::of(finding, report, goroutines, self.checks())
        };
        findings.into_iter().map(finish).collect()
    }

    /// Events were lost since the last check. What is there now may be there only because nobody saw its end, and is no alert; what comes
    /// from now on is as certain as ever.
    fn doubt(&mut self, report: &Report) {
        self.state.dropped = report.observed.events_dropped;
        self.state.groups.values_mut().for_each(Series::begin_anew);
        self.state.times.clear();
        let told = |group: &Group| {
            (group.id.clone(), Told { count: frames(group), pinned_bytes: group.pinned_bytes, ..Told::default() })
        };
        self.state.doubtful = report.groups.iter().filter(|group| group.leak).map(told).collect();
    }

    /// Frames and pinned bytes of a group that cannot be put down to events that were lost.
    fn certain(&self, group: &Group) -> (u64, u64) {
        let doubtful = self.state.doubtful.get(&group.id);
        let (count, bytes) = doubtful.map_or((0, 0), |doubtful| (doubtful.count, doubtful.pinned_bytes));
        (frames(group).saturating_sub(count), group.pinned_bytes.saturating_sub(bytes))
    }

    /// Adds this check to each series.
    fn record(&mut self, report: &Report) {
        let (state, at_s) = (&mut self.state, report.target.duration_s);
        let mut here: FxHashMap<&str, Sample> = FxHashMap::default();
        for group in report.groups.iter().filter(|group| group.object != "block") {
            if here.len() < MOST_SERIES {
                here.insert(&group.id, sample(group, report));
            }
        }
        for (id, series) in &mut state.groups {
            series.push(here.remove(id.as_str()).unwrap_or(Sample { at_s, ..Sample::default() }));
        }
        state.groups.retain(|_, series| !series.is_over());
        for group in &report.groups {
            if state.groups.len() < MOST_SERIES
                && let Some(sample) = here.remove(group.id.as_str())
            {
                let mut series = Series::after(state.times.iter().copied(), is_lost(group.class));
                series.push(sample);
                state.groups.insert(group.id.clone(), series);
            }
        }
        let count = report.go.as_ref().map_or(0, |go| go.goroutines);
        // How old the oldest is nobody knows: the main goroutine is as old as the process.
        state.goroutines.push(Sample { at_s, count, age_max_s: at_s, ..Sample::default() });
        state.times.push(at_s);
        let surplus = state.times.len().saturating_sub(series::WINDOW);
        state.times.drain(..surplus);
    }

    /// Why a group is worth an alert. `parts_count`: so may be what frames and contexts are made of, for none of those rises.
    fn reasons(&self, group: &Group, report: &Report, parts_count: bool) -> Vec<Reason> {
        let (frames, pinned_bytes) = if counts(group, report) { self.certain(group) } else { (0, 0) };
        let mut reasons = Vec::new();
        reasons.extend(self.settings.frames.filter(|&least| frames >= least).map(|_| Reason::Frames));
        reasons.extend(self.settings.bytes.filter(|&least| pinned_bytes >= least).map(|_| Reason::Bytes));
        let grows =
            |growth: Growth| self.settings.growth.is_some_and(|least| growth.per_second * 3600.0 >= least as f64);
        // What is let through is known.
        let is_known = group.suppressed_by.is_some() || group.baseline.is_some() && !group.leak;
        let leads = group.class != Class::IndirectlyLost && (parts_count || is_whole(&group.object));
        if leads && !is_known && self.series(&group.id).and_then(Series::growth).is_some_and(grows) {
            reasons.push(Reason::Growth);
        }
        reasons
    }

    /// Many groups that are each below a threshold, and together above it.
    fn scattered(&mut self, report: &Report) -> Option<(Vec<Reason>, Sample)> {
        let (mut count, mut pinned_bytes) = (0_u64, 0_u64);
        let told = |group: &&Group| !self.state.told.contains_key(&group.id);
        for group in report.groups.iter().filter(|group| counts(group, report)).filter(told) {
            let certain = self.certain(group);
            count = count.saturating_add(certain.0);
            pinned_bytes = pinned_bytes.saturating_add(certain.1);
        }
        let mut reasons = Vec::new();
        reasons.extend(self.settings.frames.filter(|&least| count >= least).map(|_| Reason::Frames));
        reasons.extend(self.settings.bytes.filter(|&least| pinned_bytes >= least).map(|_| Reason::Bytes));
        let now = Sample { at_s: report.target.duration_s, count, pinned_bytes, ..Sample::default() };
        (!reasons.is_empty() && self.tell(PROCESS, now, &reasons)).then_some((reasons, now))
    }

    /// Whether this is to be told: it never was, is notably worse by now, or has passed another threshold.
    fn tell(&mut self, id: &str, now: Sample, reasons: &[Reason]) -> bool {
        let worse = |told: &Told| {
            now.count >= told.count.saturating_mul(NOTABLY)
                || told.pinned_bytes > 0 && now.pinned_bytes >= told.pinned_bytes.saturating_mul(NOTABLY)
                || reasons.iter().any(|reason| *reason != Reason::Growth && !told.reasons.contains(reason))
        };
        let known = self.state.told.get(id);
        let tell = known.map_or(self.state.told.len() < MOST_REMEMBERED, worse);
        if tell {
            let told = self.state.told.entry(id.into()).or_default();
            (told.count, told.pinned_bytes) = (now.count.max(1), now.pinned_bytes);
            told.reasons.extend(reasons);
            told.reasons.sort_unstable();
            told.reasons.dedup();
        }
        tell
    }

    /// `None` where there are none.
    fn goroutines(&self) -> Option<Goroutines> {
        let count = self.state.goroutines.last()?.count;
        let growth = self.state.goroutines.growth().map(Into::into);
        (count > 0).then_some(Goroutines { count, growth })
    }
}

/// The verdict counts it. Of a ring that was given up nobody knows how much is lost; what else may be missing is known by now.
fn counts(group: &Group, report: &Report) -> bool {
    group.leak && (report.verdict == Verdict::Leaks || report.completeness.corrupt_rings == 0)
}

/// Not what other objects are made of: a frame that is kept keeps its refs, their buffers and payload, and is one leak all the same.
pub(crate) fn is_whole(object: &str) -> bool {
    matches!(object, "AVFrame" | "AVPacket" | "AVFilterGraph") || object.ends_with("Context")
}

fn is_lost(class: Class) -> bool {
    matches!(class, Class::DefinitelyLost | Class::IndirectlyLost | Class::PossiblyLost)
}

/// Frames of a group as the verdict counts them: where outermost ones are, those.
fn frames(group: &Group) -> u64 {
    match (group.object.as_str(), group.outermost) {
        ("AVFrame", 0) => group.count,
        ("AVFrame", outermost) => outermost,
        _ => 0,
    }
}

fn sample(group: &Group, report: &Report) -> Sample {
    Sample {
        at_s: report.target.duration_s,
        count: group.count,
        pinned_bytes: group.pinned_bytes,
        age_min_s: group.age_min_s,
        age_max_s: group.age_max_s,
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
