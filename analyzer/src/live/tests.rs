//! Orders of arrival that a merge by time would not survive.

use super::*;

fn alloc(stamp: u64, address: u64, size: u64) -> Event {
    Event { stamp, address, kind: KIND_ALLOC, size, stack: 1 }
}

fn free(stamp: u64, address: u64) -> Event {
    Event { stamp, address, kind: KIND_FREE, size: 0, stack: 2 }
}

/// Each event is applied as it comes, older ones behind it or not.
fn set(events: &[Event]) -> LiveSet {
    let mut set = LiveSet::new();
    for &event in events {
        set.apply(event, |_, _| ObjectKind::Frame);
        set.settle();
    }
    set
}

/// Events wait for each other.
fn waiting_set(events: &[Event]) -> LiveSet {
    let mut set = LiveSet::new();
    for &event in events {
        set.apply(event, |_, _| ObjectKind::Frame);
    }
    set.passed(u64::MAX);
    set
}

fn stamps(set: &mut LiveSet) -> Vec<u64> {
    set.blocks().iter().map(|block| block.stamp).collect()
}

#[test]
fn every_order_of_two_lives_of_one_address_gives_the_same_set() {
    let events = [alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        for make in [set, waiting_set] {
            let mut set = make(&order.map(|index: usize| events[index]));
            assert_eq!(stamps(&mut set), [30], "{order:?}");
            assert_eq!(set.len(), 1, "{order:?}");
            assert_eq!((set.counts.frames_allocated, set.counts.frames_freed), (2, 1), "{order:?}");
        }
    }
}

#[test]
fn a_free_that_arrives_first_kills_its_allocation_and_then_goes_when_passed() {
    let mut set = set(&[free(20, 64), alloc(10, 64, 8)]);
    assert!(set.is_empty());
    set.passed(20);
    assert_eq!(set.table.len(), 1, "a ring at stamp 20 may still bring the allocation");
    set.passed(21);
    assert_eq!(set.table.len(), 0);
}

#[test]
fn a_very_late_first_life_does_not_come_back() {
    for make in [set, waiting_set] {
        assert!(make(&[free(7, 64), alloc(10, 64, 8), free(20, 64), alloc(5, 64, 8)]).is_empty());
    }
}

#[test]
fn events_that_come_twice_are_counted_once() {
    let events = [alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8), alloc(31, 128, 8), free(40, 64), alloc(50, 64, 8)];
    let once = waiting_set(&events);
    let seen = |set: &LiveSet| {
        let sites: Vec<_> =
            set.sites.all().map(|(made, freed, site)| (made, freed, site.count, site.median())).collect();
        let counts = Counts { repeated: 0, late: 0, ..set.counts };
        (counts, sites, set.sites.made_on(1), set.len())
    };
    // A reader that begins anew from any place before its end; the rings may have been passed before that, or not.
    for from in 0..events.len() {
        for passed_at in 0..=events.len() {
            let mut twice = LiveSet::new();
            for (at, &event) in events.iter().chain(&events[from..]).enumerate() {
                if at == passed_at {
                    twice.passed(event.stamp);
                }
                twice.apply(event, |_, _| ObjectKind::Frame);
            }
            twice.passed(u64::MAX);
            assert_eq!(seen(&twice), seen(&once), "from {from}, passed before {passed_at}");
            assert_eq!(twice.counts.repeated + twice.counts.late, (events.len() - from) as u64);
        }
    }
}

#[test]
fn a_clock_that_stands_still_keeps_the_order_of_a_thread() {
    let set = waiting_set(&[alloc(10, 64, 8), free(10, 64), alloc(10, 128, 8), free(11, 128), alloc(11, 128, 9)]);
    assert_eq!((set.len(), set.counts.allocations, set.counts.frees, set.counts.repeated), (1, 3, 2, 0));
}

#[test]
fn a_free_that_comes_too_late_still_ends_its_block_and_nothing_comes_back_to_life() {
    let mut set = waiting_set(&[alloc(10, 64, 8), alloc(11, 128, 8)]);
    for event in [free(20, 64), alloc(12, 192, 8)] {
        set.apply(event, |_, _| ObjectKind::Frame);
    }
    assert_eq!(stamps(&mut set), [11]);
    assert_eq!((set.counts.late, set.counts.frees, set.counts.allocations), (2, 1, 2));
}

/// Two threads that take each other's blocks, and one ring that stands still for a while.
#[test]
fn a_ring_that_stands_still_costs_neither_memory_nor_exactness() {
    let mut set = LiveSet::new();
    let mut stamp = 0;
    // The free that ends block 0, and the allocation of another one, are stuck in a ring.
    let first = alloc(1, 64, 8);
    set.apply(first, |_, _| ObjectKind::Frame);
    let (stuck_free, stuck_alloc) = (free(2, 64), alloc(3, 16, 8));
    let lives = 2 * MOST_WAITING as u64;
    let mut most = 0;
    for life in 0..lives {
        // Address 16 lived before: what is stuck is a life in between.
        let address = 16 * (4 + life % 500);
        stamp = 10 + 2 * life;
        set.apply(alloc(stamp, address, 8), |_, _| ObjectKind::Frame);
        set.apply(free(stamp + 1, address), |_, _| ObjectKind::Frame);
        if life % 1000 == 0 {
            set.passed(2);
            most = most.max(set.memory_bytes());
        }
    }
    set.apply(free(stamp + 2, 16), |_, _| ObjectKind::Frame);
    assert!(most < 64 << 20, "{most} bytes for 500 addresses");
    set.settle();
    set.apply(stuck_free, |_, _| ObjectKind::Frame);
    set.apply(stuck_alloc, |_, _| ObjectKind::Frame);
    set.passed(u64::MAX);
    assert!(set.is_empty());
    assert_eq!((set.counts.frames_allocated, set.counts.frames_freed), (lives + 2, lives + 2));
    let died: u64 = set.sites.all().map(|(_, _, site)| site.count).sum();
    assert_eq!(died, lives + 2);
    assert!(set.tombstones.is_empty() && set.history.is_empty() && set.table.len() == 0);
}

#[test]
fn young_deaths_come_as_sums() {
    let mut set = waiting_set(&[alloc(10, 64, 8), free(43, 64)]);
    set.died_young(1, 2, 5, ObjectKind::Frame);
    set.died_young(1, 2, 3, ObjectKind::Packet);
    set.died_young(9, 2, 7, ObjectKind::Plain);
    let counts = set.counts;
    assert_eq!((counts.allocations, counts.frees, counts.died_young), (16, 16, 15));
    assert_eq!((counts.frames_allocated, counts.frames_freed), (6, 6));
    assert_eq!((counts.packets_allocated, counts.packets_freed), (3, 3));
    let site = set.sites.all().next().map(|(made, freed, site)| (made, freed, site.count, site.median()));
    assert_eq!(site, Some((1, 2, 9, 0)));
    assert_eq!((set.sites.made_on(1), set.sites.made_on(9)), (9, 0));
    assert!(set.is_empty());
    set.died_young(1, 2, u64::MAX, ObjectKind::Frame);
    assert_eq!(set.counts.frees, u64::MAX);
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
    set.apply(Event { stamp: 9, address: 4096, kind: KIND_API_FRAME_FREE, size: 0, stack: 4 }, |_, _| {
        ObjectKind::Plain
    });
    set.settle();
    assert!(set.is_empty());
    // An address that has had another life since is no disagreement.
    set.apply(alloc(40, 12288, 24), |_, _| ObjectKind::BufferRef);
    set.settle();
    set.apply(Event { stamp: 31, address: 12288, ..made }, |_, _| ObjectKind::Plain);
    set.settle();
    assert_eq!((set.counts.called_but_typed_otherwise, set.counts.frames_by_call_only), (0, 1));
    // And one that malloc saw is none.
    set.apply(alloc(20, 8192, 400), |_, _| ObjectKind::Frame);
    set.apply(Event { stamp: 21, address: 8192, ..made }, |_, _| ObjectKind::Plain);
    set.settle();
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
        set.passed(100);
        assert!(set.history.is_empty(), "{events:?}");
    }
}

#[test]
fn many_blocks_come_in_order_of_address() {
    let mut set = LiveSet::new();
    for i in 0..100_000u64 {
        set.apply(alloc(i + 1, (i * 7919 % 100_000 + 1) * 16, i), |_, _| ObjectKind::Plain);
    }
    let blocks = set.blocks();
    assert_eq!(blocks.len(), 100_000);
    assert!(blocks.iter().zip(1..).all(|(block, n)| block.address == n * 16));
    assert!(blocks.iter().all(|block| (block.size * 7919 % 100_000 + 1) * 16 == block.address));
}
