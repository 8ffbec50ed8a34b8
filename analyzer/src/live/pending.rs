//! Addresses for which an allocation may still come that is older than everything else that can: threads keep young allocations to
//! themselves, for as long as they like.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// A multiset of addresses: several threads may have had a block at one address.
#[derive(Debug, Default)]
pub struct Pending {
    counts: HashMap<u64, u32, FxBuildHasher>,
}

impl Pending {
    /// Another thread keeps an allocation at `address`.
    pub fn add(&mut self, address: u64) {
        *self.counts.entry(address).or_default() += 1;
    }

    /// One thread less does.
    pub fn remove(&mut self, address: u64) {
        if let hashbrown::hash_map::Entry::Occupied(mut count) = self.counts.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Some thread does.
    pub fn contains(&self, address: u64) -> bool {
        self.counts.contains_key(&address)
    }
}
