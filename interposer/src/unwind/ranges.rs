//! Which stack a frame lies on: what may be read of it.

use super::{RANGES, Unwinding};
use crate::stacks::{self, StackRange};
use crate::sys;

impl Unwinding {
    /// The stack that holds `sp`, from `sp`'s page up to its top. Empty where none is known.
    #[inline(always)]
    pub(super) fn range_of(&mut self, sp: u64) -> StackRange {
        for range in &self.ranges {
            if range.start <= sp && sp < range.end {
                if range.own {
                    self.own = *range;
                }
                return range.above(sp);
            }
        }
        self.find_range(sp)
    }

    #[cold]
    fn find_range(&mut self, sp: u64) -> StackRange {
        if self.own_is_wanted {
            self.find_own();
            if self.own.start <= sp && sp < self.own.end {
                return self.own.above(sp);
            }
        }
        let found = stacks::near_range(sp).or_else(|| {
            // A first-aid ration: eight look-ups, then eight more each second.
            let now = sys::clock_ns(libc::CLOCK_MONOTONIC_COARSE);
            if self.lookups_left == 0 && now.saturating_sub(self.last_refill_ns) > 1_000_000_000 {
                self.lookups_left = 8;
                self.last_refill_ns = now;
            }
            self.lookups_left = self.lookups_left.checked_sub(1)?;
            sys::keep_errno(|| stacks::mapping_of(sp))
        });
        // Where nothing is known: the rest of the page on which the caller's frame lies is mapped.
        let range = found.unwrap_or(StackRange { start: sp & !4095, end: (sp & !4095) + 4096, own: false });
        if range.own {
            self.own = range;
        }
        if found.is_some() {
            self.ranges[self.next_range] = range;
            self.next_range = (self.next_range + 1) % RANGES;
        }
        range.above(sp)
    }
}
