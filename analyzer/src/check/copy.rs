//! What of a process is copied so that it need not stand still while it is searched.
//!
//! Everything that it has written, but for large payload: pixels are most of the memory of a process that decodes, and nobody
//! searches them. That is known before the live blocks are sorted and looked at, so that the copy is made meanwhile. What turns out
//! to be missing is copied afterwards ([`missing`]): few and small, as a rule nothing but the tables of C++ classes.

use super::snapshot::add_range;
use crate::address::TargetRange;
use crate::kind::ObjectKind;
use crate::live::LiveSet;
use crate::reach;
use crate::target::maps::Mapping;
use crate::target::touched::Touched;

/// Fewer blocks and bytes than these are searched in less time than a copy takes.
const MANY_BLOCKS: u64 = 100_000;
const MUCH: u64 = 64 << 20;
/// Payload that is smaller is copied rather than left out.
const LARGE_PAYLOAD: u64 = 64 << 10;

/// Most bytes that are copied: a GiB, and a quarter of the memory that is free. What is larger is searched while the process stands still.
pub fn most() -> u64 {
    let info = rustix::system::sysinfo();
    (info.freeram as u64).saturating_mul(u64::from(info.mem_unit)).div_ceil(4).min(1 << 30)
}

/// A copy may pay: known without a look at every block.
pub fn is_worth_a_thought(live: &LiveSet, touched: &Touched) -> bool {
    live.len() >= MANY_BLOCKS || bytes_of(touched.parts()) >= MUCH
}

/// What is copied first; `None` where that is too little to be worth it.
pub fn wanted(live: &LiveSet, touched: &Touched) -> Option<Vec<TargetRange>> {
    let payload = live.ranges_of(ObjectKind::Payload, LARGE_PAYLOAD);
    let wanted = without(touched.parts(), &payload);
    (live.len() >= MANY_BLOCKS || bytes_of(&wanted) >= MUCH).then_some(wanted)
}

/// Where blocks lie outside of what is copied first, large payload aside: memory that was never written, or another file's. They need not be
/// sorted for that.
pub fn outside(live: &LiveSet, copied: &[TargetRange]) -> Vec<TargetRange> {
    let mut outside: Vec<TargetRange> = live
        .ranges()
        .filter(|&(kind, range)| kind != ObjectKind::Payload || range.len() < LARGE_PAYLOAD)
        .map(|(_, range)| range)
        .filter(|range| {
            let next = copied.partition_point(|copied| copied.end <= range.start);
            !copied.get(next).is_some_and(|copied| copied.start <= range.start && range.end <= copied.end)
        })
        .collect();
    outside.sort_unstable();
    without(&outside, copied)
}

/// So much is copied while a living process stands still for a moment: two or three milliseconds.
const LITTLE: u64 = 6 << 20;

/// Everything that a search reads, where that is little; else nothing. `left_out`: what it passes over, ascending.
pub fn all_if_little(blocks: &[reach::Block], touched: &Touched, left_out: &[TargetRange]) -> Vec<TargetRange> {
    let mut all = without(&searched(blocks), left_out);
    let payload: Vec<TargetRange> = blocks
        .iter()
        .filter(|block| block.scan == reach::Scan::Payload && block.size >= LARGE_PAYLOAD)
        .map(|block| TargetRange { start: block.start, end: block.start.saturating_add(block.size) })
        .collect();
    all.extend(without(&without(touched.parts(), &payload), left_out));
    if bytes_of(&all) <= LITTLE { all } else { Vec::new() }
}

/// What a search will read beside what was copied first.
pub fn missing(blocks: &[reach::Block], copied: &[TargetRange], maps: &[Mapping]) -> Vec<TargetRange> {
    let mut missing = without(&searched(blocks), copied);
    missing.extend(class_tables(maps));
    missing
}

fn bytes_of(ranges: &[TargetRange]) -> u64 {
    ranges.iter().map(|range| range.len()).fold(0, u64::saturating_add)
}

/// What [`reach::check`] will read of blocks.
fn searched(blocks: &[reach::Block]) -> Vec<TargetRange> {
    let mut ranges = Vec::new();
    for block in blocks.iter().filter(|block| block.scan == reach::Scan::Words) {
        // They are in order: a million small blocks are a few ranges.
        let range = TargetRange { start: block.start, end: block.start.saturating_add(block.size) };
        if !range.is_empty() {
            add_range(&mut ranges, range);
        }
    }
    ranges
}

/// Tables of virtual functions, to tell a C++ object's second base. Those are relocated, so they lie in the pages between a file's
/// constants and its variables that became read-only (RELRO); of a program at a fixed address anywhere in its constants.
fn class_tables(maps: &[Mapping]) -> impl Iterator<Item = TargetRange> {
    /// Programs at fixed addresses lie below.
    const FIXED: u64 = 1 << 32;
    let tables = maps.windows(2).filter(|pair| {
        let (constants, next) = (&pair[0], &pair[1]);
        let relro = constants.range.end == next.range.start && next.writable && next.name == constants.name;
        constants.is_file()
            && constants.is_scannable()
            && !constants.writable
            && !constants.executable
            && (relro || constants.range.start < FIXED)
    });
    tables.map(|pair| pair[0].range)
}

/// What of the ranges lies outside of others; both by address, the others disjoint.
fn without(ranges: &[TargetRange], others: &[TargetRange]) -> Vec<TargetRange> {
    let mut left = Vec::new();
    let mut first = 0;
    for range in ranges {
        while others.get(first).is_some_and(|other| other.end <= range.start) {
            first += 1;
        }
        range.each_outside(others[first..].iter().copied(), |part| left.push(part));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(of: &[(u64, u64)]) -> Vec<TargetRange> {
        of.iter().map(|&(start, end)| TargetRange { start, end }).collect()
    }

    #[test]
    fn what_lies_outside_is_what_a_look_at_every_address_finds() {
        let mut random = 7u64;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        for _ in 0..2_000 {
            let mut some = || {
                let (mut at, mut some) = (0, Vec::new());
                for _ in 0..below(8) {
                    let start = at + 1 + below(9);
                    at = start + 1 + below(9);
                    some.push((start, at));
                }
                ranges(&some)
            };
            let (first, second) = (some(), some());
            let inside = |ranges: &[TargetRange], address| ranges.iter().any(|range| range.contains(address));
            let left = without(&first, &second);
            for address in 0..200 {
                assert_eq!(inside(&left, address), inside(&first, address) && !inside(&second, address));
            }
            assert!(left.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }

    #[test]
    fn what_of_blocks_lies_outside_is_told_before_they_are_sorted() {
        use avleak_wire::event::{Event, KIND_ALLOC, KIND_FREE};
        const PAYLOAD: u32 = 2;
        let event = |kind, address, size, stack| Event { stamp: address, address, kind, size, stack };
        let mut live = LiveSet::new();
        live.apply_all(
            &[
                event(KIND_ALLOC, 0x9000, 0x100, 1),
                event(KIND_ALLOC, 0x1f80, 0x100, 1),
                event(KIND_ALLOC, 0x1000, 0x100, 1),
                event(KIND_ALLOC, 0x4000, 0x100, 1),
                event(KIND_ALLOC, 0x5000, 0x100, PAYLOAD),
                event(KIND_ALLOC, 0x10_0000, LARGE_PAYLOAD, PAYLOAD),
                event(KIND_ALLOC, 0x40_0000, 0x100, 1),
                Event { stamp: 0x50_0000, ..event(KIND_FREE, 0x40_0000, 0, 1) },
            ],
            crate::live::Rings::One,
            |stack, _| if stack == PAYLOAD { ObjectKind::Payload } else { ObjectKind::Plain },
        );
        let copied = ranges(&[(0x1000, 0x2000), (0x8ff0, 0x9080), (0x9080, 0x9090)]);
        let expected = [(0x2000, 0x2080), (0x4000, 0x4100), (0x5000, 0x5100), (0x9090, 0x9100)];
        assert_eq!(outside(&live, &copied), ranges(&expected));
        assert_eq!(live.objects().len(), 2, "FFmpeg's own, large or small");
    }

    #[test]
    fn blocks_that_are_not_in_the_copy_are_missing() {
        let block = |start, scan| reach::Block { start, size: 0x100, kind: ObjectKind::Plain, scan };
        let blocks = [
            block(0x1000, reach::Scan::Words),
            block(0x10_0000, reach::Scan::Payload),
            block(0x20_0080, reach::Scan::Words),
        ];
        let copied = ranges(&[(0x1000, 0x2000), (0x20_0000, 0x20_0100)]);
        assert_eq!(missing(&blocks, &copied, &[]), ranges(&[(0x20_0100, 0x20_0180)]));
    }
}
