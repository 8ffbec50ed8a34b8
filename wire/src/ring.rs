//! The ring: one thread writes, one reader drains.
//!
//! Contract:
//! * An event is visible to the reader once `head` (release) has passed it; the reader's acquire of `head` pairs with it.
//! * A slot is reused once `tail` (release by the reader) has passed it; the producer's acquire of `tail` pairs with it.
//! * `busy` is 1 from before an event's stamp is taken until it is published: while the reader sees 0 and has consumed all
//!   up to `head`, no event with an older stamp can still come (store buffers are bounded by the reader's margin).
//! * A ring changes hands between threads only under a lock of the producer's process; the reader does not notice.

use core::sync::atomic::{Ordering, fence};

use crate::event::{Event, EventCell};
use crate::layout::{PAGE, RING_EVENTS, RingHeader};

/// A producer's view of its ring.
#[derive(Clone, Copy)]
pub struct Producer {
    base: *mut u8,
}

/// The ring was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[allow(unsafe_code, reason = "the ring is the one place where the wire touches raw shared memory")]
impl Producer {
    /// A view of the ring that starts at `base`.
    ///
    /// # Safety
    /// `base` points to [`crate::layout::RING_STRIDE`] mapped, writable, page-aligned bytes that stay mapped while the view is used, and
    /// at most one thread pushes at a time.
    pub const unsafe fn new(base: *mut u8) -> Self {
        Self { base }
    }

    /// The ring's header.
    #[inline(always)]
    pub fn header(&self) -> &RingHeader {
        // SAFETY: `new` promises mapped bytes; the header consists of atomics only, so the peer's writes are no data race.
        unsafe { &*self.base.cast::<RingHeader>() }
    }

    #[inline(always)]
    fn cell(&self, index: u64) -> &EventCell {
        let offset = PAGE + (index & (RING_EVENTS - 1)) * size_of::<EventCell>() as u64;
        // SAFETY: the masked index stays inside the stride that `new` promises; cells are atomics only.
        unsafe { &*self.base.add(offset as usize).cast::<EventCell>() }
    }

    /// Says that a stamp is about to be taken.
    #[inline(always)]
    pub fn begin(&self) {
        self.header().busy.store(1, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Says that what `begin` announced is published or given up. Pairs with the reader's acquire of `busy`.
    #[inline(always)]
    pub fn end(&self) {
        self.header().busy.store(0, Ordering::Release);
    }

    /// Writes and publishes an event; returns how many events are now in the ring.
    /// `known_tail` caches the reader's position, so that the shared word is read only when the ring seems full.
    ///
    /// # Errors
    /// [`Full`] where no slot is free; nothing was written.
    #[inline(always)]
    pub fn push(&self, event: Event, known_tail: &mut u64) -> Result<u64, Full> {
        let head = self.header().head.load(Ordering::Relaxed);
        if head.wrapping_sub(*known_tail) >= RING_EVENTS {
            // Pairs with the reader's release of `tail`: its copies of these slots are done.
            *known_tail = self.header().tail.load(Ordering::Acquire);
            if head.wrapping_sub(*known_tail) >= RING_EVENTS {
                return Err(Full);
            }
        }
        self.cell(head).store(event, head);
        // Pairs with the reader's acquire of `head`.
        self.header().head.store(head.wrapping_add(1), Ordering::Release);
        Ok(head.wrapping_add(1).wrapping_sub(*known_tail))
    }
}

/// A reader's view of a ring. Treats every word as hostile.
pub struct Consumer {
    base: *const u8,
    tail: u64,
    corrupt: bool,
}

// SAFETY: the view is a pointer to shared atomics; one thread at a time uses it (`&mut self` on every call that moves it).
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Consumer {}

/// What one drain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Events handed over.
    pub events: u64,
    /// The producer was between two events: every older stamp has been seen.
    pub idle: bool,
}

#[allow(unsafe_code, reason = "the ring is the one place where the wire touches raw shared memory")]
impl Consumer {
    /// A view of the ring that starts at `base`, from its present tail on.
    ///
    /// # Safety
    /// `base` points to [`crate::layout::RING_STRIDE`] mapped, page-aligned bytes that stay mapped while the view is used.
    pub unsafe fn new(base: *const u8) -> Self {
        let mut consumer = Self { base, tail: 0, corrupt: false };
        consumer.tail = consumer.header().tail.load(Ordering::Acquire);
        consumer
    }

    /// The ring's header.
    pub fn header(&self) -> &RingHeader {
        // SAFETY: `new` promises mapped bytes; atomics only.
        unsafe { &*self.base.cast::<RingHeader>() }
    }

    /// True once a ring held something that no producer of this version writes; it is not read again.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// Hands every published event to `take`, then frees the slots.
    /// Events lag behind in the shared tail until all of them were taken: a reader that dies in between reads them again.
    pub fn drain(&mut self, mut take: impl FnMut(Event)) -> Drained {
        if self.corrupt {
            return Drained { events: 0, idle: true };
        }
        // Order: busy before head. Where busy was 0, all that was stamped before is published, hence below the head read next.
        let idle = self.header().busy.load(Ordering::Acquire) == 0;
        let head = self.header().head.load(Ordering::Acquire);
        let count = head.wrapping_sub(self.tail);
        if count > RING_EVENTS {
            self.corrupt = true;
            return Drained { events: 0, idle: true };
        }
        for taken in 0..count {
            let index = self.tail.wrapping_add(taken);
            let offset = PAGE + (index & (RING_EVENTS - 1)) * size_of::<EventCell>() as u64;
            // SAFETY: the masked index stays inside the stride that `new` promises; cells are atomics only.
            let cell = unsafe { &*self.base.add(offset as usize).cast::<EventCell>() };
            match cell.load(index) {
                Some(event) => take(event),
                None => {
                    self.corrupt = true;
                    return Drained { events: taken, idle: true };
                }
            }
        }
        self.tail = head;
        // Pairs with the producer's acquire of `tail`.
        self.header().tail.store(head, Ordering::Release);
        Drained { events: count, idle }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::event::{KIND_ALLOC, KIND_FREE};
    use crate::layout::RING_STRIDE;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::vec::Vec;

    struct Memory(*mut u8);
    #[allow(unsafe_code, reason = "test memory in place of a mapping")]
    impl Memory {
        fn layout() -> Layout {
            Layout::from_size_align(RING_STRIDE as usize, PAGE as usize).unwrap()
        }
        fn new() -> Self {
            // SAFETY: the layout has a size.
            Self(unsafe { alloc_zeroed(Self::layout()) })
        }
        fn both(&self) -> (Producer, Consumer) {
            // SAFETY: RING_STRIDE aligned bytes that outlive both views in these tests; one pushing thread.
            unsafe { (Producer::new(self.0), Consumer::new(self.0)) }
        }
    }
    #[allow(unsafe_code, reason = "test memory in place of a mapping")]
    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: allocated by `new` with this layout.
            unsafe { dealloc(self.0, Self::layout()) }
        }
    }

    fn event(stamp: u64) -> Event {
        Event {
            stamp,
            address: stamp * 16,
            kind: if stamp.is_multiple_of(2) { KIND_ALLOC } else { KIND_FREE },
            size: 8,
            stack: 3,
        }
    }

    #[test]
    fn events_arrive_in_order_over_many_laps_and_a_full_ring_refuses() {
        let memory = Memory::new();
        let (producer, mut consumer) = memory.both();
        let (mut known, mut next, mut seen) = (0, 0u64, 0u64);
        for _ in 0..5 {
            while producer.push(event(next), &mut known).is_ok() {
                next += 1;
            }
            let drained = consumer.drain(|e| {
                assert_eq!(e, event(seen));
                seen += 1;
            });
            assert_eq!(drained, Drained { events: RING_EVENTS, idle: true });
        }
        assert_eq!(seen, 5 * RING_EVENTS);
    }

    #[test]
    fn a_busy_producer_is_seen() {
        let memory = Memory::new();
        let (producer, mut consumer) = memory.both();
        producer.begin();
        assert!(!consumer.drain(|_| ()).idle);
        producer.end();
        assert!(consumer.drain(|_| ()).idle);
    }

    #[test]
    fn a_scribbled_head_or_cell_abandons_the_ring_for_good() {
        let memory = Memory::new();
        let (producer, mut consumer) = memory.both();
        producer.push(event(0), &mut 0).unwrap();
        producer.header().head.store(u64::MAX / 2, Ordering::Relaxed);
        assert_eq!(consumer.drain(|_| panic!("nothing may be taken")).events, 0);
        assert!(consumer.is_corrupt());

        let memory = Memory::new();
        let (producer, mut consumer) = memory.both();
        producer.push(event(0), &mut 0).unwrap();
        producer.header().head.store(3, Ordering::Relaxed);
        let mut taken = Vec::new();
        consumer.drain(|e| taken.push(e));
        assert_eq!(taken, [event(0)]);
        assert!(consumer.is_corrupt());
    }

    #[test]
    fn a_reader_and_a_writer_at_full_speed_agree() {
        let memory = Memory::new();
        let (producer, mut consumer) = memory.both();
        let base = producer.base as usize;
        const COUNT: u64 = 300_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                #[allow(unsafe_code, reason = "the other end of the test's ring")]
                // SAFETY: as in `both`; this is the only thread that pushes.
                let producer = unsafe { Producer::new(base as *mut u8) };
                let mut known = 0;
                for stamp in 0..COUNT {
                    while producer.push(event(stamp), &mut known).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            let mut next = 0;
            while next < COUNT {
                consumer.drain(|e| {
                    assert_eq!(e, event(next));
                    next += 1;
                });
            }
        });
        assert!(!consumer.is_corrupt());
    }
}
