//! Cycles, leaders, outermost objects, and graphs that would end a recursion.

use super::*;
use Class::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};
use ObjectKind::{BufferRef, CodecContext, Dictionary, Frame, LibavBlock, Packet, Plain, SideData};

const A: u64 = 0x10_0000;
const B: u64 = 0x10_1000;
const C: u64 = 0x10_2000;
const D: u64 = 0x10_3000;
const ROOT: u64 = 0x60_0000;

#[test]
fn objects_outrank_everything_else() {
    // cliques::leader relies on it.
    let kinds = [Plain, LibavBlock, ObjectKind::Payload, ObjectKind::DictionaryPart];
    assert!(kinds.iter().all(|k| !k.is_object() && k.rank() < Dictionary.rank().min(SideData.rank())));
    assert!([Dictionary, SideData, ObjectKind::PoolEntry, ObjectKind::HwContext].iter().all(|k| k.is_object()));
}

#[test]
fn a_self_pointer_holds_nothing() {
    let mut world = World::default();
    world.block(A, Frame, &[A + 8, A, 0, 0]);
    let found = world.check();
    assert_eq!((found.class(0), found.is_outermost(0)), (DefinitelyLost, true));
    // Nor does it make a possibly lost block reachable.
    world.root(ROOT, &[A + 16]);
    assert_eq!(world.check().class(0), PossiblyLost);
}

#[test]
fn a_cycle_is_led_by_its_highest_rank() {
    // priv_data ↔ codec context, and a frame that both hold.
    let mut world = World::default();
    world.block(A, LibavBlock, &[B, C, 0, 0]);
    world.block(B, CodecContext, &[A, 0, 0, 0]);
    world.block(C, Frame, &[0; 4]);
    let found = world.check();
    assert_eq!(found.classes(), [IndirectlyLost, DefinitelyLost, IndirectlyLost]);
    assert_eq!([0, 1, 2].map(|b| found.is_outermost(b)), [false, true, false]);
    assert_eq!(found.chain(2).len(), 2, "context, its private data");
    assert_eq!(found.chain(2)[0].source, Source::Block { block: 1, offset: 0 });
    // Reached from outside it is no leak.
    world.root(ROOT, &[A]);
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable; 3]);
    assert!((0..3).all(|b| !found.is_outermost(b)));
}

#[test]
fn equals_in_a_cycle_are_led_by_the_lowest() {
    let mut world = World::default();
    world.plain(A, &[B, 0]);
    world.plain(B, &[C, 0]);
    world.plain(C, &[A, D]);
    world.plain(D, &[0, 0]);
    let found = world.check();
    assert_eq!(found.classes(), [DefinitelyLost, IndirectlyLost, IndirectlyLost, IndirectlyLost]);
}

#[test]
fn a_cycle_with_a_pointer_from_a_lost_block_is_indirect() {
    let mut world = World::default();
    world.block(A, CodecContext, &[B, 0]);
    world.block(B, LibavBlock, &[A, 0]);
    world.plain(C, &[0, A]);
    let found = world.check();
    assert_eq!(found.classes(), [IndirectlyLost, IndirectlyLost, DefinitelyLost]);
    assert!(found.is_outermost(0), "the program's lost struct holds a context: that is the leak");
}

#[test]
fn who_is_to_blame() {
    // A lost session of the program's holds a frame, which holds a ref; a list node holds a second frame through a node.
    let mut world = World::default();
    let session = world.plain(A, &[B, D, 0, 0]);
    let frame = world.block(B, Frame, &[C, 0, 0, 0]);
    let its_ref = world.block(C, BufferRef, &[0, 0, 0]);
    let node = world.plain(D, &[0x10_4000, 0]);
    let second = world.block(0x10_4000, Frame, &[C, 0, 0, 0]);
    let packet = world.block(0x10_5000, Packet, &[0x10_6000, 0]);
    let between = world.plain(0x10_6000, &[0x10_7000, 0]);
    let part = world.block(0x10_7000, SideData, &[0, 0]);
    let found = world.check();
    let outermost: Vec<u32> = (0..8).filter(|&b| found.is_outermost(b)).collect();
    assert_eq!(outermost, [frame, second, packet]);
    assert_eq!(found.class(session), DefinitelyLost);
    assert_eq!(found.class(packet), DefinitelyLost);
    for indirect in [frame, its_ref, node, second, between, part] {
        assert_eq!(found.class(indirect), IndirectlyLost);
    }
    assert_eq!(found.chain(second).len(), 2);
}

#[test]
fn who_is_to_blame_for_what_is_possibly_lost() {
    let mut world = World::default();
    world.block(A, Frame, &[B, 0, 0, 0]);
    world.block(B, BufferRef, &[0, 0, 0]);
    world.block(C, Packet, &[0, D, 0, 0]);
    world.block(D, BufferRef, &[0, 0, 0]);
    world.root(ROOT, &[A + 8, C]);
    let found = world.check();
    assert_eq!(found.classes(), [PossiblyLost, PossiblyLost, StillReachable, StillReachable]);
    assert_eq!([0, 1, 2, 3].map(|b| found.is_outermost(b)), [true, false, false, false]);
}

#[test]
fn a_list_of_200_000_and_a_graph_of_a_million() {
    // Each block points to the next; lost, and with a root to its second node.
    for held in [false, true] {
        let mut world = World::default();
        let count = 200_000u64;
        let mut words = Vec::new();
        for i in 0..count {
            words.extend([0, A + (i + 1) * 32, 0, 0]);
            world.blocks.push(Block { start: A + i * 32, size: 24, kind: Plain, scan: Scan::Words });
        }
        world.memory.insert_words(A, &words);
        if held {
            world.root(A + count * 32 + 0x10_0000, &[A + 32]);
        }
        let found = world.check();
        let (rest, steps) = if held { (StillReachable, count - 1) } else { (IndirectlyLost, count - 1) };
        assert_eq!(found.class(0), DefinitelyLost);
        assert!(found.classes()[1..].iter().all(|&c| c == rest));
        assert_eq!(found.chain(count as u32 - 1).len() as u64, steps);
    }
    let mut random = Random::new(1);
    let count = 1_000_000u64;
    let mut world = World::default();
    let mut words = Vec::new();
    for i in 0..count {
        world.blocks.push(Block { start: A + i * 32, size: 24, kind: Plain, scan: Scan::Words });
        words.extend([A + random.below(count) * 32, A + random.below(count) * 32 + 8, 0, 0]);
    }
    world.memory.insert_words(A, &words);
    world.root(A + count * 32 + 0x10_0000, &[A]);
    let found = world.check();
    assert_eq!(found.classes().len() as u64, count);
    assert_eq!(found.scanned_bytes, 24 * count + 8);
}
