//! What glibc's allocator holds free of the heap that it gets by brk, and whether there is another.
//!
//! Blocks that were returned since avleak armed are known. But the heap is older than that: what was free then, and what a later split or
//! merge left over, no event tells, and it is full of links and stale words that lead into what is allocated there today. So the chunks
//! are walked from the heap's start, by their sizes, and what the allocator's own lists hold is told (malloc/malloc.c, "malloc_chunk"):
//!
//! * a chunk in a bin: the next chunk says that it is free and how long it is, and both its neighbours in the list lead back to it;
//! * a chunk in the main thread's cache, which is the heap's first chunk (glibc 2.26 to 2.41);
//! * a chunk in a fast bin, and the top, where a bin's list has led to the arena that they belong to, whose top ends where the heap does.
//!
//! Whatever does not fit (another allocator, a program that moves the break itself, a thread that was stopped in the middle of a list)
//! is left as it was: memory to be searched.

use crate::address::TargetRange;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;

/// No more of the heap is walked: it stands still meanwhile.
const MOST: u64 = 32 << 20;
/// The smallest chunk, and what all are multiples of.
const SMALLEST: u64 = 32;
const ALIGN: u64 = 16;
/// `PREV_INUSE`; `IS_MMAPPED` and `NON_MAIN_ARENA`, which no chunk of this heap has.
const BEFORE_IN_USE: u64 = 1;
const ELSEWHERE: u64 = 6;
/// Sizes of chunk that a thread's cache has a list for, and those of an arena's fast bins (`NFASTBINS`).
const CACHED: u64 = 64;
const FAST: u64 = 10;
/// `malloc_state`, glibc 2.27 and later: the fast bins, the top, which is the place of the first bin too.
const FAST_AT: u64 = 16;
const TOP_AT: u64 = 96;
/// Longer lists are none.
const LONGEST: usize = 1 << 16;

/// What is free of the part of the heap that was there when avleak armed: ranges of what users had or could have, in no order.
pub fn free(maps: &[Mapping], before: &[TargetRange], memory: &dyn Memory) -> Vec<TargetRange> {
    // One mapping, unless a part of it is protected otherwise.
    let mut heap = TargetRange::default();
    for part in maps.iter().filter(|mapping| mapping.is_heap()).map(|mapping| mapping.range) {
        if heap.is_empty() {
            heap = part;
        } else if part.start == heap.end {
            heap.end = part.end;
        }
    }
    let known = before.iter().take_while(|range| range.start < heap.end);
    let until = known.map(|range| range.end.min(heap.end)).max().unwrap_or(0).min(heap.start.saturating_add(MOST));
    if until <= heap.start {
        return Vec::new();
    }
    let mut bytes = vec![0; (until - heap.start) as usize];
    let got = memory.read(heap.start, &mut bytes);
    bytes.truncate(got);
    Heap { range: heap, bytes, memory }.free()
}

/// Libraries whose malloc takes the place of glibc's where they are loaded at the start.
const OTHERS: [&str; 3] = ["libjemalloc", "libtcmalloc", "libmimalloc"];

/// What is to be said where one of them is loaded: nothing tells what they hold free.
pub fn another_allocator(maps: &[Mapping]) -> Option<String> {
    let names = maps.iter().filter_map(|mapping| mapping.path()?.file_name()?.to_str());
    let name = names.into_iter().find(|name| OTHERS.iter().any(|other| name.starts_with(other)))?;
    Some(format!(
        "{name} is loaded: where it is the allocator, what it keeps of freed blocks is searched, and may hide leaks"
    ))
}

struct Heap<'a> {
    range: TargetRange,
    /// Its beginning.
    bytes: Vec<u8>,
    memory: &'a dyn Memory,
}

impl Heap<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        let inside = address
            .checked_sub(self.range.start)
            .and_then(|at| self.bytes.get(at as usize..)?.first_chunk().map(|word| u64::from_le_bytes(*word)));
        inside.or_else(|| self.memory.word(address))
    }

    /// The size of the chunk at `at`; `None` where there can be none.
    fn size(&self, at: u64) -> Option<u64> {
        let field = self.word(at.checked_add(8)?)?;
        let size = field & !7;
        let fits = field & ELSEWHERE == 0
            && size >= SMALLEST
            && size.is_multiple_of(ALIGN)
            && at.is_multiple_of(ALIGN)
            && at >= self.range.start
            && at.checked_add(size)? <= self.range.end;
        fits.then_some(size)
    }

    fn free(&self) -> Vec<TargetRange> {
        let mut found = Vec::new();
        let mut arena = None;
        let mut at = self.range.start;
        let walked = self.range.start + self.bytes.len() as u64;
        while at + SMALLEST <= walked {
            // One that does not fit: perhaps none of them did.
            let Some(size) = self.size(at) else { return Vec::new() };
            let next = at + size;
            if let Some([forwards, backwards]) = self.links(at, size) {
                found.push(TargetRange { start: at + 16, end: next });
                arena = arena.or_else(|| [forwards, backwards].iter().find_map(|&bin| self.arena(bin, size)));
            }
            at = next;
        }
        found.extend([true, false].iter().find_map(|&mangled| self.cached(mangled)).into_iter().flatten());
        if let Some(arena) = arena {
            let lists = [true, false].iter().find_map(|&mangled| {
                let lists = (0..FAST).map(|index| {
                    self.list(self.word(arena + FAST_AT + 8 * index)?, SMALLEST + ALIGN * index, 16, mangled)
                });
                lists.collect::<Option<Vec<_>>>()
            });
            found.extend(lists.into_iter().flatten().flatten());
            found.extend(self.word(arena + TOP_AT).map(|top| TargetRange { start: top + 16, end: self.range.end }));
        }
        found
    }

    /// The neighbours in its list of a chunk in a bin.
    fn links(&self, at: u64, size: u64) -> Option<[u64; 2]> {
        let next = at + size;
        if self.word(next + 8)? & BEFORE_IN_USE != 0 || self.word(next)? != size {
            return None;
        }
        let (forwards, backwards) = (self.word(at + 16)?, self.word(at + 24)?);
        let leads_back = self.word(forwards.checked_add(24)?)? == at && self.word(backwards.checked_add(16)?)? == at;
        leads_back.then_some([forwards, backwards])
    }

    /// The arena whose bin for chunks of `size`, or for those that are not sorted yet, is at `bin`.
    fn arena(&self, bin: u64, size: u64) -> Option<u64> {
        let of = |number: u64| bin.checked_sub(TOP_AT + 16 * (number - 1));
        // The first bin is that of the unsorted ones, the small ones follow by size.
        [of(1), of(size / ALIGN)].into_iter().flatten().find(|&arena| {
            let top = self.word(arena.saturating_add(TOP_AT)).filter(|top| self.range.contains(*top));
            top.is_some_and(|top| self.size(top).is_some_and(|size| top + size == self.range.end))
        })
    }

    /// What the cache in the heap's first chunk holds; `None` where that is not one, or a list is not as it says.
    fn cached(&self, mangled: bool) -> Option<Vec<TargetRange>> {
        // Counts, then lists: of a byte up to glibc 2.29, of two since.
        let counts = match self.size(self.range.start)? {
            0x250 => 1,
            0x290 => 2,
            _ => return None,
        };
        let first = self.range.start + 16;
        let mut found = Vec::new();
        for index in 0..CACHED {
            let count = self.word(first + index * counts)? & ((1 << (8 * counts)) - 1);
            let list = self.word(first + CACHED * counts + 8 * index)?;
            let chunks = self.list(list, SMALLEST + ALIGN * index, 0, mangled)?;
            if chunks.len() as u64 != count {
                return None;
            }
            found.extend(chunks);
        }
        Some(found)
    }

    /// A list that is linked one way: by words `offset` bytes behind what the links lead to, which is 16 bytes before the user's block, or
    /// the block itself. Since glibc 2.32 links are mangled by where they lie.
    fn list(&self, first: u64, size: u64, offset: u64, mangled: bool) -> Option<Vec<TargetRange>> {
        let mut found = Vec::new();
        let mut link = first;
        while link != 0 {
            let user = link.checked_add(offset)?;
            let chunk = user.checked_sub(16)?;
            if self.size(chunk)? != size || found.len() == LONGEST {
                return None;
            }
            found.push(TargetRange { start: user, end: chunk + size });
            let next = self.word(user)?;
            link = if mangled { next ^ (user >> 12) } else { next };
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    const START: u64 = 0x5555_5000_0000;
    const ARENA: u64 = 0x7fff_0000_0c60;
    const CACHE: u64 = 0x290;

    /// A heap: the cache, then a chunk of 0x40 in a bin, one of 0x60 in use, one of 0x30 in the cache, one of 0x20 in a fast bin, one of
    /// 0x50 in use, the top.
    fn words(mangled: bool) -> Vec<u64> {
        let mut words = vec![0; 0x1000 / 8];
        let mangle = |place: u64, link: u64| if mangled { link ^ (place >> 12) } else { link };
        let mut put = |at: u64, word: u64| words[((at - START) / 8) as usize] = word;
        let (bin, used, cached, fast, last, top) = places();
        put(START + 8, CACHE | 1);
        // The list of 0x30 is the second.
        put(START + 16, 1 << 16);
        put(START + 16 + 128 + 8, cached + 16);
        put(bin + 8, 0x40 | 1);
        let unsorted = ARENA + 96;
        put(bin + 16, unsorted);
        put(bin + 24, unsorted);
        put(used, 0x40);
        put(used + 8, 0x60);
        put(cached + 8, 0x30 | 1);
        put(cached + 16, mangle(cached + 16, 0));
        put(fast + 8, 0x20 | 1);
        put(fast + 16, mangle(fast + 16, 0));
        put(last + 8, 0x50 | 1);
        put(top + 8, (START + 0x1000 - top) | 1);
        words
    }

    fn places() -> (u64, u64, u64, u64, u64, u64) {
        let bin = START + CACHE;
        (bin, bin + 0x40, bin + 0xa0, bin + 0xd0, bin + 0xf0, bin + 0x140)
    }

    fn found(words: &[u64], arena_top: u64) -> Vec<(u64, u64)> {
        let (bin, _, _, fast, ..) = places();
        let mut memory = SavedMemory::default();
        memory.insert_words(START, words);
        let mut arena = vec![0; 40];
        arena[2] = fast;
        arena[12] = arena_top;
        (arena[14], arena[15]) = (bin, bin);
        memory.insert_words(ARENA, &arena);
        let range = TargetRange { start: START, end: START + 0x1000 };
        let mut bytes = vec![0; 0x1000];
        memory.read(START, &mut bytes);
        let mut free: Vec<_> =
            Heap { range, bytes, memory: &memory }.free().iter().map(|range| (range.start, range.end)).collect();
        free.sort_unstable();
        free
    }

    #[test]
    fn chunks_in_bins_caches_and_fast_bins_are_free() {
        let (bin, used, cached, fast, last, top) = places();
        for mangled in [true, false] {
            assert_eq!(
                found(&words(mangled), top),
                [(bin + 16, used), (cached + 16, fast), (fast + 16, last), (top + 16, START + 0x1000)],
                "mangled: {mangled}"
            );
        }
    }

    #[test]
    fn a_chunk_to_which_its_list_does_not_lead_back_is_not() {
        let (bin, _, cached, fast, last, top) = places();
        let whole = words(true);
        let mut words = whole.clone();
        words[((bin + 16 - START) / 8) as usize] = ARENA + 96 + 16;
        // Without it the arena is not known either.
        assert_eq!(found(&words, top), [(cached + 16, fast)]);
        assert_eq!(found(&whole, last), [(bin + 16, bin + 0x40), (cached + 16, fast)], "no such top");
    }

    #[test]
    fn a_list_of_another_length_is_none() {
        let (bin, used, _, fast, last, top) = places();
        let mut words = words(true);
        words[2] = 2 << 16;
        assert_eq!(found(&words, top), [(bin + 16, used), (fast + 16, last), (top + 16, START + 0x1000)]);
    }

    #[test]
    fn what_is_no_heap_of_glibcs_is_left_alone() {
        let (_, used, .., top) = places();
        for broken in [0, 0x61 | 2, 0x68 | 1, 0x10, 1 << 40] {
            let mut words = words(true);
            words[((used + 8 - START) / 8) as usize] = broken;
            assert_eq!(found(&words, top), [], "a size of {broken:#x}");
        }
    }
}
