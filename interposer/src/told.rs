//! Which memory the analyzer knows to belong to the allocator, as far as this thread has told it.
//!
//! What a freed block holds is no root, so that the analyzer must have heard of every block that was ever returned. A cancelled
//! allocation is not heard of: it may be cancelled only where an earlier, published one covered the same memory. Young blocks come back
//! to the same few addresses, so that a small table answers nearly always.

const ENTRIES: usize = 1024;
const GRANULES_BITS: u32 = 20;

/// Direct-mapped: first granule (44 bits) and number of granules (20 bits) of a published allocation. 8 KiB.
pub struct Told([u64; ENTRIES]);

/// Granules of 16 bytes that a block covers; what has more than an entry can say is never told.
#[inline(always)]
fn granules(size: u64) -> u64 {
    (size.max(1).saturating_add(15)) >> 4
}

impl Told {
    /// Nothing.
    pub const fn new() -> Self {
        Self([0; ENTRIES])
    }

    #[inline(always)]
    fn place(address: u64) -> usize {
        ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
    }

    /// An allocation was published.
    #[inline(always)]
    pub fn note(&mut self, address: u64, size: u64) {
        let granules = granules(size);
        if granules >> GRANULES_BITS == 0 && address & 15 == 0 && address >> 48 == 0 {
            self.0[Self::place(address)] = (address >> 4) << GRANULES_BITS | granules;
        }
    }

    /// The memory of this block is known to the analyzer.
    #[inline(always)]
    pub fn covers(&self, address: u64, size: u64) -> bool {
        let entry = self.0[Self::place(address)];
        entry >> GRANULES_BITS == address >> 4 && entry & ((1 << GRANULES_BITS) - 1) >= granules(size)
    }

    /// The block goes back to the kernel: the analyzer forgets that it was the allocator's.
    #[inline(always)]
    pub fn forget(&mut self, address: u64) {
        let entry = &mut self.0[Self::place(address)];
        if *entry >> GRANULES_BITS == address >> 4 {
            *entry = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_told_is_covered() {
        let mut told = Told::new();
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
