//! What no scan has reached so far.

use rustc_hash::{FxHashMap, FxHashSet};

use super::scan::Scan;
use crate::live::LiveBlock;
use crate::report::model::Class;

/// A block by what no other has: its address, and the stamp of its allocation.
pub type Identity = (u64, u64);

/// What no scan reached so far, and whether it is an object of FFmpeg's; `None` before the first scan.
#[derive(Default)]
pub(super) struct Suspects(pub Option<FxHashMap<Identity, bool>>);

/// Of a block.
pub(super) fn identity(block: &LiveBlock) -> Identity {
    (block.address, block.stamp)
}

impl Suspects {
    /// What this scan reached is none.
    pub fn keep(&mut self, scan: &Scan) {
        let unreached = (0..).zip(&scan.blocks).filter(|(index, block)| {
            scan.looked.reachability.class(*index) != Class::StillReachable
                && self.0.as_ref().is_none_or(|known| known.contains_key(&identity(block)))
        });
        self.0 = Some(unreached.map(|(_, block)| (identity(block), block.kind.is_object())).collect());
    }

    pub fn clear(&mut self, block: &Identity) {
        if let Some(known) = &mut self.0 {
            known.remove(block);
        }
    }

    pub fn contains(&self, block: &LiveBlock) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains_key(&identity(block)))
    }

    pub fn retain(&mut self, wanted: impl Fn(&Identity) -> bool) {
        self.0.iter_mut().for_each(|known| known.retain(|block, _| wanted(block)));
    }

    /// How many of them are objects that were not lost before.
    pub fn objects(&self, lost: &FxHashSet<Identity>) -> usize {
        self.0.iter().flatten().filter(|(block, is_object)| **is_object && !lost.contains(*block)).count()
    }

    /// How many there are that were not lost before.
    pub fn unsettled(&self, lost: &FxHashSet<Identity>) -> usize {
        self.0.iter().flatten().filter(|(block, _)| !lost.contains(*block)).count()
    }
}
