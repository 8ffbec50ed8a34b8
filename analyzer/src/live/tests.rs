//! Orders of arrival that a merge by time would not survive.

use super::*;

fn alloc(stamp: u64, address: u64, size: u64) -> Event {
    Event { stamp, address, kind: KIND_ALLOC, size, stack: 1 }
}

fn free(stamp: u64, address: u64) -> Event {
    Event { stamp, address, kind: KIND_FREE, size: 0, stack: 2 }
}

fn set(events: &[Event]) -> LiveSet {
    let mut set = LiveSet::new();
    set.apply_all(events, Rings::Many, |_, _| ObjectKind::Frame);
    set
}

fn stamps(set: &LiveSet) -> Vec<u64> {
    set.blocks().iter().map(|block| block.stamp).collect()
}

#[test]
fn every_order_of_two_lives_of_one_address_gives_the_same_set() {
    let events = [alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let set = set(&order.map(|index: usize| events[index]));
        assert_eq!(stamps(&set), [30], "{order:?}");
        assert_eq!(set.len(), 1, "{order:?}");
        assert_eq!((set.counts.frames_allocated, set.counts.frames_freed), (2, 1), "{order:?}");
    }
}

#[test]
fn a_free_that_arrives_first_kills_its_allocation_and_then_goes_when_passed() {
    let mut set = set(&[free(20, 64), alloc(10, 64, 8)]);
    assert!(set.is_empty());
    set.passed(20, &Pending::default());
    assert_eq!(set.table.len(), 1, "a ring at stamp 20 may still bring the allocation");
    set.passed(21, &Pending::default());
    assert_eq!(set.table.len(), 0);
}

#[test]
fn a_very_late_first_life_does_not_come_back() {
    let set = set(&[free(7, 64), alloc(10, 64, 8), free(20, 64), alloc(5, 64, 8)]);
    assert!(set.is_empty());
}

#[test]
fn events_that_come_twice_are_counted_once() {
    let seen = |set: &LiveSet| {
        let sites: Vec<_> =
            set.sites.all().map(|(made, freed, site)| (made, freed, site.count, site.median())).collect();
        (Counts { repeated: 0, ..set.counts }, sites, set.sites.made_on(1), set.len())
    };
    for events in [
        vec![alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8), free(40, 64), alloc(50, 64, 8), alloc(31, 128, 8)],
        vec![free(20, 64), alloc(10, 64, 8), alloc(31, 128, 8)],
    ] {
        let once = set(&events);
        // Each event again at once, and an allocation again after its free.
        let mut twice: Vec<Event> = events.iter().flat_map(|&event| [event, event]).collect();
        let after_free = twice.iter().position(|event| event.kind == KIND_FREE).expect("a free") + 2;
        twice.insert(after_free, alloc(10, 64, 8));
        if events[0].kind == KIND_FREE {
            twice.remove(after_free);
        }
        let repeated = (twice.len() - events.len()) as u64;
        let twice = set(&twice);
        assert_eq!(seen(&twice), seen(&once), "{events:?}");
        assert_eq!(twice.counts.repeated, repeated, "{events:?}");
    }
}

#[test]
fn a_clock_that_stands_still_keeps_the_order_of_a_thread() {
    let events = [alloc(10, 64, 8), free(10, 64), alloc(10, 128, 8), free(11, 128), alloc(11, 128, 9)];
    for rings in [Rings::One, Rings::Many] {
        let mut set = LiveSet::new();
        set.apply_all(&events, rings, |_, _| ObjectKind::Frame);
        assert_eq!((set.len(), set.counts.allocations, set.counts.frees, set.counts.repeated), (1, 3, 2, 0));
    }
}

#[test]
fn where_one_ring_is_all_a_free_leaves_nothing_behind() {
    let mut set = LiveSet::new();
    let events = [free(5, 32), alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8), free(40, 64), alloc(50, 96, 8)];
    set.apply_all(&events, Rings::One, |_, _| ObjectKind::Frame);
    assert_eq!((stamps(&set), set.table.len(), set.tombstones.len()), (vec![50], 1, 0));
    assert!(set.history.is_empty());
    assert_eq!((set.counts.frames_allocated, set.counts.frames_freed, set.counts.frees), (3, 2, 3));
    assert_eq!(set.sites.all().map(|(_, _, site)| site.count).sum::<u64>(), 2);
}

#[test]
fn a_life_that_came_late_does_not_take_the_free_of_the_one_after_it() {
    // The free of the first life comes first and is overtaken by the second life, all of it.
    let set = set(&[free(7, 64), alloc(10, 64, 8), free(20, 64), alloc(5, 64, 8)]);
    let sites: Vec<_> = set.sites.all().map(|(_, _, site)| (site.count, site.median())).collect();
    // 10 and 2 units.
    assert_eq!((sites, set.counts.frames_freed), (vec![(2, 10)], 2));
}

#[test]
fn a_free_that_comes_after_its_block_was_replaced_is_waited_for() {
    // The rings have passed the allocation, but not the moment when its place was known to be used again.
    let mut set = set(&[alloc(10, 64, 8), alloc(50, 64, 8)]);
    set.passed(20, &Pending::default());
    set.apply(free(30, 64), Rings::Many, |_, _| ObjectKind::Frame);
    assert_eq!(set.sites.all().map(|(_, _, site)| (site.count, site.median())).next(), Some((1, 20)));
    set.passed(60, &Pending::default());
    assert!(set.history.is_empty());
}

#[test]
fn siblings_die_somewhere() {
    let set = set(&[alloc(10, 64, 8), free(43, 64), alloc(50, 64, 8)]);
    let site = set.sites.all().next().map(|(made, freed, site)| (made, freed, site.count, site.median()));
    assert_eq!(site, Some((1, 2, 1, 33)));
    assert_eq!(set.sites.made_on(1), 2);
}

#[test]
fn a_call_that_malloc_did_not_see_is_a_block_and_a_disagreement() {
    let made = Event { stamp: 5, address: 4096, kind: KIND_API_FRAME_ALLOC, size: 0, stack: 3 };
    let mut set = set(&[made]);
    assert_eq!(set.counts.frames_by_call_only, 1);
    assert!(set.blocks()[0].by_call_only);
    set.apply(Event { stamp: 9, address: 4096, kind: KIND_API_FRAME_FREE, size: 0, stack: 4 }, Rings::Many, |_, _| {
        ObjectKind::Plain
    });
    assert!(set.is_empty());
    // An address that has had another life since is no disagreement.
    set.apply(alloc(40, 12288, 24), Rings::Many, |_, _| ObjectKind::BufferRef);
    set.apply(Event { stamp: 31, address: 12288, ..made }, Rings::Many, |_, _| ObjectKind::Plain);
    assert_eq!((set.counts.called_but_typed_otherwise, set.counts.frames_by_call_only), (0, 1));
    // And one that malloc saw is none.
    set.apply(alloc(20, 8192, 400), Rings::Many, |_, _| ObjectKind::Frame);
    set.apply(Event { stamp: 21, address: 8192, ..made }, Rings::Many, |_, _| ObjectKind::Plain);
    assert_eq!(set.counts.frames_by_call_only, 1);
}

#[test]
fn two_rings_drained_in_any_order_pair_each_death_with_its_birth() {
    // One thread makes three lives of an address, another one ends them: every interleaving that keeps each ring's own order.
    let made = [alloc(10, 64, 8), alloc(30, 64, 8), alloc(50, 64, 8)];
    let ended = [free(21, 64), free(43, 64), free(65, 64)];
    for choice in 0u32..64 {
        if choice.count_ones() != 3 {
            continue;
        }
        let (mut births, mut deaths) = (made.iter(), ended.iter());
        let events: Vec<Event> = (0..6)
            .filter_map(|bit| if choice & (1 << bit) != 0 { births.next() } else { deaths.next() })
            .copied()
            .collect();
        let mut set = set(&events);
        let (count, median) =
            set.sites.all().map(|(_, _, site)| (site.count, site.median())).next().unwrap_or_default();
        assert!(set.is_empty(), "{events:?}");
        assert_eq!(count, 3, "{events:?}");
        assert_eq!(median, 13, "{events:?}");
        assert_eq!((set.counts.frames_allocated, set.counts.frames_freed), (3, 3), "{events:?}");
        set.passed(100, &Pending::default());
        assert!(set.history.is_empty(), "{events:?}");
    }
}

/// Threads that take each other's blocks, whose rings are drained in turn and whose allocations come late: against the truth.
#[test]
fn threads_that_pass_blocks_around_come_out_exact() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = move |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    for round in 0..300 {
        let threads = 1 + round % 4;
        let mut rings: Vec<Vec<Event>> = vec![Vec::new(); threads];
        let mut young: Vec<Vec<Event>> = vec![Vec::new(); threads];
        let mut alive: Vec<(u64, u64)> = Vec::new();
        let (mut set, mut stamp) = (LiveSet::new(), 0);
        let (mut made, mut ended, mut most_behind) = (0, 0, 0);
        for _ in 0..2_000 {
            stamp += 1 + below(3);
            let thread = below(threads as u64) as usize;
            match below(20) {
                0..9 => {
                    let address = 16 * (1 + below(40));
                    if alive.iter().all(|block| block.0 != address) {
                        young[thread].push(alloc(stamp, address, 8));
                        alive.push((address, stamp));
                        made += 1;
                    }
                }
                9..17 if !alive.is_empty() => {
                    let (address, _) = alive.swap_remove(below(alive.len() as u64) as usize);
                    // Its own thread would cancel it: here it goes through the ring first.
                    if let Some(at) = young[thread].iter().position(|event| event.address == address) {
                        let event = young[thread].remove(at);
                        rings[thread].push(event);
                    }
                    rings[thread].push(free(stamp, address));
                    ended += 1;
                }
                17 if !young[thread].is_empty() => {
                    let at = below(young[thread].len() as u64) as usize;
                    let event = young[thread].remove(at);
                    rings[thread].push(event);
                }
                18 => {
                    // Drained without a look at the young.
                    let events = std::mem::take(&mut rings[thread]);
                    set.apply_all(&events, Rings::Many, |_, _| ObjectKind::Frame);
                }
                19 => {
                    let mut pending = Pending::default();
                    young.iter().flatten().for_each(|event| pending.add(event.address));
                    for ring in &mut rings {
                        set.apply_all(&std::mem::take(ring), Rings::Many, |_, _| ObjectKind::Frame);
                    }
                    set.passed(stamp, &pending);
                    most_behind = most_behind.max(set.table.len() as u64);
                }
                _ => (),
            }
        }
        for events in rings.iter().chain(&young) {
            set.apply_all(events, Rings::Many, |_, _| ObjectKind::Frame);
        }
        let mut truth: Vec<u64> = alive.iter().map(|block| block.1).collect();
        let mut found = stamps(&set);
        truth.sort_unstable();
        found.sort_unstable();
        assert_eq!((found, set.len()), (truth, alive.len() as u64), "round {round}");
        let counts = set.counts;
        assert_eq!((counts.allocations, counts.frees, counts.repeated), (made, ended, 0), "round {round}");
        assert_eq!((counts.frames_allocated, counts.frames_freed), (made, ended), "round {round}");
        // A late allocation takes the first free after it that has come; the rare one that was not its own leaves another without.
        let died = set.sites.all().map(|(_, _, site)| site.count).sum::<u64>();
        assert!(died <= ended && died >= if threads == 1 { ended } else { ended * 95 / 100 }, "{died} of {ended}");
        set.passed(u64::MAX, &Pending::default());
        assert_eq!((set.table.len(), set.history.is_empty()), (alive.len(), true), "round {round}");
        assert!(most_behind <= 40, "round {round}: {most_behind} entries for 40 addresses");
    }
}

/// Two threads that take each other's blocks, and a ring that stands still for a while.
#[test]
fn a_ring_that_stands_still_costs_neither_memory_nor_exactness() {
    let mut set = LiveSet::new();
    set.apply(alloc(1, 64, 8), Rings::Many, |_, _| ObjectKind::Frame);
    // The free that ends the first block, and another life, are stuck.
    let stuck = [free(2, 64), alloc(3, 16, 8)];
    let (mut stamp, mut most, lives) = (10, 0, 400_000);
    for life in 0..lives {
        let address = 16 * (5 + life % 500);
        stamp += 2;
        let overtaken = life % 2 == 0;
        let events = if overtaken {
            [free(stamp + 1, address), alloc(stamp, address, 8)]
        } else {
            [alloc(stamp, address, 8), free(stamp + 1, address)]
        };
        set.apply_all(&events, Rings::Many, |_, _| ObjectKind::Frame);
        if life % 1000 == 0 {
            set.passed(2, &Pending::default());
            most = most.max(set.memory_bytes());
        }
    }
    assert!(most < 4 << 20, "{most} bytes for 500 addresses");
    set.apply_all(&[free(stamp + 9, 16), stuck[0], stuck[1]], Rings::Many, |_, _| ObjectKind::Frame);
    set.passed(u64::MAX, &Pending::default());
    assert!(set.is_empty());
    assert_eq!((set.counts.frames_allocated, set.counts.frames_freed), (lives + 2, lives + 2));
    assert_eq!(set.sites.all().map(|(_, _, site)| site.count).sum::<u64>(), lives + 2);
    assert!(set.tombstones.is_empty() && set.history.is_empty() && set.table.len() == 0);
}

#[test]
fn many_blocks_come_in_order_of_address() {
    let events: Vec<Event> = (0..100_000u64).map(|i| alloc(i + 1, (i * 7919 % 100_000 + 1) * 16, i)).collect();
    let mut set = LiveSet::new();
    set.apply_all(&events, Rings::One, |_, _| ObjectKind::Plain);
    let blocks = set.blocks();
    assert_eq!(blocks.len(), 100_000);
    assert!(blocks.iter().zip(1..).all(|(block, n)| block.address == n * 16));
    assert!(blocks.iter().all(|block| (block.size * 7919 % 100_000 + 1) * 16 == block.address));
}
