//! Lives of an address that overtook each other on the way: which free ended which allocation.
//!
//! What is alive needs only the latest stamp; where siblings die, and how old, needs pairs. Rings are drained one after another and
//! threads keep young allocations to themselves, so that the frees of an address may all be seen before its allocations, or the other
//! way round. Kept until every ring has passed.

use std::collections::VecDeque;

use super::Pending;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// An allocation whose free is still to come.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// When.
    pub made: u64,
    /// Allocation stack.
    pub stack: u32,
    /// It is an object, the death of which is noted.
    pub is_object: bool,
    /// When the address was known to be used or freed again: the free is older than that.
    pub until: u64,
}

/// A free whose allocation is still to come.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    /// When.
    pub stamp: u64,
    /// Free stack.
    pub stack: u32,
    /// By realloc: no death.
    pub moved: bool,
}

/// Lives of one address that are kept apart. Real ones are as many as threads that have had it within a few milliseconds.
const MOST_LIVES: usize = 64;
/// Lives that are kept in all, paired ones included until they are thrown out: some 300 MiB.
const MOST_IN_ALL: usize = 1 << 20;
/// Entries of [`History::order`] beyond two for each address before those that are paired are thrown out.
const SPARE: usize = 1 << 16;

/// Addresses with more than one life under way.
#[derive(Clone, Debug, Default)]
pub struct History {
    lives: HashMap<u64, Lives, FxBuildHasher>,
    order: VecDeque<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Lives {
    allocations: Vec<Open>,
    frees: Vec<Free>,
}

/// Adds to the lives of one address; the oldest goes where they are too many.
fn push<T>(lives: &mut Vec<T>, life: T) {
    if lives.len() >= MOST_LIVES {
        lives.remove(0);
    }
    lives.push(life);
}

impl Lives {
    fn is_empty(&self) -> bool {
        self.allocations.is_empty() && self.frees.is_empty()
    }
}

impl History {
    /// A younger life of the address is known already; the free of this one is still to come.
    pub fn add_open(&mut self, address: u64, open: Open) {
        if let Some(lives) = self.of(address) {
            push(&mut lives.allocations, open);
            self.order.push_back((open.until, address));
        }
    }

    /// A younger life of the address is known already; the allocation that this free ended is still to come.
    pub fn add_free(&mut self, address: u64, free: Free) {
        if let Some(lives) = self.of(address) {
            push(&mut lives.frees, free);
            self.order.push_back((free.stamp, address));
        }
    }

    /// What is kept of an address; `None` where that would be too much: then some deaths are not counted where they happened.
    fn of(&mut self, address: u64) -> Option<&mut Lives> {
        (self.order.len() < MOST_IN_ALL).then(|| self.lives.entry(address).or_default())
    }

    /// Takes out the allocation that a late free ended: the youngest before it that was not over by then.
    pub fn take_open(&mut self, address: u64, freed: u64) -> Option<Open> {
        if self.lives.is_empty() {
            return None;
        }
        let hashbrown::hash_map::Entry::Occupied(mut lives) = self.lives.entry(address) else { return None };
        let open = &mut lives.get_mut().allocations;
        let at = (0..open.len())
            .filter(|&at| open[at].made <= freed && freed <= open[at].until)
            .max_by_key(|&at| open[at].made)?;
        let found = open.swap_remove(at);
        if lives.get().is_empty() {
            lives.remove();
        }
        Some(found)
    }

    /// Takes out the free that ended a late allocation: the oldest after it.
    pub fn take_free(&mut self, address: u64, made: u64) -> Option<Free> {
        if self.lives.is_empty() {
            return None;
        }
        let hashbrown::hash_map::Entry::Occupied(mut lives) = self.lives.entry(address) else { return None };
        let frees = &mut lives.get_mut().frees;
        let at = (0..frees.len()).filter(|&at| frees[at].stamp > made).min_by_key(|&at| frees[at].stamp)?;
        let found = frees.swap_remove(at);
        if lives.get().is_empty() {
            lives.remove();
        }
        Some(found)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// Bytes that this takes up, but for the few of each address.
    pub fn memory_bytes(&self) -> u64 {
        (self.lives.allocation_size() + self.order.capacity() * size_of::<(u64, u64)>()) as u64
    }

    /// Nothing older than `stamp` can come any more, but for allocations at pending addresses: what is known of those is kept until the
    /// next time.
    pub fn passed(&mut self, stamp: u64, pending: &Pending) {
        let mut again = Vec::new();
        while let Some(&(at, address)) = self.order.front() {
            if at >= stamp {
                break;
            }
            self.order.pop_front();
            let hashbrown::hash_map::Entry::Occupied(mut lives) = self.lives.entry(address) else { continue };
            if pending.contains(address) {
                again.push((at, address));
                continue;
            }
            lives.get_mut().allocations.retain(|open| open.until >= stamp);
            lives.get_mut().frees.retain(|free| free.stamp >= stamp);
            if lives.get().is_empty() {
                lives.remove();
            }
        }
        again.into_iter().rev().for_each(|point| self.order.push_front(point));
        if self.order.len() > 2 * self.lives.len() + SPARE {
            let lives = &self.lives;
            self.order.retain(|(at, address)| {
                lives.get(address).is_some_and(|lives| {
                    lives.frees.iter().any(|free| free.stamp == *at)
                        || lives.allocations.iter().any(|open| open.until == *at)
                })
            });
        }
    }
}
