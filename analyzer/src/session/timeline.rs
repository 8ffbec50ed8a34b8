//! The sampler: what is alive each time the rings are empty, at a resolution that coarsens as the run grows longer.
//!
//! It is called after each pass over the rings. Values in the middle of a pass would be wrong where one thread makes frames
//! and another frees them: one ring's events are applied before the other's, however they happened.

use serde::{Deserialize, Serialize};

use crate::live::{LiveSet, Made};
use crate::report::timeline::{MOST_SAMPLES, Sample, halve};

/// What a sample covers at first. Short runs are worth seeing too; the first 256 last a quarter of a second.
const FIRST_INTERVAL_NS: u64 = 1_000_000;

/// Samples of one session, and its peaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timeline {
    start_ns: u64,
    interval_ns: u64,
    samples: Vec<Sample>,
    /// Allocations and frees that were sampled already.
    counted: (u64, u64),
    frames: Watch,
    payload: Watch,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(0)
    }
}

/// A highest value, and what it was made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Watch {
    /// The highest value seen.
    pub value: u64,
    /// When it was first seen, nanoseconds after arming.
    pub at_ns: u64,
    /// The value when `by_stack` was taken.
    pub taken_at: u64,
    /// What was alive then.
    pub by_stack: Vec<Made>,
}

/// What the sampler has collected.
#[derive(Debug)]
pub struct Recorded {
    /// Nanoseconds that a sample covers.
    pub interval_ns: u64,
    /// From arming on.
    pub samples: Vec<Sample>,
    /// Most AVFrames.
    pub frames: Watch,
    /// Most bytes of payload.
    pub payload: Watch,
}

impl Timeline {
    /// Begins at arming: `start_ns` of CLOCK_MONOTONIC. It comes from the target: any value is harmless, and a wrong one
    /// makes a timeline that is wrong.
    pub fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            interval_ns: FIRST_INTERVAL_NS,
            samples: Vec::new(),
            counted: (0, 0),
            frames: Watch::default(),
            payload: Watch::default(),
        }
    }

    /// All rings were just emptied into `live`; it is `now_ns` of CLOCK_MONOTONIC.
    ///
    /// `cancelled`: allocations so far that were given back young, of which the live set knows nothing.
    pub fn sample(&mut self, now_ns: u64, live: &LiveSet, cancelled: u64) {
        let elapsed = now_ns.saturating_sub(self.start_ns);
        while elapsed / self.interval_ns >= MOST_SAMPLES as u64 {
            halve(&mut self.samples);
            self.interval_ns = self.interval_ns.saturating_mul(2);
        }
        let at = (elapsed / self.interval_ns) as usize;
        // A sample begins with what the one before ended with; so do those in which nobody looked.
        let before = self.samples.last().copied().unwrap_or_default();
        let still = Sample::still(before.frames.last, before.blocks.last, before.payload_bytes.last);
        while self.samples.len() <= at {
            self.samples.push(still);
        }
        let of_all = |count: u64| count.saturating_add(cancelled);
        let (allocations, frees) = (of_all(live.counts.allocations), of_all(live.counts.frees));
        if let Some(sample) = self.samples.last_mut() {
            sample.frames.see(live.census.frames);
            sample.blocks.see(live.len());
            sample.payload_bytes.see(live.census.payload_bytes);
            sample.allocations += allocations.saturating_sub(self.counted.0);
            sample.frees += frees.saturating_sub(self.counted.1);
        }
        self.counted = (allocations, frees);
        self.frames.see(live.census.frames, elapsed, live, |made| made.frames > 0);
        self.payload.see(live.census.payload_bytes, elapsed, live, |made| made.payloads > 0);
    }

    /// Seconds that a sample covers, and the samples so far.
    pub fn so_far(&self) -> (f64, &[Sample]) {
        (self.interval_ns as f64 / 1e9, &self.samples)
    }

    /// The run is over, and this is what is alive at its end.
    pub fn finish(mut self, live: &LiveSet) -> Recorded {
        // A leak grows to the end: then the end is the peak, and known exactly.
        if live.census.frames == self.frames.value {
            self.frames.take(live, |made| made.frames > 0);
        }
        if live.census.payload_bytes == self.payload.value {
            self.payload.take(live, |made| made.payloads > 0);
        }
        Recorded { interval_ns: self.interval_ns, samples: self.samples, frames: self.frames, payload: self.payload }
    }
}

impl Watch {
    fn see(&mut self, value: u64, elapsed: u64, live: &LiveSet, part: impl Fn(&Made) -> bool) {
        if value <= self.value {
            return;
        }
        (self.value, self.at_ns) = (value, elapsed);
        // Each step of 5 %, not each step: to grow to a million frames takes 300 copies of a small table.
        if value - self.taken_at > self.taken_at / 20 {
            self.take(live, part);
        }
    }

    fn take(&mut self, live: &LiveSet, part: impl Fn(&Made) -> bool) {
        self.taken_at = self.value;
        self.by_stack.clear();
        self.by_stack.extend(live.census.by_stack().iter().filter(|made| part(made)).copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use avleak_wire::event::{Event, KIND_ALLOC, KIND_FREE};

    struct Target {
        live: LiveSet,
        stamp: u64,
    }

    impl Target {
        fn new() -> Self {
            Self { live: LiveSet::new(), stamp: 0 }
        }

        fn apply(&mut self, kind: u8, address: u64, stack: u32) {
            self.stamp += 1;
            let size = if kind == KIND_ALLOC { 416 } else { 0 };
            self.live.apply(
                Event { kind, stamp: self.stamp, address, size, stack },
                crate::live::Rings::Many,
                |_, _| ObjectKind::Frame,
            );
        }

        fn make(&mut self, frame: u64, stack: u32) {
            self.apply(KIND_ALLOC, 0x1000 + frame * 512, stack);
        }

        fn free(&mut self, frame: u64) {
            self.apply(KIND_FREE, 0x1000 + frame * 512, 9);
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn an_interval_keeps_extremes_and_what_came_and_went() {
        let mut target = Target::new();
        let mut timeline = Timeline::new(5 * MS);
        for frame in 0..10 {
            target.make(frame, 1);
        }
        timeline.sample(5 * MS, &target.live, 0);
        for frame in 0..7 {
            target.free(frame);
        }
        timeline.sample(5 * MS + 400_000, &target.live, 0);
        target.make(20, 1);
        timeline.sample(5 * MS + 900_000, &target.live, 0);
        // Nobody looks for a while, then one more is there.
        target.make(21, 1);
        timeline.sample(9 * MS, &target.live, 0);
        let recorded = timeline.finish(&target.live);
        let span = |at: usize| {
            let frames = recorded.samples[at].frames;
            (frames.min, frames.max, frames.last)
        };
        assert_eq!((recorded.samples.len(), recorded.interval_ns), (5, MS));
        assert_eq!([span(0), span(1), span(3), span(4)], [(0, 10, 4), (4, 4, 4), (4, 4, 4), (4, 5, 5)]);
        assert_eq!((recorded.samples[0].allocations, recorded.samples[0].frees), (11, 7));
        assert_eq!((recorded.samples[1].allocations, recorded.samples[4].allocations), (0, 1));
        assert_eq!(recorded.samples[4].payload_bytes.max, 0);
    }

    /// However long it runs: at most 512 samples, nothing lost from the sums and extremes, and they cover the run.
    #[test]
    fn a_long_run_is_kept_at_a_coarser_resolution() {
        for seconds in [1_u64, 60, 86_400] {
            let mut target = Target::new();
            let mut timeline = Timeline::new(0);
            let steps = 3_000;
            for step in 0..steps {
                for frame in 0..5 {
                    target.make(frame, 1);
                }
                timeline.sample(seconds * 1_000 * MS / steps * step, &target.live, 0);
                for frame in 0..5 {
                    target.free(frame);
                }
                timeline.sample(seconds * 1_000 * MS / steps * step, &target.live, 0);
            }
            let recorded = timeline.finish(&target.live);
            let count = recorded.samples.len() as u64;
            assert!((MOST_SAMPLES as u64 / 2..=MOST_SAMPLES as u64).contains(&count), "{count}");
            let covered = count * recorded.interval_ns;
            assert!(
                covered >= seconds * 999 * MS && covered <= seconds * 1_001 * MS + recorded.interval_ns,
                "{covered}"
            );
            assert_eq!(recorded.samples.iter().map(|sample| sample.allocations).sum::<u64>(), 5 * steps);
            assert_eq!(recorded.samples.iter().map(|sample| sample.frees).sum::<u64>(), 5 * steps);
            assert_eq!(recorded.samples.iter().map(|sample| sample.frames.max).max(), Some(5));
        }
    }

    #[test]
    fn a_peak_knows_its_makers_within_five_percent() {
        let mut target = Target::new();
        let mut timeline = Timeline::new(0);
        for frame in 0..1_000 {
            target.make(frame, if frame % 4 == 0 { 2 } else { 1 });
            timeline.sample(frame * MS, &target.live, 0);
        }
        for frame in 0..990 {
            target.free(frame);
            timeline.sample((1_000 + frame) * MS, &target.live, 0);
        }
        let peak = timeline.finish(&target.live).frames;
        assert_eq!((peak.value, peak.at_ns), (1_000, 999 * MS));
        assert!((950..=1_000).contains(&peak.taken_at), "{}", peak.taken_at);
        assert_eq!(peak.by_stack.iter().map(|made| u64::from(made.frames)).sum::<u64>(), peak.taken_at);
        assert_eq!(peak.by_stack.iter().map(|made| made.stack).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_peak_at_the_end_is_exact() {
        let mut target = Target::new();
        let mut timeline = Timeline::new(0);
        for frame in 0..1_003 {
            target.make(frame, 1);
            timeline.sample(frame * MS, &target.live, 0);
        }
        let peak = timeline.finish(&target.live).frames;
        assert_eq!((peak.value, peak.taken_at, peak.by_stack[0].frames), (1_003, 1_003, 1_003));
    }

    #[test]
    fn a_start_that_the_target_made_up_does_no_harm() {
        for start in [u64::MAX, 0] {
            let mut target = Target::new();
            let mut timeline = Timeline::new(start);
            target.make(1, 1);
            for now in [10, u64::MAX - 1, u64::MAX] {
                timeline.sample(now, &target.live, 0);
            }
            assert!(timeline.finish(&target.live).samples.len() <= MOST_SAMPLES);
        }
    }
}
