//! What there is to show of one process: its groups, joined from what is alive now and what the last check said; sorted and filtered.

use rustc_hash::FxHashMap;

use super::track::Track;
use crate::board::state::{Process, Row};
use crate::monitor::is_whole;

/// Looks at the live frames that are kept, for the chart.
const MOST_LOOKS: usize = 600;

/// By what rows are sorted, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// How many are alive.
    Live,
    /// How fast they become more.
    Growth,
    /// How many are lost.
    Lost,
    /// What they pin.
    Pinned,
    /// How old the oldest is.
    Age,
}

impl Sort {
    /// All, in the order of their columns.
    pub const ALL: [Self; 5] = [Self::Live, Self::Growth, Self::Lost, Self::Pinned, Self::Age];

    /// The next one.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&sort| sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What a row is, from look to look: the stack's key, and what objects.
pub type Identity = (String, String);

/// One row: the objects of one type that one stack allocated, whatever their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Of which stack, of what objects.
    pub identity: Identity,
    /// The frame to blame.
    pub place: String,
    /// Who called it.
    pub callers: String,
    /// Alive.
    pub live: u64,
    /// Now; else at the last check.
    pub is_current: bool,
    /// More than when changes were counted from.
    pub change: i64,
    /// Objects an hour, where it is beyond chance.
    pub growth: Option<f64>,
    /// The last counts.
    pub counts: Vec<u64>,
    /// What the last check said; `None` where it did not see it.
    pub judged: Option<Judged>,
}

/// What the last check said.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Judged {
    /// Objects that are lost.
    pub lost: u64,
    /// The verdict counts some of it.
    pub leak: bool,
    /// Bytes that they pin.
    pub pinned: u64,
    /// Age of the oldest, seconds.
    pub oldest_s: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    /// As it was last told.
    pub process: Option<Process>,
    /// By what rows are sorted.
    pub sort: Sort,
    /// The least first.
    pub reversed: bool,
    /// Rows have to hold this, in any case of letters.
    pub filter: String,
    /// Parts of objects too: refs, buffers, payload.
    pub everything: bool,
    /// Live frames at each look, and when that was.
    pub looks: Vec<(f64, u64)>,
    /// Frames made a second, between the last two looks.
    pub made_per_s: Option<f64>,
    tracks: FxHashMap<Identity, Track>,
    /// Rows of what is not told of between checks were looked at then.
    checked: String,
    /// The last look, and frames made by then.
    before: Option<(f64, u64)>,
    /// The look before this one.
    looked_s: Option<f64>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            process: None,
            sort: Sort::Live,
            reversed: false,
            filter: String::new(),
            everything: false,
            looks: Vec::new(),
            made_per_s: None,
            tracks: FxHashMap::default(),
            checked: String::new(),
            before: None,
            looked_s: None,
        }
    }
}

impl Model {
    /// It stands so, `at_s` seconds after anything.
    pub fn see(&mut self, process: Process, at_s: f64) {
        if let Some(numbers) = process.numbers {
            if self.looks.len() == MOST_LOOKS {
                self.looks.remove(0);
            }
            self.looks.push((at_s, numbers.frames));
            let made = numbers.frames_allocated;
            self.made_per_s = match self.before {
                Some((before_s, before)) if at_s - before_s > 0.05 && made >= before => {
                    Some((made - before) as f64 / (at_s - before_s))
                }
                // Two looks at once tell nothing, and fewer than before is another program.
                Some((_, before)) if made >= before => self.made_per_s,
                _ => None,
            };
            if self.before.is_none_or(|(before_s, before)| at_s - before_s > 0.05 || made < before) {
                self.before = Some((at_s, made));
            }
        }
        self.follow(&process, at_s);
        self.process = Some(process);
        self.looked_s = Some(at_s);
    }

    fn follow(&mut self, process: &Process, at_s: f64) {
        let mut counts: FxHashMap<Identity, u64> = FxHashMap::default();
        for living in &process.living {
            *counts.entry((living.key.clone(), living.object.clone())).or_default() += living.count;
        }
        let told = process.living_is_all;
        let checked = process.last.as_ref().map(|last| &last.check.started).filter(|&started| *started != self.checked);
        if let (Some(last), Some(_)) = (&process.last, checked) {
            let mut of_check: FxHashMap<Identity, u64> = FxHashMap::default();
            for row in last.groups.iter().filter(|row| !is_told(&row.object)) {
                *of_check.entry((row.key.clone(), row.object.clone())).or_default() += row.count;
            }
            for (identity, track) in self.tracks.iter_mut().filter(|(identity, _)| !is_told(&identity.1)) {
                track.see(at_s, of_check.get(identity).copied().unwrap_or(0));
            }
            for (identity, count) in of_check {
                self.tracks.entry(identity).or_insert_with(|| Track::new(at_s, count));
            }
            self.checked.clone_from(&last.check.started);
        }
        for (identity, track) in self.tracks.iter_mut().filter(|(identity, _)| is_told(&identity.1)) {
            match counts.remove(identity) {
                Some(count) => track.see(at_s, count),
                None if told => track.see(at_s, 0),
                None => {}
            }
        }
        let before = self.looked_s.filter(|_| told);
        for (identity, count) in counts {
            // What was not there at the look before has come since.
            let fresh = || match before {
                Some(before) => {
                    let mut track = Track::from_nothing(before);
                    track.see(at_s, count);
                    track
                }
                None => Track::new(at_s, count),
            };
            self.tracks.entry(identity).or_insert_with(fresh);
        }
        // A server whose stacks keep changing must not fill this process.
        if self.tracks.len() > 5_000 {
            self.tracks.retain(|_, track| track.last() > 0);
        }
    }

    /// Changes are counted from now on.
    pub fn zero(&mut self) {
        self.tracks.values_mut().for_each(Track::zero);
    }

    /// The rows, as they are to be shown.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.joined();
        entries.retain(|entry| self.wants(entry));
        entries.sort_by(|a, b| {
            let order = self.compare(b, a).then_with(|| a.identity.cmp(&b.identity));
            if self.reversed { order.reverse() } else { order }
        });
        entries
    }

    /// The row, whatever is filtered.
    pub fn entry(&self, identity: &Identity) -> Option<Entry> {
        self.joined().into_iter().find(|entry| entry.identity == *identity)
    }

    fn joined(&self) -> Vec<Entry> {
        let Some(process) = &self.process else { return Vec::new() };
        let mut entries: FxHashMap<Identity, Entry> = FxHashMap::default();
        let mut entry = |key: &str, object: &str, place: (&str, &str), add: &dyn Fn(&mut Entry)| {
            let identity = (key.to_owned(), object.to_owned());
            let entry = entries.entry(identity.clone()).or_insert_with(|| Entry {
                identity,
                place: place.0.to_owned(),
                callers: place.1.to_owned(),
                live: 0,
                is_current: is_told(object) && process.living_is_all,
                change: 0,
                growth: None,
                counts: Vec::new(),
                judged: None,
            });
            add(entry);
        };
        for living in &process.living {
            entry(&living.key, &living.object, (&living.place, &living.callers), &|entry| {
                entry.live += living.count;
                entry.is_current = true;
            });
        }
        for row in process.last.iter().flat_map(|last| &last.groups) {
            entry(&row.key, &row.object, (&row.place, &row.callers), &|entry| judge(entry, row));
        }
        let mut entries: Vec<Entry> = entries.into_values().collect();
        for entry in &mut entries {
            if let Some(track) = self.tracks.get(&entry.identity) {
                entry.change = track.change();
                entry.growth = entry.growth.or_else(|| track.growth());
                entry.counts = track.counts(24).collect();
            }
        }
        // What is gone since the check, and was not lost, is nothing to look at.
        let lost = |entry: &Entry| entry.judged.is_some_and(|judged| judged.lost > 0);
        entries.retain(|entry| entry.live > 0 || lost(entry));
        entries
    }

    fn wants(&self, entry: &Entry) -> bool {
        let (_, object) = &entry.identity;
        let leaks = entry.judged.is_some_and(|judged| judged.leak);
        if !(self.everything || leaks || is_whole(object)) {
            return false;
        }
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        wanted.is_empty() || has(&entry.place) || has(&entry.callers) || has(object)
    }

    fn compare(&self, a: &Entry, b: &Entry) -> std::cmp::Ordering {
        let judged = |entry: &Entry| entry.judged.unwrap_or_default();
        let by = match self.sort {
            Sort::Live => a.live.cmp(&b.live),
            Sort::Growth => {
                let growth = |entry: &Entry| entry.growth.unwrap_or(0.0);
                growth(a).total_cmp(&growth(b)).then(a.change.cmp(&b.change))
            }
            Sort::Lost => judged(a).lost.cmp(&judged(b).lost),
            Sort::Pinned => judged(a).pinned.cmp(&judged(b).pinned),
            Sort::Age => judged(a).oldest_s.total_cmp(&judged(b).oldest_s),
        };
        by.then(judged(a).lost.cmp(&judged(b).lost)).then(a.live.cmp(&b.live))
    }
}

fn judge(entry: &mut Entry, row: &Row) {
    let judged = entry.judged.get_or_insert_default();
    judged.lost += if row.lost { row.count } else { 0 };
    judged.leak |= row.leak;
    judged.pinned = judged.pinned.saturating_add(row.pinned);
    judged.oldest_s = judged.oldest_s.max(row.age[1]);
    if !entry.is_current {
        entry.live += row.count;
    }
    // The monitor has seen more than this screen.
    entry.growth = row.growth.map_or(entry.growth, |growth| Some(entry.growth.unwrap_or(0.0) + growth));
}

/// Told of between checks too.
fn is_told(object: &str) -> bool {
    matches!(object, "AVFrame" | "payload")
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(super) mod tests;
