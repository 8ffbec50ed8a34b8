//! The stack of a call: exact unwinding by the modules' own tables, with every read inside the thread's stack, and remembered:
//! stacks that come again ([`crate::traces`]), the rule of each return address ([`crate::rules`]), the node of each frame.

use core::sync::atomic::Ordering;

use crate::golang::GoWalk;
use crate::intern::{self, StackFrame};
use crate::known::{self, Known, StackHash};
use crate::modules::{self, Tables};
use crate::rules::{Base, HANDED_ON, Rule, Rules};
use crate::segment::Segment;
use crate::stacks::{self, Own, StackRange};
use crate::step::{Remembered, step};
use crate::traces::{MOST_READS, Traces};
use crate::walk::{Stop, Walk};
use crate::{oracle, settings, sys};

/// Rules are learned. A rule ([`Rule`]) says that the caller's address is the frame's last word, as a call leaves it on x86-64. On AArch64 a
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

/// What a thread keeps for unwinding.
pub struct Unwinding {
    traces: Traces,
    /// The thread's own stack as far as it is known.
    own: StackRange,
    /// It could not be asked for yet.
    own_is_wanted: bool,
    /// Of the module tables: what is remembered belongs to it.
    generation: u64,
    /// With what hashes of stacks begin: the number of dlcloses so far. Who met a stack before one may have met another module's.
    seed: StackHash,
    rules: Rules,
    joins: Joins,
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
    /// Whether an address's page belongs to FFmpeg or to its direct user: (page, answer), of one table generation.
    flag_cache: [(u64, u32); FLAG_CACHE],
    flag_generation: u64,
}

impl Unwinding {
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

    /// The stack of a call; node 0 where it cannot be stored.
    #[inline(always)]
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

    /// Keeps a stack that was met before, and its outer parts, as traces.
    #[inline(never)]
    fn keep(
        &mut self,
        segment: &Segment,
        start: Registers,
        outer: Option<(usize, u32)>,
        hash: StackHash,
        known: Known,
    ) {
        let captured = self.capture(segment, start, outer, true);
        if !captured.by_rules || captured.hash != hash {
            return;
        }
        let mut node = known.node;
        let mut at = 0;
        for joint in core::iter::once(0).chain(JOINTS) {
            if joint >= captured.depth {
                return;
            }
            while at < joint {
                node = segment.node(node).parent.load(Ordering::Relaxed);
                at += 1;
            }
            let libav = known.libav && joint == 0;
            self.keep_from(joint, &captured, Known { node, libav });
        }
    }

    /// Keeps the stack from frame `first` outwards: what its steps depend on, and of bp only what one of them did.
    fn keep_from(&mut self, first: usize, captured: &Captured, known: Known) {
        let start = self.frames[first];
        let Some(callers) = self.callers_of(&start) else { return };
        if self.traces.find(&start, callers).is_some() {
            return;
        }
        let mut inputs = [const { core::mem::MaybeUninit::<(u64, u64)>::uninit() }; MOST_READS];
        let mut count = 0;
        let mut uses_bp = false;
        let mut at = start;
        // Where the present bp comes from; `None`: it is still the first.
        let mut bp_from: Option<u64> = None;
        let mut frame = first;
        loop {
            let Some(&rule) = self.rules.find(at.pc) else { return };
            let base = match rule.base() {
                Base::Sp => at.sp,
                Base::Bp => at.bp,
                Base::End => break,
                Base::Go | Base::None => return,
            };
            let bp_word = match (rule.base(), bp_from) {
                (Base::Bp, None) => {
                    uses_bp = true;
                    None
                }
                (Base::Bp, Some(address)) => Some((address, at.bp)),
                _ => None,
            };
            let caller_at = base.wrapping_add_signed(i64::from(rule.caller_at));
            let Some(caller) = self.caller_of(&at) else { return };
            for word in core::iter::once((caller_at, caller.pc)).chain(bp_word) {
                let Some(place) = inputs.get_mut(count) else { return };
                place.write(word);
                count += 1;
            }
            if rule.bp_at != HANDED_ON {
                bp_from = Some(base.wrapping_add_signed(8 * i64::from(rule.bp_at)));
            }
            frame += 1;
            if caller.pc == 0 || frame == captured.depth && captured.outer == 0 {
                break;
            }
            if frame == DEPTH {
                return;
            }
            at = caller;
        }
        // SAFETY: the first `count` were written.
        let inputs = unsafe { core::slice::from_raw_parts(inputs.as_ptr().cast(), count) };
        self.traces.insert(&start, callers, uses_bp, inputs, known);
    }

    /// With `verify`: a stack is followed once more, frame by frame by framehop alone, and by the `backtrace` crate.
    #[cold]
    fn verify_trace(&mut self, segment: &Segment, start: Registers, known: Known) {
        let Captured { depth, .. } = self.capture(segment, start, None, false);
        let differs = |id: u32, frame: usize| {
            let node = segment.node(id);
            node.pc.load(Ordering::Relaxed) != self.frames[frame].pc
                || node.module.load(Ordering::Relaxed) != self.modules[frame]
        };
        let mut id = known.node;
        let mut same = true;
        for frame in 0..depth {
            same &= !differs(id, frame);
            id = segment.node(id).parent.load(Ordering::Relaxed);
        }
        let in_c = self.modules[..depth].iter().zip(&self.frames).position(|(&number, at)| is_go(number, at.pc));
        same &= id == 0 && oracle::agrees(start.pc, &self.frames[..in_c.unwrap_or(depth)], in_c.is_none());
        segment.header().verified_stacks.fetch_add(1, Ordering::Relaxed);
        if !same {
            segment.header().verify_differences.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One frame outwards by its rule, on the thread's own stack; pc 0 where the stack ends. `None`: there is no rule, or it leads off the
    /// stack.
    #[inline(always)]
    fn caller_of(&self, at: &Registers) -> Option<Registers> {
        self.apply(self.rules.find(at.pc)?, at)
    }

    #[inline(always)]
    fn apply(&self, rule: &Rule, at: &Registers) -> Option<Registers> {
        let base = match rule.base() {
            Base::Sp => at.sp,
            Base::Bp => at.bp,
            Base::End => return Some(Registers { pc: 0, sp: at.sp, bp: at.bp }),
            Base::Go | Base::None => return None,
        };
        let caller_at = base.wrapping_add_signed(i64::from(rule.caller_at));
        let lowest = at.sp.wrapping_sub(128).max(self.own.start);
        let inside = |address: u64| lowest <= address && address.wrapping_add(8) <= self.own.end && address & 7 == 0;
        // The frame in use is mapped: above it, up to the end of the thread's own stack, all is.
        if !inside(at.sp) || !inside(caller_at) || caller_at.wrapping_add(8) <= at.sp {
            return None;
        }
        let bp = if rule.bp_at == HANDED_ON {
            at.bp
        } else {
            let bp_at = base.wrapping_add_signed(8 * i64::from(rule.bp_at));
            if !inside(bp_at) {
                return None;
            }
            // SAFETY: aligned, and inside this thread's own stack.
            unsafe { *(bp_at as *const u64) }
        };
        // SAFETY: as above.
        Some(Registers { pc: unsafe { *(caller_at as *const u64) }, sp: caller_at + 8, bp })
    }

    /// Fills `frames` and `modules`, innermost first, up to the stack's end or to the known `outer` part, which begins at a depth and has a
    /// node. `remembering` nothing, framehop is asked for every frame.
    fn capture(
        &mut self,
        segment: &Segment,
        start: Registers,
        outer: Option<(usize, u32)>,
        remembering: bool,
    ) -> Captured {
        let mut at = start;
        let mut captured = Captured { depth: 0, outer: 0, by_rules: true, hash: self.seed };
        if at.sp.wrapping_sub(self.low) < NEEDED {
            // Almost at the end of a small stack: the caller is all that can be had without using it up.
            segment.header().stacks_without_room.fetch_add(1, Ordering::Relaxed);
            (self.frames[0], self.modules[0]) = (at, 0);
            return Captured { depth: 1, by_rules: false, ..captured };
        }
        loop {
            let depth = captured.depth;
            if let Some((_, node)) = outer.filter(|&(from, _)| from == depth && captured.by_rules) {
                return Captured { outer: node, hash: captured.hash.with(u64::from(node)), ..captured };
            }
            self.frames[depth] = at;
            captured.hash = captured.hash.with(at.pc);
            let known = match self.rules.find(at.pc) {
                Some(rule) if rule.base() == Base::Go => {
                    let number = u32::from(rule.module);
                    return self.follow_go(segment, number, at, captured, remembering);
                }
                Some(rule) if remembering => self.apply(rule, &at).map(|caller| (rule.module, caller)),
                _ => None,
            };
            let caller = match known {
                Some((module, caller)) => {
                    self.modules[depth] = u32::from(module);
                    Ok((caller.pc != 0).then_some(caller))
                }
                None => {
                    if modules::is_any_go()
                        && let Some(number) = self.enter_go(at.pc)
                    {
                        return self.follow_go(segment, number, at, captured, remembering);
                    }
                    captured.by_rules = false;
                    self.step_anew(depth, at, remembering)
                }
            };
            captured.depth += 1;
            match caller {
                Ok(Some(_)) if captured.depth == DEPTH => {
                    if remembering {
                        segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                    }
                    return Captured { by_rules: false, ..captured };
                }
                Ok(Some(caller)) => at = caller,
                Ok(None) => return captured,
                Err(()) => {
                    if remembering {
                        segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
                    }
                    return Captured { by_rules: false, ..captured };
                }
            }
        }
    }

    /// The module record + 1 of Go code at `pc`; remembered as a rule.
    #[cold]
    fn enter_go(&mut self, pc: u64) -> Option<u32> {
        let module =
            modules::find(pc.wrapping_sub(1)).filter(|module| (module.go.0..module.go.1).contains(&(pc - 1)))?;
        self.rules.insert(Rule::of_go(pc, module.index + 1)?);
        Some(module.index + 1)
    }

    /// The rest of a stack, from Go code of module record `number` - 1 on; the first frame of it is noted already.
    fn follow_go(
        &mut self,
        segment: &Segment,
        number: u32,
        start: Registers,
        captured: Captured,
        remembering: bool,
    ) -> Captured {
        let mut captured = captured;
        let mut go = GoWalk::new(modules::go_code(number), self.own, &start, self.lookups_left > 0);
        self.modules[captured.depth] = number;
        captured.depth += 1;
        let mut at = start;
        while let Some(caller) = go.caller(&at) {
            if captured.depth == DEPTH {
                if remembering {
                    segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                }
                captured.by_rules = false;
                break;
            }
            self.frames[captured.depth] = caller;
            self.modules[captured.depth] = number;
            captured.hash = captured.hash.with(caller.pc);
            captured.depth += 1;
            at = caller;
        }
        self.lookups_left = self.lookups_left.saturating_sub(u32::from(go.has_learned()));
        captured
    }

    /// One frame outwards by framehop; a rule is learned from it.
    #[inline(never)]
    fn step_anew(&mut self, depth: usize, at: Registers, learning: bool) -> Result<Option<Registers>, ()> {
        let module = modules::find(at.pc.wrapping_sub(1));
        let number = module.map_or(0, |module| module.index + 1);
        self.modules[depth] = number;
        let range = self.range_of(at.sp);
        let tables = module.map_or(&self.no_tables, |module| &module.tables);
        let (taken, whole) = step(&mut self.framehop, tables, at, range);
        if !whole {
            // Where a word cannot be read framehop falls back to frame pointers, and keeps that for the address.
            self.framehop = Remembered::new_in();
        }
        if learning
            && LEARNS_RULES
            && range.own
            && let Some(rule) = Rule::of(at, number, &taken, |other| step(&mut self.tried, tables, other, range).0)
        {
            self.rules.insert(rule);
        }
        let (caller, _) = taken?;
        // Outwards is upwards, but for a change of stacks.
        Ok(caller.filter(|caller| !(range.holds(caller.sp.wrapping_sub(8)) && caller.sp <= at.sp)))
    }

    /// The stack that holds `sp`, from `sp`'s page up to its top. Empty where none is known.
    #[inline(always)]
    fn range_of(&mut self, sp: u64) -> StackRange {
        for range in &self.ranges {
            if range.start <= sp && sp < range.end {
                if range.own {
                    self.own = *range;
                }
                return range.above(sp);
            }
        }
        self.find_range(sp)
    }

    #[cold]
    fn find_range(&mut self, sp: u64) -> StackRange {
        if self.own_is_wanted {
            self.find_own();
            if self.own.start <= sp && sp < self.own.end {
                return self.own.above(sp);
            }
        }
        let found = stacks::near_range(sp).or_else(|| {
            // A first-aid ration: eight look-ups, then eight more each second.
            let now = sys::clock_ns(libc::CLOCK_MONOTONIC_COARSE);
            if self.lookups_left == 0 && now.saturating_sub(self.last_refill_ns) > 1_000_000_000 {
                self.lookups_left = 8;
                self.last_refill_ns = now;
            }
            self.lookups_left = self.lookups_left.checked_sub(1)?;
            sys::keep_errno(|| stacks::mapping_of(sp))
        });
        // Where nothing is known: the rest of the page on which the caller's frame lies is mapped.
        let range = found.unwrap_or(StackRange { start: sp & !4095, end: (sp & !4095) + 4096, own: false });
        if range.own {
            self.own = range;
        }
        if found.is_some() {
            self.ranges[self.next_range] = range;
            self.next_range = (self.next_range + 1) % RANGES;
        }
        range.above(sp)
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

/// `pc` is a return address in Go code of module record `number` - 1.
fn is_go(number: u32, pc: u64) -> bool {
    let code = modules::go_code(number);
    (code.0..code.1).contains(&pc.wrapping_sub(1))
}
