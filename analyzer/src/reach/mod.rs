//! Reachability: which live blocks the process can still get at, and who is to blame for those that it cannot.
//!
//! Definitions are Valgrind's (memcheck/mc_leakcheck.c, `--leak-check=full`): a *start pointer* equals a block's first
//! address, an *interior pointer* lies behind it and before its end. A block is
//! * **still reachable**: a chain of start pointers leads to it from a root;
//! * **possibly lost**: chains lead to it, and each has an interior pointer, or begins in doubtful memory ([`Input::doubtful`]);
//! * **definitely lost**: nothing outside its own cycle points to it (of a cycle, the member of highest rank);
//! * **indirectly lost**: only lost blocks lead to it.
//!
//! | file | job |
//! |---|---|
//! | [`returned`] | which granules the allocator has handed out since arming |
//! | [`roots`] | where the search begins |
//! | `blocks` | from an address to its block |
//! | `scan` | memory in, words that lead into blocks out |
//! | `interior` | which interior pointers count as start pointers, and which as none |
//! | [`python`] | where Python's objects begin in their blocks, and which are dead |
//! | `mark` | what the roots reach |
//! | `cliques` | cycles, leaders, outermost objects |
//! | `chain` | what holds a block |
//!
//! Guarantees: memory is read only through [`Memory`]; every block and every root word is read once; no input makes it
//! panic, recurse, or use more than a constant number of bytes for each block, root and pointer found.
//!
//! **Architecture Invariant:** nothing here knows processes, maps or symbols. Labels are the caller's numbers, handed back.
//!
//! It is not for judging while memory changes: what a running process moves between two reads can look lost. Such scans
//! are intersected by the caller (an object without a pointer never gets one back).

use std::sync::atomic::AtomicBool;

use crate::address::TargetRange;
use crate::kind::ObjectKind;
use crate::target::memory::Memory;

mod blocks;
mod chain;
mod cliques;
mod interior;
mod mark;
pub mod python;
pub mod returned;
pub mod roots;
mod scan;
#[cfg(test)]
mod tests;

pub use chain::{Source, Step};
pub use returned::ReturnedMap;
pub use roots::{RootSources, StackRange, WritableRange};

pub use crate::report::model::Class;

/// Is a block's content searched for pointers?
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Scan {
    /// Yes, every aligned word.
    Words,
    /// Never: pixels, samples, packet bytes.
    Payload,
    /// Never: an object of Python's that is dead.
    Dead,
}

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its first address, as the allocator returned it.
    pub start: u64,
    /// Bytes asked for; may be 0 (such a block is found at its start only).
    pub size: u64,
    /// What it is.
    pub kind: ObjectKind,
    /// Whether it is searched.
    pub scan: Scan,
}

/// A range of memory that is searched for pointers because the program can get at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// The caller's number for it, handed back in chains.
    pub label: u32,
}

/// A register of a stopped thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its value.
    pub value: u64,
    /// The caller's number for it.
    pub label: u32,
}

/// A live block that is reachable whatever points to it: one that the dynamic loader allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootBlock {
    /// Its index in [`Input::blocks`]; one that is out of range is passed over.
    pub block: u32,
    /// The caller's number for it.
    pub label: u32,
}

/// What an address of the target is mapped to, as far as telling C++ vtables needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing, anonymous memory, or not readable.
    Other,
    /// Readable and backed by a file, not executable.
    File,
    /// Readable, executable and backed by a file.
    Code,
}

/// What is checked.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Every live block, strictly ascending by start.
    pub blocks: &'a [Block],
    /// Where the search begins, ascending; see [`RootSources::collect`].
    pub roots: &'a [RootRange],
    /// Registers of all threads.
    pub registers: &'a [Register],
    /// Blocks that are reachable by decree.
    pub root_blocks: &'a [RootBlock],
    /// Memory of which it is not known whether the program can get at it, ascending: what only it leads to is possibly lost.
    pub doubtful: &'a [RootRange],
    /// What is passed over in blocks, ascending and disjoint: then what is not reached need not be lost.
    pub left_out: &'a [TargetRange],
    /// What an address is mapped to.
    pub mapping: &'a dyn Fn(u64) -> Mapping,
    /// What [`python::survey`] found, where there is a Python.
    pub python: Option<&'a python::Types>,
}

/// How a check is followed and stopped from outside.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Called about once a MiB with the bytes done and to do.
    pub progress: &'a dyn Fn(u64, u64),
    /// Once true, the check ends within about a MiB of reading.
    pub cancel: &'a AtomicBool,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// [`Input::blocks`] is out of order.
    #[error("live block {index} does not start above the one before it: blocks must be sorted by address, each once")]
    NotSorted {
        /// Of the first block out of order.
        index: usize,
    },
    /// [`Input::blocks`] is too long.
    #[error("{blocks} live blocks are too many for one check (the limit is {})", MAX_BLOCKS)]
    TooManyBlocks {
        /// How many there are.
        blocks: usize,
    },
    /// [`Control::cancel`] was set.
    #[error("the search for lost blocks was cancelled")]
    Cancelled,
}

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Blocks of so many bytes and more are large: of their pages it is told which hold pointers.
pub const LARGE: u64 = PAGE;

/// Most blocks that one check takes: indices are 32 bits, and the top ones mean "none".
pub const MAX_BLOCKS: usize = u32::MAX as usize - 16;

/// What was found; every index is one of [`Input::blocks`].
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Reachability {
    classes: Vec<Class>,
    outermost: Vec<bool>,
    holders: chain::Holders,
    /// See [`Self::loud_pages`]; of no use to who reads this from a file.
    #[serde(skip)]
    loud_pages: Vec<u64>,
    /// Bytes of roots and blocks that were searched.
    pub scanned_bytes: u64,
    /// Bytes of roots and blocks that should have been searched and could not be read.
    pub unreadable_bytes: u64,
    /// Pointers between lost blocks that were passed over because there were too many to keep (hundreds of millions).
    /// Where this is not 0, some definitely lost blocks may be indirectly lost.
    pub dropped_pointers: u64,
}

impl Reachability {
    /// As found at another time: classes and what is outermost, by block. Nothing is known of holders.
    pub fn recalled(classes: Vec<Class>, outermost: Vec<bool>) -> Self {
        let (scanned_bytes, unreadable_bytes, dropped_pointers) = (0, 0, 0);
        let holders = chain::Holders(Vec::new());
        Self { classes, outermost, holders, loud_pages: Vec::new(), scanned_bytes, unreadable_bytes, dropped_pointers }
    }

    /// The class of a block; [`Class::Unclassified`] for an index out of range.
    pub fn class(&self, block: u32) -> Class {
        self.classes.get(block as usize).copied().unwrap_or(Class::Unclassified)
    }

    /// The classes of all blocks.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Addresses of the pages of [large](LARGE) blocks in which words that lead into blocks were found, ascending.
    pub fn loud_pages(&self) -> &[u64] {
        &self.loud_pages
    }

    /// The block is an FFmpeg object that is to be blamed: lost (or possibly lost), and no FFmpeg object of the same
    /// standing leads to it. Of a cycle only the member of highest rank is outermost. False for reachable blocks.
    pub fn is_outermost(&self, block: u32) -> bool {
        self.outermost.get(block as usize).copied().unwrap_or(false)
    }

    /// The caller knows better: the block is not lost.
    pub fn pardon(&mut self, block: u32) {
        if let (Some(class), Some(outermost)) =
            (self.classes.get_mut(block as usize), self.outermost.get_mut(block as usize))
        {
            (*class, *outermost) = (Class::StillReachable, false);
        }
    }

    /// What points to a block: the first pointer that gave it its class. None for definitely lost blocks (what points to
    /// them from their own cycle holds nothing).
    pub fn holder(&self, block: u32) -> Option<Step> {
        self.holders.step(block)
    }

    /// Where the chain of a block begins, if in a root.
    pub fn root_of(&self, block: u32) -> Option<Source> {
        self.holders.first(block).filter(|source| !matches!(source, Source::Block { .. }))
    }

    /// How a block is held, one example: from a root (still reachable, possibly lost) or from the definitely lost block
    /// (indirectly lost) down to the pointer into the block itself, and empty for a definitely lost one. Each step says
    /// where a pointer lies; it leads into the next step's block, the last one into `block`. One step for each block
    /// passed: a list's last node has a long chain.
    pub fn chain(&self, block: u32) -> Vec<Step> {
        self.holders.chain(block)
    }
}

/// Classifies every block.
///
/// # Errors
/// [`ReachError`]: blocks out of order or too many, or cancelled.
pub fn check(memory: &dyn Memory, input: &Input<'_>, control: &Control<'_>) -> Result<Reachability, ReachError> {
    let index = blocks::BlockIndex::new(input.blocks)?;
    let mut scanner = scan::Scanner::new(memory, &index, control, total_bytes(input, &index));
    let mut marker = mark::Marker::new(memory, input, &index);
    marker.mark_reachable(&mut scanner)?;
    marker.mark_possible(&mut scanner)?;
    marker.collect_lost(&mut scanner)?;
    scanner.finish();
    let mark::Marked { states, graph, mut holders, loud_pages } = marker.into_parts();
    let verdict = cliques::judge(input.blocks, &states, &graph, &mut holders);
    Ok(Reachability {
        classes: verdict.classes,
        outermost: verdict.outermost,
        holders,
        loud_pages,
        scanned_bytes: scanner.scanned_bytes(),
        unreadable_bytes: scanner.unreadable_bytes(),
        dropped_pointers: graph.dropped,
    })
}

fn total_bytes(input: &Input<'_>, index: &blocks::BlockIndex) -> u64 {
    let roots = input.roots.iter().chain(input.doubtful).map(|r| r.end.saturating_sub(r.start));
    let blocks = input.blocks.iter().enumerate().filter(|(_, b)| b.scan == Scan::Words);
    roots.chain(blocks.map(|(i, _)| index.extent(i as u32).len())).fold(0, u64::saturating_add)
}
