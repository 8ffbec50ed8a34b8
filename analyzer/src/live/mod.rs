//! The live set: from events, in any order between threads, to what is alive now and what became of the rest.
//!
//! Rings are drained one after another, so events arrive in order of time within a thread only. They wait until every ring has passed
//! them ([`LiveSet::passed`]); then nothing older can come, and they are applied in order of their stamps, each once. So each free meets
//! its allocation, whatever thread it came from, and leaves nothing behind.
//!
//! A ring that stands still (its thread was stopped between a stamp and its event) must not make the others wait without bound. From
//! [`MOST_WAITING`] events on the older half is applied *early*: per address the latest stamp wins, a free stays as a tombstone until
//! every ring has passed it, and lives that overtook each other are paired by [`history`].
//!
//! What is alive and what was counted is true up to the last event after [`LiveSet::settle`], which [`LiveSet::blocks`] calls.

mod history;
mod sites;
mod table;

use std::collections::VecDeque;

use crate::kind::ObjectKind;
use crate::reach::ReturnedMap;
use avleak_wire::event::{
    Event, FREE_UNMAPS, KIND_ALLOC, KIND_API_FRAME_ALLOC, KIND_API_FRAME_FREE, KIND_API_FRAME_MOVE,
    KIND_API_PACKET_ALLOC, KIND_API_PACKET_FREE, KIND_FREE, KIND_FREE_BY_REALLOC,
};
use history::History;
pub use sites::{FreeSites, Site};
use table::{Entry, State, Table};

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    /// First address.
    pub address: u64,
    /// Bytes asked for.
    pub size: u64,
    /// When it was returned.
    pub stamp: u64,
    /// Allocation stack.
    pub stack: u32,
    /// By stack and size.
    pub kind: ObjectKind,
    /// Known from the second witness only: malloc was out of reach, the size is a guess.
    pub by_call_only: bool,
}

/// An event that waits until every ring has passed it.
#[derive(Clone, Copy)]
struct Waiting {
    stamp: u64,
    address: u64,
    size: u64,
    stack: u32,
    /// `KIND_*`.
    what: u8,
    /// Of an allocation.
    kind: ObjectKind,
}

const _: () = assert!(size_of::<Waiting>() == 32, "half a million of them may wait");

/// Events that may wait, 16 MiB of them.
pub const MOST_WAITING: usize = 1 << 19;
/// Fewer are not worth a sort.
const LEAST_WAITING: usize = 2048;
/// Events whose places in the table are read at once, before they are applied.
const TOUCHED: usize = 16;
/// Events of one stamp among which a second one of the same kind is looked for.
const SAME_STAMP: usize = 16;
/// Tombstones that are queued beyond two for each entry before those that were overtaken are thrown out.
const SPARE_TOMBSTONES: usize = 1 << 16;

/// Totals since arming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks returned.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
    /// AVFrames made.
    pub frames_allocated: u64,
    /// AVFrames given back.
    pub frames_freed: u64,
    /// AVPackets made.
    pub packets_allocated: u64,
    /// AVPackets given back.
    pub packets_freed: u64,
    /// Most blocks alive at once.
    pub peak_blocks: u64,
    /// Events applied, each once.
    pub events: u64,
    /// Allocations that the target itself matched with their frees ([`LiveSet::died_young`]); in `allocations` and `frees` too.
    pub died_young: u64,
    /// Events that came twice: they were left out.
    pub repeated: u64,
    /// Events that came after every ring was said to have passed them. Only frees of what is alive were applied.
    pub late: u64,
    /// AVFrames that av_frame_alloc returned and no allocation was seen for.
    pub frames_by_call_only: u64,
    /// AVPackets likewise.
    pub packets_by_call_only: u64,
    /// Objects that av_frame_alloc or av_packet_alloc returned where the malloc view has a block of another kind.
    pub called_but_typed_otherwise: u64,
    /// av_frame_move_ref calls seen.
    pub frame_moves: u64,
}

/// Bytes that a frame or packet is taken to have where malloc was out of reach: AVFrame's oldest layout at hand (avutil 56)
/// has 536, AVPacket's 88; pointers lie below that.
const GUESSED_BYTES: u64 = 416;

/// See the module.
pub struct LiveSet {
    table: Table,
    waiting: Vec<Waiting>,
    /// The latest stamp that waits or has waited.
    newest: u64,
    /// How many have to wait before it is looked again which are ready.
    look_at: usize,
    /// Every ring has passed this stamp.
    passed: u64,
    /// Every event before this stamp is applied.
    settled: u64,
    tombstones: VecDeque<(u64, u64)>,
    history: History,
    live: u64,
    /// Which granules the allocator has returned since arming.
    pub returned: ReturnedMap,
    /// Where objects die.
    pub sites: FreeSites,
    /// Totals.
    pub counts: Counts,
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new()
    }
}

/// How an event is applied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All before it have been.
    InOrder,
    /// Older ones may still come.
    Early,
}

impl LiveSet {
    /// Empty.
    pub fn new() -> Self {
        Self {
            table: Table::default(),
            waiting: Vec::new(),
            newest: 0,
            look_at: LEAST_WAITING,
            passed: 0,
            settled: 0,
            tombstones: VecDeque::new(),
            history: History::default(),
            live: 0,
            returned: ReturnedMap::default(),
            sites: FreeSites::default(),
            counts: Counts::default(),
        }
    }

    /// Takes one event. `kind_of` types a block by its allocation stack and size.
    #[inline]
    pub fn apply(&mut self, event: Event, kind_of: impl FnOnce(u32, u64) -> ObjectKind) {
        let kind = if event.kind == KIND_ALLOC { kind_of(event.stack, event.size) } else { ObjectKind::Plain };
        let Event { stamp, address, size, stack, kind: what } = event;
        self.newest = self.newest.max(stamp);
        self.waiting.push(Waiting { stamp, address, size, stack, what, kind });
        if self.waiting.len() >= MOST_WAITING {
            self.settle_early(MOST_WAITING / 2);
        }
    }

    /// The target matched `pairs` allocations of `alloc_stack` with their frees on `free_stack` itself, and sends no events of them.
    ///
    /// They add to the totals and to the counts of [`FreeSites`], without lifetimes. Their memory is not known as returned: where it
    /// was handed out to nobody else, it is searched for pointers unless [`ReturnedMap::mark`] is told of it.
    pub fn died_young(&mut self, alloc_stack: u32, free_stack: u32, pairs: u64, kind: ObjectKind) {
        let counts = &mut self.counts;
        for count in [&mut counts.allocations, &mut counts.frees, &mut counts.died_young] {
            *count = count.saturating_add(pairs);
        }
        match kind {
            ObjectKind::Frame => {
                counts.frames_allocated = counts.frames_allocated.saturating_add(pairs);
                counts.frames_freed = counts.frames_freed.saturating_add(pairs);
            }
            ObjectKind::Packet => {
                counts.packets_allocated = counts.packets_allocated.saturating_add(pairs);
                counts.packets_freed = counts.packets_freed.saturating_add(pairs);
            }
            _ => (),
        }
        if kind.is_object() {
            self.sites.died_young(alloc_stack, free_stack, pairs);
        }
    }

    /// Every ring has passed `stamp`: no older event can come.
    pub fn passed(&mut self, stamp: u64) {
        self.passed = self.passed.max(stamp);
        if self.waiting.len() < self.look_at && self.newest >= self.passed {
            return;
        }
        self.sort();
        let ready = self.waiting.partition_point(|event| event.stamp < self.passed);
        self.apply_first(ready, Order::InOrder);
        self.settled = self.settled.max(self.passed);
        self.forget_passed();
        self.look_at = LEAST_WAITING.max(self.waiting.len() * 2);
    }

    /// Applies all that waits, whether older events may come or not.
    pub fn settle(&mut self) {
        self.passed(self.passed);
        self.settle_early(usize::MAX);
    }

    fn settle_early(&mut self, most: usize) {
        self.sort();
        let ready = self.waiting.partition_point(|event| event.stamp < self.passed);
        self.apply_first(ready, Order::InOrder);
        self.settled = self.settled.max(self.passed);
        let early = most.min(self.waiting.len());
        self.apply_first(early, Order::Early);
        self.forget_passed();
        self.look_at = LEAST_WAITING.max(self.waiting.len() * 2);
    }

    /// Each ring's part is in order already, and so is what waited before: runs are merged, not sorted. The sort is stable: two events
    /// of one ring and one stamp (a coarse clock) stay in their order.
    fn sort(&mut self) {
        self.waiting.sort_by_key(|event| event.stamp);
    }

    fn apply_first(&mut self, count: usize, order: Order) {
        if count == 0 {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        for start in (0..count).step_by(TOUCHED) {
            let end = count.min(start + TOUCHED);
            let touched = waiting[start..end].iter().fold(0, |sum, event| sum ^ self.table.touch(event.address));
            std::hint::black_box(touched);
            for at in start..end {
                let event = waiting[at];
                let same_stamp = waiting[..at].iter().rev().take(SAME_STAMP).take_while(|old| old.stamp == event.stamp);
                if same_stamp.into_iter().any(|old| (old.address, old.what) == (event.address, event.what)) {
                    self.counts.repeated += 1;
                } else {
                    self.apply_one(&event, order);
                }
            }
        }
        waiting.drain(..count);
        self.waiting = waiting;
    }

    #[inline]
    fn apply_one(&mut self, event: &Waiting, order: Order) {
        if event.stamp < self.settled {
            return self.apply_late(event);
        }
        self.counts.events += 1;
        match event.what {
            KIND_ALLOC => self.allocated(event, event.kind, State::Live),
            KIND_FREE | KIND_FREE_BY_REALLOC => self.freed(event, order),
            KIND_API_FRAME_ALLOC => self.returned_by_call(event, ObjectKind::Frame),
            KIND_API_PACKET_ALLOC => self.returned_by_call(event, ObjectKind::Packet),
            KIND_API_FRAME_FREE | KIND_API_PACKET_FREE => self.freed_by_call(event, order),
            KIND_API_FRAME_MOVE => self.counts.frame_moves += 1,
            _ => (),
        }
    }

    /// Either it comes a second time, or a ring was said to have passed it and had not. A free of what is alive cannot be a second one;
    /// of anything else nobody knows, and a block that was freed long ago must not come back.
    #[cold]
    fn apply_late(&mut self, event: &Waiting) {
        let old = self.table.get_mut(event.address).map(|old| *old);
        let alive = old.filter(|old| old.state != State::Freed);
        match event.what {
            KIND_FREE | KIND_FREE_BY_REALLOC if alive.is_some_and(|old| old.stamp < event.stamp) => {
                self.counts.late += 1;
                self.counts.events += 1;
                self.freed(event, Order::InOrder);
            }
            KIND_ALLOC if alive.is_some_and(|old| old.stamp == event.stamp) => self.counts.repeated += 1,
            _ => self.counts.late += 1,
        }
    }

    fn count_made(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Frame => self.counts.frames_allocated += 1,
            ObjectKind::Packet => self.counts.packets_allocated += 1,
            _ => (),
        }
    }

    fn count_gone(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Frame => self.counts.frames_freed += 1,
            ObjectKind::Packet => self.counts.packets_freed += 1,
            _ => (),
        }
    }

    fn allocated(&mut self, event: &Waiting, kind: ObjectKind, state: State) {
        let Waiting { stamp, address, size, stack, .. } = *event;
        let new = Entry { address, stamp, size, stack, kind, state };
        let old = self.table.get_mut(address);
        if old.as_ref().is_some_and(|old| old.stamp == stamp && old.state != State::Freed) {
            self.counts.repeated += 1;
            self.counts.events -= 1;
            return;
        }
        self.counts.allocations += 1;
        if kind.is_object() {
            self.sites.made(stack);
        }
        self.returned.mark(address, size);
        match old {
            None => {
                self.table.insert(new);
                self.live += 1;
            }
            Some(old) if old.stamp > stamp => {
                // It is gone again: its free was drained first (a tombstone), or even the block after it.
                let old = *old;
                self.count_gone(kind);
                if kind.is_object() {
                    let tombstone = (old.state == State::Freed).then_some((old.stamp, old.stack));
                    if let Some((freed, free_stack)) =
                        self.history.free_of(address, (stamp, stack), old.stamp, tombstone)
                    {
                        self.sites.died(stack, free_stack, freed - stamp);
                    }
                }
                if old.state == State::Freed && old.size == FREE_UNMAPS {
                    self.returned.forget(address, size);
                }
            }
            Some(place) => {
                let old = std::mem::replace(place, new);
                if old.state == State::Freed {
                    self.live += 1;
                } else {
                    // The free between the two is still on its way, or was dropped.
                    self.count_gone(old.kind);
                    if old.kind.is_object() {
                        self.history.replaced(address, old.stamp, old.stack, stamp);
                    }
                }
            }
        }
        self.count_made(kind);
        self.counts.peak_blocks = self.counts.peak_blocks.max(self.live);
    }

    fn freed(&mut self, event: &Waiting, order: Order) {
        let Waiting { stamp, address, size, stack, .. } = *event;
        let by_realloc = event.what == KIND_FREE_BY_REALLOC;
        let tombstone = Entry { address, stamp, size, stack, kind: ObjectKind::Plain, state: State::Freed };
        let Some(place) = self.table.get_mut(address) else {
            self.counts.frees += 1;
            if order == Order::Early {
                self.table.insert(tombstone);
                self.tombstones.push_back((stamp, address));
            }
            return;
        };
        let old = *place;
        if old.state == State::Freed && old.stamp == stamp {
            self.counts.repeated += 1;
            self.counts.events -= 1;
            return;
        }
        self.counts.frees += 1;
        if old.stamp > stamp {
            // A later life of the address is known already: whose end is this?
            if let Some((made, made_on)) = self.history.allocation_of(address, stamp, stack)
                && !by_realloc
            {
                self.sites.died(made_on, stack, stamp - made);
            }
            return;
        }
        match order {
            Order::InOrder => self.table.remove(address),
            Order::Early => {
                *place = tombstone;
                self.tombstones.push_back((stamp, address));
            }
        }
        if old.state == State::Freed {
            if order == Order::Early {
                self.history.freed_before(address, old.stamp, old.stack);
            }
            return;
        }
        self.live -= 1;
        self.count_gone(old.kind);
        if old.kind.is_object() && !by_realloc {
            self.sites.died(old.stack, stack, stamp - old.stamp);
        }
        if size == FREE_UNMAPS {
            self.returned.forget(address, old.size);
        }
    }

    /// av_frame_alloc or its kin returned `event.address`: the malloc view should know it.
    fn returned_by_call(&mut self, event: &Waiting, kind: ObjectKind) {
        match self.table.get_mut(event.address) {
            // The address is somebody else's by now: that thread's events were drained first.
            Some(entry) if entry.stamp > event.stamp => (),
            Some(entry) if entry.state != State::Freed => {
                if entry.kind != kind {
                    self.counts.called_but_typed_otherwise += 1;
                }
            }
            _ => {
                match kind {
                    ObjectKind::Frame => self.counts.frames_by_call_only += 1,
                    _ => self.counts.packets_by_call_only += 1,
                }
                let event = Waiting { size: GUESSED_BYTES, ..*event };
                self.allocated(&event, kind, State::LiveByCallOnly);
            }
        }
    }

    fn freed_by_call(&mut self, event: &Waiting, order: Order) {
        if self.table.get_mut(event.address).is_some_and(|entry| entry.state == State::LiveByCallOnly) {
            self.freed(&Waiting { size: 0, what: KIND_FREE, ..*event }, order);
        }
    }

    /// Tombstones and overtaken lives up to `passed` have done their work.
    fn forget_passed(&mut self) {
        self.history.passed(self.passed);
        while let Some(&(at, address)) = self.tombstones.front() {
            if at >= self.passed {
                break;
            }
            self.tombstones.pop_front();
            if self.is_tombstone(at, address) {
                self.table.remove(address);
            }
        }
        if self.tombstones.len() > 2 * self.table.len() + SPARE_TOMBSTONES {
            let mut tombstones = std::mem::take(&mut self.tombstones);
            tombstones.retain(|&(at, address)| self.is_tombstone(at, address));
            self.tombstones = tombstones;
        }
    }

    fn is_tombstone(&mut self, at: u64, address: u64) -> bool {
        self.table.get_mut(address).is_some_and(|entry| entry.state == State::Freed && entry.stamp == at)
    }

    /// How many blocks are alive, as far as events have settled.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Nothing is alive, as far as events have settled.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes that this takes up, [`ReturnedMap`] and [`FreeSites`] apart.
    pub fn memory_bytes(&self) -> u64 {
        let waiting = self.waiting.capacity() * size_of::<Waiting>();
        let tombstones = self.tombstones.capacity() * size_of::<(u64, u64)>();
        self.table.memory_bytes() + (waiting + tombstones) as u64
    }

    /// What is alive, sorted by address; settles first.
    pub fn blocks(&mut self) -> Vec<LiveBlock> {
        self.settle();
        // References are sorted, with the address beside them: a third of what would be moved otherwise, and no cache misses.
        let alive = self.table.iter().filter(|entry| entry.state != State::Freed);
        let mut sorted: Vec<(u64, &Entry)> = Vec::with_capacity(self.live as usize);
        sorted.extend(alive.map(|entry| (entry.address, entry)));
        sort_in_halves(&mut sorted);
        sorted
            .into_iter()
            .map(|(address, entry)| LiveBlock {
                address,
                size: entry.size,
                stamp: entry.stamp,
                stack: entry.stack,
                kind: entry.kind,
                by_call_only: entry.state == State::LiveByCallOnly,
            })
            .collect()
    }
}

/// Sorts on two threads: a stopped process waits for it.
fn sort_in_halves(entries: &mut [(u64, &Entry)]) {
    /// Fewer are not worth a thread.
    const WORTH_A_THREAD: usize = 1 << 15;
    let key = |entry: &(u64, &Entry)| entry.0;
    if entries.len() < WORTH_A_THREAD {
        return entries.sort_unstable_by_key(key);
    }
    let middle = entries.len() / 2;
    entries.select_nth_unstable_by_key(middle, key);
    let (low, high) = entries.split_at_mut(middle);
    std::thread::scope(|scope| {
        scope.spawn(|| low.sort_unstable_by_key(key));
        high.sort_unstable_by_key(key);
    });
}

#[cfg(test)]
mod tests;
