//! Finds the runtime's lists of spans and goroutines among its variables.
//!
//! Stripped programs have no symbols, so both are known by what they look like: a slice (address, length, capacity) whose elements all lead
//! to what a span or a goroutine must be. A goroutine holds its own address (`sched.g`); a span's pages, state and object size must fit
//! together.

use super::layout::Layout;
use crate::address::TargetRange;
use crate::target::memory::Memory;

/// Most variables that are searched, bytes.
const MOST_VARIABLES: u64 = 256 << 20;
/// Longest list that is taken.
const LONGEST: u64 = 1 << 26;
/// Elements of a list that are looked at before it is believed.
const SAMPLE: u64 = 64;
/// Go's page.
pub const PAGE: u64 = 8192;

/// What was found.
pub enum Lists {
    /// Addresses of every span and of every goroutine.
    Found {
        /// `mheap_.allspans`.
        spans: Vec<u64>,
        /// `allgs`.
        goroutines: Vec<u64>,
    },
    /// There is neither: the runtime has not begun.
    Empty,
    /// This is missing.
    Missing(&'static str),
}

#[derive(Clone, Copy)]
struct Slice {
    start: u64,
    length: u64,
}

/// Searches `variables`.
pub fn find(memory: &dyn Memory, variables: TargetRange, layout: &Layout) -> Lists {
    let (mut spans, mut goroutines): (Option<Slice>, Option<Slice>) = (None, None);
    let mut words = Vec::new();
    let mut at = variables.start & !7;
    let end = variables.end.min(variables.start.saturating_add(MOST_VARIABLES));
    let mut bytes = vec![0; 1 << 20];
    while at < end {
        let wanted = (end - at).min(bytes.len() as u64) as usize;
        let got = memory.read(at, &mut bytes[..wanted]) & !7;
        words.extend(bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
        if got < wanted & !7 {
            break;
        }
        at += wanted as u64;
    }
    for three in words.windows(3) {
        let [start, length, capacity] = [three[0], three[1], three[2]];
        let plausible = (4096..1 << 56).contains(&start) && start.is_multiple_of(8) && length > 0;
        if !plausible || length > capacity || capacity > LONGEST {
            continue;
        }
        let slice = Slice { start, length };
        let longer = |known: Option<Slice>| known.is_none_or(|known| known.length < length);
        if longer(spans) && all(memory, slice, |at| is_span(memory, at, layout)) {
            spans = Some(slice);
        } else if longer(goroutines) && all(memory, slice, |at| is_goroutine(memory, at, layout)) {
            goroutines = Some(slice);
        }
    }
    match (spans, goroutines) {
        (Some(spans), Some(goroutines)) => {
            Lists::Found { spans: elements(memory, spans), goroutines: elements(memory, goroutines) }
        }
        (None, None) => Lists::Empty,
        (None, Some(_)) => Lists::Missing("the list of its spans"),
        (Some(_), None) => Lists::Missing("the list of its goroutines"),
    }
}

/// Of evenly spread elements of a list, the first and the last among them, none is something else, and the first is one for certain.
fn all(memory: &dyn Memory, slice: Slice, is: impl Fn(u64) -> Option<bool>) -> bool {
    let element = |index: u64| memory.word(slice.start + 8 * index);
    let first = element(0).and_then(&is);
    if first != Some(true) {
        return false;
    }
    let step = slice.length.div_ceil(SAMPLE).max(1);
    (0..slice.length)
        .step_by(step as usize)
        .chain([slice.length - 1])
        .all(|index| element(index).and_then(&is).is_some())
}

fn elements(memory: &dyn Memory, slice: Slice) -> Vec<u64> {
    let mut bytes = vec![0; 8 * slice.length as usize];
    let got = memory.read(slice.start, &mut bytes);
    bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).filter(|&word| word != 0).collect()
}

/// `Some(true)`: a span in use; `Some(false)`: what may be one that is not; `None`: none.
fn is_span(memory: &dyn Memory, at: u64, layout: &Layout) -> Option<bool> {
    let at = pointer(at)?;
    let word = |offset: u64| memory.word(at + offset);
    let (start, pages) = (word(layout.span.start)?, word(layout.span.pages)?);
    let state = byte(memory, at + layout.span.state)?;
    let lies = start.is_multiple_of(PAGE) && (1..1 << 35).contains(&pages);
    match state {
        0 => Some(false),
        1 => {
            let (element, count) = (word(layout.span.element)?, half(memory, at + layout.span.elements)?);
            let fits = element > 0 && u64::from(count).checked_mul(element)? <= pages * PAGE && count > 0;
            (lies && start != 0 && fits).then_some(true)
        }
        2 => (lies && start != 0).then_some(true),
        _ => None,
    }
}

/// `Some(true)`: a goroutine with a stack; `Some(false)`: a dead one without.
fn is_goroutine(memory: &dyn Memory, at: u64, layout: &Layout) -> Option<bool> {
    let at = pointer(at)?;
    let (low, high) = (memory.word(at)?, memory.word(at + 8)?);
    let own = memory.word(at + layout.goroutine.sched + 16)?;
    if low == 0 && high == 0 {
        return Some(false);
    }
    let bytes = high.checked_sub(low)?;
    (own == at && low >= 4096 && bytes >= 2048 && bytes.is_power_of_two() && low.is_multiple_of(1024)).then_some(true)
}

fn pointer(at: u64) -> Option<u64> {
    ((4096..1 << 56).contains(&at) && at.is_multiple_of(8)).then_some(at)
}

pub(super) fn byte(memory: &dyn Memory, at: u64) -> Option<u8> {
    let mut byte = [0];
    (memory.read(at, &mut byte) == 1).then_some(byte[0])
}

pub(super) fn half(memory: &dyn Memory, at: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    (memory.read(at, &mut bytes) == 2).then(|| u16::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::go_image::Version;
    use crate::target::memory::SavedMemory;

    fn layout() -> Layout {
        Layout::of(Version { major: 1, minor: 27 }).unwrap()
    }

    fn span(memory: &mut SavedMemory, at: u64, start: u64, state: u64) {
        let mut words = [0; 20];
        (words[3], words[4], words[13]) = (start, 1, 64);
        words[6] = 100 << 16;
        words[12] = state << 24;
        memory.insert_words(at, &words);
    }

    fn goroutine(memory: &mut SavedMemory, at: u64, own: u64) {
        let mut words = [0; 50];
        (words[0], words[1], words[9]) = (0x20_0000, 0x20_0800, own);
        memory.insert_words(at, &words);
    }

    #[test]
    fn lists_are_known_by_their_elements() {
        let mut memory = SavedMemory::default();
        span(&mut memory, 0x10000, 0xc0_0000_0000, 1);
        span(&mut memory, 0x11000, 0xc0_0000_2000, 2);
        span(&mut memory, 0x12000, 0, 0);
        goroutine(&mut memory, 0x13000, 0x13000);
        goroutine(&mut memory, 0x14000, 0x14000);
        goroutine(&mut memory, 0x15000, 7);
        memory.insert_words(0x2_0000, &[0x10000, 0x11000, 0x12000]);
        memory.insert_words(0x2_1000, &[0x13000, 0x14000]);
        memory.insert_words(0x2_2000, &[0x13000, 0x14000, 0x15000]);
        // A slice of other things, the spans, a part of the spans, the goroutines with one that is none, the goroutines.
        let variables = [9, 0x2_0000, 3, 4, 0x2_0000, 2, 2, 0x2_2000, 3, 3, 0x2_1000, 2, 2, 0];
        memory.insert_words(0x8000, &variables);
        let range = TargetRange::with_len(0x8000, 8 * variables.len() as u64);
        let Lists::Found { spans, goroutines } = find(&memory, range, &layout()) else { panic!("both are there") };
        assert_eq!((spans.len(), goroutines.as_slice()), (3, &[0x13000, 0x14000][..]));
        let without = TargetRange { end: 0x8000 + 8 * 7, ..range };
        assert!(matches!(find(&memory, without, &layout()), Lists::Missing("the list of its goroutines")));
        assert!(matches!(find(&memory, TargetRange { start: 0x8000, end: 0x8008 }, &layout()), Lists::Empty));
    }
}
