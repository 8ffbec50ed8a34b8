//! A stack from the inside out by rules alone ([`crate::rules`]), as fast as its words can be read: nothing is kept but its hash.
//!
//! Each frame waits for the word in which the one before it says where it was called from; all else is done meanwhile, without a
//! branch that depends on the frame. Where bp was saved is only remembered, and read once a rule asks for it.

use crate::known::StackHash;
use crate::rules::{Base, HANDED_ON, Rule, Rules};
use crate::stacks::StackRange;
use crate::unwind::Registers;

/// Why a walk stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// So many frames were wanted.
    Wanted,
    /// The stack ends here.
    End,
    /// Here Go code begins.
    Go,
    /// No rule leads on, or one leads off the thread's own stack.
    Unknown,
}

/// See the module. Passed by value: what lies in memory is slower than what a frame waits for.
#[derive(Clone, Copy)]
pub struct Walk {
    pc: u64,
    sp: u64,
    /// bp, while `bp_from` is 0; else it lies there.
    bp: u64,
    bp_from: u64,
    /// The address of the stack's last word.
    last: u64,
    /// Frames that lie behind.
    pub depth: usize,
    /// Of these.
    pub hash: StackHash,
}

impl Walk {
    /// With `seed` the hash begins. `None` where the walk would not begin on the thread's own stack.
    #[inline(always)]
    pub fn new(start: Registers, own: &StackRange, seed: StackHash) -> Option<Self> {
        // With room for a red zone: rules reach no further below a frame ([`crate::rules::Rule::of`]).
        let begins_inside = own.start.saturating_add(128) <= start.sp && start.sp < own.end;
        (begins_inside && (start.sp | own.end) & 7 == 0).then_some(Self {
            pc: start.pc,
            sp: start.sp,
            bp: start.bp,
            bp_from: 0,
            last: own.end - 8,
            depth: 0,
            hash: seed,
        })
    }

    /// Where the walk is. pc is 0 at the end of a stack.
    #[inline(always)]
    pub fn at(&self) -> Registers {
        Registers { pc: self.pc, sp: self.sp, bp: self.bp() }
    }

    /// What tells apart the stacks that begin where this one does, nearly always: the frames that lie behind, and where the walk is.
    #[inline(always)]
    pub fn told(&self) -> u64 {
        self.hash.value() ^ self.pc.rotate_left(13)
    }

    #[inline(always)]
    fn bp(&self) -> u64 {
        if self.bp_from == 0 {
            return self.bp;
        }
        // SAFETY: checked when it was set: aligned, on the thread's own stack at or above the red zone of a frame in use.
        unsafe { *(self.bp_from as *const u64) }
    }

    /// Walks on until `depth` frames lie behind.
    #[inline(always)]
    pub fn until(&mut self, rules: &Rules, depth: usize) -> Stop {
        loop {
            if self.depth >= depth {
                return Stop::Wanted;
            }
            let rule = rules.own(self.pc);
            if rule.is_by_sp(self.pc) {
                let to_caller = rules.own_caller_at(self.pc);
                let caller_at = self.sp.wrapping_add_signed(to_caller);
                if caller_at > self.last {
                    return Stop::Unknown;
                }
                // SAFETY: aligned, and inside this thread's own stack: at or above the frame in use, at or below the last word.
                let caller = unsafe { word_at(self.sp, to_caller) };
                self.leave(rule, self.sp, caller_at, caller);
            } else if rule.is_by_bp(self.pc) {
                if !self.step(rule, self.bp()) {
                    return Stop::Unknown;
                }
            } else if rule.is_end(self.pc) {
                return self.end();
            } else {
                let stop;
                (*self, stop) = self.elsewhere(rules);
                if let Some(stop) = stop {
                    return stop;
                }
                continue;
            }
            if self.pc == 0 {
                return Stop::End;
            }
        }
    }

    /// The stack ends with this frame.
    #[inline(always)]
    fn end(&mut self) -> Stop {
        if self.sp > self.last {
            return Stop::Unknown;
        }
        self.hash = self.hash.with(self.pc);
        self.depth += 1;
        self.pc = 0;
        Stop::End
    }

    /// One frame whose rule counts from `base`. False: it leads off the stack.
    #[inline(always)]
    fn step(&mut self, rule: &Rule, base: u64) -> bool {
        // All that a rule leads to is at or above its base, but for the red zone; from the frame in use up to the end of the thread's own stack
        // all is mapped.
        let caller_at = base.wrapping_add_signed(i64::from(rule.caller_at));
        if base & 7 != 0 || base < self.sp || base > self.last || caller_at > self.last {
            return false;
        }
        // SAFETY: aligned, and inside this thread's own stack: at or above the frame in use, at or below the last word.
        let caller = unsafe { *(caller_at as *const u64) };
        self.leave(rule, base, caller_at, caller);
        true
    }

    #[inline(always)]
    fn leave(&mut self, rule: &Rule, base: u64, caller_at: u64, caller: u64) {
        let bp_at = base.wrapping_add_signed(8 * i64::from(rule.bp_at));
        self.bp_from = if rule.bp_at == HANDED_ON { self.bp_from } else { bp_at };
        self.hash = self.hash.with(self.pc);
        self.pc = caller;
        self.sp = caller_at.wrapping_add(8);
        self.depth += 1;
    }

    /// A frame whose rule does not lie in its own place, or of a rare kind; and why the walk stands still behind it. Out of the way, and by value, so
    /// that the loop above keeps nothing in memory.
    #[inline(never)]
    fn elsewhere(self, rules: &Rules) -> (Self, Option<Stop>) {
        let mut walk = self;
        let Some(rule) = rules.find(walk.pc) else { return (walk, Some(Stop::Unknown)) };
        let base = match rule.base() {
            Base::Sp => walk.sp,
            Base::Bp => walk.bp(),
            Base::Go if walk.sp <= walk.last => return (walk, Some(Stop::Go)),
            Base::End => {
                let stop = walk.end();
                return (walk, Some(stop));
            }
            Base::Go | Base::None => return (walk, Some(Stop::Unknown)),
        };
        if !walk.step(rule, base) {
            return (walk, Some(Stop::Unknown));
        }
        (walk, (walk.pc == 0).then_some(Stop::End))
    }
}

/// The word at `base + offset`. On x86-64 in one instruction: the sum itself is of use for other things too, and compilers then make it first
/// and read afterwards, which is a cycle longer for every frame.
///
/// # Safety
/// The word is aligned and can be read.
#[inline(always)]
unsafe fn word_at(base: u64, offset: i64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let word;
        // SAFETY: a load that the caller vouches for; no flags, no stack.
        unsafe {
            core::arch::asm!(
                "mov {word}, qword ptr [{base} + {offset}]",
                base = in(reg) base,
                offset = in(reg) offset,
                word = lateout(reg) word,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as the caller promises.
    unsafe {
        *(base.wrapping_add_signed(offset) as *const u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Reads;

    /// A chain of frames of 4 words: return address last, bp in the word before where `saves`.
    fn rules(saves: bool) -> Rules {
        let mut rules = Rules::new();
        for pc in 1..40 {
            let step = |at: Registers| {
                let mut reads = Reads::default();
                let mut read = |address: u64| {
                    reads.note(address, address ^ 0xff);
                    address ^ 0xff
                };
                let caller = read(at.sp + 24);
                let bp = if saves { read(at.sp + 16) } else { at.bp };
                Ok((Some(Registers { pc: caller, sp: at.sp + 32, bp }), reads))
            };
            let at = Registers { pc, sp: 0x7000, bp: 0x7777 };
            rules.insert(Rule::of(at, 1, &step(at), step).expect("a rule"));
        }
        rules
    }

    #[test]
    fn a_walk_ends_where_the_stack_does_and_never_reads_behind_it() {
        let rules = rules(true);
        let mut stack = [0u64; 16 + 4 * 12];
        for frame in 0..12 {
            stack[16 + 4 * frame + 3] = frame as u64 + 2;
            stack[16 + 4 * frame + 2] = 0xb0 + frame as u64;
        }
        core::hint::black_box(&mut stack);
        let start = (&raw const stack) as u64;
        let own = StackRange { start, end: start + size_of_val(&stack) as u64, own: true };
        let at = Registers { pc: 1, sp: start + 128, bp: 5 };
        let mut walk = Walk::new(at, &own, StackHash::new()).expect("inside");
        assert_eq!(walk.until(&rules, 3), Stop::Wanted);
        assert_eq!(walk.at(), Registers { pc: 4, sp: at.sp + 96, bp: 0xb2 });
        // The last frame's caller would lie behind the end.
        assert_eq!(walk.until(&rules, 100), Stop::Unknown);
        assert_eq!(walk.depth, 12);
        stack[16 + 4 * 5 + 3] = 0;
        core::hint::black_box(&mut stack);
        let mut walk = Walk::new(at, &own, StackHash::new()).expect("inside");
        assert_eq!((walk.until(&rules, 100), walk.depth, walk.at().pc), (Stop::End, 6, 0));
        stack[16 + 4 * 5 + 3] = 777;
        core::hint::black_box(&mut stack);
        let mut walk = Walk::new(at, &own, StackHash::new()).expect("inside");
        assert_eq!((walk.until(&rules, 100), walk.depth, walk.at().pc), (Stop::Unknown, 6, 777));
        for sp in [start, start + 120, start + 129, own.end, own.end + 8, 0, u64::MAX] {
            assert!(Walk::new(Registers { sp, ..at }, &own, StackHash::new()).is_none(), "{sp:#x}");
        }
        assert!(Walk::new(at, &StackRange::default(), StackHash::new()).is_none());
    }
}
