//! Young allocations: kept by their thread until they are old, and cancelled where the same thread gives them back first.
//!
//! Most allocations die within a few hundred events. A thread therefore puts an allocation into its *young* table, found by
//! address, and publishes it in its ring only when something else needs the place. A free by the same thread in the meantime empties
//! the place: one store, and neither event ever leaves the core. A free by another thread that knows in whose table the block is
//! *claims* it there, by one exchange, and then does the same.
//!
//! Contract:
//! * Cells are filled by the ring's owner only. A cell is *empty* while word 1 is 0. A filled cell is a published fact: a reader
//!   that looks ([`crate::ring::Consumer::young`]) may take it for an allocation that is still alive, and must not remember it.
//! * Who drives an allocation out, or frees what is in another's table, first claims the cell ([`EventCell::claim`]): word 1 goes from the
//!   block's tag to the same tag with [`CLAIMED`]. Of two who try, one has it; from then on the cell is that one's until it is emptied.
//!   The owner who frees its own block needs no claim: nobody else may free that block, and who drives it out is the owner itself.
//! * A block may be claimed for a free only where nobody gave its address back since the cell was filled, which the producers' mark
//!   tells: the cell of a block whose free went another way is stale, and a later block of that address is not in it.
//! * An allocation that is not cancelled is pushed into the ring of whoever claimed it first and leaves its cell afterwards: a reader that
//!   looks at all cells first and at all rings afterwards sees it at least once. Seeing it twice does no harm: it is the same event.
//!   A claimed cell is seen as [`MOVING`].
//! * What a cancelled object leaves behind is a count for its pair of stacks ([`DeathCell`]), exact; of each pair the first 32 and
//!   then every 64th death go through the ring, so that lifetimes are known.

use crate::event::{ADDRESS_BITS, Event, EventCell, KIND_ALLOC};
use crate::sync::{AtomicU64, Ordering, fence};

/// Cells of one set: an address has its place in one of these.
pub const WAYS: u32 = 4;

/// [`Young::mark`]: FFmpeg's code made it, so that it may be an object whose death is counted by its pair of stacks.
pub const OBJECT: u32 = 1 << 30;
/// [`Young::mark`], to a reader: it is in a ring already, or about to be, or about to be cancelled.
pub const MOVING: u32 = 1 << 31;
/// Word 1 of a cell that somebody claimed: the top bit of the kind.
pub const CLAIMED: u64 = 1 << 63;

/// What a cell holds.
///
/// | word | bits | content |
/// |---|---|---|
/// | 0 | 64 | stamp |
/// | 1 | 64 | address and kind as in an event, [`CLAIMED`]; 0: empty |
/// | 2 | 64 | size in bytes |
/// | 3 | 32 | stack node |
/// | 3 | 32 (top) | the producers' own mark: [`OBJECT`], 30 bits of their own |
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
    /// Word 1: [`tag_of`] the address, perhaps [`CLAIMED`]; 0 where the cell is empty. For producers.
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

    /// Takes the cell that holds `tag` for the caller alone; false where it does not hold that any more, or is somebody's already.
    #[inline(always)]
    pub fn claim(&self, tag: u64) -> bool {
        // Acquire pairs with the release in `fill`: what is read of the cell now is of this filling, and stays.
        self.0[1].compare_exchange(tag, tag | CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// As [`Self::claim`], of a cell that nobody else may claim: the block is being freed by the caller, or was.
    #[inline(always)]
    pub fn take(&self) {
        // Release, as in `empty`: what the reader sees of the ring is at least as new.
        self.0[1].store(self.tag() | CLAIMED, Ordering::Release);
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
            if (tag & !CLAIMED) >> ADDRESS_BITS != u64::from(KIND_ALLOC) {
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
                let moving = if tag & CLAIMED != 0 { MOVING } else { 0 };
                return Some(Young { stamp, address, size, stack: last as u32, mark: (last >> 32) as u32 | moving });
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
        cell.take();
        assert_eq!(cell.look(), Some(Young { mark: YOUNG.mark | MOVING, ..YOUNG }));
        assert_eq!(cell.held(), YOUNG);
        cell.empty();
        assert_eq!(cell.look(), None);
    }

    #[test]
    fn a_cell_is_claimed_once() {
        let cell = cell();
        let tag = tag_of(YOUNG.address);
        assert!(!cell.claim(tag), "it is empty");
        cell.fill(YOUNG);
        assert!(!cell.claim(tag_of(YOUNG.address + 16)), "it holds another");
        assert!(cell.claim(tag) && !cell.claim(tag));
        assert_eq!((cell.held(), cell.look().map(|young| young.mark & MOVING)), (YOUNG, Some(MOVING)));
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
