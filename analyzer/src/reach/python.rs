//! Python's objects among the blocks: where in its block an object begins, and whether it is dead.
//!
//! Objects that the collector follows have two words before them, some two more (Include/internal/pycore_gc.h, `PyGC_Head`;
//! pycore_object.h, `_PyType_PreHeaderSize`): every pointer to such an object leads behind the start of its block. And types keep dead
//! objects for the next use, in lists of the interpreter's or of an extension's own (Cython's `@cython.freelist`): their memory was never
//! given back, their references are none. An object is told by its second word, the address of a type: what has the type of types,
//! or one derived from it, for its own type.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::Block;
use crate::target::memory::Memory;

/// Bytes before an object in its block.
const HEADS: [u64; 3] = [0, 16, 32];
/// Bytes of an object's own head: count and type.
const OBJECT: u64 = 16;
/// Metatypes between a type and the type of types that are followed.
const LEVELS: usize = 3;

/// Tells Python's objects.
pub struct Objects<'a> {
    memory: &'a dyn Memory,
    metatype: u64,
    types: HashMap<u64, bool, FxBuildHasher>,
}

impl<'a> Objects<'a> {
    /// `metatype`: the address of `PyType_Type`.
    pub fn new(memory: &'a dyn Memory, metatype: u64) -> Self {
        Self { memory, metatype, types: HashMap::default() }
    }

    /// `word`, which leads behind the start of `block`, is the address of a living object that lies in it.
    pub fn begins_at(&mut self, word: u64, block: &Block) -> bool {
        let before = word.wrapping_sub(block.start);
        before != 0
            && HEADS.contains(&before)
            && block.size >= before + OBJECT
            && self.count_of(word).is_some_and(|count| count > 0)
    }

    /// The block is an object that nothing refers to any more: the collector has forgotten it, nobody counts on it.
    pub fn is_dead(&mut self, block: &Block) -> bool {
        HEADS.into_iter().any(|before| {
            block.size >= before + OBJECT
                && self.count_of(block.start + before) == Some(0)
                && (before == 0 || self.memory.word(block.start + before - 16) == Some(0))
        })
    }

    /// How many references an object at `at` has; `None` where none lies there.
    fn count_of(&mut self, at: u64) -> Option<u32> {
        let mut head = [0; OBJECT as usize];
        if self.memory.read(at, &mut head) < head.len() {
            return None;
        }
        let (count, kind) =
            (u64::from_le_bytes(head[..8].try_into().ok()?), u64::from_le_bytes(head[8..].try_into().ok()?));
        // From 3.12 on the upper half says other things.
        self.is_type(kind).then_some(count as u32)
    }

    fn is_type(&mut self, address: u64) -> bool {
        if address < 4096 || !address.is_multiple_of(8) {
            return false;
        }
        if let Some(&known) = self.types.get(&address) {
            return known;
        }
        let mut of = address;
        let is = (0..LEVELS).any(|_| {
            of = self.memory.word(of.wrapping_add(8)).unwrap_or(0);
            of == self.metatype
        });
        self.types.insert(address, is);
        is
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::reach::Scan;
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

    #[test]
    fn a_living_object_begins_behind_the_collectors_words() {
        for kind in [TYPE, DERIVED] {
            let memory = memory(&[1, 1, 2, kind, 0, 0]);
            let mut objects = Objects::new(&memory, METATYPE);
            assert!(objects.begins_at(AT + 16, &block(48)));
            assert!(!objects.begins_at(AT + 24, &block(48)) && !objects.begins_at(AT + 32, &block(48)));
            assert!(!objects.begins_at(AT + 16, &block(24)), "no room for an object");
            assert!(!objects.is_dead(&block(48)));
        }
        let memory = memory(&[1, 1, 2, 0x7777, 0, 0]);
        assert!(!Objects::new(&memory, METATYPE).begins_at(AT + 16, &block(48)), "no type");
    }

    #[test]
    fn a_dead_object_has_no_references_and_is_not_followed() {
        let dead = |words: &[u64]| Objects::new(&memory(words), METATYPE).is_dead(&block(8 * words.len() as u64));
        assert!(dead(&[0, 0, 0, TYPE, 5, 6]) && dead(&[0, TYPE, 5]) && dead(&[9, 9, 0, 0, 0, DERIVED]));
        // From 3.12 on: something else in the upper half.
        assert!(dead(&[0x0300_0000_0000_0000, TYPE]));
        assert!(!dead(&[0, 0, 1, TYPE]), "one reference");
        assert!(!dead(&[AT + 64, 0, 0, TYPE]), "the collector follows it");
        assert!(!dead(&[0, 0, 0, 0x7777]) && !dead(&[0, 0]) && !dead(&[]), "no object");
    }
}
