//! The stack of a call: exact unwinding by the modules' own tables, with every read inside the thread's stack, and remembered:
//! stacks that come again ([`crate::traces`]), the rule of each return address ([`crate::rules`]), the node of each frame.

mod frames;
mod keep;
mod ranges;

use core::sync::atomic::Ordering;

use crate::golang::GoWalk;
use crate::intern::{self, StackFrame};
use crate::known::{self, Known, StackHash};
use crate::modules::{self, Tables};
use crate::rules::Rules;
use crate::segment::Segment;
use crate::settings;
use crate::stacks::{self, Own, StackRange};
use crate::step::Remembered;
use crate::traces::Traces;
use crate::walk::{Stop, Walk};

/// Rules are learned. A rule ([`crate::rules::Rule`]) says that the caller's address is the frame's last word, as a call leaves it on x86-64. On AArch64 a
/// function puts it where it likes, so that framehop is asked for each frame.
const LEARNS_RULES: bool = cfg!(target_arch = "x86_64");

/// Longest stack kept; of a longer one the outermost frames are cut.
pub const DEPTH: usize = 192;

/// Where a call came from: the entry stub's view of its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Return address.
    pub pc: u64,
    /// Stack pointer in the caller, after the call returned.
    pub sp: u64,
    /// Frame pointer register.
    pub bp: u64,
}

impl Registers {
    /// From the stack pointer at a stub's first instruction: the return address lies there.
    ///
    /// # Safety
    /// `sp` is that stack pointer, and the stub's frame is still there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub unsafe fn at_entry(sp: u64, bp: u64) -> Self {
        // SAFETY: the call instruction pushed the return address there.
        Self { pc: unsafe { *(sp as *const u64) }, sp: sp + 8, bp }
    }

    /// From what a stub passed on.
    ///
    /// # Safety
    /// None is needed: nothing is read.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub unsafe fn at_entry(entry: crate::entry::Entry, fp: u64) -> Self {
        entry.caller(fp)
    }
}

/// What unwinding itself may need of the stack, gimli's tables included (measured: 8.3 KiB).
const NEEDED: u64 = 12 << 10;

const RANGES: usize = 6;
const FLAG_CACHE: usize = 64;

/// Of how many innermost frames one must be FFmpeg's for a block to be possibly an object of its: its allocator may be reached through a
/// function of the C library.
const INNERMOST: usize = 4;
/// At these depths a known outer part of the stack is looked for: behind those that tell whether the whole stack is known.
const JOINTS: [usize; 4] = [6, 10, 16, 26];
/// So many callers tell stacks of one place and height apart: FFmpeg's libraries come to their allocator through several functions of
/// libavutil, and unref a dozen buffers in a row.
const TOLD_BY: usize = 5;

/// What a capture came to.
struct Captured {
    depth: usize,
    /// Node of what lies further out than `depth` frames; 0: the stack ends there.
    outer: u32,
    /// Every frame was found by a rule, up to the stack's end or a known outer part.
    by_rules: bool,
    /// Of all that.
    hash: StackHash,
}

/// What a walk came to.
enum Walked {
    /// A trace was found.
    Known(Known),
    /// The hash of all of the stack, and where a known outer part begins in it, with its node.
    Whole(StackHash, Option<(usize, u32)>),
    /// The hash of all of a stack of which the outer part is Go code.
    Go(StackHash),
    /// Rules do not lead through it.
    Strange,
}

/// Whether looking for known outer parts pays: where stacks change from one end to the other it is given up, but for a try now and then.
#[derive(Clone, Copy)]
struct Joins {
    tries: u32,
    found: u32,
    skipped: u32,
}

impl Joins {
    const fn new() -> Self {
        Self { tries: 0, found: 0, skipped: 0 }
    }

    #[inline(always)]
    fn worth_a_try(&mut self) -> bool {
        if self.found * 8 >= self.tries || self.tries < 64 {
            return true;
        }
        self.skipped = self.skipped.wrapping_add(1);
        self.skipped.is_multiple_of(64)
    }

    #[inline(always)]
    fn tried(&mut self, found: bool) {
        self.tries += 1;
        self.found += u32::from(found);
        if self.tries == 1024 {
            // What is long ago counts less.
            (self.tries, self.found) = (self.tries / 2, self.found / 2);
        }
    }
}

/// What a thread keeps for unwinding. What most calls need comes first.
#[repr(C)]
pub struct Unwinding {
    /// Of the module tables: what is remembered belongs to it.
    generation: u64,
    traces: Traces,
    /// The thread's own stack as far as it is known.
    own: StackRange,
    /// Whether an address's page belongs to FFmpeg or to its direct user: (page, answer), of one table generation.
    flag_generation: u64,
    flag_cache: [(u64, u32); FLAG_CACHE],
    /// With what hashes of stacks begin: the number of dlcloses so far. Who met a stack before one may have met another module's.
    seed: StackHash,
    joins: Joins,
    /// It could not be asked for yet.
    own_is_wanted: bool,
    rules: Rules,
    frames: [Registers; DEPTH],
    /// Index of each frame's module record + 1.
    modules: [u32; DEPTH],
    framehop: Remembered,
    /// The same for steps that are only tried, from registers that never were: what framehop learns from those is not true.
    tried: Remembered,
    ranges: [StackRange; RANGES],
    next_range: usize,
    /// Lowest address of the thread's own stack; 0 where unknown (the main thread's grows).
    low: u64,
    /// Looking up ranges is slow; a thread with ever-changing stacks does it only so often.
    lookups_left: u32,
    last_refill_ns: u64,
    no_tables: Tables,
}

impl Unwinding {
    /// Bytes at the beginning that most calls need.
    pub const OFTEN_NEEDED: usize = core::mem::offset_of!(Unwinding, flag_generation);

    /// Empty.
    pub fn new() -> Self {
        Self {
            traces: Traces::new(),
            own: StackRange::default(),
            own_is_wanted: false,
            generation: 0,
            seed: StackHash::new(),
            rules: Rules::new(),
            joins: Joins::new(),
            frames: [Registers::default(); DEPTH],
            modules: [0; DEPTH],
            framehop: Remembered::new_in(),
            tried: Remembered::new_in(),
            ranges: [StackRange::default(); RANGES],
            next_range: 0,
            low: 0,
            lookups_left: 8,
            last_refill_ns: 0,
            no_tables: Tables::new(),
            flag_cache: [(0, 0); FLAG_CACHE],
            flag_generation: 0,
        }
    }

    /// Another thread owns this now: its stack is elsewhere.
    pub fn new_thread(&mut self) {
        self.traces.forget();
        self.own = StackRange::default();
        self.ranges = [StackRange::default(); RANGES];
        self.lookups_left = 8;
        self.low = 0;
        self.own_is_wanted = true;
        self.find_own();
    }

    /// Asks for the thread's own stack, unless glibc is just at it.
    fn find_own(&mut self) {
        let asked = stacks::own();
        self.own_is_wanted = asked == Own::Later;
        if let Own::Range(own) = asked {
            self.ranges[0] = own;
            self.next_range = 1;
            self.low = own.start;
            self.own = own;
        }
    }

    /// The stack of a call; node 0 where it cannot be stored. One copy for all hooks: a program that does something else between two calls has
    /// little room for ours in the cache of instructions.
    #[inline(never)]
    pub fn stack(&mut self, segment: &Segment, start: Registers) -> Known {
        let generation = modules::table_generation();
        if self.generation != generation {
            self.forget(generation);
        } else if let Some(known) = self.traces.expected(&start) {
            if settings::verify() {
                self.verify_trace(segment, start, known);
            }
            return known;
        }
        // A panic in an unwinding library must not reach the host: it costs this one stack.
        let follow = core::panic::AssertUnwindSafe(|| self.follow(segment, start));
        std::panic::catch_unwind(follow).unwrap_or_else(|_| {
            segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
            Known { node: 0, libav: false }
        })
    }

    /// What tells stacks of one place and height apart, nearly always: the next return addresses.
    #[inline(always)]
    fn callers_of(&self, at: &Registers) -> Option<u64> {
        let mut walk = Walk::new(*at, &self.own, self.seed)?;
        matches!(walk.until(&self.rules, TOLD_BY), Stop::Wanted | Stop::End).then(|| walk.told())
    }

    /// The module tables have changed.
    #[cold]
    fn forget(&mut self, generation: u64) {
        self.generation = generation;
        self.seed = StackHash::new().with(modules::unloads());
        self.traces.forget();
        self.rules.forget();
        self.tried = Remembered::new_in();
    }

    /// The same by a walk, and frame by frame where that does not do.
    #[inline(never)]
    fn follow(&mut self, segment: &Segment, start: Registers) -> Known {
        let known = match self.walk(start) {
            Walked::Known(known) => known,
            Walked::Strange => self.anew(segment, start, None),
            Walked::Whole(hash, outer) => match known::stack(hash) {
                None => self.anew(segment, start, outer),
                Some(known) => {
                    if !self.traces.waits() {
                        self.keep(segment, start, outer, hash, known);
                    }
                    known
                }
            },
            // A trace is of the thread's own stack only: where Go called, the words are followed each time.
            Walked::Go(hash) => known::stack(hash).unwrap_or_else(|| self.anew(segment, start, None)),
        };
        if settings::verify() && known.node != 0 {
            self.verify_trace(segment, start, known);
        }
        known
    }

    /// Goes outwards by rules alone, and looks on the way whether the stack or an outer part of it is known.
    #[inline(always)]
    fn walk(&mut self, start: Registers) -> Walked {
        let Some(mut walk) = Walk::new(start, &self.own, self.seed) else { return Walked::Strange };
        let mut stop = walk.until(&self.rules, TOLD_BY);
        match stop {
            Stop::Unknown => return Walked::Strange,
            Stop::Go => return self.walk_go(walk),
            Stop::Wanted | Stop::End => {}
        }
        if let Some(known) = self.traces.find(&start, walk.told()) {
            return Walked::Known(known);
        }
        if stop == Stop::Wanted && self.joins.worth_a_try() {
            for joint in JOINTS {
                stop = walk.until(&self.rules, joint);
                if stop != Stop::Wanted {
                    break;
                }
                let at = walk.at();
                let outer = self.callers_of(&at).and_then(|callers| self.traces.find(&at, callers));
                self.joins.tried(outer.is_some());
                if let Some(outer) = outer {
                    return Walked::Whole(walk.hash.with(u64::from(outer.node)), Some((joint, outer.node)));
                }
            }
        }
        if stop == Stop::Wanted {
            stop = walk.until(&self.rules, DEPTH);
        }
        match stop {
            Stop::End => Walked::Whole(walk.hash, None),
            Stop::Go => self.walk_go(walk),
            Stop::Wanted | Stop::Unknown => Walked::Strange,
        }
    }

    /// Goes on in Go code.
    #[inline(never)]
    fn walk_go(&mut self, walk: Walk) -> Walked {
        let start = walk.at();
        let Some(rule) = self.rules.find(start.pc) else { return Walked::Strange };
        let (mut hash, mut depth) = (walk.hash, walk.depth);
        let mut go = GoWalk::new(modules::go_code(u32::from(rule.module)), self.own, &start, self.lookups_left > 0);
        let mut at = Some(start);
        while let Some(frame) = at {
            if depth == DEPTH {
                return Walked::Strange;
            }
            hash = hash.with(frame.pc);
            depth += 1;
            at = go.caller(&frame);
        }
        self.lookups_left = self.lookups_left.saturating_sub(u32::from(go.has_learned()));
        Walked::Go(hash)
    }

    /// A stack that was not met before, or that rules do not lead through.
    #[inline(never)]
    fn anew(&mut self, segment: &Segment, start: Registers, outer: Option<(usize, u32)>) -> Known {
        let captured = self.capture(segment, start, outer, true);
        self.intern(segment, &captured)
    }

    /// The node of the stack just captured, frame by frame.
    fn intern(&mut self, segment: &Segment, captured: &Captured) -> Known {
        let depth = captured.depth;
        let libav = self.modules[..depth.min(INNERMOST)].iter().any(|&number| modules::is_ffmpeg(number));
        let frames = self.frames[..depth].iter().zip(&self.modules).rev();
        let frames = frames.map(|(at, &module)| StackFrame { pc: at.pc, module });
        let Some(node) = intern::nodes(segment, captured.outer, frames) else {
            segment.header().nodes_exhausted.fetch_add(1, Ordering::Relaxed);
            return Known { node: 0, libav };
        };
        let known = Known { node, libav };
        if captured.by_rules {
            known::note_stack(captured.hash, known);
        }
        known
    }

    /// The code at `address` belongs to FFmpeg or calls it directly: a free from there is worth its stack.
    #[inline(always)]
    pub fn is_libav_or_user(&mut self, address: u64) -> bool {
        let generation = modules::table_generation();
        if self.flag_generation != generation {
            self.flag_cache = [(0, 0); FLAG_CACHE];
            self.flag_generation = generation;
        }
        let page = address >> 12;
        let entry = (page as usize) % FLAG_CACHE;
        if self.flag_cache[entry].0 != page {
            let answer = modules::find(address).is_some_and(crate::slots::is_libav_or_user);
            self.flag_cache[entry] = (page, u32::from(answer));
        }
        self.flag_cache[entry].1 != 0
    }
}
