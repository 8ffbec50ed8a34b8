//! Tests of the whole engine on made-up memory.

mod cases;
mod cycles;
mod heuristics;
mod hostile;
mod oracle;
mod typed;
mod valgrind;

use std::sync::atomic::AtomicBool;

use super::*;
use crate::target::memory::SavedMemory;

/// Small, fast, the same on every machine (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit.max(1)
    }
}

/// A process made up block by block.
#[derive(Default)]
pub(super) struct World {
    pub memory: SavedMemory,
    pub blocks: Vec<Block>,
    pub roots: Vec<RootRange>,
    pub registers: Vec<Register>,
    pub root_blocks: Vec<RootBlock>,
    pub doubtful: Vec<RootRange>,
    pub left_out: Vec<TargetRange>,
}

impl World {
    /// Adds a block of these words; addresses must ascend.
    pub fn block(&mut self, start: u64, kind: ObjectKind, words: &[u64]) -> u32 {
        self.memory.insert_words(start, words);
        self.blocks.push(Block { start, size: 8 * words.len() as u64, kind, scan: Scan::Words });
        self.blocks.len() as u32 - 1
    }

    pub fn plain(&mut self, start: u64, words: &[u64]) -> u32 {
        self.block(start, ObjectKind::Plain, words)
    }

    pub fn root(&mut self, start: u64, words: &[u64]) {
        self.memory.insert_words(start, words);
        let label = self.roots.len() as u32;
        self.roots.push(RootRange { start, end: start + 8 * words.len() as u64, label });
    }

    pub fn check(&self) -> Reachability {
        self.check_mapped(&|_| Mapping::Other).unwrap()
    }

    pub fn check_mapped(&self, mapping: &dyn Fn(u64) -> Mapping) -> Result<Reachability, ReachError> {
        let input = Input {
            doubtful: &self.doubtful,
            left_out: &self.left_out,
            blocks: &self.blocks,
            roots: &self.roots,
            registers: &self.registers,
            root_blocks: &self.root_blocks,
            mapping,
            python: None,
        };
        check(&self.memory, &input, &Control { progress: &|_, _| {}, cancel: &AtomicBool::new(false) })
    }
}
