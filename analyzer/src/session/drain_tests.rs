//! Tests of the drain: at the end of a process, and after an analyzer was killed.

use super::*;
use avleak_wire::event::KIND_FREE;
use avleak_wire::layout as wire;
use avleak_wire::ring::{Mapped, Producer};
use rustix::fs::{MemfdFlags, SealFlags};

fn worker(rings: u32) -> Worker {
    let fd = rustix::fs::memfd_create("avleak-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&fd, wire::SEGMENT_BYTES).expect("its size");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("its seal");
    rustix::io::pwrite(&fd, &wire::MAGIC.to_le_bytes(), 0).expect("the magic");
    let at = std::mem::offset_of!(wire::Header, version) as u64;
    rustix::io::pwrite(&fd, &u32::from(wire::MAJOR).to_le_bytes(), at).expect("the version");
    let at = std::mem::offset_of!(wire::Header, ring_slots) as u64;
    rustix::io::pwrite(&fd, &rings.to_le_bytes(), at).expect("the rings");
    let segment = Segment::map(fd).expect("a segment");
    segment.header().ring_count.store(rings, Ordering::Release);
    Worker::new(segment, PathBuf::from("/bin/true"), None)
}

fn producer(worker: &Worker, ring: u64) -> Producer {
    let offset = wire::RINGS_OFFSET + ring * wire::RING_STRIDE;
    // SAFETY: inside the mapping, which the worker holds; this thread alone writes.
    Producer::over(unsafe { Mapped::new(worker.segment.as_mut_ptr().add(offset as usize)) })
}

fn event(kind: u8, stamp: u64, address: u64) -> Event {
    Event { stamp, address, kind, size: 0, stack: 0 }
}

/// A thread that is stopped between an allocation's way into the ring and its way out of the young shows it twice.
#[test]
fn an_allocation_on_its_way_into_the_ring_is_counted_once() {
    // As many events before it that its batch is full, or is not.
    for before in [0, 3, BATCH as u64 - 1, BATCH as u64] {
        let mut worker = worker(2);
        let (first, second) = (producer(&worker, 0), producer(&worker, 1));
        let (mut tail, mut other_tail) = (0, 0);
        for at in 0..before {
            first.push(event(KIND_ALLOC, 1 + at, 0x10000 + 16 * at), &mut tail).expect("room");
        }
        let young = Young { stamp: 500, address: 64, size: 0, stack: 0, mark: 0 };
        first.young(0).fill(young);
        first.young(0).take();
        first.push(young.event(), &mut tail).expect("room");
        // Another thread gives it back and gets its place; one more young one is alive.
        for event in [event(KIND_FREE, 600, 64), event(KIND_ALLOC, 700, 64)] {
            second.push(event, &mut other_tail).expect("room");
        }
        second.young(9).fill(Young { stamp: 800, address: 96, ..young });
        assert_eq!(worker.pass(), before + 3);
        worker.finish();
        let counts = worker.live.counts;
        assert_eq!((counts.allocations, counts.frees), (before + 3, 1), "{before} before it");
        assert_eq!(worker.live.len(), before + 2);
        assert_eq!(worker.live.blocks()[1].stamp, 800);
    }
}

/// Totals, live blocks, and for each pair of stacks (made, freed, how many, their median lifetime).
type Remembered = (crate::live::Counts, Vec<crate::live::LiveBlock>, Vec<(u32, u32, u64, u64)>);

/// What is left of a stream of allocations and frees over three rings, where the reader is killed after every so many passes.
fn after_kills(every: Option<u64>, checkpoints: bool) -> Remembered {
    let mut worker = worker(3);
    let vault = vault::create().expect("a vault");
    let open = || Vault::open(vault.try_clone().expect("a descriptor")).expect("a vault");
    if every.is_some() {
        let (vault, left) = open();
        worker.keep_in(vault, left);
    }
    let (mut random, mut tails) = (7u64, [0; 3]);
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % limit
    };
    let mut alive: Vec<u64> = Vec::new();
    for (pass, stamp) in (0..400u64).flat_map(|pass| (0..50).map(move |at| (pass, 1_000 + pass * 50 + at))) {
        let ring = below(3);
        let of_that = producer(&worker, ring);
        let dies = !alive.is_empty() && below(2) == 0;
        let event = if dies {
            Event { stack: 9, ..event(KIND_FREE, stamp, alive.swap_remove(below(alive.len() as u64) as usize)) }
        } else {
            let address = 16 * (1 + below(5_000));
            if alive.contains(&address) {
                continue;
            }
            alive.push(address);
            Event { size: 16, ..event(KIND_ALLOC, stamp, address) }
        };
        of_that.push(event, &mut tails[ring as usize]).expect("room");
        if stamp % 50 == 49 {
            worker.pass();
            if checkpoints && pass % 7 == 3 {
                // Events come while it is written.
                worker.checkpoint();
                assert!(worker.vault.is_some());
            }
            if every.is_some_and(|every| pass % every == every - 1) {
                let segment = worker.segment.clone();
                drop(worker);
                worker = Worker::new(segment, PathBuf::from("/bin/true"), None);
                let (vault, left) = open();
                worker.keep_in(vault, left);
            }
        }
    }
    worker.pass();
    worker.finish();
    assert_eq!(worker.forgotten, 0);
    assert_eq!(worker.live.len(), alive.len() as u64);
    let mut sites: Vec<_> =
        worker.live.sites.all().map(|(made, freed, site)| (made, freed, site.count, site.median())).collect();
    sites.sort_unstable();
    (worker.live.counts, worker.live.blocks(), sites)
}

#[test]
fn what_a_killed_analyzer_knew_the_next_one_knows() {
    let alone = after_kills(None, false);
    assert!(alone.0.frees > 1_000 && !alone.1.is_empty());
    for (every, checkpoints) in [(1, false), (1, true), (5, true), (13, true), (100, false)] {
        assert!(after_kills(Some(every), checkpoints) == alone, "killed every {every} passes, {checkpoints}");
    }
}

#[test]
fn a_reader_without_the_vault_of_the_one_before_counts_what_that_took_as_lost() {
    let mut first = worker(1);
    let only = producer(&first, 0);
    let mut tail = 0;
    (0..40).for_each(|at| _ = only.push(event(KIND_ALLOC, at + 1, 16 + 16 * at), &mut tail).expect("room"));
    assert_eq!(first.pass(), 40);
    let mut second = Worker::new(first.segment.clone(), PathBuf::from("/bin/true"), None);
    second.pass();
    second.finish();
    assert_eq!(second.into_drained().dropped, 40);
}

/// Another process that has inherited the segment, say, goes on writing when all should stand still.
#[test]
fn the_end_comes_even_while_somebody_goes_on_writing() {
    let mut worker = worker(1);
    let only = producer(&worker, 0);
    let (stop, written) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (stop, written) = (&stop, &written);
        scope.spawn(move || {
            let mut tail = 0;
            for at in 0u64.. {
                while only.push(event(KIND_ALLOC, at + 1, 16 * (1 + at % 100_000)), &mut tail).is_err() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
                written.store(at + 1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        while worker.pass() == 0 {}
        worker.finish();
        stop.store(true, Ordering::Relaxed);
    });
    let taken = worker.live.counts.events;
    assert!(taken > 0 && taken <= written.load(Ordering::Relaxed));
}

#[test]
fn an_allocation_that_never_came_into_the_ring_is_alive_at_the_end() {
    let mut worker = worker(1);
    let only = producer(&worker, 0);
    only.push(event(KIND_ALLOC, 400, 32), &mut 0).expect("room");
    only.young(0).fill(Young { stamp: 500, address: 64, size: 0, stack: 0, mark: 0 });
    only.young(0).take();
    assert_eq!(worker.pass(), 1);
    worker.finish();
    assert_eq!(worker.live.blocks().iter().map(|block| block.stamp).collect::<Vec<_>>(), [400, 500]);
}
