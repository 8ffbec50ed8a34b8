//! The reports of many machines, summed: the same leak counts once, however many processes have it.
//!
//! Group ids are equal wherever the binaries are. Where two builds are in service (a rollout), their groups are matched as a baseline's are
//! after a new build ([`crate::gate::kinship`]). A process may have been reported several times (checks while it ran, then its end): only its
//! latest report counts, for each holds all that is alive.
//!
//! Sees only the report model.

pub mod model;

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use self::model::{FLEET_SCHEMA, Fleet, FleetGroup, Host, Place, Unreadable};
use crate::gate::counted;
use crate::gate::kinship::{self, Kin};
use crate::render::load::AnyReport;
use crate::report::model::{ClassTotals, Group, Level, Report, Totals, Verdict};
use crate::report::origin::Origin;
use crate::report::words;

/// Processes that are named for one group: those with the most of it.
const MOST_PLACES: usize = 5;

/// Which process it was: host, start, process id, executable.
type ProcessKey = (Option<String>, String, u32, String);

/// Of one process what sums are made of.
struct Process {
    checked: String,
    origin: Origin,
    verdict: Verdict,
    level: Level,
    frames: [u64; 2],
    dropped: u64,
    leaks: Totals,
    totals: ClassTotals,
    /// By number of the group.
    groups: Vec<(usize, Amount)>,
}

#[derive(Clone, Copy, Default)]
struct Amount {
    leaked: u64,
    count: u64,
    outermost: u64,
    bytes: u64,
    pinned_bytes: u64,
    age_max_s: f64,
}

impl Amount {
    fn of(group: &Group, level: Level) -> Self {
        Self {
            leaked: if group.leak { counted(group, level) } else { 0 },
            count: group.count,
            outermost: group.outermost,
            bytes: group.bytes,
            pinned_bytes: group.pinned_bytes,
            age_max_s: group.age_max_s,
        }
    }
}

/// Sums reports one after another.
#[derive(Default)]
pub struct Merger {
    processes: FxHashMap<ProcessKey, Process>,
    numbers: FxHashMap<String, usize>,
    /// One example of each, and the build that it is of.
    examples: Vec<(Group, Option<String>)>,
    files: u64,
    superseded: u64,
    unreadable: Vec<Unreadable>,
}

impl Merger {
    /// Takes a report in.
    pub fn add(&mut self, report: AnyReport) {
        self.files += 1;
        match report {
            AnyReport::Process(report) => self.add_process(*report),
            AnyReport::Run(run) => run.processes.into_iter().for_each(|report| self.add_process(report)),
        }
    }

    /// A file that is none, or cannot be read: it stays in the sum as such.
    pub fn add_unreadable(&mut self, file: String, reason: String) {
        self.files += 1;
        self.unreadable.push(Unreadable { file, reason });
    }

    /// Nothing was taken in that is a report.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    fn add_process(&mut self, report: Report) {
        let Report { target, check, verdict, level, observed, leaks, totals, groups, .. } = report;
        let build = target.origin.build_id.clone();
        let key = (target.origin.host.clone(), target.started, target.pid, target.exe);
        // A failure has no start: such reports are processes of their own, as far as pid and executable tell.
        if let Some(known) = self.processes.get(&key) {
            self.superseded += 1;
            if known.checked >= check.started {
                return;
            }
        }
        let groups = groups.into_iter().map(|group| {
            let amount = Amount::of(&group, level);
            (self.number_of(group, build.as_ref()), amount)
        });
        let groups = groups.collect();
        let process = Process {
            checked: check.started,
            origin: target.origin,
            verdict,
            level,
            frames: [observed.frames_allocated, observed.frames_freed],
            dropped: observed.events_dropped,
            leaks,
            totals,
            groups,
        };
        self.processes.insert(key, process);
    }

    fn number_of(&mut self, group: Group, build: Option<&String>) -> usize {
        if let Some(&number) = self.numbers.get(&group.id) {
            return number;
        }
        let number = self.examples.len();
        self.numbers.insert(group.id.clone(), number);
        self.examples.push((group, build.cloned()));
        number
    }

    /// The sum. `by_build`: groups of different builds are kept apart.
    pub fn finish(self, by_build: bool) -> Fleet {
        let first_of = if by_build { (0..self.examples.len()).collect() } else { self.across_builds() };
        let mut sums: Vec<Sum<'_>> = self.examples.iter().map(|_| Sum::default()).collect();
        let mut hosts: BTreeMap<&str, Host> = BTreeMap::new();
        let mut services: BTreeMap<&str, u64> = BTreeMap::new();
        let mut builds: BTreeSet<&str> = BTreeSet::new();
        let mut levels: BTreeSet<&str> = BTreeSet::new();
        let (mut leaks, mut totals, mut frames, mut dropped) =
            (Totals::default(), ClassTotals::default(), [0u64; 2], 0u64);
        let mut verdicts = [0u64; 3];
        for ((_, _, pid, exe), process) in &self.processes {
            add(&mut leaks, &process.leaks);
            add_classes(&mut totals, &process.totals);
            frames.iter_mut().zip(process.frames).for_each(|(sum, one)| *sum = sum.saturating_add(one));
            dropped = dropped.saturating_add(process.dropped);
            verdicts[process.verdict as usize] += 1;
            levels.insert(process.level.key());
            builds.extend(process.origin.build_id.as_deref());
            if let Some(service) = &process.origin.service {
                *services.entry(service).or_default() += 1;
            }
            let name = process.origin.host.as_deref().unwrap_or("?");
            let host = hosts.entry(name).or_insert_with(|| Host { host: name.into(), ..Host::default() });
            host.processes += 1;
            host.leaking += u64::from(process.verdict == Verdict::Leaks);
            host.pinned_bytes = host.pinned_bytes.saturating_add(process.leaks.pinned_bytes);
            host.frames = host.frames.saturating_add(process.leaks.frames);
            host.blocks = host.blocks.saturating_add(process.leaks.blocks);
            // A process has both of two groups that are one across builds only where it has no build id.
            let mut own: FxHashMap<usize, Amount> = FxHashMap::default();
            for &(number, amount) in &process.groups {
                own.entry(first_of[number]).or_default().add(&amount);
                sums[first_of[number]].ids.insert(&self.examples[number].0.id);
            }
            for (number, amount) in own {
                let place = Place {
                    host: process.origin.host.clone(),
                    service: process.origin.service.clone(),
                    pid: *pid,
                    exe: exe.clone(),
                    count: amount.count,
                    pinned_bytes: amount.pinned_bytes,
                };
                sums[number].take(amount, process, place);
            }
        }
        let mut groups: Vec<FleetGroup> = self
            .examples
            .iter()
            .zip(sums)
            .filter(|(_, sum)| sum.processes > 0)
            .map(|((group, _), sum)| sum.group(group))
            .collect();
        groups.sort_by(|a, b| {
            (b.leak.cmp(&a.leak))
                .then(a.class.cmp(&b.class))
                .then(b.pinned_bytes.cmp(&a.pinned_bytes))
                .then(b.count.cmp(&a.count))
                .then_with(|| a.id.cmp(&b.id))
        });
        let mut hosts: Vec<Host> = hosts.into_values().collect();
        hosts.sort_by(|a, b| {
            (b.pinned_bytes.cmp(&a.pinned_bytes))
                .then(b.frames.cmp(&a.frames))
                .then(b.blocks.cmp(&a.blocks))
                .then(a.host.cmp(&b.host))
        });
        let [clean, leaking, inconclusive] = verdicts;
        let (verdict, reason) = judge(clean, leaking, inconclusive, self.unreadable.len() as u64);
        let mut notes = Vec::new();
        if levels.len() > 1 {
            let levels: Vec<String> = levels.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "the reports were made at different levels ({}): what only one counts is counted there only",
                words::listed(&levels)
            ));
        }
        if self.superseded > 0 {
            notes.push(format!(
                "{} older reports of the same processes were left out: the latest one holds all that is alive",
                words::grouped(self.superseded)
            ));
        }
        if dropped > 0 {
            notes.push(format!("{} events were dropped in all", words::grouped(dropped)));
        }
        Fleet {
            schema: FLEET_SCHEMA.into(),
            avleak: env!("CARGO_PKG_VERSION").into(),
            verdict,
            reason,
            reports: self.files,
            processes: self.processes.len() as u64,
            leaking,
            inconclusive,
            services: services.into_iter().map(|(name, processes)| (name.to_string(), processes)).collect(),
            builds: builds.into_iter().map(str::to_string).collect(),
            frames_allocated: frames[0],
            frames_freed: frames[1],
            events_dropped: dropped,
            leaks,
            totals,
            groups,
            hosts,
            unreadable: self.unreadable,
            notes,
        }
    }

    /// For each group the number of the one that stands for it in every build.
    fn across_builds(&self) -> Vec<usize> {
        let mut first_of: Vec<usize> = (0..self.examples.len()).collect();
        let mut by_build: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (number, (_, build)) in self.examples.iter().enumerate() {
            by_build.entry(build.as_deref()).or_default().push(number);
        }
        // What is met first names the group: the build with the most groups, and then the order of the ids.
        let mut parts: Vec<Vec<usize>> = by_build.into_values().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        let mut base: Vec<usize> = Vec::new();
        for part in parts {
            let kin = |numbers: &[usize]| numbers.iter().map(|&number| self.kin(number)).collect::<Vec<Kin>>();
            for (ours, theirs) in kinship::pair(&kin(&base), &kin(&part)) {
                first_of[part[theirs]] = base[ours];
            }
            base.extend(part.into_iter().filter(|&number| first_of[number] == number));
        }
        first_of
    }

    fn kin(&self, number: usize) -> Kin {
        let group = &self.examples[number].0;
        // Groups of different classes are never one.
        Kin { object: format!("{} {}", group.class.key(), group.object), ..Kin::of(group) }
    }
}

impl Amount {
    fn add(&mut self, other: &Self) {
        self.leaked = self.leaked.saturating_add(other.leaked);
        self.count = self.count.saturating_add(other.count);
        self.outermost = self.outermost.saturating_add(other.outermost);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.pinned_bytes = self.pinned_bytes.saturating_add(other.pinned_bytes);
        self.age_max_s = self.age_max_s.max(other.age_max_s);
    }
}

#[derive(Default)]
struct Sum<'a> {
    amount: Amount,
    processes: u64,
    frames: u64,
    ids: BTreeSet<&'a str>,
    hosts: BTreeSet<&'a str>,
    services: BTreeSet<&'a str>,
    builds: BTreeSet<&'a str>,
    places: Vec<Place>,
}

impl<'a> Sum<'a> {
    fn take(&mut self, amount: Amount, process: &'a Process, place: Place) {
        self.amount.add(&amount);
        self.processes += 1;
        self.frames = self.frames.saturating_add(process.frames[0]);
        self.hosts.extend(process.origin.host.as_deref());
        self.services.extend(process.origin.service.as_deref());
        self.builds.extend(process.origin.build_id.as_deref());
        self.places.push(place);
        if self.places.len() > 8 * MOST_PLACES {
            self.keep_most();
        }
    }

    fn keep_most(&mut self) {
        self.places.sort_by(|a, b| {
            (b.pinned_bytes.cmp(&a.pinned_bytes))
                .then(b.count.cmp(&a.count))
                .then(a.host.cmp(&b.host))
                .then(a.pid.cmp(&b.pid))
        });
        self.places.truncate(MOST_PLACES);
    }

    fn group(mut self, example: &Group) -> FleetGroup {
        self.keep_most();
        let Amount { leaked, count, outermost, bytes, pinned_bytes, age_max_s } = self.amount;
        let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_string).collect::<Vec<String>>();
        FleetGroup {
            id: example.id.clone(),
            also: self.ids.iter().filter(|id| **id != example.id).map(ToString::to_string).collect(),
            class: example.class,
            object: example.object.clone(),
            leak: leaked > 0,
            leaked,
            count,
            outermost,
            bytes,
            pinned_bytes,
            age_max_s,
            per_1000_frames: if self.frames > 0 { count as f64 * 1000.0 / self.frames as f64 } else { 0.0 },
            processes: self.processes,
            hosts: self.hosts.len() as u64,
            services: owned(self.services),
            builds: owned(self.builds),
            most: self.places,
            stack: example.stack.clone(),
            freed_elsewhere: example.freed_elsewhere.clone(),
        }
    }
}

fn judge(clean: u64, leaking: u64, inconclusive: u64, unreadable: u64) -> (Verdict, String) {
    let all = clean + leaking + inconclusive;
    let of = |number: u64| format!("{} of {}", words::grouped(number), words::processes(all));
    let files = || format!("{} could not be read", words::counted(unreadable, "file"));
    if leaking > 0 {
        (Verdict::Leaks, format!("{} leak", of(leaking)))
    } else if inconclusive > 0 {
        (Verdict::Inconclusive, format!("{} could not be judged", of(inconclusive)))
    } else if unreadable > 0 {
        (Verdict::Inconclusive, files())
    } else {
        (Verdict::Clean, format!("{} are clean", of(clean)))
    }
}

fn add(sum: &mut Totals, one: &Totals) {
    for (sum, one) in [
        (&mut sum.frames, one.frames),
        (&mut sum.packets, one.packets),
        (&mut sum.buffer_refs, one.buffer_refs),
        (&mut sum.contexts, one.contexts),
        (&mut sum.blocks, one.blocks),
        (&mut sum.bytes, one.bytes),
        (&mut sum.pinned_bytes, one.pinned_bytes),
    ] {
        *sum = sum.saturating_add(one);
    }
}

fn add_classes(sum: &mut ClassTotals, one: &ClassTotals) {
    add(&mut sum.definitely_lost, &one.definitely_lost);
    add(&mut sum.indirectly_lost, &one.indirectly_lost);
    add(&mut sum.possibly_lost, &one.possibly_lost);
    add(&mut sum.still_reachable, &one.still_reachable);
    add(&mut sum.unclassified, &one.unclassified);
}

#[cfg(test)]
mod tests;
