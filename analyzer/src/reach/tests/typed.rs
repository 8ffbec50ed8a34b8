//! The interior pointers that FFmpeg and glibc make.

use super::*;
use Class::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};
use ObjectKind::{Buffer, BufferRef, CodecContext, Frame, LibavBlock, Packet, Payload, Plain, PoolEntry};

const A: u64 = 0x10_0000;
const B: u64 = 0x10_1000;
const ROOT: u64 = 0x60_0000;

/// The class of a `target` of 64 bytes to whose middle a reachable `source` points.
fn class(source: ObjectKind, target: ObjectKind) -> Class {
    let mut world = World::default();
    world.block(A, source, &[0, B + 40, 0, 0]);
    world.block(B, target, &[0; 8]);
    world.root(ROOT, &[A]);
    world.check().class(1)
}

#[test]
fn typed_interior_pointers_make_nothing_possibly_lost() {
    for source in [Frame, Packet, Buffer, BufferRef, PoolEntry] {
        assert_eq!(class(source, Payload), StillReachable, "{source:?} into payload");
    }
    assert_eq!(class(BufferRef, PoolEntry), StillReachable, "to the AVBuffer inside");
    for (source, target) in [
        (Plain, Payload),
        (CodecContext, Payload),
        (Frame, Plain),
        (Frame, Frame),
        (Frame, PoolEntry),
        (Plain, PoolEntry),
        (BufferRef, Buffer),
        (LibavBlock, LibavBlock),
    ] {
        assert_eq!(class(source, target), PossiblyLost, "{source:?} into {target:?}");
    }
}

#[test]
fn a_root_that_points_into_payload_is_an_interior_pointer() {
    let mut world = World::default();
    world.block(A, Payload, &[0; 8]);
    world.root(ROOT, &[A + 32]);
    assert_eq!(world.check().class(0), PossiblyLost);
}

#[test]
fn a_pooled_frame() {
    // Frame → ref → AVBuffer inside the entry → payload (aligned inside); the entry points back to the pool.
    let mut world = World::default();
    let frame = world.block(A, Frame, &[0x10_5040, A, 0x10_2000, 0]);
    let its_ref = world.block(0x10_2000, BufferRef, &[0x10_3028, 0x10_5040, 1 << 12]);
    let entry = world.block(0x10_3000, PoolEntry, &[0x10_5010, 0, 0x10_4000, 0, 0, 0x10_5040, 0, 0, 0, 0, 0]);
    let pool = world.block(0x10_4000, ObjectKind::BufferPool, &[0x10_3000, 0, 0]);
    world.memory.insert(0x10_5010, vec![0; 0x2000]);
    world.blocks.push(Block { start: 0x10_5010, size: 0x2000, kind: Payload, scan: Scan::Payload });
    let payload = 4;
    let found = world.check();
    assert_eq!(found.class(frame), DefinitelyLost);
    for held in [its_ref, entry, pool, payload] {
        assert_eq!(found.class(held), IndirectlyLost);
    }
    assert_eq!((0..5).filter(|&b| found.is_outermost(b)).collect::<Vec<_>>(), [frame]);
    world.root(ROOT, &[A]);
    assert_eq!(world.check().classes(), [StillReachable; 5]);
}

#[test]
fn the_next_chunks_header_is_no_pointer() {
    // (size, where glibc's next chunk header lies from the block's start, if inside the block)
    for (size, header) in [(24, Some(16)), (20, Some(16)), (536, Some(528)), (529, Some(528)), (544, None), (16, None)]
    {
        let mut world = World::default();
        world.plain(A, &[0; 80]);
        world.blocks[0].size = size;
        world.root(ROOT, &[0]);
        for offset in (8..size).step_by(8) {
            world.memory.insert_words(ROOT, &[A + offset]);
            let expected = if Some(offset) == header { DefinitelyLost } else { PossiblyLost };
            assert_eq!(world.check().class(0), expected, "{size} bytes, pointer to {offset}");
        }
    }
}

#[test]
fn objects_behind_their_counts_are_held() {
    // An item of FFmpeg 9's AVContainerFifo: a count of 64 bytes, then a pointer to a packet. 64 bytes behind it, the next chunk begins.
    let mut world = World::default();
    let mut words = [0; 9];
    words[8] = B;
    let item = world.block(A, LibavBlock, &words);
    let packet = world.block(B, Packet, &[0; 13]);
    world.root(ROOT, &[A + 64]);
    assert_eq!(world.check().classes(), [StillReachable; 2]);
    world.memory.insert_words(ROOT, &[A + 56]);
    assert_eq!((world.check().class(item), world.check().class(packet)), (PossiblyLost, PossiblyLost));
    world.memory.insert_words(ROOT, &[0]);
    assert_eq!((world.check().class(item), world.check().class(packet)), (DefinitelyLost, IndirectlyLost));
}

#[test]
fn bins_of_neighbours_hold_no_lost_frames() {
    // A free chunk's address lies in a bin (root), in a register, and in a lost block, which it must not make a holder.
    let mut world = World::default();
    let frame = world.block(A, Frame, &[0; 67]);
    let bin = A + 528;
    world.plain(B, &[bin, bin]);
    world.root(ROOT, &[bin, bin]);
    world.registers.push(Register { value: bin, label: 0 });
    let found = world.check();
    assert_eq!(found.classes(), [DefinitelyLost, DefinitelyLost]);
    assert!(found.is_outermost(frame));
    // Nor does it pass from a possibly lost block to another.
    world.memory.insert_words(ROOT, &[B + 8]);
    world.registers.clear();
    assert_eq!(world.check().classes(), [DefinitelyLost, PossiblyLost]);
}
