//! Who keeps a block young, and whether anybody else gave its address back since.
//!
//! A thread finds a block among its young and means to cancel it; but the block that it frees may be a later one at the same address:
//! another thread gave the first one back, got the address again, and handed it over. So every free that empties no young cell
//! changes the count of its address here, before the real free; a thread remembers the count with each young block, and where it has
//! changed, nothing is cancelled. Addresses share counts: then a cancellation is given up for nothing, which does no harm.
//!
//! Beside the count stands the ring in whose young table a block of such an address was put last: where another thread frees it, it looks
//! there. That may be wrong for a block that shares its place, which is then freed as one that nobody keeps young. It is the number of the
//! ring + 1, 0 where there was none yet; in a forked child it may be one of the parent's.

use core::sync::atomic::Ordering;

use crate::places;

/// Bits of a count that are remembered: those that a young block's mark has room for.
const MASK: u32 = (1 << 30) - 1;

/// The present count of `address`, 30 bits.
///
/// Relaxed: whoever got or frees the block got its address from the thread that freed it before, by the allocator's or the program's own
/// synchronization, and so sees the change that came before that free.
#[inline(always)]
pub fn count(address: u64) -> u32 {
    places::of(address).frees.load(Ordering::Relaxed) & MASK
}

/// The owner of `ring` is about to keep the block at `address` young; the count of it.
#[inline(always)]
pub fn hold(address: u64, ring: u32) -> u32 {
    let place = places::of(address);
    // Written only where it changes: the line stays in the caches of those who read the counts in it.
    if place.holder.load(Ordering::Relaxed) != ring + 1 {
        place.holder.store(ring + 1, Ordering::Relaxed);
    }
    place.frees.load(Ordering::Relaxed) & MASK
}

/// Whose young the block at `address` may be among, as the number of a ring.
///
/// Relaxed: where this comes too late, a block is not found, or not where it is looked for.
#[inline(always)]
pub fn holder(address: u64) -> Option<u32> {
    places::of(address).holder.load(Ordering::Relaxed).checked_sub(1)
}

/// `address` is about to be given back, and no young cell is emptied by that.
#[inline(always)]
pub fn note(address: u64) {
    places::of(address).frees.fetch_add(1, Ordering::Relaxed);
}
