//! What each address was last known to be: a table of 32 bytes an entry that grows a small part at a time.
//!
//! Open addressing with linear probing; what is removed leaves no trace (the entries behind it move up), so that churn among
//! any number of blocks neither slows the table nor makes it grow, as it does hashbrown's with its tombstones. It lies in 256 parts that
//! grow by a quarter each for itself: at a million blocks one step moves 4,000 entries instead of all, which would stop the
//! drain for 50 ms while the target's rings run over. At most three fifths are in use, so that most entries lie in the first cache line
//! that is looked at, and while it grows at least 48 %: 53 to 67 bytes an entry. Where most of what was in it has gone, a part shrinks.

use std::hash::{BuildHasher, RandomState};

use crate::kind::ObjectKind;

/// What is known of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Nothing: a free place of the table.
    Empty,
    /// A live block.
    Live,
    /// A live block of which only an API call told.
    LiveByCallOnly,
    /// A block that is gone: its allocation may be still to come.
    Freed,
}

/// The latest event of one address.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct Entry {
    /// Of the block.
    pub address: u64,
    /// When.
    pub stamp: u64,
    /// Bytes of a live block; of a freed one the stamp of the allocation that the free ended, 0 while that has not come.
    pub size: u64,
    /// Of the allocation or the free.
    pub stack: u32,
    /// What the block is.
    pub kind: ObjectKind,
    /// What happened last.
    pub state: State,
    /// Of a freed block: by realloc, no death.
    pub moved: bool,
    /// Of a freed block: its memory went back to the kernel.
    pub unmapped: bool,
}

impl Entry {
    /// It is alive.
    #[inline(always)]
    pub fn is_alive(&self) -> bool {
        self.state != State::Freed
    }
}

const _: () = assert!(size_of::<Entry>() == 32, "two entries fill a cache line, and none lies in two");

const EMPTY: Entry = Entry {
    address: 0,
    stamp: 0,
    size: 0,
    stack: 0,
    kind: ObjectKind::Plain,
    state: State::Empty,
    moved: false,
    unmapped: false,
};

/// Parts, as a power of two.
const PART_BITS: u32 = 8;
/// Least places of a part that has any.
const LEAST: usize = 16;

#[derive(Clone, Default)]
struct Part {
    slots: Vec<Entry>,
    used: usize,
}

/// See the module.
#[derive(Clone)]
pub struct Table {
    parts: Box<[Part]>,
    used: usize,
    /// The target chooses the addresses: it shall not choose their places.
    seed: u64,
}

impl Default for Table {
    fn default() -> Self {
        let parts = (0..1 << PART_BITS).map(|_| Part::default()).collect();
        Self { parts, used: 0, seed: RandomState::new().hash_one(0) }
    }
}

/// Both halves of a product depend on all bits of the address.
#[inline(always)]
fn hash(seed: u64, address: u64) -> u64 {
    let product = u128::from(address ^ seed) * 0x9E37_79B9_7F4A_7C15;
    (product as u64) ^ ((product >> 64) as u64)
}

impl Table {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Bytes that the table takes up.
    pub fn memory_bytes(&self) -> u64 {
        let slots: usize = self.parts.iter().map(|part| part.slots.capacity()).sum();
        (slots * size_of::<Entry>() + self.parts.len() * size_of::<Part>()) as u64
    }

    #[inline(always)]
    fn place(&self, address: u64) -> (usize, u64) {
        let hash = hash(self.seed, address);
        ((hash >> (64 - PART_BITS)) as usize, hash << PART_BITS)
    }

    /// Reads where the address' entry should lie. Called for a handful of addresses before they are looked up, it lets the processor
    /// wait for all of them at once. What it returns says nothing, but must be used.
    #[inline(always)]
    pub fn touch(&self, address: u64) -> u64 {
        let (part, hash) = self.place(address);
        let slots = &self.parts[part].slots;
        let home = home(hash, slots.len());
        // The next cache line too, where the place is the second one of its line: half of those look-ups go on there.
        let [here, behind] = [home, home + 1].map(|at| slots.get(at).map_or(0, |entry| entry.address));
        here ^ behind
    }

    /// The entry of an address, to look at.
    pub fn get(&self, address: u64) -> Option<&Entry> {
        let (part, hash) = self.place(address);
        let part = &self.parts[part];
        Some(&part.slots[part.find(hash, address).ok()?])
    }

    /// The entry of an address.
    #[inline]
    pub fn get_mut(&mut self, address: u64) -> Option<&mut Entry> {
        let (part, hash) = self.place(address);
        let part = &mut self.parts[part];
        let at = part.find(hash, address).ok()?;
        Some(&mut part.slots[at])
    }

    /// The entry of the address of `new`; where there is none, `None`, and `new` is that from now on.
    #[inline]
    pub fn get_or_insert(&mut self, new: Entry) -> Option<&mut Entry> {
        let (number, hash) = self.place(new.address);
        let part = &mut self.parts[number];
        match part.find(hash, new.address) {
            Ok(at) => return Some(&mut part.slots[at]),
            Err(at) if (part.used + 1) * 5 <= part.slots.len() * 3 => {
                part.slots[at] = new;
                part.used += 1;
            }
            Err(_) => {
                part.resize((part.slots.len() * 5 / 4).max(LEAST), self.seed);
                part.add(hash, new);
            }
        }
        self.used += 1;
        None
    }

    /// Takes the entry of an address out, if there is one and it is as wished. False where it was not.
    #[inline]
    pub fn remove_if(&mut self, address: u64, is_wished: impl FnOnce(&Entry) -> bool) -> bool {
        let (number, hash) = self.place(address);
        let part = &mut self.parts[number];
        let Ok(at) = part.find(hash, address) else { return false };
        if !is_wished(&part.slots[at]) {
            return false;
        }
        part.take_out(at, self.seed);
        self.used -= 1;
        if part.used * 5 < part.slots.len() && part.slots.len() > 4 * LEAST {
            part.resize(part.used * 2 + LEAST, self.seed);
        }
        true
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.parts.iter().flat_map(|part| &part.slots).filter(|entry| entry.state != State::Empty)
    }
}

/// Where an entry lies if nothing is in its way: the hash, scaled to the number of places.
#[inline(always)]
fn home(hash: u64, places: usize) -> usize {
    ((u128::from(hash) * places as u128) >> 64) as usize
}

impl Part {
    /// Where the address' entry lies, else where it would.
    #[inline(always)]
    fn find(&self, hash: u64, address: u64) -> Result<usize, usize> {
        let mut at = home(hash, self.slots.len());
        loop {
            // Two fifths of the places are empty: this ends. Without places it ends at once.
            let Some(entry) = self.slots.get(at) else { return Err(at) };
            if entry.state == State::Empty {
                return Err(at);
            }
            if entry.address == address {
                return Ok(at);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }

    #[inline(always)]
    fn add(&mut self, hash: u64, entry: Entry) {
        let mut at = home(hash, self.slots.len());
        while self.slots[at].state != State::Empty {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = entry;
        self.used += 1;
    }

    /// Empties a place, and moves up what lies behind it only because that was taken.
    fn take_out(&mut self, at: usize, seed: u64) {
        let places = self.slots.len();
        let behind = |from: usize, to: usize| if to >= from { to - from } else { to + places - from };
        let (mut hole, mut next) = (at, at);
        loop {
            next = if next + 1 == places { 0 } else { next + 1 };
            let entry = self.slots[next];
            if entry.state == State::Empty {
                break;
            }
            let home = home(hash(seed, entry.address) << PART_BITS, places);
            if behind(home, next) >= behind(hole, next) {
                self.slots[hole] = entry;
                hole = next;
            }
        }
        self.slots[hole] = EMPTY;
        self.used -= 1;
    }

    #[cold]
    fn resize(&mut self, places: usize, seed: u64) {
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; places]);
        self.used = 0;
        for entry in old.into_iter().filter(|entry| entry.state != State::Empty) {
            self.add(hash(seed, entry.address) << PART_BITS, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn entry(address: u64, stamp: u64) -> Entry {
        Entry { address, stamp, size: 1, stack: 2, kind: ObjectKind::Frame, state: State::Live, ..EMPTY }
    }

    #[test]
    fn does_what_a_map_does() {
        let mut random = 11u64;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        let (mut table, mut map) = (Table::default(), HashMap::new());
        // Grows to some thousands, shrinks to some, and grows again.
        for round in 0..300_000u64 {
            let address = below(if round % 100_000 < 60_000 { 6_000 } else { 60_000 }) * 16;
            let removes = if round % 100_000 < 60_000 { 5 } else { 9 };
            if below(10) < removes {
                assert_eq!(table.remove_if(address, |_| true), map.remove(&address).is_some());
            } else {
                let old = table.get_or_insert(entry(address, round));
                assert_eq!(map.insert(address, round), old.as_ref().map(|old| old.stamp));
                if let Some(old) = old {
                    old.stamp = round;
                }
            }
            assert_eq!(table.len(), map.len());
        }
        let all: HashMap<u64, u64> = table.iter().map(|entry| (entry.address, entry.stamp)).collect();
        assert_eq!(all, map);
        for address in (0..60_000).map(|n| n * 16) {
            assert_eq!(table.get_mut(address).map(|entry| entry.stamp), map.get(&address).copied());
        }
    }

    #[test]
    fn a_block_costs_no_more_than_72_bytes_and_what_is_gone_nothing() {
        let mut table = Table::default();
        let mut most = 0.0f64;
        for i in 0..1_000_000u64 {
            table.get_or_insert(entry(0x5555_0000_0000 + i * 48, i));
            if i >= 100_000 && i % 1_000 == 0 {
                most = most.max(table.memory_bytes() as f64 / i as f64);
            }
        }
        assert!(most <= 72.0, "{most} bytes an entry");
        for i in 1_000..1_000_000u64 {
            assert!(!table.remove_if(0x5555_0000_0000 + i * 48, |entry| entry.stamp != i));
            assert!(table.remove_if(0x5555_0000_0000 + i * 48, |entry| entry.stamp == i));
        }
        assert!(table.memory_bytes() < 1 << 20, "{} bytes for 1,000 entries", table.memory_bytes());
    }
}
