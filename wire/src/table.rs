//! The young table from its owner's side: where an address has its place, what comes in, and which way it leaves.
//!
//! Kept apart from what records (stacks, stamps, waiting for a reader), so that the model in `tests/loom.rs` runs this very code.

use crate::event::EventCell;
use crate::ring::{Producer, RingMemory};
use crate::young::{MOVING, OBJECT, Young, tag_of};

impl<M: RingMemory> Producer<M> {
    /// First cell of the set in which `address` has its place.
    #[inline(always)]
    fn set_of(address: u64) -> u32 {
        let sets = M::YOUNG / M::WAYS;
        if sets == 1 {
            return 0;
        }
        // The top bits of the product: 7 for 128 sets.
        ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - sets.trailing_zeros())) as u32 * M::WAYS
    }

    /// The cell that holds `address`.
    #[inline(always)]
    pub fn find_young(&self, address: u64) -> Option<u32> {
        let (set, tag) = (Self::set_of(address), tag_of(address));
        (set..set + M::WAYS).find(|&index| self.young(index).tag() == tag)
    }

    /// The cell that holds `address`, where nobody else gave the block back since it was put there: `foreign`, the count of
    /// such frees, is still what its mark says. Only then may it be cancelled.
    #[inline(always)]
    pub fn own_young(&self, address: u64, foreign: u32) -> Option<u32> {
        let index = self.find_young(address)?;
        (self.young(index).held().mark & !OBJECT == foreign).then_some(index)
    }

    /// Puts a new block among the young, in place of the oldest of its set if need be; that one goes through `publish`.
    #[inline(always)]
    pub fn keep_young(&self, young: Young, publish: impl FnOnce(Young)) {
        let (set, tag) = (Self::set_of(young.address), tag_of(young.address));
        let (mut place, mut oldest, mut oldest_stamp) = (None, set, u64::MAX);
        for index in set..set + M::WAYS {
            let cell = self.young(index);
            match cell.tag() {
                0 => place = place.or(Some(index)),
                known if known == tag => {
                    if is_the_same_block(cell, &young) {
                        cell.empty();
                        (place, oldest) = (Some(index), index);
                    } else {
                        // Somebody else gave that one back. Both its events are told.
                        (place, oldest) = (None, index);
                    }
                    break;
                }
                _ => {
                    let stamp = cell.stamp();
                    if stamp < oldest_stamp {
                        (oldest, oldest_stamp) = (index, stamp);
                    }
                }
            }
        }
        let index = place.unwrap_or_else(|| {
            self.publish_young(oldest, publish);
            self.empty_young(oldest);
            oldest
        });
        self.young(index).fill(young);
    }

    /// Hands what the cell holds to `publish`. It stays in its cell, marked, until the caller empties that: a reader sees it at least once.
    #[inline(always)]
    pub fn publish_young(&self, index: u32, publish: impl FnOnce(Young)) -> Young {
        let cell = self.young(index);
        let young = cell.held();
        cell.mark_moving();
        publish(young);
        young
    }

    /// What the cell held was cancelled, or is in the ring.
    #[inline(always)]
    pub fn empty_young(&self, index: u32) {
        self.young(index).empty();
    }
}

/// Nobody gave back the block that the cell holds, and it is returned once more: an allocator whose calloc or realloc calls the hooked malloc.
/// The outer call tells more; were the inner one published, nobody would ever tell its end.
#[cold]
fn is_the_same_block(cell: &EventCell, young: &Young) -> bool {
    let mark = cell.held().mark;
    mark & MOVING == 0 && (mark ^ young.mark) & !OBJECT == 0
}
