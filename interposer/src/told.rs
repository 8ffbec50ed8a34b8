//! Which memory the analyzer knows to belong to the allocator.
//!
//! What a freed block holds is no root, so that the analyzer must have heard of every block that was ever returned. A cancelled
//! allocation is not heard of: it may be cancelled only where an earlier, published one covered the same memory. Young blocks come back
//! to the same addresses, so that a small table answers nearly always. One for all threads: what one has told all have, and what goes
//! back to the kernel is forgotten by all.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

const ENTRIES: usize = 1 << 14;
const GRANULES_BITS: u32 = 20;

/// Direct-mapped: first granule (44 bits) and number of granules (20 bits) of a published allocation. 128 KiB, of which a process with few
/// addresses touches little.
struct Told([AtomicU64; ENTRIES]);

static TOLD: Told = Told::new();

/// Granules of 16 bytes that a block covers; what has more than an entry can say is never told.
#[inline(always)]
fn granules(size: u64) -> u64 {
    (size.max(1).saturating_add(15)) >> 4
}

impl Told {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    #[inline(always)]
    fn place(address: u64) -> usize {
        ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize % ENTRIES
    }

    #[inline(always)]
    fn note(&self, address: u64, size: u64) {
        let granules = granules(size);
        if granules >> GRANULES_BITS == 0 && address & 15 == 0 && address >> 48 == 0 {
            self.0[Self::place(address)].store((address >> 4) << GRANULES_BITS | granules, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn covers(&self, address: u64, size: u64) -> bool {
        let entry = self.0[Self::place(address)].load(Ordering::Relaxed);
        entry >> GRANULES_BITS == address >> 4 && entry & ((1 << GRANULES_BITS) - 1) >= granules(size)
    }

    #[inline(always)]
    fn forget(&self, address: u64) {
        let entry = &self.0[Self::place(address)];
        if entry.load(Ordering::Relaxed) >> GRANULES_BITS == address >> 4 {
            entry.store(0, Ordering::Relaxed);
        }
    }
}

/// An allocation was published. Relaxed, all of these: whoever has the address now got it after that, and a check reads every ring before
/// it looks at memory.
#[inline(always)]
pub fn note(address: u64, size: u64) {
    TOLD.note(address, size);
}

/// Whether this block's memory is known is asked for soon.
#[inline(always)]
pub fn fetch(address: u64) {
    sys::fetch(&TOLD.0[Told::place(address)]);
}

/// The memory of this block is known to the analyzer.
#[inline(always)]
pub fn covers(address: u64, size: u64) -> bool {
    TOLD.covers(address, size)
}

/// The block goes back to the kernel: the analyzer forgets that it was the allocator's.
#[inline(always)]
pub fn forget(address: u64) {
    TOLD.forget(address);
}

/// For another analyzer, which was told nothing: a forked child's.
pub fn reset() {
    TOLD.0
        .iter()
        .filter(|entry| entry.load(Ordering::Relaxed) != 0)
        .for_each(|entry| entry.store(0, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_told_is_covered() {
        let told = Told::new();
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
        assert!(!told.covers(0, 0) || Told::place(0) != 0, "an empty entry covers nothing that exists");
    }
}
