//! The event: what happened to which address, when, on which stack. 32 bytes.

use crate::sync::{AtomicU64, Ordering};

/// One slot of a ring.
///
/// | word | bits | content |
/// |---|---|---|
/// | 0 | 64 | stamp ([`crate::layout::Header::clock`]) |
/// | 1 | 56 | address |
/// | 1 | 8 (top) | kind, `KIND_*` |
/// | 2 | 64 | size in bytes (alloc); `FREE_*` (free) |
/// | 3 | 32 | stack node id, 0: none |
/// | 3 | 32 (top) | sequence: low 32 bits of the event's index + 1 |
#[repr(C, align(32))]
pub struct EventCell(pub [AtomicU64; 4]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<EventCell>() == 32);

/// A block was returned by the allocator: address, size, stack.
pub const KIND_ALLOC: u8 = 1;
/// A block is about to be given back: address, and the stack where FFmpeg or its direct user frees.
pub const KIND_FREE: u8 = 2;
/// [`Event::size`] of a free: the block is a mapping of its own and goes back to the kernel (glibc's IS_MMAPPED).
pub const FREE_UNMAPS: u64 = 1;
/// As [`KIND_FREE`], by a realloc that succeeded: not a place where the object dies.
pub const KIND_FREE_BY_REALLOC: u8 = 3;
/// av_frame_alloc or av_frame_clone returned `address` to a caller whose call slot is patched.
pub const KIND_API_FRAME_ALLOC: u8 = 16;
/// av_frame_free is about to free `address`.
pub const KIND_API_FRAME_FREE: u8 = 17;
/// av_packet_alloc returned `address`.
pub const KIND_API_PACKET_ALLOC: u8 = 19;
/// av_packet_free is about to free `address`.
pub const KIND_API_PACKET_FREE: u8 = 20;

/// The address of word 1; above it the kind.
pub const ADDRESS_BITS: u32 = 56;

/// A decoded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When; see [`crate::layout::Header::clock`].
    pub stamp: u64,
    /// Of the block, below 2^56.
    pub address: u64,
    /// `KIND_*`; the reader treats an unknown one as corruption.
    pub kind: u8,
    /// Bytes; of a free `FREE_*`.
    pub size: u64,
    /// Stack node id; 0: none.
    pub stack: u32,
}

impl EventCell {
    /// Writes `event` as number `index` of its ring. The ring publishes it afterwards.
    #[inline(always)]
    pub fn store(&self, event: Event, index: u64) {
        self.0[0].store(event.stamp, Ordering::Relaxed);
        self.0[1].store(
            (event.address & ((1 << ADDRESS_BITS) - 1)) | (u64::from(event.kind) << ADDRESS_BITS),
            Ordering::Relaxed,
        );
        self.0[2].store(event.size, Ordering::Relaxed);
        self.0[3].store(u64::from(event.stack) | ((index.wrapping_add(1) & 0xffff_ffff) << 32), Ordering::Relaxed);
    }

    /// Copies the slot and decodes it; `None` where it is not event number `index`, or of no known kind.
    #[inline(always)]
    pub fn load(&self, index: u64) -> Option<Event> {
        let last = self.0[3].load(Ordering::Relaxed);
        let word = self.0[1].load(Ordering::Relaxed);
        let event = Event {
            stamp: self.0[0].load(Ordering::Relaxed),
            address: word & ((1 << ADDRESS_BITS) - 1),
            kind: (word >> ADDRESS_BITS) as u8,
            size: self.0[2].load(Ordering::Relaxed),
            stack: last as u32,
        };
        let known = matches!(
            event.kind,
            KIND_ALLOC
                ..=KIND_FREE_BY_REALLOC | KIND_API_FRAME_ALLOC
                ..=KIND_API_FRAME_FREE | KIND_API_PACKET_ALLOC
                ..=KIND_API_PACKET_FREE
        );
        (known && (last >> 32) as u32 == index.wrapping_add(1) as u32).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_slot_and_only_under_its_own_index() {
        let cell = EventCell([const { AtomicU64::new(0) }; 4]);
        let event = Event { stamp: u64::MAX - 3, address: 0x7fff_1234_5678, kind: KIND_FREE, size: 1 << 40, stack: 77 };
        cell.store(event, 5);
        assert_eq!(cell.load(5), Some(event));
        assert_eq!(cell.load(4), None);
        assert_eq!(cell.load(5 + crate::layout::RING_EVENTS), None);
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let cell = EventCell([const { AtomicU64::new(0) }; 4]);
        cell.store(Event { stamp: 1, address: 2, kind: 9, size: 3, stack: 4 }, 0);
        assert_eq!(cell.load(0), None);
    }
}
