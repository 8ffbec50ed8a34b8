//! What a pointer into the middle of a block is worth: a start pointer's worth, an interior pointer's, or nothing.
//!
//! * **Nothing**: the address of the chunk header behind a block, which glibc's bins and its top pointer hold. Where a
//!   block's last eight bytes lie in the next chunk's `prev_size` field, that header's address lies inside the block.
//! * **A start pointer's worth, by type**: AVFrame.data into its buffer, AVBufferRef to the AVBuffer inside a pool entry
//!   (avutil ≥ 57), AVBuffer.data aligned within its payload, an object of AVRefStruct behind its count.
//! * **A start pointer's worth, by Valgrind's heuristics** (memcheck/mc_leakcheck.c, `heuristic_reachedness`; the default
//!   set): `std::string` of the old ABI, an array of `new[]` with its count, a length before the bytes (sqlite), and the
//!   second base of a C++ object. These read the block, so they are asked late, in batches, and only for blocks that
//!   nothing else has reached.
//! * Likewise a pointer to a Python object, behind the words that its collector keeps before it ([`super::python`]).

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::python::Types;
use super::{Block, Mapping};
use crate::kind::ObjectKind;
use crate::target::memory::Memory;

/// What a word that leads behind a block's start is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It is no pointer.
    Nothing,
    /// As a pointer to the block's start.
    Start,
    /// As a pointer into its middle.
    Interior,
}

/// Judges `word`, which leads behind the start of `target` and was found in a block of kind `source` (`None`: in a root).
pub(super) fn worth(source: Option<ObjectKind>, word: u64, target: &Block) -> Worth {
    if target.kind == ObjectKind::LibavBlock && COUNTS.contains(&word.wrapping_sub(target.start)) {
        Worth::Start
    } else if Some(word) == next_chunk_header(target) {
        Worth::Nothing
    } else if source.is_some_and(|source| is_typed(source, target.kind)) {
        Worth::Start
    } else {
        Worth::Interior
    }
}

/// What lies before an object of AVRefStruct, by the build's alignment: its count (libavutil/refstruct.c, `REFCOUNT_OFFSET`). All pointers to
/// such an object lead behind it; and where it holds no more than one pointer, that is where the next chunk's header lies too.
const COUNTS: [u64; 2] = [32, 64];

/// Objects of kind `source` hold pointers into the middle of `target`s as a rule.
fn is_typed(source: ObjectKind, target: ObjectKind) -> bool {
    use ObjectKind::{Buffer, BufferRef, Frame, Packet, Payload, PoolEntry};
    match target {
        Payload => matches!(source, Frame | Packet | Buffer | BufferRef | PoolEntry),
        PoolEntry => source == BufferRef,
        _ => false,
    }
}

/// Where glibc's next chunk begins: chunks start 16 bytes before the user's block, take the size and one word, and are
/// multiples of 16, at least 32 (malloc.c, `request2size`).
fn next_chunk_header(block: &Block) -> Option<u64> {
    let chunk = (block.size.checked_add(8 + 15)? & !15).max(32);
    block.start.checked_add(chunk)?.checked_sub(16)
}

/// Words of a table that are looked at before it is no vtable (Valgrind's VTABLE_MAX_CHECK).
const VTABLE_WORDS: u64 = 20;
/// Verdicts on vtables that are kept.
const VTABLES_KEPT: usize = 1 << 16;
const PAGE: u64 = 4096;

/// Valgrind's heuristics, reading the target.
pub(super) struct Heuristics<'a> {
    memory: &'a dyn Memory,
    mapping: &'a dyn Fn(u64) -> Mapping,
    vtables: HashMap<u64, bool, FxBuildHasher>,
    python: Option<&'a Types>,
    /// The page read last: candidates come sorted by address.
    page: Box<[u8; PAGE as usize]>,
    page_start: u64,
    page_len: usize,
}

impl<'a> Heuristics<'a> {
    pub fn new(memory: &'a dyn Memory, mapping: &'a dyn Fn(u64) -> Mapping, python: Option<&'a Types>) -> Self {
        let page = Box::new([0; PAGE as usize]);
        Self { memory, mapping, vtables: HashMap::default(), python, page, page_start: 0, page_len: 0 }
    }

    /// Without reading: could one of the heuristics hold?
    #[inline]
    pub fn may_apply(word: u64, block: &Block) -> bool {
        // The string and the array point to an aligned word of an aligned block, as a second base does.
        word.is_multiple_of(8) && block.start.is_multiple_of(8)
    }

    /// `word`, an interior pointer to `block`, counts as a pointer to its start.
    pub fn apply(&mut self, word: u64, block: &Block) -> bool {
        match word.wrapping_sub(block.start) {
            24 if self.is_string(block) => true,
            8 if self.is_array(block) => true,
            _ => {
                self.python.is_some_and(|types| types.have(self.memory, word, block))
                    || self.is_second_base(word, block)
            }
        }
    }

    /// Length, capacity, reference count, then the characters.
    fn is_string(&mut self, block: &Block) -> bool {
        let (Some(length), Some(capacity)) = (self.word(block.start), self.word(block.start.wrapping_add(8))) else {
            return false;
        };
        capacity.checked_add(24 + 1) == Some(block.size) && length <= capacity
    }

    /// A count, then that many elements of one size; this includes a length in bytes, then the bytes.
    fn is_array(&mut self, block: &Block) -> bool {
        let Some(count) = self.word(block.start) else { return false };
        block.size.checked_sub(8).and_then(|bytes| bytes.checked_rem(count)) == Some(0)
    }

    /// A vtable's address at the block's start and another at `word`.
    fn is_second_base(&mut self, word: u64, block: &Block) -> bool {
        let Some(inner) = self.word(word).filter(|&w| may_be_vtable(w)) else { return false };
        let Some(first) = self.word(block.start).filter(|&w| may_be_vtable(w)) else { return false };
        self.is_vtable(inner) && self.is_vtable(first)
    }

    fn is_vtable(&mut self, address: u64) -> bool {
        if let Some(&known) = self.vtables.get(&address) {
            return known;
        }
        let verdict = self.holds_functions(address);
        if self.vtables.len() >= VTABLES_KEPT {
            self.vtables.clear();
        }
        self.vtables.insert(address, verdict);
        verdict
    }

    /// In a mapped file, and of its first words the first two that are not null lead to code.
    fn holds_functions(&self, address: u64) -> bool {
        if (self.mapping)(address) == Mapping::Other {
            return false;
        }
        let mut bytes = [0; 8 * VTABLE_WORDS as usize];
        let got = self.memory.read(address, &mut bytes).min(bytes.len());
        let words = bytes[..got].as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight));
        let mut functions = words.filter(|&w| w != 0).map(|w| (self.mapping)(w) == Mapping::Code);
        functions.next() == Some(true) && functions.next() == Some(true)
    }

    fn word(&mut self, address: u64) -> Option<u64> {
        let page = address & !(PAGE - 1);
        if page != self.page_start || self.page_len == 0 {
            self.page_start = page;
            self.page_len = self.memory.read(page, &mut self.page[..]).min(PAGE as usize);
        }
        let at = (address - page) as usize;
        match self.page[..self.page_len].get(at..at + 8) {
            Some(eight) => eight.try_into().ok().map(u64::from_le_bytes),
            // Unaligned, or the page's start is not readable.
            None => self.memory.word(address),
        }
    }
}

fn may_be_vtable(word: u64) -> bool {
    word.is_multiple_of(8) && word >= PAGE
}
