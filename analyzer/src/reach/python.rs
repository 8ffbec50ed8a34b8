//! Python's objects among the blocks: where in its block an object begins, and whether it is dead.
//!
//! Objects that the collector follows have two words before them, some two more (Include/internal/pycore_gc.h, `PyGC_Head`;
//! pycore_object.h, `_PyType_PreHeaderSize`): every pointer to such an object leads behind the start of its block. And types keep dead
//! objects for the next use, in lists of the interpreter's or of an extension's own (Cython's `@cython.freelist`): their memory was never
//! given back, their references are none. An object is told by its second word, the address of a type: what has the type of types,
//! or one derived from it, for its own type.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::{Block, Scan};
use crate::kind::ObjectKind;
use crate::target::memory::Memory;

/// Bytes before an object in its block.
const HEADS: [u64; 3] = [0, 16, 32];
/// Bytes of an object's own head: count and type.
const OBJECT: u64 = 16;
/// Metatypes between a type and the type of types that are followed.
const LEVELS: usize = 3;

/// The types that objects among the blocks have.
#[derive(Debug, Default)]
pub struct Types {
    metatype: u64,
    /// By address: is it one?
    known: HashMap<u64, bool, FxBuildHasher>,
}

/// Learns the types, and takes what is dead out of the search. `metatype`: the address of `PyType_Type`.
pub fn survey(memory: &dyn Memory, metatype: u64, blocks: &mut [Block]) -> Types {
    let mut types = Types { metatype, ..Types::default() };
    for block in blocks.iter_mut().filter(|block| block.kind == ObjectKind::Plain && block.scan == Scan::Words) {
        if types.is_dead(memory, block) {
            block.scan = Scan::Dead;
        }
    }
    types
}

impl Types {
    /// `word`, which leads behind the start of `block`, is the address of a living object that lies in it. Reads the block only.
    pub fn have(&self, memory: &dyn Memory, word: u64, block: &Block) -> bool {
        let before = word.wrapping_sub(block.start);
        before != 0
            && HEADS.contains(&before)
            && block.size >= before + OBJECT
            && head(memory, word).is_some_and(|(count, kind)| count > 0 && self.known.get(&kind) == Some(&true))
    }

    /// The block is an object that nothing refers to any more: the collector has forgotten it, nobody counts on it.
    fn is_dead(&mut self, memory: &dyn Memory, block: &Block) -> bool {
        let mut dead = false;
        // All places, so that all types are known afterwards.
        for before in HEADS.into_iter().filter(|before| block.size >= before + OBJECT) {
            let Some((count, kind)) = head(memory, block.start + before) else { continue };
            let is_object = self.is_type(memory, kind);
            dead |= is_object && count == 0 && (before == 0 || memory.word(block.start + before - 16) == Some(0));
        }
        dead
    }

    fn is_type(&mut self, memory: &dyn Memory, address: u64) -> bool {
        if address < 4096 || !address.is_multiple_of(8) {
            return false;
        }
        if let Some(&known) = self.known.get(&address) {
            return known;
        }
        let mut of = address;
        let is = (0..LEVELS).any(|_| {
            of = memory.word(of.wrapping_add(8)).unwrap_or(0);
            of == self.metatype
        });
        self.known.insert(address, is);
        is
    }
}

/// What lies where an object's head would: how many references (from 3.12 on the upper half says other things), and the type.
fn head(memory: &dyn Memory, at: u64) -> Option<(u32, u64)> {
    let mut head = [0; OBJECT as usize];
    if memory.read(at, &mut head) < head.len() {
        return None;
    }
    let [count, kind] = [&head[..8], &head[8..]].map(|half| half.try_into().map_or(0, u64::from_le_bytes));
    Some((count as u32, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    const METATYPE: u64 = 0x1000;
    const TYPE: u64 = 0x2000;
    const DERIVED: u64 = 0x3000;
    const AT: u64 = 0x9000;

    fn block(size: u64) -> Block {
        Block { start: AT, size, kind: ObjectKind::Plain, scan: Scan::Words }
    }

    /// The types, and a block's words.
    fn memory(words: &[u64]) -> SavedMemory {
        let mut memory = SavedMemory::default();
        memory.insert_words(METATYPE, &[1, METATYPE]);
        memory.insert_words(TYPE, &[1, METATYPE]);
        memory.insert_words(DERIVED, &[1, TYPE]);
        memory.insert_words(AT, words);
        memory
    }

    /// What the survey says of one block with these words: its types, and whether it is dead.
    fn surveyed(words: &[u64]) -> (Types, bool) {
        let mut blocks = [block(8 * words.len() as u64)];
        let types = survey(&memory(words), METATYPE, &mut blocks);
        (types, blocks[0].scan == Scan::Dead)
    }

    #[test]
    fn a_living_object_begins_behind_the_collectors_words() {
        for kind in [TYPE, DERIVED] {
            let words = [1, 1, 2, kind, 0, 0];
            let (memory, (types, dead)) = (memory(&words), surveyed(&words));
            assert!(types.have(&memory, AT + 16, &block(48)) && !dead);
            assert!(!types.have(&memory, AT + 24, &block(48)) && !types.have(&memory, AT + 32, &block(48)));
            assert!(!types.have(&memory, AT + 16, &block(24)), "no room for an object");
        }
        let words = [1, 1, 2, 0x7777, 0, 0];
        assert!(!surveyed(&words).0.have(&memory(&words), AT + 16, &block(48)), "no type");
    }

    #[test]
    fn a_dead_object_has_no_references_and_is_not_followed() {
        let dead = |words: &[u64]| surveyed(words).1;
        assert!(dead(&[0, 0, 0, TYPE, 5, 6]) && dead(&[0, TYPE, 5]) && dead(&[9, 9, 0, 0, 0, DERIVED]));
        // From 3.12 on: something else in the upper half.
        assert!(dead(&[0x0300_0000_0000_0000, TYPE]));
        assert!(!dead(&[0, 0, 1, TYPE]), "one reference");
        assert!(!dead(&[AT + 64, 0, 0, TYPE]), "the collector follows it");
        assert!(!dead(&[0, 0, 0, 0x7777]) && !dead(&[0, 0]) && !dead(&[]), "no object");
    }
}
