//! What was alive of one group, check after check, and whether that grows.
//!
//! A leak and a cache that fills look the same for a while. What tells them apart is what comes then: the leak goes on. So a group
//! [grows](Series::growth) where its count
//! - rises beyond chance (Mann and Kendall) at a slope that is not naught (Theil and Sen) …
//! - … and does so in the later half of the window as in the whole: what fills and then rests has stopped;
//! - stands higher in the last checks than it ever did before the window: what breathes comes back to where it was;
//! - and, where it is still reachable, has objects that stayed (a busier pipeline holds more, but none of them for long), and all this at
//!   one check after the other: the flank of a slow breath passes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::trend::trend;

/// Checks over which growth is judged.
pub const WINDOW: usize = 48;
/// So many are enough for what is lost: it can only grow.
const LEAST_LOST: usize = 8;
/// One in two thousand by chance: there may be a hundred groups, and each is judged at each check.
const SURE: f64 = 5e-4;
/// The later half of the window rises at so great a part of the whole's slope, at least.
const GOES_ON: f64 = 0.5;
/// … and is a rise for itself: one in a hundred by chance.
const SURE_OF_HALF: f64 = 1e-2;
/// So many times more than not has what is reachable to be seen growing.
const HOLDS: u32 = WINDOW as u32 / 2;
/// Fewer objects more are no growth.
const LEAST_RISE: f64 = 3.0;

/// One group at one check.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Since arming, seconds.
    pub at_s: f64,
    /// Objects alive.
    pub count: u64,
    /// Bytes of the buffers that they pin.
    pub pinned_bytes: u64,
    /// Age of the youngest, seconds.
    pub age_min_s: f64,
    /// Age of the oldest.
    pub age_max_s: f64,
}

/// The last checks of one group.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Series {
    samples: VecDeque<Sample>,
    /// The highest count of the samples that are no longer here.
    highest_before: u64,
    /// It can only grow: what is lost stays lost.
    is_lost: bool,
    /// At how many checks it was seen growing, less those at which it was not.
    held: u32,
}

/// It grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// Objects a second.
    pub per_second: f64,
    /// The probability that chance alone shows so much.
    pub p: f64,
    /// Over so many checks.
    pub checks: usize,
}

impl Series {
    /// A series without samples.
    pub fn new(is_lost: bool) -> Self {
        Self { is_lost, ..Self::default() }
    }

    /// One that begins after `before` checks at which there was nothing.
    pub fn after(before: impl IntoIterator<Item = f64>, is_lost: bool) -> Self {
        let mut series = Self::new(is_lost);
        before.into_iter().for_each(|at_s| series.push(Sample { at_s, ..Sample::default() }));
        series
    }

    /// The next check.
    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == WINDOW
            && let Some(gone) = self.samples.pop_front()
        {
            self.highest_before = self.highest_before.max(gone.count);
        }
        self.samples.push_back(sample);
        self.held = match self.rise() {
            Some(_) => (self.held + 1).min(HOLDS),
            None => self.held.saturating_sub(1),
        };
    }

    /// The checks so far are worth nothing.
    pub fn begin_anew(&mut self) {
        self.samples.clear();
        self.held = 0;
    }

    /// The last checks, oldest first.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// The last check.
    pub fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// There was nothing of it for a whole window: it need not be remembered.
    pub fn is_over(&self) -> bool {
        self.samples.len() == WINDOW && self.samples.iter().all(|sample| sample.count == 0)
    }

    /// Whether it grows. What the rules are for is said at the top.
    pub fn growth(&self) -> Option<Growth> {
        self.rise().filter(|_| self.is_lost || self.held == HOLDS)
    }

    /// It rises in this window, whether or not it has done so for long enough.
    pub fn rises(&self) -> bool {
        self.rise().is_some()
    }

    fn rise(&self) -> Option<Growth> {
        let least = if self.is_lost { LEAST_LOST } else { WINDOW };
        let checks = self.samples.len();
        if checks < least {
            return None;
        }
        let points: Vec<(f64, f64)> = self.samples.iter().map(|sample| (sample.at_s, sample.count as f64)).collect();
        let (first, last) = (points.first()?, points.last()?);
        let whole = trend(&points)?;
        let span = last.0 - first.0;
        if whole.p() > SURE || whole.slope * span < LEAST_RISE {
            return None;
        }
        let later = trend(&points[checks / 2..])?;
        if later.slope < whole.slope * GOES_ON || !self.is_lost && later.p() > SURE_OF_HALF {
            return None;
        }
        let lately = self.samples.iter().skip(checks - checks / 4).map(|sample| sample.count).min()?;
        if lately <= self.highest_before {
            return None;
        }
        let stays = self.is_lost || self.last()?.age_max_s > span / 2.0;
        stays.then_some(Growth { per_second: whole.slope, p: whole.p(), checks })
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
