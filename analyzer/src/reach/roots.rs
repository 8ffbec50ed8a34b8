//! Where the search begins: the writable memory that belongs to no block of the allocator's users.
//!
//! Of a writable mapping, a root is what is left without
//! * ranges that are never roots (the interposer's own memory, the events segment);
//! * live blocks: they are searched when something leads to them;
//! * freed granules that the allocator keeps: their stale pointers hold nothing;
//! * small gaps between blocks in memory that is younger than the arming: the allocator's own;
//! * stacks, which are roots from SP − 128 (the red zone) up, whatever was allocated there before: a freed 12 MB block
//!   became a thread's stack. Below that a stack is dead.

use super::{Block, ReturnedMap, RootRange};
use crate::address::TargetRange;

/// Bytes below SP that a function may use (System V ABI, x86-64, 3.2.2); on AArch64 none (AAPCS64, 6.4.5.1).
pub const RED_ZONE: u64 = if cfg!(target_arch = "aarch64") { 0 } else { 128 };

/// The largest thing that glibc allocates for itself past every hook: a thread's cache (tcache_perthread_struct, 656 bytes).
const LARGEST_GAP: u64 = 1024;

/// Writable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritableRange {
    /// Where.
    pub range: TargetRange,
    /// The caller's number for it.
    pub label: u32,
}

/// A thread's stack. Neighbouring mappings merge, so the caller says where it ends on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackRange {
    /// Lowest address.
    pub low: u64,
    /// The stack pointer. Not within the stack (the thread runs on another one): all of it is root.
    pub sp: u64,
    /// One past the highest address.
    pub high: u64,
    /// The caller's number for it.
    pub label: u32,
}

/// What roots are made of.
#[derive(Clone, Copy)]
pub struct RootSources<'a> {
    /// Writable mappings, those that hold the stacks too.
    pub writable: &'a [WritableRange],
    /// What is never root.
    pub never: &'a [TargetRange],
    /// The stacks of all threads.
    pub stacks: &'a [StackRange],
    /// Live blocks, ascending by start.
    pub blocks: &'a [Block],
    /// What was returned since arming.
    pub returned: &'a ReturnedMap,
    /// What was writable already when avleak armed, ascending: there, and only there, blocks can lie that nobody saw returned.
    pub before: &'a [TargetRange],
}

impl RootSources<'_> {
    /// The roots, ascending, of at least one aligned word each.
    pub fn collect(&self) -> Vec<RootRange> {
        let mut roots = Vec::new();
        let never = Cuts::new(self.never.iter().copied());
        let stacks = self.stacks.iter().map(|s| TargetRange { start: s.low, end: s.high });
        let cuts = Cuts::new(self.never.iter().copied().chain(stacks));
        for writable in self.writable {
            cuts.pieces(writable.range, |piece| self.without_blocks(piece, writable.label, &mut roots));
        }
        for stack in self.stacks {
            let in_stack = (stack.low..=stack.high).contains(&stack.sp);
            let start = if in_stack { stack.sp.saturating_sub(RED_ZONE).max(stack.low) } else { stack.low };
            let live = TargetRange { start, end: stack.high };
            never.pieces(live, |piece| push(&mut roots, piece, stack.label));
        }
        roots.sort_unstable_by_key(|r| r.start);
        roots
    }

    fn without_blocks(&self, piece: TargetRange, label: u32, roots: &mut Vec<RootRange>) {
        // The block before may reach in.
        let first = self.blocks.partition_point(|b| b.start < piece.start).saturating_sub(1);
        let mut at = piece.start;
        for block in self.blocks[first..].iter().take_while(|b| b.start < piece.end) {
            self.without_freed(TargetRange { start: at, end: block.start.max(at) }, label, roots);
            at = at.max(block.start.saturating_add(block.size));
        }
        self.without_freed(TargetRange { start: at, end: piece.end.max(at) }, label, roots);
    }

    fn without_freed(&self, piece: TargetRange, label: u32, roots: &mut Vec<RootRange>) {
        for run in self.returned.runs(piece).filter(|run| !run.returned && !self.is_allocators(run.range)) {
            push(roots, run.range, label);
        }
    }

    /// A small gap between blocks in memory that is younger than the arming is the allocator's own: chunk headers, what alignment cut
    /// off. Its links lead to what once were chunks, and now may be the middle of a lost block.
    fn is_allocators(&self, gap: TargetRange) -> bool {
        gap.len() <= LARGEST_GAP
            && gap.start.checked_sub(1).is_some_and(|before| self.returned.is_returned(before))
            && self.returned.is_returned(gap.end)
            && !self.was_there(gap)
    }

    fn was_there(&self, range: TargetRange) -> bool {
        let after = self.before.partition_point(|known| known.end <= range.start);
        self.before.get(after).is_some_and(|known| known.start < range.end)
    }
}

fn push(roots: &mut Vec<RootRange>, range: TargetRange, label: u32) {
    let (Some(start), end) = (range.start.checked_next_multiple_of(8), range.end & !7) else { return };
    if start < end {
        roots.push(RootRange { start, end, label });
    }
}

/// Ranges to cut out: sorted, disjoint.
struct Cuts(Vec<TargetRange>);

impl Cuts {
    fn new(ranges: impl Iterator<Item = TargetRange>) -> Self {
        let mut sorted: Vec<TargetRange> = ranges.filter(|r| !r.is_empty()).collect();
        sorted.sort_unstable();
        let mut merged: Vec<TargetRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// What is left of `range`.
    fn pieces(&self, range: TargetRange, mut take: impl FnMut(TargetRange)) {
        let first = self.0.partition_point(|cut| cut.end <= range.start);
        let mut at = range.start;
        for cut in self.0[first..].iter().take_while(|cut| cut.start < range.end) {
            if cut.start > at {
                take(TargetRange { start: at, end: cut.start });
            }
            at = cut.end;
        }
        if at < range.end {
            take(TargetRange { start: at, end: range.end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::reach::Scan;

    fn block(start: u64, size: u64) -> Block {
        Block { start, size, kind: ObjectKind::Plain, scan: Scan::Words }
    }

    fn range(start: u64, end: u64) -> TargetRange {
        TargetRange { start, end }
    }

    fn collect(
        writable: &[TargetRange],
        never: &[TargetRange],
        stacks: &[StackRange],
        blocks: &[Block],
        returned: &ReturnedMap,
    ) -> Vec<(u64, u64, u32)> {
        let writable: Vec<_> = writable.iter().zip(1..).map(|(&range, label)| WritableRange { range, label }).collect();
        let sources = RootSources {
            writable: &writable,
            never,
            stacks,
            blocks,
            returned,
            before: &[TargetRange { start: 0, end: u64::MAX }],
        };
        sources.collect().iter().map(|r| (r.start, r.end, r.label)).collect()
    }

    #[test]
    fn live_and_freed_blocks_are_cut_out() {
        let mut returned = ReturnedMap::new();
        returned.mark(0x1100, 0x40);
        returned.mark(0x1f00, 0x300);
        // Live: one that reaches in from below, one inside, one that reaches out.
        let blocks = [block(0xff0, 0x20), block(0x1200, 24), block(0x2ff0, 0x100)];
        let found = collect(&[range(0x1000, 0x2000), range(0x2000, 0x3000)], &[], &[], &blocks, &returned);
        assert_eq!(found, [(0x1010, 0x1100, 1), (0x1140, 0x1200, 1), (0x1218, 0x1f00, 1), (0x2200, 0x2ff0, 2),]);
    }

    #[test]
    fn memory_that_is_never_root() {
        let never = [range(0x1800, 0x2800), range(0, 0x1010), range(0x1900, 0x1a00), range(0x5000, 0x5000)];
        let found = collect(&[range(0x1000, 0x3000), range(0x1900, 0x2000)], &never, &[], &[], &ReturnedMap::new());
        assert_eq!(found, [(0x1010, 0x1800, 1), (0x2800, 0x3000, 1)]);
    }

    #[test]
    fn a_stack_over_a_freed_block() {
        let mut returned = ReturnedMap::new();
        returned.mark(0x10_0000, 0x10_0000);
        let stack = StackRange { low: 0x11_0000, sp: 0x11_8000, high: 0x12_0000, label: 9 };
        let found = collect(&[range(0x10_0000, 0x21_0000)], &[], &[stack], &[], &returned);
        assert_eq!(found, [(0x11_8000 - 128, 0x12_0000, 9), (0x20_0000, 0x21_0000, 1)]);
        // In a live block (a stack that the program allocated) too.
        let found = collect(&[range(0x10_0000, 0x21_0000)], &[], &[stack], &[block(0x10_0000, 0x10_0000)], &returned);
        assert_eq!(found, [(0x11_8000 - 128, 0x12_0000, 9), (0x20_0000, 0x21_0000, 1)]);
    }

    #[test]
    fn odd_stack_pointers() {
        let with_sp = |sp| {
            let stack = StackRange { low: 0x1000, sp, high: 0x2000, label: 5 };
            collect(&[range(0x1000, 0x2000)], &[], &[stack], &[], &ReturnedMap::new())
        };
        assert_eq!(with_sp(0x1010), [(0x1000, 0x2000, 5)], "the red zone ends at the stack");
        assert_eq!(with_sp(0x2000), [(0x2000 - 128, 0x2000, 5)], "nothing called yet");
        assert_eq!(with_sp(0x1804), [(0x1788, 0x2000, 5)], "unaligned");
        assert_eq!(with_sp(0x9000), [(0x1000, 0x2000, 5)], "on another stack");
        assert_eq!(with_sp(0), [(0x1000, 0x2000, 5)]);
    }

    #[test]
    fn hostile_ranges() {
        let blocks = [block(8, u64::MAX), block(0x1000, u64::MAX), block(u64::MAX - 1, 7)];
        let stack = StackRange { low: 0x5000, sp: u64::MAX, high: 0x10, label: 0 };
        let found = collect(
            &[range(0, u64::MAX), range(u64::MAX - 3, u64::MAX), range(3, 3)],
            &[range(9, 3), range(u64::MAX, u64::MAX)],
            &[stack, StackRange { low: u64::MAX - 2, sp: u64::MAX, high: u64::MAX, label: 0 }],
            &blocks,
            &ReturnedMap::new(),
        );
        assert_eq!(found, [(0, 8, 1)]);
        assert_eq!(collect(&[range(1, 7), range(9, 17)], &[], &[], &[], &ReturnedMap::new()), []);
    }

    #[test]
    fn a_million_roots() {
        let blocks: Vec<Block> = (0..1_000_000).map(|i| block(0x10_0000 + i * 48, 16)).collect();
        let found = collect(&[range(0x10_0000, 0x10_0000 + 48_000_000)], &[], &[], &blocks, &ReturnedMap::new());
        assert_eq!(found.len(), 1_000_000);
        assert_eq!(found[999_999], (0x10_0000 + 999_999 * 48 + 16, 0x10_0000 + 48_000_000, 1));
    }

    #[test]
    fn small_gaps_are_the_allocators_only_where_no_older_block_can_lie() {
        let mut returned = ReturnedMap::new();
        for (start, len) in [(0x1000, 0x100), (0x1140, 0x100), (0x1800, 0x100)] {
            returned.mark(start, len);
        }
        let roots = |before: &[TargetRange]| {
            let writable = [WritableRange { range: range(0x1000, 0x1900), label: 0 }];
            RootSources { writable: &writable, never: &[], stacks: &[], blocks: &[], returned: &returned, before }
                .collect()
                .iter()
                .map(|root| (root.start, root.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(roots(&[range(0x1000, 0x2000)]), [(0x1100, 0x1140), (0x1240, 0x1800)]);
        assert_eq!(roots(&[range(0x5000, 0x6000)]), [(0x1240, 0x1800)], "the large gap may be somebody's mapping");
    }
}
