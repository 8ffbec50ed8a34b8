//! Whole stacks that were met before, by a hash of their frames: the node they led to, and whether FFmpeg's code is innermost.
//!
//! Read and written by all threads without a lock. What does not find room is looked up frame by frame ([`crate::intern`]), as is what another
//! thread is just about to put in.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use avleak_wire::layout::MAX_NODES;

use crate::arena;

/// What is known of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The stack's node.
    pub node: u32,
    /// FFmpeg's code is among the innermost frames.
    pub libav: bool,
}

/// Of the frames of a stack, innermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StackHash(u64, u64);

impl StackHash {
    /// Of no frame.
    pub const fn new() -> Self {
        Self(0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344)
    }

    /// One word of it.
    #[inline(always)]
    pub fn value(self) -> u64 {
        self.0 ^ self.1.rotate_left(32)
    }

    /// One frame further out, or whatever else tells stacks apart.
    #[inline(always)]
    pub fn with(self, value: u64) -> Self {
        // Two products that do not wait for each other.
        Self(
            (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29),
            (self.1.rotate_left(17) ^ value).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32),
        )
    }
}

/// Places in a line.
const WAYS: usize = 4;

/// Four places, filled from the first on: one cache line, for at most times the whole of a look-up is one cache miss. A stack's place is told
/// by the first half of its hash (0: empty), and the second is what node and mark leave room for. 105 bits tell stacks apart: of a million
/// stacks two look alike once in 10^20 runs.
#[repr(C, align(64))]
struct Line {
    firsts: [AtomicU64; WAYS],
    /// 0 until all is there. Bits 0 to 21: the node; bit 22: FFmpeg's code is among the innermost frames.
    seconds: [AtomicU64; WAYS],
}

const _: () = assert!(size_of::<Line>() == 64, "one cache line");

const NODE_BITS: u32 = 22;
const LIBAV: u64 = 1 << NODE_BITS;
const HASHED: u64 = !(2 * LIBAV - 1);
const _: () = assert!(MAX_NODES as u64 <= LIBAV, "a node's id fits");

struct Table {
    /// Lines less 1.
    mask: u64,
    lines: *const Line,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicU64 = AtomicU64::new(0);
static GROWING: AtomicBool = AtomicBool::new(false);
/// 32 KiB.
const FIRST_LINES: u64 = 1 << 9;
/// 4 MiB.
const MOST_LINES: u64 = 1 << 16;
/// The bits from here up to 28 were the product's highest ([`StackHash::with`]), on which all bits before have an influence.
const INDEX_SHIFT: u32 = 12;
const _: () = assert!(MOST_LINES <= 1 << (29 - INDEX_SHIFT), "enough of them");
/// Lines that are looked at for one stack.
const PROBES: u64 = 16;

/// Starts over: for a new segment.
pub fn reset() {
    GROWING.store(false, Ordering::Relaxed);
    COUNT.store(0, Ordering::Relaxed);
    TABLE.store(new_table(FIRST_LINES), Ordering::Release);
}

/// Makes room: no stack that was noted will be looked for again ([`crate::unwind`] begins its hashes otherwise). A stack that another thread is
/// putting in meanwhile may stay in halves, which go together with no hash.
pub fn forget() {
    // SAFETY: tables live for good.
    let Some(table) = (unsafe { TABLE.load(Ordering::Acquire).as_ref() }) else { return };
    if COUNT.swap(0, Ordering::Relaxed) == 0 {
        return;
    }
    for index in 0..=table.mask {
        let line = table.line(index << INDEX_SHIFT, 0);
        for way in 0..WAYS {
            line.seconds[way].store(0, Ordering::Relaxed);
            line.firsts[way].store(0, Ordering::Release);
        }
    }
}

fn new_table(lines: u64) -> *mut Table {
    let bytes = lines as usize * size_of::<Line>();
    if !arena::has_room(bytes as u64 + (1 << 20)) {
        return core::ptr::null_mut();
    }
    let at = arena::take(bytes, 64);
    let table = arena::take(size_of::<Table>(), align_of::<Table>()).cast::<Table>();
    if at.is_null() || table.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: fresh, zeroed memory for good.
    unsafe { table.write(Table { mask: lines - 1, lines: at.cast() }) };
    table
}

impl Table {
    /// The `step`th line of a stack, by the first half of its hash.
    #[inline(always)]
    fn line(&self, first: u64, step: u64) -> &Line {
        let index = (first >> INDEX_SHIFT).wrapping_add(step) & self.mask;
        // SAFETY: masked into the table, which lives for good.
        unsafe { &*self.lines.add(index as usize) }
    }

    /// False: there is no room.
    fn put(&self, first: u64, second: u64) -> bool {
        for step in 0..PROBES {
            let line = self.line(first, step);
            for way in 0..WAYS {
                if line.firsts[way].compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    // Pairs with the acquire in `stack` and `copy_into`.
                    line.seconds[way].store(second, Ordering::Release);
                    return true;
                }
            }
        }
        false
    }

    /// Puts all that is complete into `larger`, which nobody else knows yet; returns how many that were. What others put in here meanwhile is
    /// noted again when it comes again.
    #[cold]
    fn copy_into(&self, larger: &Self) -> u64 {
        let mut count = 0;
        for index in 0..=self.mask {
            let line = self.line(index << INDEX_SHIFT, 0);
            for way in 0..WAYS {
                let second = line.seconds[way].load(Ordering::Acquire);
                if second != 0 {
                    count += u64::from(larger.put(line.firsts[way].load(Ordering::Relaxed), second));
                }
            }
        }
        count
    }
}

/// What is known of a whole stack.
#[inline(always)]
pub fn stack(hash: StackHash) -> Option<Known> {
    // SAFETY: tables live for good.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref()? };
    let first = hash.0 | 1;
    for step in 0..PROBES {
        let line = table.line(first, step);
        // Which of them it is, no processor can foretell: hence no jumps. Two threads may have put in the same.
        let choose =
            |way: usize, other: usize| if line.firsts[way].load(Ordering::Relaxed) == first { way } else { other };
        let way = choose(3, choose(2, choose(1, 0)));
        if line.firsts[way].load(Ordering::Relaxed) == first {
            let second = line.seconds[way].load(Ordering::Acquire);
            if second != 0 && (second ^ hash.1) & HASHED == 0 {
                return Some(Known { node: (second & (LIBAV - 1)) as u32, libav: second & LIBAV != 0 });
            }
        }
        if line.firsts[WAYS - 1].load(Ordering::Relaxed) == 0 {
            return None;
        }
    }
    None
}

/// Notes a whole stack.
pub fn note_stack(hash: StackHash, known: Known) {
    // SAFETY: tables live for good.
    let Some(table) = (unsafe { TABLE.load(Ordering::Acquire).as_ref() }) else { return };
    let mark = if known.libav { LIBAV } else { 0 };
    if COUNT.load(Ordering::Relaxed) * 8 >= (table.mask + 1) * WAYS as u64 * 5 {
        if table.mask + 1 == MOST_LINES {
            return;
        }
        grow(table);
    }
    // SAFETY: as above; it was there before.
    let Some(table) = (unsafe { TABLE.load(Ordering::Acquire).as_ref() }) else { return };
    if table.put(hash.0 | 1, hash.1 & HASHED | u64::from(known.node) | mark) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

#[cold]
fn grow(table: &Table) {
    if GROWING.swap(true, Ordering::Acquire) {
        return;
    }
    if core::ptr::eq(table, TABLE.load(Ordering::Acquire)) {
        // SAFETY: null or just made, and for good.
        if let Some(larger) = unsafe { new_table((table.mask + 1) * 2).as_ref() } {
            COUNT.store(table.copy_into(larger), Ordering::Relaxed);
            TABLE.store(core::ptr::from_ref(larger).cast_mut(), Ordering::Release);
        }
    }
    GROWING.store(false, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_found_however_often_the_table_grows() {
        reset();
        let hash_of = |number: u64| {
            let inner = StackHash::new().with(0x7f00_0000_1000 + 5 * number).with(0x7f00_0020_1111 + number % 7);
            inner.with(0x7f00_0030_1234).with(0x5555_0000_abcd)
        };
        let known_of = |number: u64| Known { node: number as u32 + 1, libav: number.is_multiple_of(3) };
        let mut found = 0;
        for number in 0..40_000 {
            assert_eq!(stack(hash_of(number)), None);
            note_stack(hash_of(number), known_of(number));
        }
        for number in 0..40_000 {
            let known = stack(hash_of(number));
            assert!(known.is_none_or(|known| known == known_of(number)));
            found += u32::from(known.is_some());
        }
        // A few find no room, where neighbouring lines are full.
        assert!(found >= 39_990, "{found}");
        forget();
        assert!((0..40_000).all(|number| stack(hash_of(number)).is_none()));
    }
}
