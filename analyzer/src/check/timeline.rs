//! The sampler's stacks get their names: from what a session recorded to the report's timeline.

use rustc_hash::FxHashMap;

use super::stacks::Stacks;
use crate::live::Made;
use crate::report::timeline::{Peak, PeakStack, Timeline};
use crate::session::drain::Drained;
use crate::session::timeline::{Recorded, Watch};

/// Stacks that a peak names at most.
const MOST_STACKS: usize = 10;

/// The report's timeline of this session, whose own is left empty. `None` where nothing was sampled. `names_peaks`: with the stacks that
/// made up the peaks.
pub fn of(drained: &mut Drained, names_peaks: bool) -> Option<Timeline> {
    let recorded = std::mem::take(&mut drained.timeline).finish(&drained.live);
    let Recorded { interval_ns, samples, frames, payload } = recorded;
    if samples.is_empty() {
        return None;
    }
    let mut stacks = Stacks::new(drained);
    let named = |watch: Watch| if names_peaks { watch } else { Watch { by_stack: Vec::new(), ..watch } };
    let (frames, payload) = (named(frames), named(payload));
    Some(Timeline {
        interval_s: interval_ns as f64 / 1e9,
        samples,
        peak_frames: peak(&mut stacks, &frames, |made| (u64::from(made.frames), made.frame_bytes)),
        peak_payload: peak(&mut stacks, &payload, |made| (u64::from(made.payloads), made.payload_bytes)),
    })
}

fn peak(stacks: &mut Stacks<'_>, watch: &Watch, part: impl Fn(&Made) -> (u64, u64)) -> Option<Peak> {
    if watch.value == 0 {
        return None;
    }
    // Two nodes of the same frames are one stack.
    let mut sums: FxHashMap<u64, (u64, u64, u32)> = FxHashMap::default();
    for made in &watch.by_stack {
        let (count, bytes) = part(made);
        let sum = sums.entry(stacks.key(made.stack).hash).or_insert((0, 0, made.stack));
        *sum = (sum.0 + count, sum.1 + bytes, sum.2.min(made.stack));
    }
    let mut sums: Vec<(u64, u64, u32)> = sums.into_values().collect();
    sums.sort_by_key(|&(count, bytes, stack)| (std::cmp::Reverse((bytes, count)), stack));
    sums.truncate(MOST_STACKS);
    let by_stack = sums
        .into_iter()
        .map(|(count, bytes, stack)| PeakStack { count, bytes, stack: stacks.named(stack).to_vec() })
        .collect();
    Some(Peak { value: watch.value, at_s: watch.at_ns as f64 / 1e9, taken_at: watch.taken_at, by_stack })
}
