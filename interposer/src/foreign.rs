//! Who keeps a block young, and whether anybody else gave its address back since.
//!
//! A thread finds a block among its young and means to cancel it; but the block that it frees may be a later one at the same address:
//! another thread gave the first one back, got the address again, and handed it over. So every free that empties no young cell
//! changes the count of its address here, before the real free; a thread remembers the count with each young block, and where it has
//! changed, nothing is cancelled. Addresses share counts: then a cancellation is given up for nothing, which does no harm.
//!
//! Beside the count stands the ring in whose young table a block of such an address was put last: where another thread frees it, it looks
//! there. That may be wrong for a block that shares its place, which is then freed as one that nobody keeps young.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

const PLACES: usize = 1 << 14;
/// Bits of a count that are remembered: those that a young block's mark has room for.
const MASK: u32 = (1 << 30) - 1;

/// Both in one cache line, for both are wanted at once.
#[repr(align(8))]
struct Shared {
    /// Of frees that emptied no young cell.
    frees: AtomicU32,
    /// Number of a ring + 1; 0: none yet. In a forked child it may be one of the parent's.
    holder: AtomicU32,
}

static SHARED: [Shared; PLACES] = [const { Shared { frees: AtomicU32::new(0), holder: AtomicU32::new(0) } }; PLACES];

#[inline(always)]
fn shared(address: u64) -> &'static Shared {
    let place = ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize;
    &SHARED[place % PLACES]
}

/// What is known of `address` is asked for soon.
#[inline(always)]
pub fn fetch(address: u64) {
    sys::fetch(shared(address));
}

/// The present count of `address`, 30 bits.
///
/// Relaxed: whoever got or frees the block got its address from the thread that freed it before, by the allocator's or the program's own
/// synchronization, and so sees the change that came before that free.
#[inline(always)]
pub fn count(address: u64) -> u32 {
    shared(address).frees.load(Ordering::Relaxed) & MASK
}

/// The owner of `ring` is about to keep the block at `address` young; the count of it.
#[inline(always)]
pub fn hold(address: u64, ring: u32) -> u32 {
    let shared = shared(address);
    // Written only where it changes: the line stays in the caches of those who read the counts in it.
    if shared.holder.load(Ordering::Relaxed) != ring + 1 {
        shared.holder.store(ring + 1, Ordering::Relaxed);
    }
    shared.frees.load(Ordering::Relaxed) & MASK
}

/// Whose young the block at `address` may be among, as the number of a ring.
///
/// Relaxed: where this comes too late, a block is not found, or not where it is looked for.
#[inline(always)]
pub fn holder(address: u64) -> Option<u32> {
    shared(address).holder.load(Ordering::Relaxed).checked_sub(1)
}

/// `address` is about to be given back, and no young cell is emptied by that.
#[inline(always)]
pub fn note(address: u64) {
    shared(address).frees.fetch_add(1, Ordering::Relaxed);
}
