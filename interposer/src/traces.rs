//! Stacks that come again: a stack's registers at its start, every word that its unwinding depends on, and the node it led to.
//!
//! Why that is exact. A stack is a chain of steps by rules ([`crate::rules`]): each reads its caller's address from a word at a fixed
//! distance from sp, or from bp where the rule says so. Where the first pc and sp, and each of those words, are as they were, every
//! step gives what it gave, one after the other: the same stack. bp is data in code without frame pointers and changes from call to
//! call; it is compared, in the register or in the word from which it was restored, only for the steps that depend on it. What
//! forgets rules forgets traces; and a trace is only ever made of a thread's own stack, which does not go while the thread runs.
//!
//! Checking a trace costs two loads and a compare a word, none of which waits for another, where following the steps would wait for one
//! frame's result to find the next. A trace begins at the caller of malloc, or further out: stacks that differ in their inner frames
//! share their outer ones. What is kept was met before, so that what never comes again does not drive out what does. Traces lie one
//! behind the other in a pool that is written round and round: the oldest goes first.

use crate::arena;
use crate::known::Known;
use crate::unwind::Registers;

const SETS: u64 = 256;
const WAYS: u64 = 4;
/// The pool, in words of eight bytes: what is used at first …
const FIRST_WORDS: u64 = 2048;
/// … and what may be.
const MOST_WORDS: u64 = 8192;
const _: () =
    assert!(FIRST_WORDS.is_power_of_two() && MOST_WORDS.is_power_of_two(), "a place is told without a division");
/// Most words that a trace reads; a longer one is followed step by step.
pub const MOST_READS: usize = 384;
/// A pool that was written through within fewer look-ups than this is too small.
const TOO_SOON: u64 = 1 << 16;
/// Of those that would drive others out, so many are let in: one of these …
const ONE_OF: u32 = 16;
/// … and where traces are rarely found again, one of these.
const ONE_OF_MANY: u32 = 512;

/// In a record: the two that came after it.
const AFTER: usize = 4;
/// Words of a record before its values.
const HEAD: usize = 6;

/// A thread's traces.
///
/// A record in the pool: pc, sp, bp; one word of node (32 bits), quads of words (16), libav (1), bp matters (1); the positions of the two
/// records that were found after this one, [`AFTER`]; then the values; then the offsets, four to a word. The last quad is filled up with the first
/// word.
#[repr(C)]
pub struct Traces {
    /// The records that came after the one found last, before: programs repeat themselves, and where they go two ways, by turns.
    expects: [u64; 2],
    pool: *mut u64,
    /// Words of the pool in use.
    words: u64,
    /// Where the next record goes: counts on for ever, taken modulo `words`. Records older than `words` back are overwritten.
    next: u64,
    /// Records before this are forgotten.
    oldest: u64,
    looked: u64,
    /// The record found last.
    last: u64,
    /// `SETS * WAYS` words: position of the record (48 bits), tag (16). Zeroed, for good.
    index: *mut u64,
    looked_at_wrap: u64,
    /// The pool was written through at its present size.
    full: bool,
    /// Known stacks that were no traces, since the pool was last written through.
    missed: u32,
    let_in: u32,
}

impl Traces {
    /// Empty, over memory of its own.
    pub fn new() -> Self {
        let (index_bytes, pool_bytes) = ((SETS * WAYS * 8) as usize, (MOST_WORDS * 8) as usize);
        let (index, pool) = if arena::has_room((index_bytes + pool_bytes) as u64 + (1 << 20)) {
            (arena::take(index_bytes, 64), arena::take(pool_bytes, 64))
        } else {
            (core::ptr::null_mut(), core::ptr::null_mut())
        };
        // An index word of zero is position 0, which is before the oldest.
        let (next, words) = (MOST_WORDS, FIRST_WORDS);
        let index = if pool.is_null() { core::ptr::null_mut() } else { index.cast() };
        Self {
            index,
            pool: pool.cast(),
            words,
            next,
            oldest: next,
            looked: 0,
            looked_at_wrap: 0,
            last: 0,
            expects: [0; 2],
            full: false,
            missed: 0,
            let_in: ONE_OF,
        }
    }

    /// Forgets everything.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.oldest = self.next;
        self.full = false;
    }

    #[inline(always)]
    fn hash(at: &Registers, callers: u64) -> u64 {
        (at.pc ^ at.sp.rotate_left(23) ^ callers.rotate_left(43)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Where in the pool a record lies.
    #[inline(always)]
    fn place_of(&self, position: u64) -> usize {
        (position & (self.words - 1)) as usize
    }

    #[inline(always)]
    fn is_whole(&self, position: u64) -> bool {
        position >= self.oldest.max(self.next.wrapping_sub(self.words))
    }

    /// The stack from `at`, if it is one of those that came after the one before, and still true.
    #[inline(always)]
    pub fn expected(&mut self, at: &Registers) -> Option<Known> {
        for position in self.expects {
            if self.is_whole(position)
                && let Some(known) = self.holds(position, at)
            {
                self.looked += 1;
                self.found(position);
                return Some(known);
            }
        }
        None
    }

    /// The stack from `at`, if it is known and still true. `callers` tells stacks of one place apart: any function of
    /// the words compared, the same at `insert`.
    #[inline(always)]
    pub fn find(&mut self, at: &Registers, callers: u64) -> Option<Known> {
        if self.index.is_null() {
            return None;
        }
        let hash = Self::hash(at, callers);
        let set = (hash >> 48) % SETS * WAYS;
        let tag = hash >> 20 << 48;
        for way in 0..WAYS {
            // SAFETY: inside the index.
            let entry = unsafe { *self.index.add((set + way) as usize) };
            if (entry ^ tag) >> 48 != 0 {
                continue;
            }
            let position = entry & ((1 << 48) - 1);
            if !self.is_whole(position) {
                continue;
            }
            if let Some(known) = self.holds(position, at) {
                self.looked += 1;
                self.came_after(position);
                self.found(position);
                return Some(known);
            }
        }
        None
    }

    /// The record at `position` was found, of which a line is at hand now: those behind it are looked at next time.
    #[inline(always)]
    fn found(&mut self, position: u64) {
        self.last = position;
        // SAFETY: a whole record inside the pool.
        self.expects = unsafe { *self.pool.add(self.place_of(position) + AFTER).cast() };
    }

    /// The record at `position` came after the one found last, in which that is kept in place of what came first.
    #[inline(always)]
    fn came_after(&mut self, position: u64) {
        if !self.is_whole(self.last) {
            return;
        }
        // SAFETY: a whole record inside the pool.
        let after: &mut [u64; 2] = unsafe { &mut *self.pool.add(self.place_of(self.last) + AFTER).cast() };
        if after[0] != position {
            *after = [position, after[0]];
        }
    }

    #[inline(always)]
    fn holds(&self, position: u64, at: &Registers) -> Option<Known> {
        // SAFETY: a position that is not yet overwritten is that of a whole record inside the pool.
        unsafe {
            let record = self.pool.add(self.place_of(position));
            let meta = *record.add(3);
            if *record != at.pc || *record.add(1) != at.sp || meta >> 49 != 0 && *record.add(2) != at.bp {
                return None;
            }
            let quads = (meta >> 32) as usize & 0xffff;
            let values = record.add(HEAD);
            let offsets = values.add(4 * quads);
            let base = address_of(at.sp, 0);
            for quad in 0..quads {
                let packed = *offsets.add(quad);
                let value = values.add(4 * quad);
                // SAFETY: the words lie on this thread's own stack, at or above `at.sp` less the red zone: the same stack pointer is in
                // use again, so that they are mapped.
                let word =
                    |which: usize| *((base + 8 * (packed >> (16 * which) & 0xffff)) as *const u64) ^ *value.add(which);
                if word(0) | word(1) | word(2) | word(3) != 0 {
                    return None;
                }
            }
            Some(Known { node: meta as u32, libav: meta >> 48 & 1 != 0 })
        }
    }

    /// Keeps a stack: `reads` are the words that its steps depend on; `uses_bp`: one of them depends on
    /// the first bp.
    pub fn insert(&mut self, at: &Registers, callers: u64, uses_bp: bool, reads: &[(u64, u64)], known: Known) {
        if self.index.is_null() || reads.is_empty() || reads.len() > MOST_READS {
            return;
        }
        let quads = reads.len().div_ceil(4);
        let record_words = (HEAD + 5 * quads) as u64;
        if record_words > self.words / 4 {
            return;
        }
        let Some(first) = offset_of(at.sp, reads[0].0) else { return };
        if reads.iter().any(|&(address, _)| offset_of(at.sp, address).is_none()) {
            return;
        }
        if self.next % self.words + record_words > self.words {
            self.next += self.words - self.next % self.words;
            self.wrapped();
        }
        let position = self.next;
        // From here on the records that lie there are overwritten, and no look-up takes them for whole.
        self.next += record_words;
        // SAFETY: `record_words` words from the position on lie inside the pool, see above.
        unsafe {
            let record = self.pool.add(self.place_of(position));
            record.write(at.pc);
            record.add(1).write(at.sp);
            record.add(2).write(at.bp);
            record.add(3).write(
                u64::from(known.node) | (quads as u64) << 32 | u64::from(known.libav) << 48 | u64::from(uses_bp) << 49,
            );
            // Nothing came after it yet: position 0 is before the oldest.
            record.add(AFTER).cast::<[u64; 2]>().write([0; 2]);
            let values = record.add(HEAD);
            let offsets = values.add(4 * quads);
            for quad in 0..quads {
                let mut packed = 0;
                for which in 0..4 {
                    let (offset, value) = match reads.get(4 * quad + which) {
                        Some(&(address, value)) => (offset_of(at.sp, address).unwrap_or(first), value),
                        None => (first, reads[0].1),
                    };
                    packed |= u64::from(offset) << (16 * which);
                    values.add(4 * quad + which).write(value);
                }
                offsets.add(quad).write(packed);
            }
            self.enter(Self::hash(at, callers), position);
        }
    }

    /// The pool is as large as it gets, and full: one of a few comes in. What goes round through more stacks than there is room for would
    /// otherwise always find that the next one just went.
    #[inline(always)]
    pub fn waits(&mut self) -> bool {
        self.missed = self.missed.wrapping_add(1);
        self.words == MOST_WORDS && self.full && !self.missed.is_multiple_of(self.let_in)
    }

    /// Puts a record into the index, in place of the oldest of its set.
    ///
    /// # Safety
    /// The index is there.
    unsafe fn enter(&mut self, hash: u64, position: u64) {
        let set = (hash >> 48) % SETS * WAYS;
        let mask = (1 << 48) - 1;
        // SAFETY: inside the index.
        unsafe {
            let oldest = (0..WAYS).min_by_key(|&way| *self.index.add((set + way) as usize) & mask).unwrap_or(0);
            self.index.add((set + oldest) as usize).write(hash >> 20 << 48 | position & mask);
        }
    }

    /// The pool was written through: a larger one, which starts empty, if that came too soon.
    #[cold]
    fn wrapped(&mut self) {
        if self.words < MOST_WORDS && self.looked.wrapping_sub(self.looked_at_wrap) < TOO_SOON {
            self.words = MOST_WORDS;
            self.full = false;
            self.next += self.words - self.next % self.words;
            self.forget();
        } else {
            self.full = true;
            let found = self.looked.wrapping_sub(self.looked_at_wrap);
            self.let_in = if found < u64::from(self.missed) { ONE_OF_MANY } else { ONE_OF };
        }
        self.missed = 0;
        self.looked_at_wrap = self.looked;
    }
}

/// Offsets count from here below the stack pointer.
const RED_ZONE: u64 = 128;

/// The address of a word at an offset.
#[inline(always)]
fn address_of(sp: u64, offset: u16) -> u64 {
    sp.wrapping_sub(RED_ZONE).wrapping_add(8 * u64::from(offset))
}

/// The offset of a word; `None` where it lies too far away.
#[inline(always)]
fn offset_of(sp: u64, address: u64) -> Option<u16> {
    let bytes = address.wrapping_sub(sp.wrapping_sub(RED_ZONE));
    bytes.is_multiple_of(8).then(|| u16::try_from(bytes / 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(node: u32) -> Known {
        Known { node, libav: node.is_multiple_of(2) }
    }

    #[test]
    fn a_stack_is_known_while_its_words_are_unchanged() {
        let mut stack = [0u64; 600];
        for (at, word) in stack.iter_mut().enumerate() {
            *word = at as u64;
        }
        let sp = (&raw const stack) as u64 + 128;
        let at = Registers { pc: 5, sp, bp: 7 };
        let reads: Vec<(u64, u64)> = [20u64, 40, 41, 90, 500].map(|word| (sp - 128 + 8 * word, word)).into();
        let mut traces = Traces::new();
        assert_eq!(traces.find(&at, 20), None);
        traces.insert(&at, 20, true, &reads, known(3));
        assert_eq!(traces.find(&at, 20), Some(known(3)));
        assert_eq!(traces.find(&Registers { bp: 8, ..at }, 20), None);
        for word in [20, 40, 41, 90, 500] {
            // SAFETY: inside the array; written through a pointer because the traces read it through one.
            unsafe { ((sp - 128 + 8 * word) as *mut u64).write_volatile(1 << 40) };
            assert_eq!(traces.find(&at, 20), None, "word {word}");
            // SAFETY: as above.
            unsafe { ((sp - 128 + 8 * word) as *mut u64).write_volatile(word) };
        }
        assert_eq!(traces.find(&at, 20), Some(known(3)));
        traces.forget();
        assert_eq!(traces.find(&at, 20), None);
        core::hint::black_box(&mut stack);
    }

    #[test]
    fn both_ways_that_a_program_goes_are_expected_and_not_a_third() {
        let stack = [9u64; 64];
        let sp = (&raw const stack) as u64 + 128;
        let at = |pc: u64| Registers { pc, sp, bp: 1 };
        let mut traces = Traces::new();
        (1..5).for_each(|pc| traces.insert(&at(pc), 9, false, &[(sp, 9)], known(pc as u32)));
        // 1 comes each second time, and in between 2 and 3.
        for pc in [1, 2, 1, 3, 1] {
            assert_eq!(traces.find(&at(pc), 9), Some(known(pc as u32)));
        }
        for pc in [2, 3, 3, 2, 3] {
            assert_eq!(traces.expected(&at(4)), None, "never met after 1");
            assert_eq!(traces.expected(&at(pc)), Some(known(pc as u32)));
            assert_eq!(traces.expected(&at(1)), Some(known(1)), "after {pc}");
        }
        traces.find(&at(4), 9);
        traces.find(&at(1), 9);
        assert_eq!(traces.expected(&at(2)), None, "the one that was met first goes");
        assert_eq!(traces.expected(&at(3)), Some(known(3)));
        traces.forget();
        assert_eq!(traces.expected(&at(1)), None);
        core::hint::black_box(&stack);
    }

    #[test]
    fn the_oldest_go_first_and_the_pool_grows_when_it_is_too_small() {
        let stack = [9u64; 64];
        let sp = (&raw const stack) as u64 + 128;
        let reads: Vec<(u64, u64)> = (0..30).map(|word| (sp + 8 * word, 9)).collect();
        let mut traces = Traces::new();
        for round in 0..2000 {
            let at = Registers { pc: round, sp, bp: 1 };
            traces.insert(&at, 9, false, &reads, known(round as u32));
            assert_eq!(traces.find(&at, 9), Some(known(round as u32)));
        }
        assert_eq!(traces.words, MOST_WORDS);
        let kept = (0..2000).filter(|&pc| traces.find(&Registers { pc, sp, bp: 1 }, 9).is_some()).count();
        // 30 words make eight quads.
        let room = MOST_WORDS as usize / (HEAD + 5 * 8);
        assert!((room - 4..=room).contains(&kept), "{kept} of {room}");
        assert!(traces.find(&Registers { pc: 0, sp, bp: 1 }, 9).is_none());
        core::hint::black_box(&stack);
    }
}
