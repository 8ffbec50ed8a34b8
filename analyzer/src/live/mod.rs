//! The live set: from events, in any order between threads, to what is alive now and what became of the rest.
//!
//! Per address the latest stamp wins. A free leaves a tombstone until every ring has passed its stamp ([`LiveSet::passed`]) and no thread
//! keeps an allocation at its address to itself ([`Pending`]): an older allocation may still come. Where no ring but one exists nothing
//! can overtake, and nothing is left behind.
//!
//! An event that comes a second time changes nothing and is counted as [`Counts::repeated`], as long as the address has had no later
//! life. (What has is not remembered: it would cost every event something, and a reader reads nothing twice within one live set.)

mod census;
mod counts;
mod history;
mod pairs;
mod pending;
mod sites;
mod sorting;
mod table;

use std::collections::VecDeque;

use avleak_wire::event::{
    Event, FREE_UNMAPS, KIND_ALLOC, KIND_API_FRAME_ALLOC, KIND_API_FRAME_FREE, KIND_API_PACKET_ALLOC,
    KIND_API_PACKET_FREE, KIND_FREE, KIND_FREE_BY_REALLOC,
};
use avleak_wire::young::BY_REALLOC;

use serde::{Deserialize, Serialize};

use crate::address::TargetRange;
use crate::kind::ObjectKind;
use crate::reach::ReturnedMap;
pub use census::{Census, Made};
pub use counts::Counts;
use history::{Free, History, Open};
pub use pending::Pending;
pub use sites::{FreeSites, Site};
use table::{Entry, State, Table};

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// Bytes that a frame or packet is taken to have where malloc was out of reach: AVFrame's oldest layout at hand (avutil 56)
/// has 536, AVPacket's 88; pointers lie below that.
const GUESSED_BYTES: u64 = 416;

/// Addresses that are kept at most, whatever the machine has: 4 GiB of table.
const MOST_ADDRESSES: usize = 1 << 26;
/// What an address takes up, at most.
const BYTES_AN_ADDRESS: u64 = 72;

/// Events whose places in the table are read at once, before they are applied.
const TOUCHED: usize = 16;
/// Tombstones that are queued beyond two for each entry before those that were overtaken are thrown out.
const SPARE_TOMBSTONES: usize = 1 << 16;

/// Which rings there are while an event is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rings {
    /// No other ring than the event's own held anything when the event was there to be seen.
    One,
    /// Older events may be on their way in others.
    Many,
}

/// See the module.
#[derive(Clone, Serialize, Deserialize)]
pub struct LiveSet {
    table: Table,
    /// Stamp and address, roughly in order.
    tombstones: VecDeque<(u64, u64)>,
    /// Old tombstones of pending addresses.
    kept: Vec<(u64, u64)>,
    history: History,
    live: u64,
    /// Addresses that may be kept: a quarter of the machine's memory is enough for what a target says of itself.
    #[serde(skip, default = "most_addresses")]
    most: usize,
    /// Which granules the allocator has returned since arming.
    pub returned: ReturnedMap,
    /// Where objects die.
    pub sites: FreeSites,
    /// Totals.
    pub counts: Counts,
    /// Frames and payload that are alive, by stack.
    pub census: Census,
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new()
    }
}

impl LiveSet {
    /// Empty.
    pub fn new() -> Self {
        Self {
            table: Table::default(),
            tombstones: VecDeque::new(),
            kept: Vec::new(),
            history: History::default(),
            live: 0,
            most: most_addresses(),
            returned: ReturnedMap::default(),
            sites: FreeSites::default(),
            counts: Counts::default(),
            census: Census::default(),
        }
    }

    /// Applies events of one ring in their order. `kind_of` types a block by its allocation stack and size.
    #[inline]
    pub fn apply_all(&mut self, events: &[Event], rings: Rings, mut kind_of: impl FnMut(u32, u64) -> ObjectKind) {
        for some in events.chunks(TOUCHED) {
            // The processor waits for all of these places at once, instead of for one after another.
            let touched = some.iter().fold(0, |sum, event| {
                let is_marked = event.kind == KIND_ALLOC;
                sum ^ self.table.touch(event.address) ^ if is_marked { self.returned.touch(event.address) } else { 0 }
            });
            std::hint::black_box(touched);
            for &event in some {
                self.apply(event, rings, &mut kind_of);
            }
        }
    }

    /// Applies one event.
    #[inline]
    pub fn apply(&mut self, event: Event, rings: Rings, kind_of: impl FnOnce(u32, u64) -> ObjectKind) {
        self.counts.events += 1;
        if self.table.len() >= self.most && self.leaves_out(&event) {
            return;
        }
        match event.kind {
            KIND_ALLOC => self.allocated(event, kind_of(event.stack, event.size), State::Live),
            KIND_FREE | KIND_FREE_BY_REALLOC => self.freed(event, rings),
            KIND_API_FRAME_ALLOC => self.returned_by_call(event, ObjectKind::Frame),
            KIND_API_PACKET_ALLOC => self.returned_by_call(event, ObjectKind::Packet),
            KIND_API_FRAME_FREE | KIND_API_PACKET_FREE => self.freed_by_call(event, rings),
            _ => (),
        }
    }

    /// There is no room for one more address. What is left out counts as dropped: who allocates so much is not judged.
    #[cold]
    fn leaves_out(&mut self, event: &Event) -> bool {
        let unknown = self.table.get_mut(event.address).is_none();
        self.counts.left_out += u64::from(unknown);
        unknown
    }

    fn repeated(&mut self) {
        self.counts.repeated += 1;
        self.counts.events -= 1;
    }

    #[inline]
    fn allocated(&mut self, event: Event, kind: ObjectKind, state: State) {
        let Event { stamp, address, size, stack, .. } = event;
        let new = Entry { address, stamp, size, stack, kind, state, moved: false, unmapped: false };
        match self.table.get_or_insert(new) {
            None => self.live += 1,
            Some(place) => {
                let old = *place;
                let (is_alive, ended) = (old.is_alive(), if old.is_alive() { 0 } else { old.size });
                if is_alive && old.stamp == stamp || ended == stamp && !is_alive {
                    return self.repeated();
                }
                if old.stamp > stamp {
                    return self.allocated_late(event, kind, old);
                }
                *place = new;
                if is_alive {
                    // The free between the two is still on its way, or was dropped.
                    self.count_gone(old.kind, old.stack, old.size);
                    let is_object = old.kind.is_object();
                    let open = Open { made: old.stamp, stack: old.stack, is_object, until: stamp };
                    self.history.add_open(address, open);
                } else {
                    self.live += 1;
                    if ended == 0 {
                        // The allocation that the free before it ended is still on its way, if it is known at all.
                        self.history.add_free(address, free_of(&old));
                    }
                }
            }
        }
        self.count_made(event, kind);
        self.counts.peak_blocks = self.counts.peak_blocks.max(self.live);
    }

    #[inline(always)]
    fn count_made(&mut self, event: Event, kind: ObjectKind) {
        self.counts.allocations += 1;
        self.counts.made(kind, 1);
        self.census.made(kind, event.stack, event.size);
        if kind.is_object() {
            self.sites.made(event.stack);
        }
        self.returned.mark(event.address, event.size);
    }

    #[inline(always)]
    fn count_gone(&mut self, kind: ObjectKind, stack: u32, size: u64) {
        self.counts.gone(kind, 1);
        self.census.gone(kind, stack, size);
    }

    /// It is gone again: its free was drained first (a tombstone), or even the block after it.
    fn allocated_late(&mut self, event: Event, kind: ObjectKind, old: Entry) {
        let Event { stamp, address, size, stack, .. } = event;
        self.count_made(event, kind);
        self.count_gone(kind, stack, size);
        let is_unpaired = !old.is_alive() && old.size == 0;
        let free = self.history.take_free(address, stamp).or_else(|| {
            let place = self.table.get_mut(address).filter(|_| is_unpaired)?;
            place.size = stamp;
            Some(free_of(&old))
        });
        match free {
            Some(free) if kind.is_object() && !free.moved => {
                self.sites.died(stack, free.stack, free.stamp - stamp);
            }
            Some(_) => (),
            None => {
                let until = if !old.is_alive() && old.size > stamp { old.size } else { old.stamp };
                self.history.add_open(address, Open { made: stamp, stack, is_object: kind.is_object(), until });
            }
        }
        if !old.is_alive() && old.unmapped {
            self.returned.forget(address, size);
        }
    }

    #[inline]
    fn freed(&mut self, event: Event, rings: Rings) {
        let Event { stamp, address, size, stack, .. } = event;
        let mut tombstone = Entry {
            address,
            stamp,
            size: 0,
            stack,
            kind: ObjectKind::Plain,
            state: State::Freed,
            moved: event.kind == KIND_FREE_BY_REALLOC,
            unmapped: size == FREE_UNMAPS,
        };
        let place = match rings {
            Rings::One => self.table.get_mut(address),
            Rings::Many => self.table.get_or_insert(tombstone),
        };
        let Some(place) = place else {
            self.counts.frees += 1;
            if rings == Rings::Many {
                self.tombstones.push_back((stamp, address));
            }
            return;
        };
        let old = *place;
        if old.stamp > stamp {
            return self.freed_late(address, free_of(&tombstone));
        }
        if old.is_alive() {
            tombstone.size = old.stamp;
        } else if old.stamp == stamp {
            return self.repeated();
        }
        self.counts.frees += 1;
        match rings {
            Rings::One => _ = self.table.remove_if(address, |_| true),
            Rings::Many => {
                *place = tombstone;
                self.tombstones.push_back((stamp, address));
            }
        }
        if !old.is_alive() {
            if old.size == 0 {
                self.history.add_free(address, free_of(&old));
            }
            return;
        }
        self.live -= 1;
        self.count_gone(old.kind, old.stack, old.size);
        if old.kind.is_object() && !tombstone.moved {
            self.sites.died(old.stack, stack, stamp - old.stamp);
        }
        if tombstone.unmapped {
            self.returned.forget(address, old.size);
        }
    }

    /// A later life of the address is known already: whose end is this?
    fn freed_late(&mut self, address: u64, free: Free) {
        self.counts.frees += 1;
        match self.history.take_open(address, free.stamp) {
            Some(open) if open.is_object && !free.moved => {
                self.sites.died(open.stack, free.stack, free.stamp - open.made);
            }
            Some(_) => (),
            None => self.history.add_free(address, free),
        }
    }

    /// av_frame_alloc or its kin returned `event.address`: the malloc view should know it.
    fn returned_by_call(&mut self, event: Event, kind: ObjectKind) {
        match self.table.get_mut(event.address) {
            // The address is somebody else's by now: that thread's events were drained first.
            Some(entry) if entry.stamp > event.stamp => (),
            Some(entry) if entry.is_alive() => {
                if entry.kind != kind {
                    self.counts.called_but_typed_otherwise += 1;
                }
            }
            _ => {
                match kind {
                    ObjectKind::Frame => self.counts.frames_by_call_only += 1,
                    _ => self.counts.packets_by_call_only += 1,
                }
                self.allocated(Event { size: GUESSED_BYTES, ..event }, kind, State::LiveByCallOnly);
            }
        }
    }

    fn freed_by_call(&mut self, event: Event, rings: Rings) {
        if self.table.get_mut(event.address).is_some_and(|entry| entry.state == State::LiveByCallOnly) {
            self.freed(Event { size: 0, kind: KIND_FREE, ..event }, rings);
        }
    }

    /// `count` objects of `kind`, made on one stack, ended young on another, and no events of them came.
    pub fn died_young(&mut self, made: u32, freed: u32, count: u64, kind: ObjectKind) {
        self.counts.made(kind, count);
        self.counts.gone(kind, count);
        if kind.is_object() {
            self.sites.made_more(made, count);
            if freed != BY_REALLOC {
                self.sites.died_more(made, freed, count);
            }
        }
    }

    /// Every ring has passed `stamp`: no older event can come, but for allocations at addresses that are `pending`; tombstones up to there
    /// have done their work.
    pub fn passed(&mut self, stamp: u64, pending: &Pending) {
        self.history.passed(stamp, pending);
        // Those that were kept for a pending address before come again.
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|&(at, address)| self.keep(at, address, pending));
        // Roughly in order: a few older ones behind a younger one wait a little longer.
        while self.tombstones.front().is_some_and(|&(at, _)| at < stamp) {
            let some = self.tombstones.iter().take(TOUCHED);
            let touched = some.fold(0, |sum, &(_, address)| sum ^ self.table.touch(address));
            std::hint::black_box(touched);
            for _ in 0..TOUCHED {
                let Some(&(at, address)) = self.tombstones.front().filter(|(at, _)| *at < stamp) else { break };
                self.tombstones.pop_front();
                if self.keep(at, address, pending) {
                    kept.push((at, address));
                }
            }
        }
        self.kept = kept;
        if self.tombstones.len() > 2 * self.table.len() + SPARE_TOMBSTONES {
            let mut tombstones = std::mem::take(&mut self.tombstones);
            tombstones.retain(|&(at, address)| {
                self.table.get_mut(address).is_some_and(|entry| !entry.is_alive() && entry.stamp == at)
            });
            self.tombstones = tombstones;
        }
    }

    /// The tombstone is still needed; else it is removed.
    #[inline]
    fn keep(&mut self, at: u64, address: u64, pending: &Pending) -> bool {
        let mut keep = false;
        self.table.remove_if(address, |entry| {
            let is_it = !entry.is_alive() && entry.stamp == at;
            keep = is_it && pending.contains(address);
            is_it && !keep
        });
        keep
    }

    /// What was returned at `stamp` or later and is alive, in no order.
    pub fn newer_than(&self, stamp: u64) -> impl Iterator<Item = LiveBlock> {
        self.table.iter().filter(move |entry| entry.is_alive() && entry.stamp >= stamp).map(LiveBlock::of)
    }

    /// The block that was returned at `address` at that time is alive.
    pub fn is_alive(&self, address: u64, stamp: u64) -> bool {
        self.table.get(address).is_some_and(|entry| entry.is_alive() && entry.stamp == stamp)
    }

    /// How many blocks are alive.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes that this takes up, [`ReturnedMap`] and [`FreeSites`] apart.
    pub fn memory_bytes(&self) -> u64 {
        let tombstones = (self.tombstones.capacity() + self.kept.capacity()) * size_of::<(u64, u64)>();
        self.table.memory_bytes() + self.history.memory_bytes() + tombstones as u64
    }

    /// Where blocks of a kind lie that have at least so many bytes, by address.
    pub fn ranges_of(&self, kind: ObjectKind, least: u64) -> Vec<TargetRange> {
        let of = self.table.iter().filter(|entry| entry.kind == kind && entry.is_alive() && entry.size >= least);
        let mut ranges: Vec<TargetRange> = of.map(|entry| TargetRange::with_len(entry.address, entry.size)).collect();
        ranges.sort_unstable();
        ranges
    }

    /// What is alive: kinds and places, in no order.
    pub fn ranges(&self) -> impl Iterator<Item = (ObjectKind, TargetRange)> {
        let alive = self.table.iter().filter(|entry| entry.is_alive());
        alive.map(|entry| (entry.kind, TargetRange::with_len(entry.address, entry.size)))
    }

    /// What FFmpeg made of that which is alive, sorted by address: those of [`Self::blocks`] whose kind says so.
    pub fn objects(&self) -> Vec<LiveBlock> {
        let objects = self.table.iter().filter(|entry| entry.is_alive() && entry.kind.is_libav());
        let mut objects: Vec<LiveBlock> = objects.map(LiveBlock::of).collect();
        objects.sort_unstable_by_key(|block| block.address);
        objects
    }

    /// What is alive, sorted by address.
    pub fn blocks(&self) -> Vec<LiveBlock> {
        let alive = || self.table.iter().filter(|entry| entry.is_alive());
        if self.live < sorting::WORTH_BUCKETS as u64 {
            let mut blocks: Vec<LiveBlock> = alive().map(LiveBlock::of).collect();
            blocks.sort_unstable_by_key(|block| block.address);
            return blocks;
        }
        // Entries lie in the table by their hash: the first are a random choice.
        let some = alive().take(sorting::SAMPLED).map(|entry| entry.address).collect();
        sorting::by_address(|| alive().map(LiveBlock::of), some)
    }
}

impl LiveBlock {
    const NONE: Self = Self { address: 0, size: 0, stamp: 0, stack: 0, kind: ObjectKind::Plain, by_call_only: false };

    fn of(entry: &Entry) -> Self {
        Self {
            address: entry.address,
            size: entry.size,
            stamp: entry.stamp,
            stack: entry.stack,
            kind: entry.kind,
            by_call_only: entry.state == State::LiveByCallOnly,
        }
    }
}

fn most_addresses() -> usize {
    let info = rustix::system::sysinfo();
    let quarter = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) / 4;
    (quarter / BYTES_AN_ADDRESS).clamp(1 << 16, MOST_ADDRESSES as u64) as usize
}

/// A tombstone as a free that waits for its allocation.
fn free_of(tombstone: &Entry) -> Free {
    Free { stamp: tombstone.stamp, stack: tombstone.stack, moved: tombstone.moved }
}

#[cfg(test)]
mod tests;
