//! Memoized exact unwinding, step by step: what one step outwards gave, as long as the words that it read are unchanged.
//!
//! Why that is exact. One step is a function of the registers (pc, sp, bp), of the module's unwind tables, and of the stack words that
//! the unwinder read: framehop has no other input, and it asks for each word through a callback, where it is noted. While the same
//! registers meet the same words and the same tables, the step has the same result. Tables change only when a module is met, goes, or
//! another comes to its place: [`crate::modules::table_generation`] counts that, and everything is forgotten then. Everything is
//! forgotten too when the state goes to another thread.
//!
//! What is not kept: a step that read more words than an entry holds; one that failed; one on a stack that may be unmapped behind our
//! back (a coroutine's): an entry's words are read again, directly; one whose result does not fit the form below (a caller's pc that
//! is no word of the stack, a frame of half a MiB).
//!
//! Whole stacks that come again are kept by [`crate::traces`]; this is what stacks that differ only in part share.

use crate::unwind::Registers;

/// Words that an entry holds; x86-64 unwind tables need one or two.
pub const READS: usize = 2;
const WAYS: u32 = 4;
/// A table grows from so many sets …
const FIRST_SETS: u32 = 32;
/// … to so many.
const MOST_SETS: u32 = 128;

/// One step outwards, in one cache line: the result is told by where in the input it stood.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Step {
    at: Registers,
    values: [u64; READS],
    /// Where the values were, in words above `at.sp`, from −128 bytes on.
    offsets: [u16; READS],
    /// How far the caller's stack pointer is above, in words.
    frame_words: u16,
    epoch: u16,
    /// Of the frame: index of its module's record + 1.
    module: u16,
    /// Where the caller's step was found last time.
    next: u16,
    /// The stack node of this frame below `parent`; 0: not known.
    node: u32,
    parent: u32,
    read_count: u8,
    /// Which of the values is the caller's pc; [`END`]: the stack ends here.
    pc_from: u8,
    /// Which of the values is the caller's bp; [`READS`]: it is `at.bp`.
    bp_from: u8,
}

const _: () = assert!(size_of::<Step>() == 64, "512 of them are what a thread may cost");
const END: u8 = u8::MAX;
/// Offsets count from here below the stack pointer: the red zone.
const RED_ZONE: u64 = 128;

/// The words that one step reads.
#[derive(Default)]
pub struct Reads {
    words: [(u64, u64); READS],
    count: usize,
    fleeting: bool,
}

impl Reads {
    /// A word was read. `fleeting`: from memory that may go.
    #[inline(always)]
    pub fn note(&mut self, address: u64, value: u64, fleeting: bool) {
        if let Some(word) = self.words.get_mut(self.count) {
            *word = (address, value);
        }
        self.count += 1;
        self.fleeting |= fleeting;
    }
}

/// A thread's table: set-associative, so that two stacks that differ in their frames only do not drive each other out.
pub struct Memo {
    /// `MOST_SETS * WAYS` steps of zeroed memory, for good, touched as far as it is used; null where there was none to be had.
    steps: *mut Step,
    sets: u32,
    epoch: u16,
    generation: u64,
    victim: u32,
    /// Steps driven out that were still true, since the table last grew.
    driven_out: u32,
}

/// No step.
pub const NONE: u16 = u16::MAX;

impl Memo {
    /// Empty, over memory of its own.
    pub fn new() -> Self {
        let bytes = (MOST_SETS * WAYS) as usize * size_of::<Step>();
        let steps = if crate::arena::room() > bytes as u64 + (1 << 20) {
            crate::arena::take(bytes, 64).cast()
        } else {
            core::ptr::null_mut()
        };
        // Zeroed steps are of epoch 0, which is never the present one.
        Self { steps, sets: FIRST_SETS, epoch: 1, generation: 0, victim: 0, driven_out: 0 }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            // Epochs come round: what is left of the one before must not be taken for true.
            if !self.steps.is_null() {
                // SAFETY: the whole table; zeroes are steps of epoch 0.
                unsafe { self.steps.write_bytes(0, (MOST_SETS * WAYS) as usize) };
            }
            self.epoch = 1;
        }
    }

    /// Before each stack: forgets everything if the tables have changed.
    #[inline(always)]
    pub fn begin(&mut self, table_generation: u64) {
        if self.generation != table_generation {
            self.generation = table_generation;
            self.forget();
        }
    }

    #[inline(always)]
    fn step(&self, index: u16) -> &Step {
        // SAFETY: indices come from `find` and `insert`, which stay inside the table; `steps` is not null then.
        unsafe { &*self.steps.add(usize::from(index)) }
    }

    #[inline(always)]
    fn step_mut(&mut self, index: u16) -> &mut Step {
        // SAFETY: as above; one thread at a time owns the table.
        unsafe { &mut *self.steps.add(usize::from(index)) }
    }

    /// Index of the frame's module record + 1.
    #[inline(always)]
    pub fn module(&self, index: u16) -> u32 {
        u32::from(self.step(index).module)
    }

    /// The step's result: the caller's registers, `None` where the stack ends.
    #[inline(always)]
    pub fn caller(&self, index: u16) -> Option<Registers> {
        let step = self.step(index);
        if step.pc_from == END {
            return None;
        }
        Some(Registers {
            pc: step.values[usize::from(step.pc_from) % READS],
            sp: step.at.sp + 8 * u64::from(step.frame_words),
            bp: if usize::from(step.bp_from) < READS {
                step.values[usize::from(step.bp_from) % READS]
            } else {
                step.at.bp
            },
        })
    }

    /// The step is the one from `at`; the words that it read, as (address, value).
    pub fn reads(&self, index: u16, at: &Registers) -> Option<impl Iterator<Item = (u64, u64)>> {
        let step = *self.step(index);
        let known = step.epoch == self.epoch && step.at == *at;
        known.then(|| {
            (0..usize::from(step.read_count).min(READS))
                .map(move |word| (address_of(step.at.sp, step.offsets[word]), step.values[word]))
        })
    }

    /// The entry is about these registers, and the words are as they were.
    #[inline(always)]
    fn holds(&self, step: &Step, at: &Registers) -> bool {
        // SAFETY: the words lie on this thread's own stack, at or above `at.sp` less the red zone: the same stack pointer is in use
        // again, so that they are mapped.
        let same = |word: usize| unsafe { *(address_of(at.sp, step.offsets[word]) as *const u64) } == step.values[word];
        step.epoch == self.epoch
            && step.at == *at
            && (step.read_count < 1 || same(0))
            && (step.read_count < 2 || same(1))
    }

    #[inline(always)]
    fn set_of(&self, at: &Registers) -> u16 {
        let mixed = (at.pc ^ at.sp.rotate_left(23) ^ at.bp.rotate_left(41)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (((mixed >> 40) as u32 & (self.sets - 1)) * WAYS) as u16
    }

    /// The step from `at`, if it is known and still true. `guess`: where it was last time, or [`NONE`].
    #[inline(always)]
    pub fn find(&self, at: &Registers, guess: u16) -> u16 {
        if self.steps.is_null() {
            return NONE;
        }
        if guess != NONE && self.holds(self.step(guess), at) {
            return guess;
        }
        let set = self.set_of(at);
        (set..set + WAYS as u16).find(|&index| self.holds(self.step(index), at)).unwrap_or(NONE)
    }

    /// Keeps a step; [`NONE`] where it is none to keep. `caller` `None`: the stack ends.
    pub fn insert(&mut self, at: Registers, module: u32, caller: Option<Registers>, reads: &Reads) -> u16 {
        if self.steps.is_null() || reads.fleeting || reads.count > READS {
            return NONE;
        }
        let Some(step) = self.packed(at, module, caller, reads) else { return NONE };
        let set = self.set_of(&at);
        // The same registers with other words first, then a forgotten one, then any.
        let ways = set..set + WAYS as u16;
        let same = ways.clone().find(|&index| self.step(index).epoch == self.epoch && self.step(index).at == at);
        let index = same.or_else(|| ways.clone().find(|&index| self.step(index).epoch != self.epoch));
        let index = match index {
            Some(index) => index,
            None => {
                if self.grows() {
                    return NONE;
                }
                self.victim = self.victim.wrapping_add(1);
                set + (self.victim % WAYS) as u16
            }
        };
        *self.step_mut(index) = step;
        index
    }

    /// In the form of an entry; `None` where it has none.
    #[inline(always)]
    fn packed(&self, at: Registers, module: u32, caller: Option<Registers>, reads: &Reads) -> Option<Step> {
        let mut step = Step {
            at,
            values: [0; READS],
            offsets: [0; READS],
            frame_words: 0,
            epoch: self.epoch,
            module: u16::try_from(module).ok()?,
            next: NONE,
            node: 0,
            parent: 0,
            read_count: reads.count as u8,
            pc_from: END,
            bp_from: READS as u8,
        };
        for (word, &(address, value)) in reads.words[..reads.count].iter().enumerate() {
            step.values[word] = value;
            step.offsets[word] = offset_of(at.sp, address)?;
        }
        if let Some(caller) = caller {
            let values = &step.values[..reads.count];
            step.pc_from = values.iter().position(|&value| value == caller.pc)? as u8;
            step.bp_from = if caller.bp == at.bp {
                READS as u8
            } else {
                values.iter().position(|&value| value == caller.bp)? as u8
            };
            let words = caller.sp.wrapping_sub(at.sp);
            if words % 8 != 0 {
                return None;
            }
            step.frame_words = u16::try_from(words / 8).ok()?;
        }
        Some(step)
    }

    /// More is driven out than there is room for: a larger table, which starts empty.
    #[cold]
    fn grows(&mut self) -> bool {
        self.driven_out += 1;
        if self.sets == MOST_SETS || self.driven_out < self.sets * WAYS {
            return false;
        }
        self.driven_out = 0;
        self.sets *= 2;
        self.forget();
        true
    }

    /// Where the caller's step was found after this one.
    #[inline(always)]
    pub fn guess_after(&self, index: u16) -> u16 {
        if index == NONE { NONE } else { self.step(index).next }
    }

    /// Remembers that.
    #[inline(always)]
    pub fn note_next(&mut self, index: u16, next: u16) {
        if index != NONE && next != NONE && self.step(index).next != next {
            self.step_mut(index).next = next;
        }
    }

    /// The stack node of this step's frame below `parent`, if it was asked for before.
    #[inline(always)]
    pub fn node(&self, index: u16, parent: u32) -> Option<u32> {
        let step = self.step(index);
        (step.node != 0 && step.parent == parent).then_some(step.node)
    }

    /// Remembers it.
    #[inline(always)]
    pub fn note_node(&mut self, index: u16, parent: u32, node: u32) {
        let step = self.step_mut(index);
        (step.parent, step.node) = (parent, node);
    }
}

/// The address of a word at an offset.
#[inline(always)]
pub fn address_of(sp: u64, offset: u16) -> u64 {
    sp.wrapping_sub(RED_ZONE).wrapping_add(8 * u64::from(offset))
}

/// The offset of a word; `None` where it lies too far away.
#[inline(always)]
pub fn offset_of(sp: u64, address: u64) -> Option<u16> {
    let bytes = address.wrapping_sub(sp.wrapping_sub(RED_ZONE));
    (bytes % 8 == 0).then(|| u16::try_from(bytes / 8).ok()).flatten()
}
