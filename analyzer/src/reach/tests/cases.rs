//! Valgrind's nine cases (memcheck/tests/leak-cases.c), chains, and where pointers end.

use super::*;
use Class::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};

const A: u64 = 0x10_0000;
const B: u64 = 0x10_1000;
const C: u64 = 0x10_2000;
const ROOT: u64 = 0x60_0000;

/// Blocks A and B of 64 bytes; the root holds `root`, A holds `a`.
fn two(root: u64, a: u64) -> World {
    let mut world = World::default();
    world.plain(A, &[0, 0, a, 0, 0, 0, 0, 0]);
    world.plain(B, &[0; 8]);
    world.root(ROOT, &[1, root, 0]);
    world
}

#[test]
fn the_nine_cases() {
    for (case, root, a, class_a, class_b) in [
        (1, A, 0, StillReachable, DefinitelyLost),
        (2, A, B, StillReachable, StillReachable),
        (3, 0, 0, DefinitelyLost, DefinitelyLost),
        (4, 0, B, DefinitelyLost, IndirectlyLost),
        (5, A + 8, 0, PossiblyLost, DefinitelyLost),
        (6, A, B + 8, StillReachable, PossiblyLost),
        (7, A + 8, B, PossiblyLost, PossiblyLost),
        (8, A + 8, B + 8, PossiblyLost, PossiblyLost),
        (9, 0, B + 8, DefinitelyLost, IndirectlyLost),
    ] {
        let found = two(root, a).check();
        assert_eq!(found.classes(), [class_a, class_b], "case {case}");
    }
}

#[test]
fn a_start_pointer_found_late_beats_interior_ones() {
    // Interior from the root first, then by start through a chain of two.
    let mut world = World::default();
    let a = world.plain(A, &[0, B, 0, 0]);
    let b = world.plain(B, &[A, 0, 0, 0]);
    world.root(ROOT, &[A + 8, B]);
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable; 2]);
    assert_eq!(found.chain(b), [Step { source: Source::Root { label: 0, address: ROOT + 8 }, interior: false }]);
    assert_eq!(
        found.chain(a),
        [
            Step { source: Source::Root { label: 0, address: ROOT + 8 }, interior: false },
            Step { source: Source::Block { block: b, offset: 0 }, interior: false },
        ]
    );
}

#[test]
fn chains_name_every_pointer() {
    let found = two(A + 8, B + 16).check();
    assert_eq!(
        found.chain(1),
        [
            Step { source: Source::Root { label: 0, address: ROOT + 8 }, interior: true },
            Step { source: Source::Block { block: 0, offset: 16 }, interior: true },
        ]
    );
    assert_eq!(found.holder(1), found.chain(1).last().copied());
    let found = two(0, B).check();
    assert_eq!(found.chain(0), []);
    assert_eq!(found.chain(1), [Step { source: Source::Block { block: 0, offset: 16 }, interior: false }]);
    assert_eq!(found.chain(7), [], "no such block");
    assert_eq!(found.class(7), Class::Unclassified);
}

#[test]
fn registers_and_decrees() {
    let mut world = two(0, B);
    world.registers = vec![Register { value: 12, label: 1 }, Register { value: A, label: 40 }];
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable; 2]);
    assert_eq!(found.chain(0), [Step { source: Source::Register { label: 40 }, interior: false }]);
    world.registers[1].value = A + 32;
    assert_eq!(world.check().classes(), [PossiblyLost; 2]);
    world.root_blocks = vec![RootBlock { block: 0, label: 3 }, RootBlock { block: 99, label: 3 }];
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable; 2]);
    assert_eq!(found.chain(0), [Step { source: Source::Decree { label: 3 }, interior: false }]);
}

#[test]
fn one_past_the_end_is_outside() {
    assert_eq!(two(A + 64, 0).check().class(0), DefinitelyLost);
    assert_eq!(two(A + 63, 0).check().class(0), PossiblyLost);
    assert_eq!(two(A - 1, 0).check().class(0), DefinitelyLost);
}

#[test]
fn an_empty_block_is_held_by_its_address() {
    let mut world = World::default();
    world.plain(A, &[]);
    world.plain(B, &[]);
    world.root(ROOT, &[A, B + 1]);
    assert_eq!(world.check().classes(), [StillReachable, DefinitelyLost]);
}

#[test]
fn only_aligned_words_are_pointers() {
    let mut world = World::default();
    world.plain(A, &[0; 4]);
    let mut bytes = vec![0; 32];
    bytes[12..20].copy_from_slice(&A.to_le_bytes());
    world.memory.insert(ROOT, bytes);
    world.roots.push(RootRange { start: ROOT, end: ROOT + 32, label: 0 });
    assert_eq!(world.check().class(0), DefinitelyLost);
    // A root that begins and ends within words: only the whole ones.
    world.memory.insert_words(ROOT, &[A, 0, A]);
    world.roots[0] = RootRange { start: ROOT + 1, end: ROOT + 23, label: 0 };
    let found = world.check();
    assert_eq!((found.class(0), found.scanned_bytes), (DefinitelyLost, 8 + 32));
}

#[test]
fn payload_is_not_scanned() {
    let mut world = two(A, B);
    world.blocks[0].scan = Scan::Payload;
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable, DefinitelyLost]);
    assert_eq!(found.scanned_bytes, 24 + 64, "the root and B");
}

#[test]
fn unreadable_parts_are_counted_and_passed_over() {
    let mut world = World::default();
    world.plain(A, &[0; 4]);
    world.plain(B, &[0; 4]);
    // Three pages of root, the middle one missing.
    let mut page = vec![0; 512];
    page[0] = A;
    world.memory.insert_words(ROOT, &page);
    page[0] = B;
    world.memory.insert_words(ROOT + 0x2000, &page);
    world.roots.push(RootRange { start: ROOT, end: ROOT + 0x3000, label: 0 });
    // A block that can't be read at all, and one whose end can't.
    world.blocks.push(Block { start: 0x20_0000, size: 100, kind: ObjectKind::Plain, scan: Scan::Words });
    world.memory.insert_words(0x20_1000, &[B]);
    world.blocks.push(Block { start: 0x20_1000, size: 24, kind: ObjectKind::Plain, scan: Scan::Words });
    let found = world.check();
    assert_eq!(found.classes(), [StillReachable, StillReachable, DefinitelyLost, DefinitelyLost]);
    assert_eq!(found.unreadable_bytes, 0x1000 + 96 + 16);
    assert_eq!(found.scanned_bytes, 0x2000 + 64 + 8);
}

#[test]
fn a_page_that_can_be_read_is_not_passed_over() {
    // The root begins in the middle of a missing page; the next one holds the pointer in its first word.
    let mut world = World::default();
    world.plain(A, &[0; 4]);
    world.memory.insert_words(ROOT + 0x1000, &[A]);
    world.roots.push(RootRange { start: ROOT + 0x808, end: ROOT + 0x1008, label: 0 });
    let found = world.check();
    assert_eq!((found.class(0), found.unreadable_bytes), (StillReachable, 0x7f8));
}

#[test]
fn progress_ends_at_the_total_and_cancel_stops() {
    let mut world = World::default();
    world.plain(A, &[0; 4]);
    world.memory.insert(ROOT, vec![0; 5 << 20]);
    world.roots.push(RootRange { start: ROOT, end: ROOT + (5 << 20), label: 0 });
    let input = Input {
        doubtful: &[],
        left_out: &[],
        blocks: &world.blocks,
        roots: &world.roots,
        registers: &[],
        root_blocks: &[],
        mapping: &|_| Mapping::Other,
        python: None,
    };
    let calls = std::cell::RefCell::new(Vec::new());
    let progress = |done, total| calls.borrow_mut().push((done, total));
    let cancel = AtomicBool::new(false);
    check(&world.memory, &input, &Control { progress: &progress, cancel: &cancel }).unwrap();
    let total = (5 << 20) + 32;
    assert_eq!(calls.borrow().len(), 6);
    assert!(calls.borrow().is_sorted() && calls.borrow().iter().all(|c| c.1 == total));
    assert_eq!(calls.borrow().last(), Some(&(total, total)));
    let stop = |_, _| cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let result = check(&world.memory, &input, &Control { progress: &stop, cancel: &cancel });
    assert_eq!(result.err(), Some(ReachError::Cancelled));
}

/// Three pages and a bit, of which the second and the last word of the last lead to others.
#[test]
fn pages_that_hold_pointers_are_told_and_others_can_be_left_out() {
    let mut world = World::default();
    let (start, size) = (0x20_0100, 3 * 4096 + 8);
    let mut words = vec![0; size / 8];
    words[(0x20_1800 - start) as usize / 8] = A;
    *words.last_mut().unwrap() = B;
    let a = world.plain(A, &[0; 4]);
    let b = world.plain(B, &[0; 4]);
    let large = world.plain(start, &words);
    world.root(ROOT, &[start]);
    let found = world.check();
    assert_eq!(found.loud_pages(), [0x20_1000, 0x20_3000]);
    assert_eq!([a, b, large].map(|block| found.class(block)), [StillReachable; 3]);
    let read = found.scanned_bytes;
    // All but the page of one.
    let range = |start, end| TargetRange { start, end };
    world.left_out =
        vec![range(0x1, 0x2), range(start, 0x20_1000), range(0x20_2000, 0x20_4000), range(1 << 40, 1 << 41)];
    let found = world.check();
    assert_eq!([a, b, large].map(|block| found.class(block)), [StillReachable, DefinitelyLost, StillReachable]);
    assert_eq!(found.scanned_bytes, read - size as u64 + 4096);
    assert_eq!(found.loud_pages(), [0x20_1000]);
    world.left_out = vec![range(0, 1 << 41)];
    let found = world.check();
    assert_eq!([a, b, large].map(|block| found.class(block)), [DefinitelyLost, DefinitelyLost, StillReachable]);
}

#[test]
fn what_only_doubtful_memory_leads_to_is_possibly_lost() {
    let mut world = World::default();
    let held = world.plain(A, &[0; 4]);
    let with_it = world.plain(B, &[C]);
    let below = world.plain(C, &[0; 4]);
    world.root(ROOT, &[A]);
    world.memory.insert_words(ROOT + 0x1000, &[A, B]);
    world.doubtful.push(RootRange { start: ROOT + 0x1000, end: ROOT + 0x1010, label: 7 });
    let found = world.check();
    assert_eq!(
        [held, with_it, below].map(|at| found.class(at)),
        [Class::StillReachable, Class::PossiblyLost, Class::PossiblyLost]
    );
    assert_eq!(found.holder(with_it).map(|step| step.source), Some(Source::Root { label: 7, address: ROOT + 0x1008 }));
    assert!(found.is_outermost(with_it) == world.blocks[with_it as usize].kind.is_object());
}
