//! Young allocations: kept by their thread until they are old, and cancelled where the same thread gives them back first.
//!
//! Most allocations die within a few hundred events. A thread therefore puts an allocation into its *young* table, found by
//! address, and publishes it in its ring only when something else needs the place. A free by the same thread in the meantime empties
//! the place: one store, and neither event ever leaves the core.
//!
//! Contract:
//! * The table is written by the ring's owner only. A cell is *empty* while word 1 is 0. A filled cell is a published fact: a reader
//!   that looks ([`crate::ring::Consumer::young`]) may take it for an allocation that is still alive, and must not remember it.
//! * An old allocation is pushed into the ring first and leaves its cell afterwards, marked [`MOVING`] meanwhile: a reader that
//!   looks at the cells first and at the ring afterwards sees it at least once. Seeing it twice does no harm: it is the same event.
//! * What a cancelled object leaves behind is a count for its pair of stacks ([`DeathCell`]), exact; of each pair the first 32 and
//!   then every 64th death go through the ring, so that lifetimes are known.

use crate::event::{ADDRESS_BITS, Event, EventCell, KIND_ALLOC};
use crate::sync::{AtomicU64, Ordering, fence};

/// Cells of one set: an address has its place in one of these.
pub const WAYS: u32 = 4;

/// [`Young::mark`]: FFmpeg's code made it, so that it may be an object whose death is counted by its pair of stacks.
pub const OBJECT: u32 = 1 << 30;
/// [`Young::mark`]: it is in the ring already, or about to be.
pub const MOVING: u32 = 1 << 31;

/// What a cell holds.
///
/// | word | bits | content |
/// |---|---|---|
/// | 0 | 64 | stamp |
/// | 1 | 64 | address and kind as in an event; 0: empty |
/// | 2 | 64 | size in bytes |
/// | 3 | 32 | stack node |
/// | 3 | 32 (top) | the producer's own mark: [`OBJECT`], [`MOVING`], 30 bits of its own |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Young {
    /// When it was returned.
    pub stamp: u64,
    /// Of the block.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Stack node.
    pub stack: u32,
    /// See above.
    pub mark: u32,
}

impl Young {
    /// As the event that the ring would carry.
    pub fn event(&self) -> Event {
        Event { stamp: self.stamp, address: self.address, kind: KIND_ALLOC, size: self.size, stack: self.stack }
    }
}

/// Word 1 of a cell that holds `address`.
#[inline(always)]
pub fn tag_of(address: u64) -> u64 {
    (address & ((1 << ADDRESS_BITS) - 1)) | (KIND_ALLOC as u64) << ADDRESS_BITS
}

/// Producer's and reader's views of a cell.
impl EventCell {
    /// Word 1: [`tag_of`] the address, 0 where the cell is empty. For the producer.
    #[inline(always)]
    pub fn tag(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    /// When what it holds was returned. For the producer.
    #[inline(always)]
    pub fn stamp(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// What it holds. For the producer, of a cell that is not empty.
    #[inline(always)]
    pub fn held(&self) -> Young {
        let last = self.0[3].load(Ordering::Relaxed);
        Young {
            stamp: self.0[0].load(Ordering::Relaxed),
            address: self.tag() & ((1 << ADDRESS_BITS) - 1),
            size: self.0[2].load(Ordering::Relaxed),
            stack: last as u32,
            mark: (last >> 32) as u32,
        }
    }

    /// Fills an empty cell.
    #[inline(always)]
    pub fn fill(&self, young: Young) {
        // Whoever sees one of the words below sees that the cell was emptied: pairs with the fence in `look`.
        fence(Ordering::Release);
        self.0[0].store(young.stamp, Ordering::Relaxed);
        self.0[2].store(young.size, Ordering::Relaxed);
        self.0[3].store(u64::from(young.stack) | u64::from(young.mark) << 32, Ordering::Relaxed);
        // Pairs with the reader's acquire in `look`.
        self.0[1].store(tag_of(young.address), Ordering::Release);
    }

    /// Marks what it holds as on its way into the ring.
    #[inline(always)]
    pub fn mark_moving(&self) {
        let last = self.0[3].load(Ordering::Relaxed);
        self.0[3].store(last | u64::from(MOVING) << 32, Ordering::Relaxed);
    }

    /// Empties the cell: the one store of a cancellation.
    #[inline(always)]
    pub fn empty(&self) {
        self.0[1].store(0, Ordering::Release);
    }

    /// Copies what the cell holds; `None` where it is empty, or changed during every one of a few looks: what comes and goes that fast was
    /// given back.
    pub fn look(&self) -> Option<Young> {
        for _ in 0..8 {
            let tag = self.0[1].load(Ordering::Acquire);
            if tag >> ADDRESS_BITS != u64::from(KIND_ALLOC) {
                // Empty; or no producer of this version wrote that.
                return None;
            }
            let words = || [0, 2, 3].map(|word| self.0[word].load(Ordering::Relaxed));
            let seen = words();
            // Pairs with the fence in `fill`: had a word above been of a later filling, the tag read now would be 0 or later too.
            fence(Ordering::Acquire);
            // A later filling with the same address has the same tag. All words once more, behind the tag (acquire): those of two fillings
            // differ in the stamp, and words of which some are of the one and some of the other are not read twice alike.
            if self.0[1].load(Ordering::Acquire) == tag && words() == seen {
                let [stamp, size, last] = seen;
                let address = tag & ((1 << ADDRESS_BITS) - 1);
                return Some(Young { stamp, address, size, stack: last as u32, mark: (last >> 32) as u32 });
            }
        }
        None
    }
}

/// How many objects of one pair of stacks were cancelled. 16 bytes.
///
/// | word | bits | content |
/// |---|---|---|
/// | 0 | 32 | stack of the allocation; 0: the cell is free |
/// | 0 | 32 (top) | stack of the free; [`BY_REALLOC`]: moved by realloc, no death |
/// | 1 | 40 | cancelled so far |
/// | 1 | 24 (top) | went through the ring so far (the producer's own) |
#[repr(C, align(16))]
pub struct DeathCell(pub [AtomicU64; 2]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<DeathCell>() == 16);

/// In place of the free's stack: a realloc ended the block.
pub const BY_REALLOC: u32 = u32::MAX;

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// So many deaths of each pair go through the ring first.
const FIRST: u64 = 32;
/// Then every so many.
const EVERY: u64 = 64;

impl DeathCell {
    /// The pair of stacks, 0 where the cell is free. For the producer.
    #[inline(always)]
    pub fn pair(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// One more death of the cell's pair; true where it is to be cancelled, false where it is to go through the ring.
    #[inline(always)]
    pub fn count(&self) -> bool {
        let word = self.0[1].load(Ordering::Relaxed);
        let (cancelled, flowed) = (word & COUNT_MASK, word >> COUNT_BITS);
        let cancel = flowed >= FIRST && !(cancelled + flowed).is_multiple_of(EVERY);
        // Both halves wrap for themselves; the reader takes differences.
        let next = if cancel {
            flowed << COUNT_BITS | (cancelled + 1) & COUNT_MASK
        } else {
            (flowed + 1) << COUNT_BITS | cancelled
        };
        self.0[1].store(next, Ordering::Relaxed);
        cancel
    }

    /// Takes a free cell for `pair`.
    #[inline(always)]
    pub fn take(&self, pair: u64) {
        // Release pairs with the reader's acquire in `read`.
        self.0[0].store(pair, Ordering::Release);
    }

    /// Stack of the allocation, stack of the free, cancelled so far; `None` for a free cell.
    pub fn read(&self) -> Option<(u32, u32, u64)> {
        let pair = self.0[0].load(Ordering::Acquire);
        (pair as u32 != 0).then(|| (pair as u32, (pair >> 32) as u32, self.0[1].load(Ordering::Relaxed) & COUNT_MASK))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn cell() -> EventCell {
        EventCell([const { AtomicU64::new(0) }; 4])
    }

    const YOUNG: Young = Young { stamp: 9, address: 0x7fff_1234_5670, size: 24, stack: 77, mark: OBJECT | 5 };

    #[test]
    fn a_cell_is_filled_looked_at_and_emptied() {
        let cell = cell();
        assert_eq!((cell.tag(), cell.look()), (0, None));
        cell.fill(YOUNG);
        assert_eq!((cell.tag(), cell.stamp()), (tag_of(YOUNG.address), 9));
        assert_eq!((cell.held(), cell.look()), (YOUNG, Some(YOUNG)));
        cell.mark_moving();
        assert_eq!(cell.look(), Some(Young { mark: YOUNG.mark | MOVING, ..YOUNG }));
        cell.empty();
        assert_eq!(cell.look(), None);
    }

    #[test]
    fn nonsense_in_a_cell_is_no_allocation() {
        let cell = cell();
        cell.0[1].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(cell.look(), None);
    }

    #[test]
    fn the_first_deaths_and_every_64th_flow_and_the_rest_is_counted() {
        let cell = DeathCell([const { AtomicU64::new(0) }; 2]);
        assert_eq!(cell.read(), None);
        cell.take(3 | 4 << 32);
        let flowed = (0..10_000).filter(|_| !cell.count()).count() as u64;
        assert_eq!(cell.read(), Some((3, 4, 10_000 - flowed)));
        assert!((FIRST + (10_000 - FIRST) / EVERY).abs_diff(flowed) <= 1, "{flowed}");
    }
}
