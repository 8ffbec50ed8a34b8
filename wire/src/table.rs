//! The young table from the producers' side: where an address has its place, what comes in, and which way it leaves.
//!
//! Kept apart from what records (stacks, stamps, waiting for a reader), so that the model in `tests/loom.rs` runs this very code.

use crate::event::EventCell;
use crate::ring::{Producer, RingMemory};
use crate::young::{CLAIMED, OBJECT, Young, tag_of};

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

    /// First of the cells in which `address` may lie: what is read of them soon can be fetched before.
    #[inline(always)]
    pub fn young_place(&self, address: u64) -> &EventCell {
        self.young(Self::set_of(address))
    }

    /// The cell that holds `address` and that nobody claimed.
    #[inline(always)]
    pub fn find_young(&self, address: u64) -> Option<u32> {
        let (set, tag) = (Self::set_of(address), tag_of(address));
        self.ways_of(set, |cell| cell.tag() == tag).first().map(|way| set + way)
    }

    /// Of a full set the cell that was filled first, with its tag: none where others are busy with all of them.
    #[inline(always)]
    fn oldest_of(&self, set: u32) -> Option<(u32, u64)> {
        let ways = u64::from(M::WAYS - 1);
        let stamp_and_way = |way: u32| {
            let cell = self.young(set + way);
            // Another thread may have emptied it meanwhile.
            let is_out = cell.tag() == 0 || cell.tag() & CLAIMED != 0;
            if is_out { u64::MAX } else { cell.stamp() & !ways | u64::from(way) }
        };
        let oldest = (0..M::WAYS).map(stamp_and_way).fold(u64::MAX, u64::min);
        let way = (oldest & ways) as u32;
        let known = self.young(set + way).tag();
        (oldest != u64::MAX && known != 0 && known & CLAIMED == 0).then_some((way, known))
    }

    /// Those cells of a set of which `is` holds. All are looked at, without a branch: in which one an address lies nobody can foresee.
    #[inline(always)]
    fn ways_of(&self, set: u32, is: impl Fn(&EventCell) -> bool) -> Ways {
        Ways((0..M::WAYS).fold(0, |ways, way| ways | u32::from(is(self.young(set + way))) << way))
    }

    /// The cell that holds `address`, where nobody gave the block back since it was put there: `foreign`, the count of such frees, is
    /// still what its mark says. Only then may it be cancelled. For the owner, who is about to free it.
    #[inline(always)]
    pub fn own_young(&self, address: u64, foreign: u32) -> Option<u32> {
        let index = self.find_young(address)?;
        (self.young(index).held().mark & !OBJECT == foreign).then_some(index)
    }

    /// The same of another's ring: the cell is the caller's, who is about to free the block, until it empties it.
    #[inline(always)]
    pub fn claim_young(&self, address: u64, foreign: u32) -> Option<u32> {
        let index = self.own_young(address, foreign)?;
        // What the mark was read of may have been driven out meanwhile; but the address cannot have come back, for it is not free yet.
        self.young(index).claim(tag_of(address)).then_some(index)
    }

    /// Puts a new block among the young, in place of the oldest of its set if need be; that one goes through `publish`. So does the new
    /// block where others are busy with all of its set.
    #[inline(always)]
    pub fn keep_young(&self, young: Young, publish: impl FnOnce(Young)) {
        match self.place_for(&young) {
            Place::Empty(index) => self.young(index).fill(young),
            Place::Claimed(index) => {
                publish(self.young(index).held());
                self.empty_young(index);
                self.young(index).fill(young);
            }
            Place::None => publish(young),
        }
    }

    #[inline(always)]
    fn place_for(&self, young: &Young) -> Place {
        let (set, tag) = (Self::set_of(young.address), tag_of(young.address));
        // Each further round is one in which another thread emptied or claimed a cell of the set, as it can do once for each.
        for _ in 0..=M::WAYS {
            if let Some(way) = self.ways_of(set, |cell| cell.tag() == tag).first() {
                let cell = self.young(set + way);
                if is_the_same_block(cell, young) {
                    cell.empty();
                    return Place::Empty(set + way);
                }
                // Somebody else gave that one back. Both its events are told.
                if cell.claim(tag) {
                    return Place::Claimed(set + way);
                }
                continue;
            }
            if let Some(way) = self.ways_of(set, |cell| cell.tag() == 0).first() {
                return Place::Empty(set + way);
            }
            let Some((way, known)) = self.oldest_of(set) else { return Place::None };
            if self.young(set + way).claim(known) {
                return Place::Claimed(set + way);
            }
        }
        Place::None
    }

    /// Hands what the owner's own cell holds to `publish`, where it is still there. It stays in its cell, claimed, until the caller empties
    /// that: a reader sees it at least once. Of a block that the caller is about to free, or that is the caller's alone.
    #[inline(always)]
    pub fn publish_young(&self, index: u32, publish: impl FnOnce(Young)) -> Young {
        let cell = self.young(index);
        let young = cell.held();
        cell.take();
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
    (cell.held().mark ^ young.mark) & !OBJECT == 0
}

/// Some cells of a set, a bit each.
#[derive(Clone, Copy)]
struct Ways(u32);

impl Ways {
    #[inline(always)]
    fn first(self) -> Option<u32> {
        (self.0 != 0).then(|| self.0.trailing_zeros())
    }
}

/// Where a new block goes.
enum Place {
    /// Into this cell.
    Empty(u32),
    /// Into this one, once what it holds was published.
    Claimed(u32),
    /// Others are busy with all of them.
    None,
}
