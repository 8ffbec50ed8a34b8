//! Which memory the analyzer knows to belong to the allocator.
//!
//! What a freed block holds is no root, so that the analyzer must have heard of every block that was ever returned. A cancelled
//! allocation is not heard of: it may be cancelled only where an earlier, published one covered the same memory. Young blocks come back
//! to the same addresses, so that a small table answers nearly always. One for all threads: what one has told all have, and what goes
//! back to the kernel is forgotten by all.

use core::sync::atomic::Ordering;

use crate::places::{self, Place};

const GRANULES_BITS: u32 = 20;

/// Granules of 16 bytes that a block covers; what has more than an entry can say is never told.
#[inline(always)]
fn granules(size: u64) -> u64 {
    (size.max(1).saturating_add(15)) >> 4
}

/// Direct-mapped: first granule (44 bits) and number of granules (20 bits) of a published allocation.
impl Place {
    #[inline(always)]
    fn note(&self, address: u64, size: u64) {
        let granules = granules(size);
        if granules >> GRANULES_BITS == 0 && address & 15 == 0 && address >> 48 == 0 {
            self.told.store((address >> 4) << GRANULES_BITS | granules, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn covers(&self, address: u64, size: u64) -> bool {
        let entry = self.told.load(Ordering::Relaxed);
        entry >> GRANULES_BITS == address >> 4 && entry & ((1 << GRANULES_BITS) - 1) >= granules(size)
    }

    #[inline(always)]
    fn forget(&self, address: u64) {
        if self.told.load(Ordering::Relaxed) >> GRANULES_BITS == address >> 4 {
            self.told.store(0, Ordering::Relaxed);
        }
    }
}

/// An allocation was published. Relaxed, all of these: whoever has the address now got it after that, and a check reads every ring before
/// it looks at memory.
#[inline(always)]
pub fn note(address: u64, size: u64) {
    places::of(address).note(address, size);
}

/// The memory of this block is known to the analyzer.
#[inline(always)]
pub fn covers(address: u64, size: u64) -> bool {
    places::of(address).covers(address, size)
}

/// The block goes back to the kernel: the analyzer forgets that it was the allocator's.
#[inline(always)]
pub fn forget(address: u64) {
    places::of(address).forget(address);
}

/// For another analyzer, which was told nothing: a forked child's.
pub fn reset() {
    let told = places::all().iter().map(|place| &place.told);
    told.filter(|entry| entry.load(Ordering::Relaxed) != 0).for_each(|entry| entry.store(0, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_told_is_covered() {
        let told = Place::new();
        let at = 0x7f12_3456_7890;
        assert!(!told.covers(at, 1));
        told.note(at, 100);
        assert!(told.covers(at, 0) && told.covers(at, 112) && !told.covers(at, 113));
        assert!(!told.covers(at + 16, 1));
        told.forget(at + 16);
        assert!(told.covers(at, 100));
        told.forget(at);
        assert!(!told.covers(at, 1));
        told.note(at, 1 << 24);
        assert!(!told.covers(at, 1), "too large for an entry");
    }
}
