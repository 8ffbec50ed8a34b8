//! Memoized exact unwinding: what one step outwards gave, as long as the words that it read are unchanged.
//!
//! Why that is exact. One step is a function of the registers (pc, sp, bp), of the module's unwind tables, and of the stack words that
//! the unwinder read: framehop has no other input, and it asks for each word through a callback, where it is noted. While the same
//! registers meet the same words and the same tables, the step has the same result. Tables change only when a module is met, goes, or
//! another comes to its place: [`crate::modules::table_generation`] counts that, and everything is forgotten then. Everything is
//! forgotten too when the state goes to another thread.
//!
//! What is not kept: a step that read more words than an entry holds; one that failed; one on a stack that may be unmapped behind our
//! back (a coroutine's): an entry's words are read again, directly.

use crate::unwind::Registers;

/// Words that an entry holds; x86-64 unwind tables need one or two.
pub const READS: usize = 2;
const WAYS: usize = 4;
const SETS: usize = 256;

/// One step outwards.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Step {
    at: Registers,
    /// `pc` 0: the stack ends here.
    pub caller: Registers,
    reads: [(u64, u64); READS],
    epoch: u32,
    read_count: u32,
    /// Of the frame: index of its module's record + 1.
    pub module: u32,
    /// Where the caller's step was found last time.
    next: u32,
    /// The stack node of this frame below `parent`; 0: not known.
    node: u32,
    parent: u32,
}

const _: () = assert!(size_of::<Step>() == 104, "1024 of them are what a thread may cost");

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
    /// `SETS * WAYS` steps of zeroed memory, for good; null where there was none to be had.
    steps: *mut Step,
    epoch: u32,
    generation: u64,
    victim: u32,
}

/// No step.
pub const NONE: u32 = u32::MAX;

impl Memo {
    /// Empty, over memory of its own.
    pub fn new() -> Self {
        let bytes = SETS * WAYS * size_of::<Step>();
        let steps = if crate::arena::room() > bytes as u64 + (1 << 20) {
            crate::arena::take(bytes, 64).cast()
        } else {
            core::ptr::null_mut()
        };
        // Zeroed steps are of epoch 0, which is never the present one.
        Self { steps, epoch: 1, generation: 0, victim: 0 }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1).max(1);
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
    fn step(&self, index: u32) -> &Step {
        // SAFETY: indices come from `find` and `insert`, which stay inside the table; `steps` is not null then.
        unsafe { &*self.steps.add(index as usize) }
    }

    #[inline(always)]
    fn step_mut(&mut self, index: u32) -> &mut Step {
        // SAFETY: as above; one thread at a time owns the table.
        unsafe { &mut *self.steps.add(index as usize) }
    }

    /// The step of this index, which `find` or `insert` gave.
    #[inline(always)]
    pub fn get(&self, index: u32) -> &Step {
        self.step(index)
    }

    /// The entry is about these registers, and the words are as they were.
    #[inline(always)]
    fn holds(&self, step: &Step, at: &Registers) -> bool {
        step.epoch == self.epoch
            && step.at == *at
            // SAFETY: the words lie on this thread's own stack, at or above `at.sp` less the red zone: the same stack pointer is in use
            // again, so that they are mapped.
            && step.reads[..step.read_count as usize].iter().all(|&(address, value)| unsafe { *(address as *const u64) } == value)
    }

    #[inline(always)]
    fn set_of(at: &Registers) -> u32 {
        let mixed = (at.pc ^ at.sp.rotate_left(23) ^ at.bp.rotate_left(41)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((mixed >> 56) as u32 % SETS as u32) * WAYS as u32
    }

    /// The step from `at`, if it is known and still true. `guess`: where it was last time, or [`NONE`].
    #[inline(always)]
    pub fn find(&self, at: &Registers, guess: u32) -> u32 {
        if self.steps.is_null() {
            return NONE;
        }
        if guess != NONE && self.holds(self.step(guess), at) {
            return guess;
        }
        let set = Self::set_of(at);
        (set..set + WAYS as u32).find(|&index| self.holds(self.step(index), at)).unwrap_or(NONE)
    }

    /// Keeps a step; [`NONE`] where it is none to keep.
    pub fn insert(&mut self, at: Registers, module: u32, caller: Registers, reads: &Reads) -> u32 {
        if self.steps.is_null() || reads.fleeting || reads.count > READS {
            return NONE;
        }
        let set = Self::set_of(&at);
        let epoch = self.epoch;
        // The same registers with other words first, then a forgotten one, then any.
        let ways = set..set + WAYS as u32;
        let same = ways.clone().find(|&index| self.step(index).epoch == epoch && self.step(index).at == at);
        let index = same.or_else(|| ways.clone().find(|&index| self.step(index).epoch != epoch)).unwrap_or_else(|| {
            self.victim = self.victim.wrapping_add(1);
            set + self.victim % WAYS as u32
        });
        *self.step_mut(index) = Step {
            at,
            caller,
            reads: reads.words,
            epoch,
            read_count: reads.count as u32,
            module,
            next: NONE,
            node: 0,
            parent: 0,
        };
        index
    }

    /// Where the caller's step was found after this one.
    #[inline(always)]
    pub fn guess_after(&self, index: u32) -> u32 {
        if index == NONE { NONE } else { self.step(index).next }
    }

    /// Remembers that.
    #[inline(always)]
    pub fn note_next(&mut self, index: u32, next: u32) {
        if index != NONE && next != NONE && self.step(index).next != next {
            self.step_mut(index).next = next;
        }
    }

    /// The stack node of this step's frame below `parent`, if it was asked for before.
    #[inline(always)]
    pub fn node(&self, index: u32, parent: u32) -> Option<u32> {
        let step = self.step(index);
        (step.node != 0 && step.parent == parent).then_some(step.node)
    }

    /// Remembers it.
    #[inline(always)]
    pub fn note_node(&mut self, index: u32, parent: u32, node: u32) {
        let step = self.step_mut(index);
        (step.parent, step.node) = (parent, node);
    }
}
