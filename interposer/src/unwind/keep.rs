//! Stacks that came again are kept as traces: what their steps depend on, gathered frame by frame.

use core::sync::atomic::Ordering;

use super::{Captured, DEPTH, JOINTS, Registers, Unwinding};
use crate::known::{Known, StackHash};
use crate::rules::{Base, HANDED_ON};
use crate::segment::Segment;
use crate::traces::MOST_READS;

impl Unwinding {
    /// Keeps a stack that was met before, and its outer parts, as traces.
    #[inline(never)]
    pub(super) fn keep(
        &mut self,
        segment: &Segment,
        start: Registers,
        outer: Option<(usize, u32)>,
        hash: StackHash,
        known: Known,
    ) {
        let captured = self.capture(segment, start, outer, true);
        if !captured.by_rules || captured.hash != hash {
            return;
        }
        let mut node = known.node;
        let mut at = 0;
        for joint in core::iter::once(0).chain(JOINTS) {
            if joint >= captured.depth {
                return;
            }
            while at < joint {
                node = segment.node(node).parent.load(Ordering::Relaxed);
                at += 1;
            }
            let libav = known.libav && joint == 0;
            self.keep_from(joint, &captured, Known { node, libav });
        }
    }

    /// Keeps the stack from frame `first` outwards: what its steps depend on, and of bp only what one of them did.
    fn keep_from(&mut self, first: usize, captured: &Captured, known: Known) {
        let start = self.frames[first];
        let Some(callers) = self.callers_of(&start) else { return };
        if self.traces.find(&start, callers).is_some() {
            return;
        }
        let mut inputs = [const { core::mem::MaybeUninit::<(u64, u64)>::uninit() }; MOST_READS];
        let mut count = 0;
        let mut uses_bp = false;
        let mut at = start;
        // Where the present bp comes from; `None`: it is still the first.
        let mut bp_from: Option<u64> = None;
        let mut frame = first;
        loop {
            let Some(&rule) = self.rules.find(at.pc) else { return };
            let base = match rule.base() {
                Base::Sp => at.sp,
                Base::Bp => at.bp,
                Base::End => break,
                Base::Go | Base::None => return,
            };
            let bp_word = match (rule.base(), bp_from) {
                (Base::Bp, None) => {
                    uses_bp = true;
                    None
                }
                (Base::Bp, Some(address)) => Some((address, at.bp)),
                _ => None,
            };
            let caller_at = base.wrapping_add_signed(i64::from(rule.caller_at));
            let Some(caller) = self.caller_of(&at) else { return };
            for word in core::iter::once((caller_at, caller.pc)).chain(bp_word) {
                let Some(place) = inputs.get_mut(count) else { return };
                place.write(word);
                count += 1;
            }
            if rule.bp_at != HANDED_ON {
                bp_from = Some(base.wrapping_add_signed(8 * i64::from(rule.bp_at)));
            }
            frame += 1;
            if caller.pc == 0 || frame == captured.depth && captured.outer == 0 {
                break;
            }
            if frame == DEPTH {
                return;
            }
            at = caller;
        }
        // SAFETY: the first `count` were written.
        let inputs = unsafe { core::slice::from_raw_parts(inputs.as_ptr().cast(), count) };
        self.traces.insert(&start, callers, uses_bp, inputs, known);
    }
}
