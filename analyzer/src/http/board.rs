//! The processes under watch, for whoever asks over HTTP: from any thread, without holding up the watch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::check::inspector::{Inspector, Question};
use crate::gate::apply::Rules;
use crate::monitor::Monitor;
use crate::monitor::rounds::Keep;
use crate::report::model::{Level, Report};
use crate::report::timeline::{self, MOST_SAMPLES, Sample};
use crate::session::drain::Numbers;

/// From one look at the numbers to the next.
pub const EVERY: Duration = Duration::from_secs(1);

/// One process.
pub struct Watched {
    /// File name of its executable.
    pub process: String,
    /// Checks it, and knows how it stands.
    pub inspector: Arc<Inspector>,
    /// What the checks so far came to, where it is monitored.
    pub monitor: Option<Arc<Mutex<Monitor>>>,
    /// What counts as a leak.
    pub level: Level,
    /// What the verdict lets through.
    pub rules: Arc<Rules>,
    /// To be called after each check.
    pub keep: Keep,
    /// Somebody's check is under way.
    pub checking: AtomicBool,
    /// What was alive while it was on the board.
    pub history: Mutex<History>,
}

/// Numbers of each second, and when there are many, of each two, four … seconds.
#[derive(Debug, Clone, Default)]
pub struct History {
    samples: Vec<Sample>,
    /// Looks that a sample covers, less one.
    more: u32,
    /// Looks that the last one covers.
    covered: u32,
    before: Option<Numbers>,
}

impl History {
    /// It stands so now, [`EVERY`] after the last time.
    pub fn look(&mut self, now: Numbers) {
        let before = self.before.replace(now).unwrap_or(now);
        if self.samples.is_empty() || self.covered > self.more {
            if self.samples.len() == MOST_SAMPLES {
                timeline::halve(&mut self.samples);
                self.more = self.more * 2 + 1;
            }
            self.samples.push(Sample::still(before.frames, before.blocks, before.payload_bytes));
            self.covered = 0;
        }
        self.covered += 1;
        if let Some(sample) = self.samples.last_mut() {
            sample.frames.see(now.frames);
            sample.blocks.see(now.blocks);
            sample.payload_bytes.see(now.payload_bytes);
            sample.allocations += now.allocations.saturating_sub(before.allocations);
            sample.frees += now.frees.saturating_sub(before.frees);
        }
    }

    /// Seconds that a sample covers, and the samples; `None`: nobody has looked yet.
    pub fn samples(&self) -> Option<(f64, &[Sample])> {
        (!self.samples.is_empty()).then(|| (f64::from(self.more + 1) * EVERY.as_secs_f64(), &self.samples[..]))
    }
}

impl Watched {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.inspector.pid()
    }

    /// Looks at its numbers, once each [`EVERY`].
    pub fn look(&self) {
        if let Some(numbers) = self.inspector.numbers() {
            self.history.lock().unwrap_or_else(PoisonError::into_inner).look(numbers);
        }
    }

    /// Checks it now.
    ///
    /// # Errors
    /// A line: a check that was asked for is under way, or why it came to nothing.
    pub fn check(&self) -> Result<Arc<Report>, String> {
        if self.checking.swap(true, Ordering::AcqRel) {
            return Err(format!("a check of pid {} is under way already", self.pid()));
        }
        let question = Question { level: self.level, hold: Duration::ZERO, increased: false };
        let checked = self.inspector.check(&question, false);
        self.checking.store(false, Ordering::Release);
        (self.keep)();
        let mut report = checked?;
        self.rules.apply_to_process(&mut report, 1);
        Ok(self.inspector.keep(report))
    }

    /// The report of the last check; where there was none, what is alive now, unclassified: that neither stops it nor reads its memory.
    ///
    /// # Errors
    /// A line: it has ended.
    pub fn report(&self) -> Result<Arc<Report>, String> {
        match self.inspector.kept() {
            Some(report) => Ok(report),
            None => self.inspector.census(self.level).map(Arc::new),
        }
    }
}

/// All of them, in the order in which they came.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<u64, Arc<Watched>>>>);

impl Board {
    /// One more. It is taken off when what is returned is dropped.
    pub fn put_up(&self, number: u64, watched: Watched) -> Posted {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(watched));
        Posted { board: self.clone(), number }
    }

    /// Those that run.
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// One that is on the board.
pub struct Posted {
    board: Board,
    number: u64,
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.board.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_extremes_and_sums_however_long_it_is() {
        let mut history = History::default();
        assert!(history.samples().is_none());
        for look in 0..100_000_u64 {
            let frames = if look == 50_001 { 999 } else { 7 };
            history.look(Numbers { frames, allocations: look * 10, frees: look * 9, ..Numbers::default() });
        }
        let (interval_s, samples) = history.samples().expect("samples");
        assert!(samples.len() <= MOST_SAMPLES && interval_s * samples.len() as f64 >= 99_000.0, "{interval_s}");
        assert_eq!(samples.iter().map(|sample| sample.allocations).sum::<u64>(), 999_990);
        assert_eq!((samples.iter().map(|sample| sample.frames.max).max(), samples[0].frames.last), (Some(999), 7));
    }
}
