//! Input that no honest process sends.

use super::*;

#[test]
fn blocks_that_overlap_and_overflow() {
    let mut world = World::default();
    world.memory.insert_words(0x1000, &[0x1018, 0x1000, u64::MAX, 0x2000, 0x1008, 0]);
    for (start, size) in
        [(0, u64::MAX), (0x1000, 4096), (0x1008, u64::MAX), (0x1010, 0), (0x1018, 1 << 60), (u64::MAX - 8, 64)]
    {
        world.blocks.push(Block { start, size, kind: ObjectKind::Frame, scan: Scan::Words });
    }
    for (start, end) in [(0x1000, 0x1030), (0x1030, 0x1000), (7, 9), (1 << 62, u64::MAX), (u64::MAX, u64::MAX)] {
        world.roots.push(RootRange { start, end, label: 0 });
    }
    world.registers.push(Register { value: u64::MAX, label: 0 });
    let found = world.check();
    assert_eq!(found.classes().len(), 6);
    assert!(found.unreadable_bytes > 1 << 60, "counted, not crept over");
    for block in 0..6 {
        found.chain(block);
    }
}

#[test]
fn blocks_out_of_order_are_refused() {
    let mut world = World::default();
    world.plain(0x2000, &[0]);
    world.plain(0x1000, &[0]);
    let error = world.check_mapped(&|_| Mapping::Other).unwrap_err();
    assert_eq!(error, ReachError::NotSorted { index: 1 });
    assert_eq!(
        error.to_string(),
        "live block 1 does not start above the one before it: blocks must be sorted by address, each once"
    );
}

#[test]
fn nothing_at_all() {
    let world = World::default();
    let found = world.check();
    assert_eq!((found.classes().len(), found.scanned_bytes, found.unreadable_bytes), (0, 0, 0));
    assert!(!found.is_outermost(0) && found.holder(0).is_none());
}

#[test]
fn a_memory_that_claims_to_have_read_too_much() {
    struct Liar;
    impl Memory for Liar {
        fn read(&self, _: u64, buffer: &mut [u8]) -> usize {
            buffer.fill(0x41);
            usize::MAX
        }
    }
    let block = Block { start: 0x4141_4141_4141_4141, size: 64, kind: ObjectKind::Plain, scan: Scan::Words };
    let input = Input {
        doubtful: &[],
        left_out: &[],
        blocks: &[block],
        roots: &[RootRange { start: 0, end: 1 << 21, label: 0 }],
        registers: &[],
        root_blocks: &[],
        mapping: &|_| Mapping::Code,
        python: None,
    };
    let cancel = AtomicBool::new(false);
    let found = check(&Liar, &input, &Control { progress: &|_, _| {}, cancel: &cancel }).unwrap();
    assert_eq!(found.class(0), Class::StillReachable);
}

#[test]
fn roots_out_of_order_and_twice() {
    let mut world = World::default();
    world.plain(0x1000, &[0; 4]);
    world.root(0x9000, &[0, 0]);
    world.root(0x8000, &[0, 0x1000]);
    world.roots.push(world.roots[1]);
    assert_eq!(world.check().class(0), Class::StillReachable);
}
