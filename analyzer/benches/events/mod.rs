//! Streams of events for the benches: a decode-like mix, and churn among a million live blocks.

use avleak::kind::ObjectKind;
use avleak_wire::event::{Event, KIND_ALLOC, KIND_FREE};

/// Events that one pass of the drain finds, by ring, and the stamp that every ring has passed after it.
pub struct Pass {
    pub rings: Vec<Vec<Event>>,
    pub passed: u64,
}

/// Xorshift: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(limit)) >> 64) as u64
    }
}

/// Stamps that lie between "passed" and the newest event, as the drain's margin makes it: 3 ms at 3 million events a second.
const MARGIN: u64 = 10_000;

/// The kind by stack, as few distinct ones as a decoder has: four fifths are refs.
pub fn kind_of(stack: u32, _size: u64) -> ObjectKind {
    if stack.is_multiple_of(5) { ObjectKind::Plain } else { ObjectKind::BufferRef }
}

/// Short-lived blocks on three rings. Addresses come from a stack (LIFO) or a queue (FIFO) of some hundreds; half of the frees lie on
/// another ring than their allocation, one that is drained before it.
pub struct Decode {
    random: Random,
    stamp: u64,
    lifo: Vec<u64>,
    fifo: std::collections::VecDeque<u64>,
    alive: std::collections::VecDeque<(u64, bool)>,
}

impl Decode {
    pub fn new() -> Self {
        Self {
            random: Random(0x9E37_79B9_7F4A_7C15),
            stamp: 100_000,
            lifo: (0..300).map(|i| 0x5555_0000_0000 + i * 96).collect(),
            fifo: (0..300).map(|i| 0x7fff_0000_0000 + i * 544).collect(),
            alive: Default::default(),
        }
    }

    /// A pass of about `events` events.
    pub fn pass(&mut self, events: usize) -> Pass {
        let mut rings = vec![Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..events {
            self.stamp += 1 + self.random.below(2);
            if self.alive.len() < 100 + self.random.below(200) as usize {
                let from_lifo = self.random.below(2) == 0;
                let address = if from_lifo { self.lifo.pop() } else { self.fifo.pop_front() };
                let Some(address) = address else { continue };
                let ring = 1 + self.random.below(2) as usize;
                let stack = 1000 + self.random.below(40) as u32;
                rings[ring].push(Event { stamp: self.stamp, address, kind: KIND_ALLOC, size: 24, stack });
                self.alive.push_back((address, from_lifo));
            } else {
                let at = if self.random.below(2) == 0 { 0 } else { self.alive.len() - 1 };
                let Some((address, from_lifo)) = self.alive.remove(at) else { continue };
                let ring = if self.random.below(2) == 0 { 0 } else { 1 + self.random.below(2) as usize };
                let stack = 2000 + self.random.below(4) as u32;
                rings[ring].push(Event { stamp: self.stamp, address, kind: KIND_FREE, size: 0, stack });
                if from_lifo { self.lifo.push(address) } else { self.fifo.push_back(address) }
            }
        }
        Pass { rings, passed: self.stamp - MARGIN }
    }
}

/// A million live blocks, any of which may go next; the block that comes then has an address of its own or a used one.
pub struct Churn {
    random: Random,
    stamp: u64,
    alive: Vec<u64>,
    spare: Vec<u64>,
}

impl Churn {
    pub fn new(blocks: u64) -> Self {
        // One address in eight is not in use.
        let mut all: Vec<u64> = (0..blocks + blocks / 8).map(|i| 0x5555_0000_0000 + i * 80).collect();
        let mut random = Random(0x2545_F491_4F6C_DD1D);
        for i in (1..all.len()).rev() {
            all.swap(i, random.below(i as u64 + 1) as usize);
        }
        let spare = all.split_off(blocks as usize);
        Self { random, stamp: 100_000, alive: all, spare }
    }

    /// The events that make the first blocks.
    pub fn first(&mut self) -> Vec<Event> {
        let events = (1u64..).zip(&self.alive).map(|(i, &address)| Event {
            stamp: self.stamp + i,
            address,
            kind: KIND_ALLOC,
            size: 64,
            stack: 1000 + (i % 40) as u32,
        });
        let events: Vec<Event> = events.collect();
        self.stamp += self.alive.len() as u64;
        events
    }

    /// A pass of `events` events on two rings.
    pub fn pass(&mut self, events: usize) -> Pass {
        let mut rings = vec![Vec::new(), Vec::new()];
        for _ in 0..events / 2 {
            let (from, to) = (self.random.below(2) as usize, self.random.below(2) as usize);
            let at = self.random.below(self.alive.len() as u64) as usize;
            let other = self.random.below(self.spare.len() as u64) as usize;
            let (old, new) = (self.alive[at], self.spare[other]);
            (self.alive[at], self.spare[other]) = (new, old);
            self.stamp += 1;
            rings[from].push(Event { stamp: self.stamp, address: old, kind: KIND_FREE, size: 0, stack: 2000 });
            self.stamp += 1;
            let stack = 1000 + (self.stamp % 40) as u32;
            rings[to].push(Event { stamp: self.stamp, address: new, kind: KIND_ALLOC, size: 64, stack });
        }
        Pass { rings, passed: self.stamp - MARGIN }
    }
}
