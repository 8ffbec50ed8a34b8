//! The ring: one thread writes, one reader drains.
//!
//! Contract:
//! * An event is visible to the reader once `head` (release) has passed it; the reader's acquire of `head` pairs with it.
//! * A slot is reused once `tail` (release by the reader) has passed it; the producer's acquire of `tail` pairs with it.
//! * `busy` is odd from before an event's stamp is taken until the event can be seen, in the ring or among the young
//!   ([`crate::young`]): a reader that sees an even number, then looks at the young, then drains up to `head`, has seen every
//!   event whose stamp is older (store buffers are bounded by the reader's margin), but for those that were cancelled.
//! * Events of a ring are not in the order of their stamps: an allocation may come long after its time.
//! * A ring changes hands between threads only under a lock of the producer's process; the reader does not notice.

use crate::event::{Event, EventCell};
use crate::layout::{DEATH_SLOTS, DEATHS_IN_RING, EVENTS_IN_RING, RING_EVENTS, RingHeader, YOUNG_IN_RING, YOUNG_SLOTS};
use crate::sync::{Ordering, fence};
use crate::young::{DeathCell, WAYS, Young};

/// Where the words of a ring lie.
pub trait RingMemory {
    /// Events of the ring: a power of two.
    const EVENTS: u64;
    /// Young cells: a power of two.
    const YOUNG: u32;
    /// Young cells in which one address may lie: a power of two, at most [`Self::YOUNG`].
    const WAYS: u32;
    /// Pairs of stacks: a power of two.
    const DEATHS: u32;
    /// The header.
    fn header(&self) -> &RingHeader;
    /// The cell of event number `index`, taken modulo [`Self::EVENTS`].
    fn event(&self, index: u64) -> &EventCell;
    /// A young cell, taken modulo [`Self::YOUNG`].
    fn young(&self, index: u32) -> &EventCell;
    /// A cell of the death counts, taken modulo [`Self::DEATHS`].
    fn death(&self, index: u32) -> &DeathCell;
}

/// A ring in a mapped segment.
#[derive(Clone, Copy)]
pub struct Mapped {
    base: *mut u8,
}

// SAFETY: the view is a pointer to shared atomics.
#[allow(unsafe_code, reason = "the ring is the one place where the wire touches raw shared memory")]
unsafe impl Send for Mapped {}

#[allow(unsafe_code, reason = "the ring is the one place where the wire touches raw shared memory")]
impl Mapped {
    /// A view of the ring that starts at `base`.
    ///
    /// # Safety
    /// `base` points to [`crate::layout::RING_STRIDE`] mapped, page-aligned bytes that stay mapped while the view is used; writable for
    /// whoever writes through it.
    pub const unsafe fn new(base: *mut u8) -> Self {
        Self { base }
    }
}

#[allow(unsafe_code, reason = "the ring is the one place where the wire touches raw shared memory")]
impl RingMemory for Mapped {
    const EVENTS: u64 = RING_EVENTS;
    const YOUNG: u32 = YOUNG_SLOTS;
    const WAYS: u32 = WAYS;
    const DEATHS: u32 = DEATH_SLOTS;

    #[inline(always)]
    fn header(&self) -> &RingHeader {
        // SAFETY: `new` promises mapped bytes; the header consists of atomics only, so the peer's writes are no data race.
        unsafe { &*self.base.cast::<RingHeader>() }
    }

    #[inline(always)]
    fn event(&self, index: u64) -> &EventCell {
        let offset = EVENTS_IN_RING + (index & (RING_EVENTS - 1)) * size_of::<EventCell>() as u64;
        // SAFETY: the masked index stays inside the stride that `new` promises; cells are atomics only.
        unsafe { &*self.base.add(offset as usize).cast::<EventCell>() }
    }

    #[inline(always)]
    fn young(&self, index: u32) -> &EventCell {
        let offset = YOUNG_IN_RING as usize + (index & (YOUNG_SLOTS - 1)) as usize * size_of::<EventCell>();
        // SAFETY: as above.
        unsafe { &*self.base.add(offset).cast::<EventCell>() }
    }

    #[inline(always)]
    fn death(&self, index: u32) -> &DeathCell {
        let offset = DEATHS_IN_RING as usize + (index & (DEATH_SLOTS - 1)) as usize * size_of::<DeathCell>();
        // SAFETY: as above.
        unsafe { &*self.base.add(offset).cast::<DeathCell>() }
    }
}

/// A producer's view of its ring. At most one thread uses it at a time.
#[derive(Clone, Copy)]
pub struct Producer<M = Mapped> {
    memory: M,
}

/// The ring was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<M: RingMemory> Producer<M> {
    /// Over a ring's words.
    pub const fn over(memory: M) -> Self {
        Self { memory }
    }

    /// The ring's header.
    #[inline(always)]
    pub fn header(&self) -> &RingHeader {
        self.memory.header()
    }

    /// A young cell.
    #[inline(always)]
    pub fn young(&self, index: u32) -> &EventCell {
        self.memory.young(index)
    }

    /// Says that a stamp is about to be taken.
    #[inline(always)]
    pub fn begin(&self) {
        let busy = &self.header().busy;
        busy.store(busy.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Says that what `begin` announced can be seen or is given up. Pairs with the reader's acquire of `busy`.
    #[inline(always)]
    pub fn end(&self) {
        let busy = &self.header().busy;
        busy.store((busy.load(Ordering::Relaxed) | 1).wrapping_add(1), Ordering::Release);
    }

    /// Writes and publishes an event; returns how many events are now in the ring.
    /// `known_tail` caches the reader's position, so that the shared word is read only when the ring seems full.
    ///
    /// # Errors
    /// [`Full`] where no slot is free; nothing was written.
    #[inline(always)]
    pub fn push(&self, event: Event, known_tail: &mut u64) -> Result<u64, Full> {
        let head = self.header().head.load(Ordering::Relaxed);
        if head.wrapping_sub(*known_tail) >= M::EVENTS {
            // Pairs with the reader's release of `tail`: its copies of these slots are done.
            *known_tail = self.header().tail.load(Ordering::Acquire);
            if head.wrapping_sub(*known_tail) >= M::EVENTS {
                return Err(Full);
            }
        }
        self.memory.event(head).store(event, head);
        // Pairs with the reader's acquire of `head`.
        self.header().head.store(head.wrapping_add(1), Ordering::Release);
        Ok(head.wrapping_add(1).wrapping_sub(*known_tail))
    }

    /// How many events are in the ring, by the reader's present position.
    #[inline(always)]
    pub fn filled(&self, known_tail: &mut u64) -> u64 {
        *known_tail = self.header().tail.load(Ordering::Acquire);
        self.header().head.load(Ordering::Relaxed).wrapping_sub(*known_tail)
    }

    /// An object died young; true where its two events are cancelled, false where they are to be published: the pair's first deaths, then
    /// now and then one, and every death of a pair for which there is no room.
    #[inline(always)]
    pub fn cancels(&self, made: u32, freed: u32) -> bool {
        let pair = u64::from(made) | u64::from(freed) << 32;
        let start = (pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32;
        for step in 0..8.min(M::DEATHS) {
            let cell = self.memory.death(start.wrapping_add(step));
            match cell.pair() {
                0 => {
                    if made == 0 {
                        return false;
                    }
                    cell.take(pair);
                    return cell.count();
                }
                known if known == pair => return cell.count(),
                _ => (),
            }
        }
        false
    }

    /// Counts one more cancelled allocation.
    #[inline(always)]
    pub fn count_cancelled(&self) {
        let cancelled = &self.header().cancelled;
        cancelled.store(cancelled.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// A reader's view of a ring. Treats every word as hostile.
pub struct Consumer<M = Mapped> {
    memory: M,
    tail: u64,
    corrupt: bool,
}

/// What one drain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Events handed over.
    pub events: u64,
    /// The producer was between two events.
    pub idle: bool,
}

impl<M: RingMemory> Consumer<M> {
    /// Over a ring's words, from its present tail on.
    pub fn over(memory: M) -> Self {
        let tail = memory.header().tail.load(Ordering::Acquire);
        Self { memory, tail, corrupt: false }
    }

    /// The ring's header.
    pub fn header(&self) -> &RingHeader {
        self.memory.header()
    }

    /// True once a ring held something that no producer of this version writes; it is not read again.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// `busy`: where it is even, and was the same at an earlier look at the young, they have not changed but for cancellations.
    pub fn activity(&self) -> u32 {
        // Pairs with the producer's release in `end`.
        self.header().busy.load(Ordering::Acquire)
    }

    /// Something is published that was not drained.
    pub fn has_events(&self) -> bool {
        !self.corrupt && self.header().head.load(Ordering::Acquire) != self.tail
    }

    /// How many events are published and not drained; at most as many as a ring can hold.
    pub fn waiting(&self) -> u64 {
        if self.corrupt { 0 } else { self.header().head.load(Ordering::Acquire).wrapping_sub(self.tail).min(M::EVENTS) }
    }

    /// Hands over every young allocation, as far as it stands still. To be called before [`Self::drain`] where none may be missed.
    pub fn young(&self, mut take: impl FnMut(Young)) {
        if self.corrupt {
            return;
        }
        (0..M::YOUNG).filter_map(|index| self.memory.young(index).look()).for_each(&mut take);
    }

    /// Hands over every pair of stacks of cancelled objects: allocation, free, how many so far.
    pub fn deaths(&self, mut take: impl FnMut(u32, u32, u64)) {
        if self.corrupt {
            return;
        }
        for index in 0..M::DEATHS {
            if let Some((made, freed, count)) = self.memory.death(index).read() {
                take(made, freed, count);
            }
        }
    }

    /// Hands every published event to `take`, then frees the slots.
    /// Events lag behind in the shared tail until all of them were taken: a reader that dies in between reads them again.
    pub fn drain(&mut self, mut take: impl FnMut(Event)) -> Drained {
        if self.corrupt {
            return Drained { events: 0, idle: true };
        }
        // Order: busy before head. Where busy was even, all that was stamped before is published, hence below the head read next.
        let idle = self.activity().is_multiple_of(2);
        let head = self.header().head.load(Ordering::Acquire);
        let count = head.wrapping_sub(self.tail);
        if count > M::EVENTS {
            self.corrupt = true;
            return Drained { events: 0, idle: true };
        }
        for taken in 0..count {
            let index = self.tail.wrapping_add(taken);
            match self.memory.event(index).load(index) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use crate::event::{KIND_ALLOC, KIND_FREE};
    use crate::layout::{PAGE, RING_STRIDE};
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
            let memory = unsafe { Mapped::new(self.0) };
            (Producer::over(memory), Consumer::over(memory))
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
        let (_, mut consumer) = memory.both();
        let base = memory.0 as usize;
        const COUNT: u64 = 300_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                #[allow(unsafe_code, reason = "the other end of the test's ring")]
                // SAFETY: as in `both`; this is the only thread that pushes.
                let producer = Producer::over(unsafe { Mapped::new(base as *mut u8) });
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
