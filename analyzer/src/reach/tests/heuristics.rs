//! Valgrind's four C++ heuristics, and what must not pass for them.

use super::*;
use Class::{PossiblyLost, StillReachable};

const A: u64 = 0x10_0000;
const ROOT: u64 = 0x60_0000;
const TABLE: u64 = 0x50_0000;
const CODE: u64 = 0x40_0000;

/// A file with two vtables, and one of data, below code.
fn mapping(address: u64) -> Mapping {
    match address {
        CODE..0x41_0000 => Mapping::Code,
        TABLE..0x51_0000 => Mapping::File,
        _ => Mapping::Other,
    }
}

/// The class of a block of these words that the root holds by `offset`; `size` bytes.
fn class(words: &[u64], size: u64, offset: u64) -> Class {
    let mut world = World::default();
    world.plain(A, words);
    world.blocks[0].size = size;
    world.root(ROOT, &[A + offset]);
    world.memory.insert_words(TABLE, &[CODE, CODE + 16, 0, 0]);
    world.memory.insert_words(TABLE + 0x100, &[0, CODE, 0, CODE + 16]);
    world.memory.insert_words(TABLE + 0x200, &[CODE, 77, CODE, CODE]);
    world.memory.insert_words(TABLE + 0x300, &[0; 20]);
    world.memory.insert_words(TABLE + 0xfff8, &[CODE]);
    world.check_mapped(&mapping).unwrap().class(0)
}

#[test]
fn a_string_of_the_old_abi() {
    let words = [5, 23, 0, 0x006f_6c6c_6568, 0, 0];
    assert_eq!(class(&words, 24 + 23 + 1, 24), StillReachable);
    assert_eq!(class(&words, 24 + 23 + 1, 32), PossiblyLost, "not the first character");
    assert_eq!(class(&words, 24 + 23 + 2, 24), PossiblyLost, "capacity and size differ");
    assert_eq!(class(&[24, 23, 0, 0, 0, 0], 48, 24), PossiblyLost, "longer than its capacity");
    assert_eq!(class(&[5, u64::MAX - 24, 0, 0, 0], 0, 24), Class::DefinitelyLost, "empty and overflowing");
}

#[test]
fn an_array_with_its_count() {
    assert_eq!(class(&[3, 0, 0, 0, 0, 0, 0], 56, 8), StillReachable, "3 of 16 bytes");
    assert_eq!(class(&[5, 0, 0, 0, 0, 0, 0], 56, 8), PossiblyLost, "5 do not divide 48");
    assert_eq!(class(&[0, 0, 0, 0, 0, 0, 0], 56, 8), PossiblyLost, "no elements");
    assert_eq!(class(&[3, 0, 0, 0, 0, 0, 0], 56, 16), PossiblyLost, "not the first element");
}

#[test]
fn a_length_before_the_bytes() {
    assert_eq!(class(&[31 - 8, 0, 0, 0], 31, 8), StillReachable);
    assert_eq!(class(&[31, 0, 0, 0], 31, 8), PossiblyLost);
}

#[test]
fn a_second_base() {
    assert_eq!(class(&[TABLE, 0, TABLE + 0x100, 0], 32, 16), StillReachable);
    assert_eq!(class(&[TABLE, 0, TABLE + 0x100, 0], 32, 24), PossiblyLost, "no vtable there");
    assert_eq!(class(&[0, TABLE, TABLE + 0x100, 0], 32, 16), PossiblyLost, "none at the start");
    assert_eq!(class(&[TABLE, 0, TABLE + 0x200, 0], 32, 16), PossiblyLost, "data among the functions");
    assert_eq!(class(&[TABLE, 0, TABLE + 0x300, 0], 32, 16), PossiblyLost, "no functions");
    assert_eq!(class(&[TABLE, 0, TABLE + 0xfff8, 0], 32, 16), PossiblyLost, "the mapping ends after one");
    assert_eq!(class(&[TABLE, 0, TABLE + 4, 0], 32, 16), PossiblyLost, "unaligned");
    assert_eq!(class(&[TABLE, 0, A, 0], 32, 16), PossiblyLost, "not in a file");
}

#[test]
fn what_a_heuristic_raises_holds_others_for_good() {
    let mut world = World::default();
    world.plain(A, &[3, 0, 0, A + 0x1000, 0, 0, 0]);
    world.plain(A + 0x1000, &[2, 0, A + 0x2000, 0, 0]);
    world.plain(A + 0x2000, &[0, 0]);
    // The second block is an array too, held by the first through an interior pointer.
    world.memory.insert_words(A, &[3, 0, 0, A + 0x1008, 0, 0, 0]);
    world.root(ROOT, &[A + 16, A + 8]);
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable; 3]);
    assert_eq!(found.chain(2).len(), 3);
    assert!(found.chain(2)[0].interior);
}

#[test]
fn more_candidates_than_are_gathered_at_once() {
    let mut world = World::default();
    let count = 300_000u64;
    let mut words = Vec::new();
    let mut root = Vec::new();
    for i in 0..count {
        world.blocks.push(Block { start: A + i * 64, size: 40, kind: ObjectKind::Plain, scan: Scan::Words });
        words.extend([if i % 2 == 0 { 4 } else { 7 }, 0, 0, 0, 0, 0, 0, 0]);
        root.push(A + i * 64 + 8);
    }
    world.memory.insert_words(A, &words);
    world.root(A + count * 64 + 0x1000, &root);
    let found = world.check();
    for (i, &class) in found.classes().iter().enumerate() {
        assert_eq!(class, if i % 2 == 0 { StillReachable } else { PossiblyLost }, "block {i}");
    }
}
