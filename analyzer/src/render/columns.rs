//! A timeline as columns: what charts are drawn from, of a report as of a process that runs.

use serde::{Deserialize, Serialize};

use crate::report::timeline::{Sample, Span};

/// Samples, one column for each number.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Columns {
    /// Seconds that a sample covers.
    pub dt: f64,
    /// Live AVFrames: lowest, highest, last of each sample.
    pub frames: [Vec<u64>; 3],
    /// Live blocks.
    pub blocks: [Vec<u64>; 3],
    /// Bytes of live payload.
    pub payload: [Vec<u64>; 3],
    /// Blocks returned.
    pub allocs: Vec<u64>,
    /// Blocks given back.
    pub frees: Vec<u64>,
}

impl Columns {
    /// Of samples that each cover `dt` seconds.
    pub fn of(dt: f64, samples: &[Sample]) -> Self {
        let spans = |of: fn(&Sample) -> Span| {
            let column = |part: fn(Span) -> u64| samples.iter().map(|sample| part(of(sample))).collect();
            [column(|span| span.min), column(|span| span.max), column(|span| span.last)]
        };
        Self {
            dt,
            frames: spans(|sample| sample.frames),
            blocks: spans(|sample| sample.blocks),
            payload: spans(|sample| sample.payload_bytes),
            allocs: samples.iter().map(|sample| sample.allocations).collect(),
            frees: samples.iter().map(|sample| sample.frees).collect(),
        }
    }
}
