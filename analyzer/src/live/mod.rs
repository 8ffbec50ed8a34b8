//! The live set: from events, in any order between threads, to what is alive now and what became of the rest.
//!
//! Per address the latest stamp wins. A free that arrives before its allocation stays as a tombstone until every ring has
//! passed its stamp ([`LiveSet::passed`]). Applying an event twice changes nothing but the counters of what was applied.

mod census;
mod history;
mod pending;
mod sites;

use std::collections::VecDeque;

use avleak_wire::event::{
    Event, FREE_UNMAPS, KIND_ALLOC, KIND_API_FRAME_ALLOC, KIND_API_FRAME_FREE, KIND_API_PACKET_ALLOC,
    KIND_API_PACKET_FREE, KIND_FREE, KIND_FREE_BY_REALLOC,
};
use avleak_wire::young::BY_REALLOC;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::kind::ObjectKind;
use crate::reach::ReturnedMap;
pub use census::{Census, Made};
use history::History;
pub use pending::Pending;
pub use sites::{FreeSites, Site};

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

/// What an address was last known to be.
#[derive(Clone, Copy)]
struct Entry {
    stamp: u64,
    /// Bytes; of a tombstone `FREE_*`.
    size: u64,
    stack: u32,
    kind: ObjectKind,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    LiveByCallOnly,
    Freed,
}

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
    /// Events applied.
    pub events: u64,
    /// AVFrames that av_frame_alloc returned and no allocation was seen for.
    pub frames_by_call_only: u64,
    /// AVPackets likewise.
    pub packets_by_call_only: u64,
    /// Objects that av_frame_alloc or av_packet_alloc returned where the malloc view has a block of another kind.
    pub called_but_typed_otherwise: u64,
}

/// Bytes that a frame or packet is taken to have where malloc was out of reach: AVFrame's oldest layout at hand (avutil 56)
/// has 536, AVPacket's 88; pointers lie below that.
const GUESSED_BYTES: u64 = 416;

/// See the module.
pub struct LiveSet {
    entries: HashMap<u64, Entry, FxBuildHasher>,
    tombstones: VecDeque<(u64, u64)>,
    /// Old tombstones of pending addresses.
    kept: Vec<(u64, u64)>,
    history: History,
    live: u64,
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
            entries: HashMap::default(),
            tombstones: VecDeque::new(),
            kept: Vec::new(),
            history: History::default(),
            live: 0,
            returned: ReturnedMap::default(),
            sites: FreeSites::default(),
            counts: Counts::default(),
            census: Census::default(),
        }
    }

    /// Applies one event. `kind_of` types a block by its allocation stack and size.
    pub fn apply(&mut self, event: Event, kind_of: impl FnOnce(u32, u64) -> ObjectKind) {
        self.counts.events += 1;
        match event.kind {
            KIND_ALLOC => self.allocated(event, kind_of(event.stack, event.size), State::Live),
            KIND_FREE | KIND_FREE_BY_REALLOC => self.freed(event, event.kind == KIND_FREE_BY_REALLOC),
            KIND_API_FRAME_ALLOC => self.returned_by_call(event, ObjectKind::Frame),
            KIND_API_PACKET_ALLOC => self.returned_by_call(event, ObjectKind::Packet),
            KIND_API_FRAME_FREE | KIND_API_PACKET_FREE => self.freed_by_call(event),
            _ => (),
        }
    }

    fn count_made(&mut self, kind: ObjectKind, stack: u32, size: u64) {
        self.census.made(kind, stack, size);
        match kind {
            ObjectKind::Frame => self.counts.frames_allocated += 1,
            ObjectKind::Packet => self.counts.packets_allocated += 1,
            _ => (),
        }
    }

    fn count_gone(&mut self, kind: ObjectKind, stack: u32, size: u64) {
        self.census.gone(kind, stack, size);
        match kind {
            ObjectKind::Frame => self.counts.frames_freed += 1,
            ObjectKind::Packet => self.counts.packets_freed += 1,
            _ => (),
        }
    }

    fn allocated(&mut self, event: Event, kind: ObjectKind, state: State) {
        self.counts.allocations += 1;
        self.count_made(kind, event.stack, event.size);
        if kind.is_object() {
            self.sites.made(event.stack);
        }
        self.returned.mark(event.address, event.size);
        let new = Entry { stamp: event.stamp, size: event.size, stack: event.stack, kind, state };
        match self.entries.entry(event.address) {
            hashbrown::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(new);
                self.live += 1;
            }
            hashbrown::hash_map::Entry::Occupied(mut occupied) => {
                let old = *occupied.get();
                if old.stamp >= event.stamp {
                    // It is gone again: its free was drained first (a tombstone), or even the block after it.
                    if old.stamp > event.stamp {
                        self.count_gone(kind, event.stack, event.size);
                        if kind.is_object() {
                            let tombstone = (old.state == State::Freed).then_some((old.stamp, old.stack));
                            if let Some((freed, stack)) =
                                self.history.free_of(event.address, event.stamp, event.stack, tombstone)
                            {
                                self.sites.died(event.stack, stack, freed - event.stamp);
                            }
                        }
                        if old.state == State::Freed && old.size == FREE_UNMAPS {
                            self.returned.forget(event.address, event.size);
                        }
                    }
                    return;
                }
                occupied.insert(new);
                if old.state == State::Freed {
                    self.live += 1;
                } else {
                    // The free between the two is still on its way, or was dropped.
                    self.count_gone(old.kind, old.stack, old.size);
                    if old.kind.is_object() {
                        self.history.replaced(event.address, old.stamp, old.stack);
                    }
                }
            }
        }
        self.counts.peak_blocks = self.counts.peak_blocks.max(self.live);
    }

    fn freed(&mut self, event: Event, by_realloc: bool) {
        self.counts.frees += 1;
        let tombstone = Entry {
            stamp: event.stamp,
            size: event.size,
            stack: event.stack,
            kind: ObjectKind::Plain,
            state: State::Freed,
        };
        match self.entries.entry(event.address) {
            hashbrown::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(tombstone);
            }
            hashbrown::hash_map::Entry::Occupied(mut occupied) => {
                let old = *occupied.get();
                if old.stamp >= event.stamp {
                    // A later life of the address is known already: whose end is this?
                    if old.stamp > event.stamp
                        && let Some((made, stack)) = self.history.allocation_of(event.address, event.stamp, event.stack)
                        && !by_realloc
                    {
                        self.sites.died(stack, event.stack, event.stamp - made);
                    }
                    return;
                }
                occupied.insert(tombstone);
                if old.state == State::Freed {
                    self.history.freed_before(event.address, old.stamp, old.stack);
                } else {
                    self.live -= 1;
                    self.count_gone(old.kind, old.stack, old.size);
                    if old.kind.is_object() && !by_realloc {
                        self.sites.died(old.stack, event.stack, event.stamp - old.stamp);
                    }
                    if event.size == FREE_UNMAPS {
                        self.returned.forget(event.address, old.size);
                    }
                }
            }
        }
        self.tombstones.push_back((event.stamp, event.address));
    }

    /// av_frame_alloc or its kin returned `event.address`: the malloc view should know it.
    fn returned_by_call(&mut self, event: Event, kind: ObjectKind) {
        match self.entries.get(&event.address) {
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
                let event = Event { size: GUESSED_BYTES, ..event };
                self.allocated(event, kind, State::LiveByCallOnly);
            }
        }
    }

    fn freed_by_call(&mut self, event: Event) {
        if self.entries.get(&event.address).is_some_and(|entry| entry.state == State::LiveByCallOnly) {
            self.freed(Event { size: 0, ..event }, false);
        }
    }

    /// `count` objects of `kind`, made on one stack, ended young on another, and no events of them came.
    pub fn died_young(&mut self, made: u32, freed: u32, count: u64, kind: ObjectKind) {
        match kind {
            ObjectKind::Frame => {
                self.counts.frames_allocated += count;
                self.counts.frames_freed += count;
            }
            ObjectKind::Packet => {
                self.counts.packets_allocated += count;
                self.counts.packets_freed += count;
            }
            _ => (),
        }
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
        while let Some(&(at, address)) = self.tombstones.front() {
            if at >= stamp {
                break;
            }
            self.tombstones.pop_front();
            if self.keep(at, address, pending) {
                kept.push((at, address));
            }
        }
        self.kept = kept;
    }

    /// The tombstone is still needed; else it is removed.
    fn keep(&mut self, at: u64, address: u64, pending: &Pending) -> bool {
        let hashbrown::hash_map::Entry::Occupied(occupied) = self.entries.entry(address) else { return false };
        if occupied.get().state != State::Freed || occupied.get().stamp != at {
            return false;
        }
        if pending.contains(address) {
            return true;
        }
        occupied.remove();
        false
    }

    /// This allocation, or something later at its address, was applied.
    pub fn knows(&self, address: u64, stamp: u64) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.stamp >= stamp)
    }

    /// How many blocks are alive.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// What is alive, sorted by address.
    pub fn blocks(&self) -> Vec<LiveBlock> {
        let mut blocks: Vec<LiveBlock> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Freed)
            .map(|(&address, entry)| LiveBlock {
                address,
                size: entry.size,
                stamp: entry.stamp,
                stack: entry.stack,
                kind: entry.kind,
                by_call_only: entry.state == State::LiveByCallOnly,
            })
            .collect();
        blocks.sort_unstable_by_key(|block| block.address);
        blocks
    }
}

#[cfg(test)]
mod tests;
