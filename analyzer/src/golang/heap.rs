//! Go's heap: its spans, and the object that holds an address.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::layout::Layout;
use super::runtime::PAGE;
use crate::address::TargetRange;
use crate::target::memory::Memory;

/// Go's heap grows by arenas of this size, which begin at a multiple of it (runtime/malloc.go, `heapArenaBytes` of linux/amd64).
pub const ARENA: u64 = 64 << 20;
const PAGES_OF_ARENA: usize = (ARENA / PAGE) as usize;
/// Most spans that are read.
const MOST_SPANS: usize = 1 << 26;
/// Most specials of one span that are followed.
const MOST_SPECIALS: usize = 1 << 16;
/// Words of a special behind its head that may lead to what it keeps: a finalizer's function, its types; a cleanup's.
const SPECIAL_WORDS: u64 = 5;

/// What a span is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Objects of one size.
    Objects,
    /// Stacks, and the collector's own.
    Manual,
}

/// Pages of one use.
#[derive(Debug, Clone)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// One past its last page.
    pub end: u64,
    /// What it is used for.
    pub used_for: Use,
    /// Bytes of an object; at least 8.
    pub element: u64,
    /// Objects that fit.
    pub count: u32,
    /// Its objects hold no pointers of Go's.
    pub no_pointers: bool,
    /// Below this index every object is in use …
    free_from: u32,
    /// … and from there on those of which the bit is set.
    bits: Box<[u8]>,
}

impl Span {
    /// Object `index` is in use.
    pub fn is_used(&self, index: u32) -> bool {
        let bit = || self.bits.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 != 0);
        index < self.count && (index < self.free_from || bit())
    }

    /// Where object `index` lies.
    pub fn object(&self, index: u32) -> TargetRange {
        TargetRange::with_len(self.start + u64::from(index) * self.element, self.element)
    }
}

/// The spans of one runtime.
pub struct Heap {
    /// In use, ascending, disjoint.
    pub spans: Vec<Span>,
    /// Spans by page, of each arena by number: index + 1.
    arenas: HashMap<u64, Box<[u32; PAGES_OF_ARENA]>, FxBuildHasher>,
    low: u64,
    high: u64,
    /// Objects with a finalizer or cleanup, and what its function leads to: Go keeps them until it has run.
    pub kept: Vec<u64>,
}

impl Heap {
    /// Reads the spans at `addresses`.
    ///
    /// # Errors
    /// A clause: what does not fit together.
    pub fn read(memory: &dyn Memory, addresses: &[u64], layout: &Layout) -> Result<Self, String> {
        if addresses.len() > MOST_SPANS {
            return Err(format!("it has {} spans, which is too many", addresses.len()));
        }
        // Neighbours in memory are read from one page.
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        let mut kept = Vec::new();
        let mut spans: Vec<Span> =
            addresses.iter().filter_map(|&at| read_span(memory, at, layout, &mut kept)).collect();
        spans.sort_unstable_by_key(|span| span.start);
        if let Some(two) = spans.windows(2).find(|two| two[0].end > two[1].start) {
            return Err(format!("its spans at {:#x} and {:#x} overlap", two[0].start, two[1].start));
        }
        let (low, high) = (spans.first().map_or(0, |span| span.start), spans.last().map_or(0, |span| span.end));
        let mut heap = Self { spans, arenas: HashMap::default(), low, high, kept };
        heap.index();
        Ok(heap)
    }

    fn index(&mut self) {
        for (number, span) in (1..).zip(&self.spans) {
            for page in span.start / PAGE..span.end / PAGE {
                let (arena, place) = (page / PAGES_OF_ARENA as u64, page as usize % PAGES_OF_ARENA);
                let pages = self.arenas.entry(arena).or_insert_with(|| Box::new([0; PAGES_OF_ARENA]));
                pages[place] = number;
            }
        }
    }

    /// The span that holds `address`.
    #[inline]
    pub fn span_of(&self, address: u64) -> Option<(u32, &Span)> {
        if address < self.low || address >= self.high {
            return None;
        }
        let page = address / PAGE;
        let number = self.arenas.get(&(page / PAGES_OF_ARENA as u64))?[page as usize % PAGES_OF_ARENA];
        let index = number.checked_sub(1)?;
        Some((index, &self.spans[index as usize]))
    }

    /// The object in use that holds `address`: span and index in it.
    #[inline]
    pub fn find(&self, address: u64) -> Option<(u32, u32)> {
        let (span, found) = self.span_of(address)?;
        if found.used_for != Use::Objects {
            return None;
        }
        let index = u32::try_from((address - found.start) / found.element).ok()?;
        found.is_used(index).then_some((span, index))
    }

    /// Where a stack of Go's that holds `address` may lie: the whole slot of its span.
    pub fn stack_slot(&self, address: u64) -> Option<TargetRange> {
        let (_, span) = self.span_of(address).filter(|(_, span)| span.used_for == Use::Manual)?;
        if span.element == 0 || span.element >= span.end - span.start {
            return Some(TargetRange { start: span.start, end: span.end });
        }
        let start = span.start + (address - span.start) / span.element * span.element;
        Some(TargetRange { start, end: (start + span.element).min(span.end) })
    }

    /// The address space that belongs to the heap, whether in use or not: whole arenas, ascending.
    pub fn arenas(&self) -> Vec<TargetRange> {
        let mut numbers: Vec<u64> = self.arenas.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| TargetRange::with_len(number * ARENA, ARENA)).collect()
    }

    /// Bytes of objects in use.
    pub fn bytes(&self) -> u64 {
        let objects = self.spans.iter().filter(|span| span.used_for == Use::Objects);
        objects.map(|span| (0..span.count).filter(|&index| span.is_used(index)).count() as u64 * span.element).sum()
    }
}

/// `None` for one that is not in use, or makes no sense.
fn read_span(memory: &dyn Memory, at: u64, layout: &Layout, kept: &mut Vec<u64>) -> Option<Span> {
    let fields = &layout.span;
    let mut bytes = [0; 256];
    let got = memory.read(at, &mut bytes);
    let bytes = &bytes[..got];
    let word = |at: u64| Some(u64::from_le_bytes(*bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?));
    let half = |at: u64| Some(u16::from_le_bytes(*bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?));
    let byte = |at: u64| bytes.get(usize::try_from(at).ok()?).copied();
    let used_for = match byte(fields.state)? {
        1 => Use::Objects,
        2 => Use::Manual,
        _ => return None,
    };
    let (start, pages, element) = (word(fields.start)?, word(fields.pages)?, word(fields.element)?);
    let end = start.checked_add(pages.checked_mul(PAGE)?)?;
    if !start.is_multiple_of(PAGE) || start == 0 || pages == 0 || pages > 1 << 35 || end > 1 << 56 {
        return None;
    }
    let mut span =
        Span { start, end, used_for, element, count: 0, no_pointers: false, free_from: 0, bits: Box::default() };
    if used_for == Use::Manual {
        return Some(span);
    }
    let count = u32::from(half(fields.elements)?);
    if element < 8 || u64::from(count).checked_mul(element)? > end - start {
        return None;
    }
    span.count = count;
    span.no_pointers = byte(fields.class)? & 1 != 0;
    // What the collector does not know of yet is in use all the same, and the other way round.
    span.free_from = u32::from(half(fields.free_index)?.max(half(fields.free_index_for_scan)?));
    let mut bits = vec![0; count.div_ceil(8) as usize];
    let got = memory.read(word(fields.alloc_bits)?, &mut bits);
    bits.truncate(got);
    span.bits = bits.into();
    read_specials(memory, word(fields.specials)?, &span, layout, kept);
    Some(span)
}

fn read_specials(memory: &dyn Memory, first: u64, span: &Span, layout: &Layout, kept: &mut Vec<u64>) {
    let fields = &layout.special;
    let mut at = first;
    for _ in 0..MOST_SPECIALS {
        if at < 4096 {
            return;
        }
        let mut offset = [0; 8];
        let bytes = &mut offset[..fields.offset_bytes];
        if memory.read(at + 8, bytes) != bytes.len() {
            return;
        }
        if super::runtime::byte(memory, at + fields.kind).is_some_and(|kind| fields.keeping.contains(&kind)) {
            kept.push(span.start.wrapping_add(u64::from_le_bytes(offset)));
            let head = (fields.kind + 1).next_multiple_of(8);
            kept.extend((0..SPECIAL_WORDS).filter_map(|word| memory.word(at + head + 8 * word)));
        }
        let Some(next) = memory.word(at) else { return };
        at = next;
    }
}
