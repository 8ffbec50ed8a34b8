//! The stack of a call: exact unwinding by the modules' own tables, with every read inside the thread's stack, and remembered:
//! as a whole ([`crate::traces`]), else step by step ([`crate::memo`]).

use core::sync::atomic::Ordering;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64};
use framehop::{FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _};

use crate::intern::{self, StackFrame};
use crate::memo::{self, Memo, Reads};
use crate::modules::{self, Tables};
use crate::segment::Segment;
use crate::traces::{Known, MOST_READS, Traces};
use crate::{settings, sys};

/// Longest stack kept; of a longer one the outermost frames are cut.
pub const DEPTH: usize = 192;

/// Where a call came from: the entry stub's view of its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    #[inline(always)]
    pub unsafe fn at_entry(sp: u64, bp: u64) -> Self {
        // SAFETY: the call instruction pushed the return address there.
        Self { pc: unsafe { *(sp as *const u64) }, sp: sp + 8, bp }
    }
}

/// A range of addresses that was mapped, readable stack when it was looked up.
#[derive(Clone, Copy, Default)]
struct StackRange {
    start: u64,
    end: u64,
    /// The thread's own stack: there as long as the thread. Any other (a coroutine's) can be unmapped, whole or in part, behind our back.
    own: bool,
}

impl StackRange {
    /// What of it lies above a stack pointer's red zone.
    #[inline(always)]
    fn above(&self, sp: u64) -> Self {
        Self { start: sp.saturating_sub(128).max(self.start) & !7, ..*self }
    }

    #[inline(always)]
    fn holds(&self, address: u64) -> bool {
        self.start <= address && address.wrapping_add(8) <= self.end && address & 7 == 0
    }
}

/// What unwinding itself may need of the stack, gimli's tables included (measured: 8.3 KiB).
const NEEDED: u64 = 12 << 10;
/// Reads this far above a frame's own stack pointer are as safe as the frame.
const FRAME: u64 = 4096;

const RANGES: usize = 6;
const FLAG_CACHE: usize = 64;

/// Of how many innermost frames one must be FFmpeg's for a block to be possibly an object of its: its allocator may be reached through a
/// function of the C library.
const INNERMOST: usize = 4;

/// What a capture came to.
struct Captured {
    depth: usize,
    /// The stack's end was found.
    whole: bool,
    /// Every step was known.
    again: bool,
}

/// What a thread keeps for unwinding.
pub struct Unwinding {
    rules: CacheX86_64<MustNotAllocateDuringUnwind>,
    frames: [StackFrame; DEPTH],
    /// Where each frame's step is in the memo.
    steps: [u16; DEPTH],
    memo: Memo,
    traces: Traces,
    /// Of the module tables: what is remembered belongs to it.
    generation: u64,
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

/// Bytes below the main thread's first frame that certainly belong to the same stack.
const NEAR: u64 = 64 << 10;

impl Unwinding {
    /// Empty.
    pub fn new() -> Self {
        Self {
            rules: CacheX86_64::new_in(),
            frames: [StackFrame::default(); DEPTH],
            steps: [memo::NONE; DEPTH],
            memo: Memo::new(),
            traces: Traces::new(),
            generation: 0,
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
        self.memo.forget();
        self.traces.forget();
        self.ranges = [StackRange::default(); RANGES];
        self.lookups_left = 8;
        self.low = 0;
        if let Some(own) = own_stack() {
            self.ranges[0] = own;
            self.next_range = 1;
            self.low = own.start;
        }
    }

    /// The stack of a call; node 0 where it cannot be stored.
    #[inline(always)]
    pub fn stack(&mut self, segment: &Segment, start: Registers) -> Known {
        let generation = modules::table_generation();
        if self.generation == generation {
            if let Some(known) = self.traces.find(&start) {
                if settings::verify() {
                    self.verify_trace(segment, start, known);
                }
                return known;
            }
        } else {
            self.generation = generation;
            self.traces.forget();
        }
        // A panic in an unwinding library must not reach the host: it costs this one stack.
        let capture = core::panic::AssertUnwindSafe(|| self.follow(segment, start));
        std::panic::catch_unwind(capture).unwrap_or_else(|_| {
            segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
            Known { node: 0, libav: false }
        })
    }

    /// The same, step by step.
    #[inline(never)]
    fn follow(&mut self, segment: &Segment, start: Registers) -> Known {
        let Captured { depth, whole, again } = self.capture(segment, start);
        if settings::verify() {
            verify(segment, start.pc, &self.frames[..depth]);
        }
        let libav = self.frames[..depth.min(INNERMOST)].iter().any(|frame| modules::is_ffmpeg(frame.module));
        let mut parent = 0;
        for at in (0..depth).rev() {
            let step = self.steps[at];
            if step != memo::NONE
                && let Some(node) = self.memo.node(step, parent)
            {
                parent = node;
                continue;
            }
            let Some(node) = intern::node(segment, parent, self.frames[at]) else {
                segment.header().nodes_exhausted.fetch_add(1, Ordering::Relaxed);
                return Known { node: 0, libav };
            };
            if step != memo::NONE {
                self.memo.note_node(step, parent, node);
            }
            parent = node;
        }
        let known = Known { node: parent, libav };
        if whole && again {
            self.keep(start, depth, known);
        }
        known
    }

    /// Keeps the stack just captured as a trace.
    fn keep(&mut self, start: Registers, depth: usize, known: Known) {
        let mut reads = [(0, 0); MOST_READS];
        let mut count = 0;
        let mut at = start;
        for &step in &self.steps[..depth] {
            // A step may have been driven out by a later one of the same stack.
            let Some(words) = (step != memo::NONE).then(|| self.memo.reads(step, &at)).flatten() else { return };
            for word in words {
                let Some(place) = reads.get_mut(count) else { return };
                *place = word;
                count += 1;
            }
            match self.memo.caller(step) {
                Some(caller) => at = caller,
                None => break,
            }
        }
        self.traces.insert(&start, &reads[..count], known);
    }

    /// With `verify`: a trace that was taken for true is followed once more, by both unwinders.
    #[cold]
    fn verify_trace(&mut self, segment: &Segment, start: Registers, known: Known) {
        let depth = self.capture(segment, start).depth;
        verify(segment, start.pc, &self.frames[..depth]);
        let mut id = known.node;
        let same = self.frames[..depth].iter().all(|frame| {
            let node = segment.node(id);
            id = node.parent.load(Ordering::Relaxed);
            node.pc.load(Ordering::Relaxed) == frame.pc && node.module.load(Ordering::Relaxed) == frame.module
        });
        if !same || id != 0 {
            segment.header().verify_differences.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Fills `frames` and `steps`, innermost first.
    fn capture(&mut self, segment: &Segment, start: Registers) -> Captured {
        let mut registers = start;
        let mut depth = 0;
        if registers.sp.wrapping_sub(self.low) < NEEDED {
            // Almost at the end of a small stack: the caller is all that can be had without using it up.
            segment.header().stacks_without_room.fetch_add(1, Ordering::Relaxed);
            (self.frames[0], self.steps[0]) = (StackFrame { pc: registers.pc, module: 0 }, memo::NONE);
            return Captured { depth: 1, whole: false, again: false };
        }
        self.memo.begin(self.generation);
        // The range is only needed where something is not known.
        let mut range: Option<StackRange> = None;
        let mut last = memo::NONE;
        let (mut whole, mut again) = (true, true);
        loop {
            let mut index = self.memo.find(&registers, self.memo.guess_after(last));
            let caller = if index != memo::NONE {
                self.frames[depth] = StackFrame { pc: registers.pc, module: self.memo.module(index) };
                Ok(self.memo.caller(index))
            } else {
                again = false;
                let module = modules::find(registers.pc.wrapping_sub(1));
                let number = module.map_or(0, |module| module.index + 1);
                self.frames[depth] = StackFrame { pc: registers.pc, module: number };
                let current = match range {
                    Some(range) if range.start <= registers.sp && registers.sp < range.end => range,
                    _ => self.range_of(registers.sp),
                };
                range = Some(current);
                let mut reads = Reads::default();
                let result = self.step(module.map(|module| &module.tables), registers, current, &mut reads);
                let result = match result {
                    // Outwards is upwards, but for a change of stacks.
                    Ok(Some(caller)) if current.holds(caller.sp.wrapping_sub(8)) && caller.sp <= registers.sp => {
                        Ok(None)
                    }
                    result => result,
                };
                if let Ok(caller) = result {
                    index = self.memo.insert(registers, number, caller, &reads);
                }
                result
            };
            self.memo.note_next(last, index);
            self.steps[depth] = index;
            last = index;
            depth += 1;
            match caller {
                Ok(Some(_)) if depth == DEPTH => {
                    segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                    whole = false;
                    break;
                }
                Ok(Some(caller)) => registers = caller,
                Ok(None) => break,
                Err(()) => {
                    segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
                    whole = false;
                    break;
                }
            }
        }
        Captured { depth, whole, again }
    }

    /// One frame outwards. Reads only inside `range`, and notes each word.
    #[inline(always)]
    fn step(
        &mut self,
        tables: Option<&Tables>,
        at: Registers,
        range: StackRange,
        reads: &mut Reads,
    ) -> Result<Option<Registers>, ()> {
        let Some(address) = FrameAddress::from_return_address(at.pc) else { return Ok(None) };
        let mut registers = UnwindRegsX86_64::new(at.pc, at.sp, at.bp);
        let mut read = |address: u64| {
            if !range.holds(address) {
                return Err(());
            }
            let value = if range.own || address.wrapping_sub(at.sp) < FRAME {
                // SAFETY: aligned, and inside this thread's own stack, or on the frame in use.
                unsafe { *(address as *const u64) }
            } else {
                let mut word = [0; 8];
                if sys::read_self(address, &mut word) != 8 {
                    return Err(());
                }
                u64::from_le_bytes(word)
            };
            reads.note(address, value, !range.own);
            Ok(value)
        };
        let tables = tables.unwrap_or(&self.no_tables);
        match tables.unwind_frame(address, &mut registers, &mut self.rules, &mut read) {
            Ok(Some(pc)) => Ok(Some(Registers { pc, sp: registers.sp(), bp: registers.bp() })),
            Ok(None) => Ok(None),
            Err(_) => Err(()),
        }
    }

    /// The stack that holds `sp`, from `sp`'s page up to its top. Empty where none is known.
    #[inline(always)]
    fn range_of(&mut self, sp: u64) -> StackRange {
        for range in &self.ranges {
            if range.start <= sp && sp < range.end {
                return range.above(sp);
            }
        }
        self.find_range(sp)
    }

    #[cold]
    fn find_range(&mut self, sp: u64) -> StackRange {
        let found = near_range(sp).or_else(|| {
            // A first-aid ration: eight look-ups, then eight more each second.
            let now = sys::clock_ns(libc::CLOCK_MONOTONIC_COARSE);
            if self.lookups_left == 0 && now.saturating_sub(self.last_refill_ns) > 1_000_000_000 {
                self.lookups_left = 8;
                self.last_refill_ns = now;
            }
            self.lookups_left = self.lookups_left.checked_sub(1)?;
            sys::keep_errno(|| mapping_of(sp))
        });
        // Where nothing is known: the rest of the page on which the caller's frame lies is mapped.
        let range = found.unwrap_or(StackRange { start: sp & !4095, end: (sp & !4095) + 4096, own: false });
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

unsafe extern "C" {
    fn pthread_getattr_np(thread: libc::pthread_t, attributes: *mut libc::pthread_attr_t) -> i32;
}

/// The stack of this thread where glibc made it: exact. `None` for the main thread, of which glibc would read /proc/self/maps by stdio.
fn own_stack() -> Option<StackRange> {
    // SAFETY: plain calls on values of ours. The attribute's own allocations pass through the guarded hooks.
    unsafe {
        if sys::tid() == libc::getpid() as u32 {
            return None;
        }
        let (mut start, mut bytes) = (core::ptr::null_mut(), 0);
        let found = crate::thread::quietly(|| {
            let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
            if pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
                return false;
            }
            let found = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut bytes) == 0;
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            found
        });
        let here = (&raw const start) as u64;
        let range = StackRange { start: start as u64, end: start as u64 + bytes as u64, own: true };
        // On a coroutine's or signal's stack the thread's own is still the thread's own.
        (found && (range.start..range.end).contains(&here)).then_some(range)
    }
}

/// Bytes left on this thread's own stack below the caller; `None` where that is unknown.
pub fn stack_left() -> Option<u64> {
    let here = 0u8;
    own_stack().map(|own| ((&raw const here) as u64).saturating_sub(own.start))
}

/// The main thread's stack near its end.
fn near_range(sp: u64) -> Option<StackRange> {
    let end = settings::main_stack_end();
    // Reads only go up from the present stack pointer, so that the lower end matters to nobody.
    (sp < end && end - sp < NEAR).then_some(StackRange { start: end - NEAR, end, own: true })
}

/// Asks /proc/self/maps. No allocation, no stdio, no lock.
fn mapping_of(sp: u64) -> Option<StackRange> {
    // SAFETY: plain system calls on a path and a buffer of ours.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/proc/self/maps".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        ) as i32;
        if fd < 0 {
            return None;
        }
        let mut buffer = [0u8; 1024];
        let mut kept = 0;
        let mut found = None;
        'reading: loop {
            let got = libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr().add(kept), buffer.len() - kept);
            if got <= 0 {
                break;
            }
            let have = kept + got as usize;
            let mut line_start = 0;
            while let Some(len) = buffer[line_start..have].iter().position(|&byte| byte == b'\n') {
                if let Some((start, end, readable)) = parse_line(&buffer[line_start..line_start + len])
                    && (start..end).contains(&sp)
                {
                    if readable {
                        // The main thread's stack grows downwards and never goes.
                        let own = (start..end).contains(&(settings::main_stack_end().wrapping_sub(8)));
                        found = Some(StackRange { start, end, own });
                    }
                    break 'reading;
                }
                line_start += len + 1;
            }
            buffer.copy_within(line_start..have, 0);
            kept = have - line_start;
            if kept == buffer.len() {
                break;
            }
        }
        libc::syscall(libc::SYS_close, fd);
        found
    }
}

/// `start-end perms …`
fn parse_line(line: &[u8]) -> Option<(u64, u64, bool)> {
    let dash = line.iter().position(|&byte| byte == b'-')?;
    let space = line.iter().position(|&byte| byte == b' ')?;
    let number = |digits: &[u8]| u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok();
    Some((number(&line[..dash])?, number(line.get(dash + 1..space)?)?, line.get(space + 1) == Some(&b'r')))
}

/// Unwinds once more, by the `backtrace` crate, and counts a difference. Both start at the hook's caller.
#[cold]
fn verify(segment: &Segment, start: u64, frames: &[StackFrame]) {
    let mut theirs = [0u64; DEPTH + 64];
    let mut count = 0;
    // SAFETY: called on one thread at a time as far as the crate's own state goes: only `trace`, no symbolization.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            theirs[count] = frame.ip() as u64;
            count += 1;
            count < theirs.len()
        });
    }
    let theirs = &theirs[..count];
    let first = theirs.iter().position(|&pc| pc == start).unwrap_or(count);
    let theirs = &theirs[first..];
    let theirs = match theirs.split_last() {
        // libgcc ends some stacks with a null frame.
        Some((0, rest)) => rest,
        _ => theirs,
    };
    let same = if frames.len() == DEPTH {
        theirs.len() >= DEPTH && frames.iter().zip(theirs).all(|(ours, &pc)| ours.pc == pc)
    } else {
        theirs.len() == frames.len() && frames.iter().zip(theirs).all(|(ours, &pc)| ours.pc == pc)
    };
    segment.header().verified_stacks.fetch_add(1, Ordering::Relaxed);
    if !same {
        segment.header().verify_differences.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        assert_eq!(
            parse_line(b"7ffd1c5e2000-7ffd1c603000 rw-p 00000000 00:00 0   [stack]"),
            Some((0x7ffd_1c5e_2000, 0x7ffd_1c60_3000, true))
        );
        assert_eq!(parse_line(b"1000-2000 ---p 0 00:00 0"), Some((0x1000, 0x2000, false)));
        assert_eq!(parse_line(b"nonsense"), None);
    }
}
