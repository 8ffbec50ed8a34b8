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
    for &event in events {
        set.apply(event, |_, _| ObjectKind::Frame);
    }
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
    assert_eq!(set.entries.len(), 1, "a ring at stamp 20 may still bring the allocation");
    set.passed(21, &Pending::default());
    assert_eq!(set.entries.len(), 0);
}

#[test]
fn a_very_late_first_life_does_not_come_back() {
    let set = set(&[free(7, 64), alloc(10, 64, 8), free(20, 64), alloc(5, 64, 8)]);
    assert!(set.is_empty());
}

#[test]
fn events_applied_twice_change_nothing_of_what_is_alive() {
    let events = [alloc(10, 64, 8), free(20, 64), alloc(30, 64, 8), alloc(11, 128, 8)];
    let twice: Vec<Event> = events.iter().chain(&events).copied().collect();
    assert_eq!(stamps(&set(&events)), stamps(&set(&twice)));
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
    assert!(set.is_empty());
    // An address that has had another life since is no disagreement.
    set.apply(alloc(40, 12288, 24), |_, _| ObjectKind::BufferRef);
    set.apply(Event { stamp: 31, address: 12288, ..made }, |_, _| ObjectKind::Plain);
    assert_eq!((set.counts.called_but_typed_otherwise, set.counts.frames_by_call_only), (0, 1));
    // And one that malloc saw is none.
    set.apply(alloc(20, 8192, 400), |_, _| ObjectKind::Frame);
    set.apply(Event { stamp: 21, address: 8192, ..made }, |_, _| ObjectKind::Plain);
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
