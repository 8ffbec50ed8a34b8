//! What the roots reach: breadth first, whole levels at a time, each block read once.
//!
//! 1. From the roots along start pointers: still reachable. Blocks that an interior pointer leads to are set aside.
//! 2. From those set aside and not reached after all, and from doubtful memory, along every pointer: possibly lost.
//! 3. The rest is lost; its pointers to each other are collected for [`super::cliques`].
//!
//! A level is read in order of address, so that neighbours come in one read; breadth first makes the chains short.

use super::blocks::{BlockIndex, Extent};
use super::chain::{Holder, Holders};
use super::interior::{Heuristics, Worth, worth};
use super::scan::{Hit, Scanner, Span};
use super::{Block, Input, LARGE, PAGE, ReachError, Scan};
use crate::address::{TargetRange, untagged};
use crate::target::memory::Memory;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing has led there.
    Unreached,
    /// Only interior pointers so far.
    SetAside,
    /// Possibly lost.
    Possible,
    /// Still reachable.
    Reached,
}

/// A pointer between two blocks that are not still reachable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub to: u32,
    /// Bit 31: interior. The rest: offset in the source, in words (cut at 16 GiB).
    place: u32,
}

impl Edge {
    pub fn offset(&self) -> u64 {
        u64::from(self.place & PLACE_MAX) * 8
    }

    pub fn is_interior(&self) -> bool {
        self.place > PLACE_MAX
    }
}

const PLACE_MAX: u32 = u32::MAX >> 1;
/// Most edges that are kept (2 GiB of them).
const EDGES_KEPT: usize = 1 << 28;
/// Candidates for the heuristics that are gathered before they are looked at.
const CANDIDATES: usize = 1 << 18;
/// Spans made at once.
const BATCH: usize = 1 << 16;

/// The pointers between blocks that are possibly lost, and between those that are lost; one for each pair of blocks.
#[derive(Default)]
pub(super) struct Graph {
    edges: Vec<Edge>,
    /// For each block, its first edge and how many it has. Empty where no block needs one.
    ranges: Vec<(u32, u32)>,
    /// For each block, the last one found to point to it, plus 1.
    last_source: Vec<u32>,
    pub dropped: u64,
}

impl Graph {
    pub fn edges(&self, from: u32) -> &[Edge] {
        let (first, count) = self.ranges.get(from as usize).copied().unwrap_or_default();
        &self.edges[first as usize..(first + count) as usize]
    }

    /// Edges of one source come one after the other.
    fn push(&mut self, blocks: usize, hit: &Hit, start: u64) {
        if self.ranges.is_empty() {
            self.ranges = vec![(0, 0); blocks];
            self.last_source = vec![0; blocks];
        }
        let last_source = &mut self.last_source[hit.block as usize];
        if *last_source == hit.tag + 1 {
            return;
        }
        *last_source = hit.tag + 1;
        if self.edges.len() >= EDGES_KEPT {
            self.dropped += 1;
            return;
        }
        let range = &mut self.ranges[hit.tag as usize];
        if range.1 == 0 {
            range.0 = self.edges.len() as u32;
        }
        range.1 += 1;
        let words = ((hit.at - start) / 8).min(u64::from(PLACE_MAX)) as u32;
        self.edges.push(Edge { to: hit.block, place: words | if hit.interior { !PLACE_MAX } else { 0 } });
    }
}

/// An interior pointer that a heuristic may raise.
struct Candidate {
    word: u64,
    block: u32,
    holder: Holder,
}

/// What marking came to; by block.
pub(super) struct Marked {
    pub states: Vec<State>,
    pub graph: Graph,
    pub holders: Holders,
    /// See [`super::Reachability::loud_pages`].
    pub loud_pages: Vec<u64>,
}

pub(super) struct Marker<'a> {
    blocks: &'a [Block],
    input: &'a Input<'a>,
    index: &'a BlockIndex,
    heuristics: Heuristics<'a>,
    states: Vec<State>,
    holders: Vec<Holder>,
    loud_pages: Vec<u64>,
    /// Reached, not searched yet.
    next: Vec<u32>,
    /// Every block that was ever set aside.
    aside: Vec<u32>,
    candidates: Vec<Candidate>,
    graph: Graph,
}

impl<'a> Marker<'a> {
    pub fn new(memory: &'a dyn Memory, input: &'a Input<'a>, index: &'a BlockIndex) -> Self {
        let count = input.blocks.len();
        Self {
            blocks: input.blocks,
            input,
            index,
            heuristics: Heuristics::new(memory, input.mapping, input.python),
            states: vec![State::Unreached; count],
            holders: vec![Holder::default(); count],
            loud_pages: Vec::new(),
            next: Vec::new(),
            aside: Vec::new(),
            candidates: Vec::new(),
            graph: Graph::default(),
        }
    }

    pub fn into_parts(self) -> Marked {
        let Self { states, graph, mut loud_pages, .. } = self;
        loud_pages.sort_unstable();
        loud_pages.dedup();
        Marked { states, graph, holders: Holders(self.holders), loud_pages }
    }

    /// Phase 1.
    pub fn mark_reachable(&mut self, scanner: &mut Scanner<'_>) -> Result<(), ReachError> {
        for seed in self.input.root_blocks {
            if (seed.block as usize) < self.blocks.len() {
                self.reach(seed.block, Holder::decree(seed.label));
            }
        }
        for register in self.input.registers {
            if let Some((block, interior)) = self.index.find(untagged(register.value)) {
                let hit = Hit { tag: register.label, at: 0, word: register.value, block, interior };
                self.definite_pointer(None, &hit, || Holder::register(register.label, interior));
            }
        }
        let mut spans = Vec::new();
        for part in self.input.roots.chunks(BATCH) {
            spans.clear();
            spans.extend(part.iter().map(|r| Span { start: r.start, end: r.end, tag: r.label }));
            scanner.scan(&spans, |hit| self.definite_pointer(None, &hit, || Holder::root(&hit)))?;
        }
        loop {
            self.search_levels(scanner, |marker, hit| {
                let blocks = marker.blocks;
                let holder = || Holder::block(hit.tag, hit.at - blocks[hit.tag as usize].start, hit.interior);
                marker.definite_pointer(Some(hit.tag), &hit, holder);
            })?;
            self.look_at_candidates();
            if self.next.is_empty() {
                return Ok(());
            }
        }
    }

    /// Phase 2.
    pub fn mark_possible(&mut self, scanner: &mut Scanner<'_>) -> Result<(), ReachError> {
        for block in std::mem::take(&mut self.aside) {
            if self.states[block as usize] == State::SetAside {
                self.states[block as usize] = State::Possible;
                self.next.push(block);
            }
        }
        let mut spans = Vec::new();
        for part in self.input.doubtful.chunks(BATCH) {
            spans.clear();
            spans.extend(part.iter().map(|r| Span { start: r.start, end: r.end, tag: r.label }));
            scanner.scan(&spans, |hit| {
                let to = hit.block as usize;
                let nothing = hit.interior && worth(None, hit.word, &self.blocks[to]) == Worth::Nothing;
                if self.states[to] == State::Unreached && !nothing {
                    self.states[to] = State::Possible;
                    self.holders[to] = Holder::root(&hit);
                    self.next.push(hit.block);
                }
            })?;
        }
        self.search_levels(scanner, |marker, hit| {
            let to = hit.block as usize;
            if hit.tag == hit.block || marker.states[to] == State::Reached || marker.is_no_pointer(&hit) {
                return;
            }
            let start = marker.blocks[hit.tag as usize].start;
            if marker.states[to] == State::Unreached {
                marker.states[to] = State::Possible;
                marker.holders[to] = Holder::block(hit.tag, hit.at - start, hit.interior);
                marker.next.push(hit.block);
            }
            marker.graph.push(marker.blocks.len(), &hit, start);
        })
    }

    /// Phase 3.
    pub fn collect_lost(&mut self, scanner: &mut Scanner<'_>) -> Result<(), ReachError> {
        let lost: Vec<u32> =
            (0..self.blocks.len() as u32).filter(|&b| self.states[b as usize] == State::Unreached).collect();
        self.search(&lost, scanner, &mut |marker, hit| {
            let lost = marker.states[hit.block as usize] == State::Unreached;
            if lost && hit.tag != hit.block && !marker.is_no_pointer(&hit) {
                marker.graph.push(marker.blocks.len(), &hit, marker.blocks[hit.tag as usize].start);
            }
        })
    }

    /// A word found in a block that is not still reachable.
    fn is_no_pointer(&self, hit: &Hit) -> bool {
        let (from, to) = (&self.blocks[hit.tag as usize], &self.blocks[hit.block as usize]);
        hit.interior && worth(Some(from.kind), hit.word, to) == Worth::Nothing
    }

    fn search_levels(
        &mut self,
        scanner: &mut Scanner<'_>,
        mut visit: impl FnMut(&mut Self, Hit),
    ) -> Result<(), ReachError> {
        let mut level = Vec::new();
        while !self.next.is_empty() {
            std::mem::swap(&mut level, &mut self.next);
            level.sort_unstable();
            self.search(&level, scanner, &mut visit)?;
            level.clear();
        }
        Ok(())
    }

    fn search(
        &mut self,
        blocks: &[u32],
        scanner: &mut Scanner<'_>,
        visit: &mut impl FnMut(&mut Self, Hit),
    ) -> Result<(), ReachError> {
        let mut spans = Vec::new();
        for part in blocks.chunks(BATCH) {
            spans.clear();
            for &tag in part.iter().filter(|&&block| self.blocks[block as usize].scan == Scan::Words) {
                self.add_spans(tag, &mut spans);
            }
            scanner.scan(&spans, |hit| {
                self.hear(&hit);
                visit(self, hit);
            })?;
        }
        Ok(())
    }

    /// What of a block is to be searched.
    fn add_spans(&self, tag: u32, spans: &mut Vec<Span>) {
        let Extent { start, end } = self.index.extent(tag);
        let left_out = self.input.left_out;
        let first = left_out.partition_point(|range| range.end <= start);
        TargetRange { start, end }.each_outside(left_out[first..].iter().copied(), |part| {
            spans.push(Span { start: part.start, end: part.end, tag });
        });
    }

    /// A word that leads into a block, found in one.
    #[inline]
    fn hear(&mut self, hit: &Hit) {
        let page = hit.at & !(PAGE - 1);
        if self.blocks[hit.tag as usize].size >= LARGE && self.loud_pages.last() != Some(&page) {
            self.loud_pages.push(page);
        }
    }

    /// A word found in a root or in a block that is still reachable.
    #[inline]
    fn definite_pointer(&mut self, source: Option<u32>, hit: &Hit, holder: impl Fn() -> Holder) {
        let block = hit.block as usize;
        if self.states[block] == State::Reached {
            return;
        }
        if !hit.interior {
            return self.reach(hit.block, holder());
        }
        let target = &self.blocks[block];
        match worth(source.map(|s| self.blocks[s as usize].kind), hit.word, target) {
            Worth::Nothing => {}
            Worth::Start => self.reach(hit.block, holder()),
            Worth::Interior => {
                if self.states[block] == State::Unreached {
                    self.states[block] = State::SetAside;
                    self.holders[block] = holder();
                    self.aside.push(hit.block);
                }
                if Heuristics::may_apply(hit.word, target) {
                    self.propose(Candidate { word: hit.word, block: hit.block, holder: holder() });
                }
            }
        }
    }

    fn reach(&mut self, block: u32, holder: Holder) {
        if self.states[block as usize] != State::Reached {
            self.states[block as usize] = State::Reached;
            self.holders[block as usize] = holder;
            self.next.push(block);
        }
    }

    fn propose(&mut self, candidate: Candidate) {
        if self.candidates.last().is_some_and(|last| last.word == candidate.word) {
            return;
        }
        self.candidates.push(candidate);
        if self.candidates.len() >= CANDIDATES {
            self.look_at_candidates();
        }
    }

    fn look_at_candidates(&mut self) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_unstable_by_key(|c| c.word);
        candidates.dedup_by_key(|c| c.word);
        for Candidate { word, block, holder } in candidates.drain(..) {
            let reached = self.states[block as usize] == State::Reached;
            if !reached && self.heuristics.apply(word, &self.blocks[block as usize]) {
                self.reach(block, holder);
            }
        }
        self.candidates = candidates;
    }
}
