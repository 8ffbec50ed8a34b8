//! The timeline in the report model: what was alive over the run, and what made up its peaks.

use serde::{Deserialize, Serialize};

use super::model::Frame;

/// Samples that a timeline holds at most; half as many at least, where the run took more than 0.3 s.
pub const MOST_SAMPLES: usize = 256;

/// What was alive over the run, as the analyzer saw it each time it had emptied all rings: what lived and died between two
/// such moments (well below a millisecond on a quiet machine) is in the rates only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Seconds that one sample covers; sample n begins n intervals after arming.
    pub interval_s: f64,
    /// From arming on, at most [`MOST_SAMPLES`].
    pub samples: Vec<Sample>,
    /// When most AVFrames were alive; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_frames: Option<Peak>,
    /// When most bytes of payload were alive; absent where none were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_payload: Option<Peak>,
}

/// One interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Live AVFrames.
    pub frames: Span,
    /// Live blocks of the malloc family.
    pub blocks: Span,
    /// Bytes of live payload buffers (pixels, samples, packet data: AVBuffer.data as the stack tells it), whoever points to
    /// them, those that wait in a buffer pool too. Which part of them lost refs pin is known only at the check. Memory of the
    /// program's own that it wrapped with av_buffer_create is not in it.
    pub payload_bytes: Span,
    /// Blocks returned in this interval.
    pub allocations: u64,
    /// Blocks given back in it.
    pub frees: u64,
}

/// A number over an interval, its value at the interval's begin included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Span {
    /// Lowest.
    pub min: u64,
    /// Highest.
    pub max: u64,
    /// At the end of the interval.
    pub last: u64,
}

/// A highest value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Frames, or bytes of payload.
    pub value: u64,
    /// When it was first reached, seconds after arming.
    pub at_s: f64,
    /// What was alive when `by_stack` was taken: at least 95 % of `value`, or one frame less.
    pub taken_at: u64,
    /// What was alive then by allocation stack, the most first; at most ten.
    pub by_stack: Vec<PeakStack>,
}

/// What one allocation stack had alive at a peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeakStack {
    /// Frames, or payload buffers.
    pub count: u64,
    /// Bytes of the frames' structs, or of the payload.
    pub bytes: u64,
    /// Who allocated, innermost first.
    pub stack: Vec<Frame>,
}

impl Span {
    /// Always this.
    pub fn of(value: u64) -> Self {
        Self { min: value, max: value, last: value }
    }

    /// It is `value` now.
    pub fn see(&mut self, value: u64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.last = value;
    }

    fn then(self, later: Self) -> Self {
        Self { min: self.min.min(later.min), max: self.max.max(later.max), last: later.last }
    }
}

impl Sample {
    /// Nothing came or went, and so much was alive.
    pub fn still(frames: u64, blocks: u64, payload_bytes: u64) -> Self {
        Self {
            frames: Span::of(frames),
            blocks: Span::of(blocks),
            payload_bytes: Span::of(payload_bytes),
            allocations: 0,
            frees: 0,
        }
    }

    /// This interval and the one after it as one.
    fn then(self, later: Self) -> Self {
        Self {
            frames: self.frames.then(later.frames),
            blocks: self.blocks.then(later.blocks),
            payload_bytes: self.payload_bytes.then(later.payload_bytes),
            allocations: self.allocations.saturating_add(later.allocations),
            frees: self.frees.saturating_add(later.frees),
        }
    }
}

/// Half as many samples, each for twice the time: neighbours merge, extremes and sums are kept.
pub fn halve(samples: &mut Vec<Sample>) {
    *samples = samples.chunks(2).map(|pair| pair.iter().copied().reduce(Sample::then).unwrap_or_default()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_neighbours_keep_extremes_ends_and_sums() {
        let sample =
            |min, max, last, allocations| Sample { frames: Span { min, max, last }, allocations, ..Sample::default() };
        let mut samples = vec![sample(3, 9, 4, 10), sample(1, 6, 5, 20), sample(5, 7, 7, 1)];
        halve(&mut samples);
        assert_eq!(samples, [sample(1, 9, 5, 30), sample(5, 7, 7, 1)]);
        halve(&mut samples);
        assert_eq!(samples, [sample(1, 9, 7, 31)]);
        halve(&mut samples);
        assert_eq!(samples.len(), 1);
    }
}
