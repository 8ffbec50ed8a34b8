//! What holds a block: one pointer remembered for each, 16 bytes, and the chains that they form.

use super::scan::Hit;

/// Where a pointer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a root range.
    Root {
        /// The range's label.
        label: u32,
        /// Address of the word.
        address: u64,
    },
    /// In a register.
    Register {
        /// The register's label.
        label: u32,
    },
    /// Nowhere: the block is reachable by decree ([`super::RootBlock`]).
    Decree {
        /// The caller's label.
        label: u32,
    },
    /// In another block.
    Block {
        /// Its index.
        block: u32,
        /// Where in it the word lies, bytes from its start.
        offset: u64,
    },
}

/// One pointer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it lies.
    pub source: Source,
    /// It does not lead to the start of its block.
    pub interior: bool,
}

const NONE: u32 = 0;
const ROOT: u32 = 1;
const REGISTER: u32 = 2;
const DECREE: u32 = 3;
const BLOCK: u32 = 4;
const INTERIOR: u32 = 8;

/// A packed [`Step`], or none.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Holder {
    place: u64,
    source: u32,
    tag: u32,
}

const _: () = assert!(size_of::<Holder>() == 16, "a process has millions of blocks");

impl Holder {
    pub fn root(hit: &Hit) -> Self {
        Self { place: hit.at, source: hit.tag, tag: ROOT | flag(hit.interior) }
    }

    pub fn register(label: u32, interior: bool) -> Self {
        Self { place: 0, source: label, tag: REGISTER | flag(interior) }
    }

    pub fn is_none(&self) -> bool {
        self.tag == NONE
    }

    pub fn decree(label: u32) -> Self {
        Self { place: 0, source: label, tag: DECREE }
    }

    pub fn block(block: u32, offset: u64, interior: bool) -> Self {
        Self { place: offset, source: block, tag: BLOCK | flag(interior) }
    }
}

fn flag(interior: bool) -> u32 {
    if interior { INTERIOR } else { 0 }
}

/// The holder of each block.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Holders(pub Vec<Holder>);

impl Holders {
    pub fn step(&self, block: u32) -> Option<Step> {
        let holder = self.0.get(block as usize)?;
        let source = match holder.tag & !INTERIOR {
            NONE => return None,
            ROOT => Source::Root { label: holder.source, address: holder.place },
            REGISTER => Source::Register { label: holder.source },
            DECREE => Source::Decree { label: holder.source },
            _ => Source::Block { block: holder.source, offset: holder.place },
        };
        Some(Step { source, interior: holder.tag & INTERIOR != 0 })
    }

    /// The first step's source, without the chain.
    pub fn first(&self, block: u32) -> Option<Source> {
        let mut at = block;
        for _ in 0..=self.0.len() {
            match self.step(at)?.source {
                Source::Block { block, .. } => at = block,
                source => return Some(source),
            }
        }
        None
    }

    pub fn chain(&self, block: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = block;
        // A holder was reached before what it holds, so this ends; the bound is a second reason to.
        while steps.len() <= self.0.len() {
            let Some(step) = self.step(at) else { break };
            steps.push(step);
            let Source::Block { block, .. } = step.source else { break };
            at = block;
        }
        steps.reverse();
        steps
    }
}
