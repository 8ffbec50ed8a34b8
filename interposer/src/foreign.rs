//! Whether anybody else gave an address back since this thread got it.
//!
//! A thread finds a block among its young and means to cancel it; but the block that it frees may be a later one at the same address:
//! another thread gave the first one back, got the address again, and handed it over. So every free that is no cancellation
//! changes the count of its address here, before the real free; a thread remembers the count with each young block, and where it has
//! changed, nothing is cancelled. Addresses share counts: then a cancellation is given up for nothing, which does no harm.

use core::sync::atomic::{AtomicU32, Ordering};

const COUNTS: usize = 1 << 16;
/// Bits of a count that are remembered: those that a young block's mark has room for.
const MASK: u32 = (1 << 30) - 1;

static FREES: [AtomicU32; COUNTS] = [const { AtomicU32::new(0) }; COUNTS];

#[inline(always)]
fn count_of(address: u64) -> &'static AtomicU32 {
    let place = ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as usize;
    &FREES[place % COUNTS]
}

/// The present count of `address`, 30 bits.
///
/// Relaxed: whoever got or frees the block got its address from the thread that freed it before, by the allocator's or the program's own
/// synchronization, and so sees the change that came before that free.
#[inline(always)]
pub fn count(address: u64) -> u32 {
    count_of(address).load(Ordering::Relaxed) & MASK
}

/// `address` is about to be given back, and not as a young block of the thread that gives it back.
#[inline(always)]
pub fn note(address: u64) {
    count_of(address).fetch_add(1, Ordering::Relaxed);
}
