//! Which memory belongs to the allocator's users: every 16-byte granule returned by the malloc family since arming.
//!
//! A granule stays *returned* when its block is freed: a freed block that the allocator keeps holds stale pointers and is
//! no root. It stops being returned when its pages went back to the kernel ([`ReturnedMap::forget`],
//! [`ReturnedMap::forget_unmapped`]): whatever is mapped there next is somebody else's, and root.
//!
//! [`ReturnedMap::mark`] runs for every allocation: a cached look-up of the 1 MiB chunk and one `or` for a small block.
//! Memory: 8 KiB for each touched MiB (1/128), nothing for a MiB that one block covers whole. At [`MOST_BITMAPS`]
//! (1 GiB) it stops learning; what it then doesn't know counts as root, which can hide a leak and never invents one.

use std::collections::BTreeMap;

use crate::address::TargetRange;

const GRANULE_SHIFT: u32 = 4;
const CHUNK_SHIFT: u32 = 20;
const CHUNK_BYTES: u64 = 1 << CHUNK_SHIFT;
/// Words of a chunk's bitmap: a bit for each granule.
const WORDS: usize = 1 << (CHUNK_SHIFT - GRANULE_SHIFT - 6);
/// Granules of a chunk.
const GRANULES: u64 = 1 << (CHUNK_SHIFT - GRANULE_SHIFT);
/// Direct-mapped cache of chunk look-ups: a GiB of heap in one piece fits.
const CACHED: usize = 1024;
const NO_CHUNK: u64 = u64::MAX;

/// Most bitmaps that are kept, of 8 KiB each.
pub const MOST_BITMAPS: usize = 1 << 17;
/// Most chunks that are kept, of a MiB each: 4 TiB of address space.
pub const MOST_CHUNKS: usize = 1 << 22;

/// Chunks that one allocation may take on average, those above a chunk's size counted: 1 GiB. A target may claim blocks of terabytes, one
/// after another; then this stops learning, instead of walking through them without end.
const MOST_AVERAGE: u64 = 1 << 10;
/// How far that average may be exceeded for a while.
const SPARE_CHUNKS: u64 = MOST_CHUNKS as u64;

#[derive(Clone)]
enum Chunk {
    /// Every granule.
    Whole,
    Bits(Box<[u64; WORDS]>),
    /// Its slot is free.
    Empty,
}

/// The set of returned granules.
#[derive(Clone)]
pub struct ReturnedMap {
    /// From chunk number to slot.
    index: BTreeMap<u64, u32>,
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    cache: Box<[(u64, u32); CACHED]>,
    bitmaps: usize,
    /// Chunks that may be walked through.
    allowance: u64,
    complete: bool,
}

impl Default for ReturnedMap {
    fn default() -> Self {
        Self {
            index: BTreeMap::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            cache: Box::new([(NO_CHUNK, 0); CACHED]),
            bitmaps: 0,
            allowance: SPARE_CHUNKS,
            complete: true,
        }
    }
}

/// A stretch of memory that is returned, or isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub range: TargetRange,
    /// Returned since arming.
    pub returned: bool,
}

impl ReturnedMap {
    /// Nothing is returned.
    pub fn new() -> Self {
        Self::default()
    }

    /// False once there was too much to keep: some of what was marked is not known as returned.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes of bitmaps in use.
    pub fn memory_bytes(&self) -> u64 {
        (self.bitmaps * WORDS * 8) as u64
    }

    /// The allocator returned `len` bytes at `start` (no bytes: the one granule there).
    #[inline]
    pub fn mark(&mut self, start: u64, len: u64) {
        let first = start >> GRANULE_SHIFT;
        let last = start.saturating_add(len.max(1) - 1) >> GRANULE_SHIFT;
        if first >> 6 != last >> 6 {
            return self.mark_long(first, last);
        }
        let mask = mask(first & 63, last & 63);
        let number = start >> CHUNK_SHIFT;
        let (cached, slot) = self.cache[number as usize % CACHED];
        if cached == number {
            match self.chunks.get_mut(slot as usize) {
                Some(Chunk::Bits(words)) => words[(first >> 6) as usize % WORDS] |= mask,
                Some(Chunk::Whole) => {}
                _ => self.mark_long(first, last),
            }
        } else {
            self.mark_long(first, last);
        }
    }

    /// Reads where [`Self::mark`] of this address will write, as far as that is near at hand: called for a handful of addresses first, it
    /// lets the processor wait for all of them at once. What it returns says nothing, but must be used.
    #[inline(always)]
    pub fn touch(&self, address: u64) -> u64 {
        let number = address >> CHUNK_SHIFT;
        let (cached, slot) = self.cache[number as usize % CACHED];
        match self.chunks.get(slot as usize) {
            Some(Chunk::Bits(words)) if cached == number => words[(address >> (GRANULE_SHIFT + 6)) as usize % WORDS],
            _ => 0,
        }
    }

    #[inline(never)]
    fn mark_long(&mut self, first: u64, last: u64) {
        let chunks = (last - first) / GRANULES;
        if chunks > 0 {
            self.allowance = (self.allowance + MOST_AVERAGE).min(SPARE_CHUNKS);
            match self.allowance.checked_sub(chunks) {
                Some(left) => self.allowance = left,
                None => {
                    self.complete = false;
                    return;
                }
            }
        }
        let mut at = first;
        while at <= last {
            let number = at / GRANULES;
            let stop = last.min(number * GRANULES + GRANULES - 1);
            let whole = stop - at + 1 == GRANULES;
            if !self.mark_in_chunk(number, at % GRANULES, stop % GRANULES, whole) {
                self.complete = false;
                if self.chunks.len() >= MOST_CHUNKS {
                    return;
                }
            }
            at = stop + 1;
        }
    }

    /// False where there is no room.
    fn mark_in_chunk(&mut self, number: u64, first: u64, last: u64, whole: bool) -> bool {
        let Some(slot) = self.slot_for(number, whole) else { return false };
        match &mut self.chunks[slot as usize] {
            Chunk::Whole => {}
            chunk if whole => {
                self.bitmaps -= usize::from(matches!(chunk, Chunk::Bits(_)));
                *chunk = Chunk::Whole;
            }
            Chunk::Bits(words) => for_words(first, last, |word, mask| words[word] |= mask),
            Chunk::Empty => {}
        }
        true
    }

    /// The chunk's slot, made if need be.
    fn slot_for(&mut self, number: u64, whole: bool) -> Option<u32> {
        let cached = &mut self.cache[number as usize % CACHED];
        if cached.0 == number {
            return Some(cached.1);
        }
        let slot = match self.index.get(&number) {
            Some(&slot) => slot,
            None => {
                if self.index.len() >= MOST_CHUNKS || (!whole && self.bitmaps >= MOST_BITMAPS) {
                    return None;
                }
                let chunk = if whole {
                    Chunk::Whole
                } else {
                    self.bitmaps += 1;
                    Chunk::Bits(Box::new([0; WORDS]))
                };
                let slot = match self.free.pop() {
                    Some(slot) => {
                        self.chunks[slot as usize] = chunk;
                        slot
                    }
                    None => {
                        self.chunks.push(chunk);
                        (self.chunks.len() - 1) as u32
                    }
                };
                self.index.insert(number, slot);
                slot
            }
        };
        *cached = (number, slot);
        Some(slot)
    }

    /// The granules that hold these `len` bytes went back to the kernel.
    pub fn forget(&mut self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = start >> GRANULE_SHIFT;
        let last = start.saturating_add(len - 1) >> GRANULE_SHIFT;
        let mut next = first / GRANULES;
        while let Some((&number, &slot)) = self.index.range(next..).next().filter(|(n, _)| **n <= last / GRANULES) {
            let low = first.max(number * GRANULES) % GRANULES;
            let high = last.min(number * GRANULES + (GRANULES - 1)) % GRANULES;
            if !self.clear_in_chunk(slot, low, high) {
                self.drop_chunk(number, slot);
            }
            next = number + 1;
        }
    }

    /// Forgets all that lies in none of the ranges that are mapped now.
    pub fn forget_unmapped(&mut self, mapped: &[TargetRange]) {
        let mut ranges: Vec<TargetRange> = mapped.iter().copied().filter(|r| !r.is_empty()).collect();
        ranges.sort_unstable();
        let mut at = 0;
        for range in ranges {
            self.forget(at, range.start.saturating_sub(at));
            at = at.max(range.end);
        }
        self.forget(at, u64::MAX - at);
    }

    /// False where nothing is left.
    fn clear_in_chunk(&mut self, slot: u32, low: u64, high: u64) -> bool {
        if (low, high) == (0, GRANULES - 1) {
            return false;
        }
        let chunk = &mut self.chunks[slot as usize];
        if matches!(chunk, Chunk::Whole) {
            if self.bitmaps >= MOST_BITMAPS {
                self.complete = false;
                return false;
            }
            self.bitmaps += 1;
            *chunk = Chunk::Bits(Box::new([u64::MAX; WORDS]));
        }
        let Chunk::Bits(words) = chunk else { return false };
        for_words(low, high, |word, mask| words[word] &= !mask);
        words.iter().any(|&word| word != 0)
    }

    fn drop_chunk(&mut self, number: u64, slot: u32) {
        let old = std::mem::replace(&mut self.chunks[slot as usize], Chunk::Empty);
        self.bitmaps -= usize::from(matches!(old, Chunk::Bits(_)));
        self.index.remove(&number);
        self.free.push(slot);
        let cached = &mut self.cache[number as usize % CACHED];
        if cached.0 == number {
            *cached = (NO_CHUNK, 0);
        }
    }

    /// The granule of `address` was returned since arming.
    pub fn is_returned(&self, address: u64) -> bool {
        let granule = address >> GRANULE_SHIFT;
        match self.index.get(&(granule / GRANULES)).map(|&slot| &self.chunks[slot as usize]) {
            Some(Chunk::Whole) => true,
            Some(Chunk::Bits(words)) => words[(granule % GRANULES / 64) as usize] >> (granule % 64) & 1 != 0,
            Some(Chunk::Empty) | None => false,
        }
    }

    /// The maximal stretches of `range` that are returned or not, in order; together they are `range`.
    pub fn runs(&self, range: TargetRange) -> Runs<'_> {
        Runs { map: self, at: range.start, end: range.end.max(range.start), chunk: None }
    }
}

/// See [`ReturnedMap::runs`].
pub struct Runs<'a> {
    map: &'a ReturnedMap,
    at: u64,
    end: u64,
    /// The chunk looked up last.
    chunk: Option<(u64, Option<&'a Chunk>)>,
}

impl<'a> Runs<'a> {
    fn chunk(&mut self, number: u64) -> Option<&'a Chunk> {
        match self.chunk {
            Some((known, chunk)) if known == number => chunk,
            _ => {
                let chunk = self.map.index.get(&number).map(|&slot| &self.map.chunks[slot as usize]);
                self.chunk = Some((number, chunk));
                chunk
            }
        }
    }

    /// The first address at or behind `at` whose granule is not `returned`, at most `end`.
    fn change(&mut self, at: u64, returned: bool) -> u64 {
        let mut granule = at >> GRANULE_SHIFT;
        let end = self.end.div_ceil(1 << GRANULE_SHIFT);
        while granule < end {
            let number = granule / GRANULES;
            match self.chunk(number) {
                Some(Chunk::Whole) if returned => granule = (number + 1) * GRANULES,
                Some(Chunk::Bits(words)) => {
                    let word = (granule % GRANULES / 64) as usize;
                    let bits = if returned { !words[word] } else { words[word] } >> (granule % 64);
                    if bits != 0 {
                        granule += u64::from(bits.trailing_zeros());
                        break;
                    }
                    granule = (granule / 64 + 1) * 64;
                }
                None | Some(Chunk::Empty) if !returned => match self.map.index.range(number..).next() {
                    Some((&next, _)) => granule = next * GRANULES,
                    None => return self.end,
                },
                _ => break,
            }
        }
        granule.saturating_mul(1 << GRANULE_SHIFT).clamp(at, self.end)
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.at >= self.end {
            return None;
        }
        let (start, mut returned) = (self.at, false);
        let mut end = self.change(start, false);
        if end == start {
            returned = true;
            end = self.change(start, true);
        }
        self.at = end;
        Some(Run { range: TargetRange { start, end }, returned })
    }
}

/// The bits `first..=last` of a word.
#[inline(always)]
fn mask(first: u64, last: u64) -> u64 {
    (u64::MAX >> (63 - (last - first))) << first
}

/// Calls `change` for each word and mask of the granules `first..=last` of a chunk.
fn for_words(first: u64, last: u64, mut change: impl FnMut(usize, u64)) {
    for word in first / 64..=last / 64 {
        let low = first.max(word * 64) % 64;
        let high = last.min(word * 64 + 63) % 64;
        change(word as usize, mask(low, high));
    }
}

const _: () = assert!(CHUNK_BYTES == GRANULES << GRANULE_SHIFT && GRANULES == 64 * WORDS as u64);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reach::tests::Random;

    fn runs(map: &ReturnedMap, start: u64, end: u64) -> Vec<(u64, u64, bool)> {
        map.runs(TargetRange { start, end }).map(|r| (r.range.start, r.range.end, r.returned)).collect()
    }

    #[test]
    fn equals_a_set_of_granules() {
        let mut random = Random::new(3);
        let base = 0x7fff_0000_0000 - 3 * CHUNK_BYTES / 2;
        for _ in 0..40 {
            let mut map = ReturnedMap::new();
            let mut truth = BTreeSet::new();
            for _ in 0..60 {
                let start = base + random.below(4 * CHUNK_BYTES);
                let len = [0, 1, 16, 24, 1000, 5000, CHUNK_BYTES, 2 * CHUNK_BYTES + 40][random.below(8) as usize];
                if random.below(3) > 0 {
                    map.mark(start, len);
                    truth.extend(start >> 4..=(start + len.max(1) - 1) >> 4);
                } else if len > 0 {
                    map.forget(start, len);
                    (start >> 4..=(start + len - 1) >> 4).for_each(|g| _ = truth.remove(&g));
                }
                let probe = base + random.below(4 * CHUNK_BYTES);
                assert_eq!(map.is_returned(probe), truth.contains(&(probe >> 4)));
            }
            let (start, end) = (base + random.below(CHUNK_BYTES), base + 7 * CHUNK_BYTES - random.below(CHUNK_BYTES));
            let found = runs(&map, start, end);
            assert_eq!((found[0].0, found[found.len() - 1].1), (start, end));
            for pair in found.windows(2) {
                assert_eq!(pair[0].1, pair[1].0, "no gaps");
                assert_ne!(pair[0].2, pair[1].2, "maximal");
            }
            let returned: BTreeSet<u64> =
                found.iter().filter(|r| r.2).flat_map(|r| r.0 >> 4..r.1.div_ceil(16)).collect();
            let expected: BTreeSet<u64> = truth.range(start >> 4..end.div_ceil(16)).copied().collect();
            assert!(returned == expected);
        }
    }

    #[test]
    fn what_is_unmapped_is_forgotten() {
        let mut map = ReturnedMap::new();
        map.mark(0x1000, 0x100);
        map.mark(0x5000, 12 << 20);
        map.mark(0x7f00_0000_0010, 12 << 20);
        map.forget_unmapped(&[
            TargetRange { start: 0x7f00_0000_0000, end: 0x7f00_0010_0000 },
            TargetRange { start: 0x1000, end: 0x6000 },
        ]);
        assert_eq!(
            runs(&map, 0, u64::MAX),
            [
                (0, 0x1000, false),
                (0x1000, 0x1100, true),
                (0x1100, 0x5000, false),
                (0x5000, 0x6000, true),
                (0x6000, 0x7f00_0000_0010, false),
                (0x7f00_0000_0010, 0x7f00_0010_0000, true),
                (0x7f00_0010_0000, u64::MAX, false),
            ]
        );
        map.forget_unmapped(&[]);
        assert_eq!(runs(&map, 0x1000, 0x1000), []);
        assert_eq!(map.memory_bytes(), 0);
        map.mark(0x1008, 1);
        assert_eq!(runs(&map, 0x1004, 0x1020), [(0x1004, 0x1010, true), (0x1010, 0x1020, false)]);
    }

    #[test]
    fn big_blocks_cost_no_bitmaps() {
        let mut map = ReturnedMap::new();
        for frame in 0..1000u64 {
            map.mark(0x7f00_0000_0040 + (frame << 26), 12 << 20);
        }
        assert_eq!(map.memory_bytes(), 2 * 1000 * 8192, "the two ends of each");
        assert!(map.is_complete());
    }

    #[test]
    fn hostile_blocks_end_the_learning_not_the_analyzer() {
        let mut map = ReturnedMap::new();
        map.mark(5, u64::MAX);
        assert!(!map.is_complete());
        map.mark(u64::MAX, u64::MAX);
        map.mark(u64::MAX - 40, 1 << 50);
        assert!(map.is_returned(u64::MAX - 1));
        map.forget(u64::MAX, u64::MAX);
        map.forget(0, u64::MAX);
        assert!(!map.is_returned(u64::MAX - 1));
    }
}
