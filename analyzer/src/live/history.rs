//! Lives of an address that overtook each other on the way: which free ended which allocation.
//!
//! What is alive needs only the latest stamp; where siblings die, and how old, needs pairs. Events that are applied early (see
//! [`super::LiveSet`]) may overtake those of a ring that stands still. Kept until every ring has passed.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// A stamp and a stack.
type Point = (u64, u32);

/// Addresses with more than one life under way.
#[derive(Debug, Default)]
pub struct History {
    lives: HashMap<u64, Lives, FxBuildHasher>,
    order: VecDeque<(u64, u64)>,
}

/// An allocation whose free is still to come.
#[derive(Debug)]
struct Open {
    made: u64,
    stack: u32,
    /// When the address was known to be used or freed again: the free is older than that.
    until: u64,
}

#[derive(Debug, Default)]
struct Lives {
    allocations: Vec<Open>,
    frees: Vec<Point>,
}

impl Lives {
    fn is_empty(&self) -> bool {
        self.allocations.is_empty() && self.frees.is_empty()
    }
}

impl History {
    /// A younger allocation, of the stamp `until`, has taken the place of this one, whose free is still to come.
    pub fn replaced(&mut self, address: u64, made: u64, stack: u32, until: u64) {
        self.lives.entry(address).or_default().allocations.push(Open { made, stack, until });
        self.order.push_back((until, address));
    }

    /// A younger free has taken the place of this one, whose allocation is still to come.
    pub fn freed_before(&mut self, address: u64, freed: u64, stack: u32) {
        self.lives.entry(address).or_default().frees.push((freed, stack));
        self.order.push_back((freed, address));
    }

    /// The allocation that a late free ended: the youngest before it. Where it is still to come, the free is kept for it.
    pub fn allocation_of(&mut self, address: u64, freed: u64, stack: u32) -> Option<Point> {
        let lives = self.lives.entry(address).or_default();
        let found = (0..lives.allocations.len())
            .filter(|&at| lives.allocations[at].made < freed)
            .max_by_key(|&at| lives.allocations[at].made)
            .map(|at| lives.allocations.swap_remove(at))
            .map(|open| (open.made, open.stack));
        match found {
            None => {
                lives.frees.push((freed, stack));
                self.order.push_back((freed, address));
            }
            Some(_) if lives.is_empty() => {
                self.lives.remove(&address);
            }
            Some(_) => (),
        }
        found
    }

    /// The free that ended a late allocation: the oldest after it, of those kept and of `tombstone`. Where it is still to come, the
    /// allocation is kept for it; it is older than `until`.
    pub fn free_of(
        &mut self,
        address: u64,
        (made, stack): Point,
        until: u64,
        tombstone: Option<Point>,
    ) -> Option<Point> {
        let lives = self.lives.entry(address).or_default();
        let kept = (0..lives.frees.len()).filter(|&at| lives.frees[at].0 > made).min_by_key(|&at| lives.frees[at].0);
        let found = match (kept, tombstone) {
            (Some(at), Some(tombstone)) if tombstone.0 < lives.frees[at].0 => Some(tombstone),
            (Some(at), _) => Some(lives.frees.swap_remove(at)),
            (None, Some(tombstone)) => Some(tombstone),
            (None, None) => {
                lives.allocations.push(Open { made, stack, until });
                self.order.push_back((until, address));
                None
            }
        };
        if lives.is_empty() {
            self.lives.remove(&address);
        }
        found
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// Nothing older than `stamp` can come any more.
    pub fn passed(&mut self, stamp: u64) {
        while let Some(&(at, address)) = self.order.front() {
            if at >= stamp {
                break;
            }
            self.order.pop_front();
            if let hashbrown::hash_map::Entry::Occupied(mut lives) = self.lives.entry(address) {
                lives.get_mut().allocations.retain(|open| open.until >= stamp);
                lives.get_mut().frees.retain(|point| point.0 >= stamp);
                if lives.get().is_empty() {
                    lives.remove();
                }
            }
        }
    }
}
