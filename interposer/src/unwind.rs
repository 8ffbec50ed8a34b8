//! The stack of a call: exact unwinding by the modules' own tables, with every read inside the thread's stack.
//!
//! The next issue's memo table belongs between [`Unwinding::capture`] and [`Unwinding::step`]: a step is a pure function of the
//! registers and of the words that `step` reads.

use core::sync::atomic::Ordering;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64};
use framehop::{FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _};

use crate::intern::StackFrame;
use crate::modules::{self, Tables};
use crate::segment::Segment;
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
}

impl StackRange {
    #[inline(always)]
    fn holds(&self, address: u64) -> bool {
        self.start <= address && address.wrapping_add(8) <= self.end && address & 7 == 0
    }
}

const RANGES: usize = 6;
const FLAG_CACHE: usize = 64;

/// What a thread keeps for unwinding.
pub struct Unwinding {
    rules: CacheX86_64<MustNotAllocateDuringUnwind>,
    frames: [StackFrame; DEPTH],
    ranges: [StackRange; RANGES],
    next_range: usize,
    /// Looking up ranges is slow; a thread with ever-changing stacks does it only so often.
    lookups_left: u32,
    last_refill_ns: u64,
    no_tables: Tables,
    /// Whether an address's page belongs to FFmpeg or to its direct user: (page, answer), of one table generation.
    flag_cache: [(u64, u32); FLAG_CACHE],
    flag_generation: u64,
}

/// Bytes below the thread control block, or below the main thread's first frame, that certainly belong to the same stack.
const NEAR: u64 = 64 << 10;

impl Unwinding {
    /// Empty.
    pub fn new() -> Self {
        Self {
            rules: CacheX86_64::new_in(),
            frames: [StackFrame::default(); DEPTH],
            ranges: [StackRange::default(); RANGES],
            next_range: 0,
            lookups_left: 8,
            last_refill_ns: 0,
            no_tables: Tables::new(),
            flag_cache: [(0, 0); FLAG_CACHE],
            flag_generation: 0,
        }
    }

    /// Another thread owns this now: its stack is elsewhere.
    pub fn new_thread(&mut self) {
        self.ranges = [StackRange::default(); RANGES];
        self.lookups_left = 8;
    }

    /// The frames of a call, innermost first.
    pub fn capture(&mut self, segment: &Segment, start: Registers) -> &[StackFrame] {
        let mut registers = start;
        let mut depth = 0;
        let mut current = self.range_of(registers.sp);
        loop {
            let module = modules::find(registers.pc.wrapping_sub(1));
            self.frames[depth] =
                StackFrame { pc: registers.pc, module: module.map_or(0, |module| module.index + 1) };
            depth += 1;
            if depth == DEPTH {
                segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                break;
            }
            match self.step(module.map(|module| &module.tables), registers, current) {
                Ok(Some(caller)) => {
                    if !current.holds(caller.sp.wrapping_sub(8)) {
                        current = self.range_of(caller.sp);
                    } else if caller.sp <= registers.sp {
                        break;
                    }
                    registers = caller;
                }
                Ok(None) => break,
                Err(()) => {
                    segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        if settings::verify() {
            verify(segment, start.pc, &self.frames[..depth]);
        }
        &self.frames[..depth]
    }

    /// One frame outwards. Reads only inside `range`.
    #[inline(always)]
    fn step(&mut self, tables: Option<&Tables>, at: Registers, range: StackRange) -> Result<Option<Registers>, ()> {
        let Some(address) = FrameAddress::from_return_address(at.pc) else { return Ok(None) };
        let mut registers = UnwindRegsX86_64::new(at.pc, at.sp, at.bp);
        let mut read = |address: u64| {
            if range.holds(address) {
                // SAFETY: aligned and inside this thread's stack, which is mapped from here up to its end.
                Ok(unsafe { *(address as *const u64) })
            } else {
                Err(())
            }
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
                return StackRange { start: sp.saturating_sub(128).max(range.start) & !7, end: range.end };
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
        let range = found.unwrap_or(StackRange { start: sp & !4095, end: (sp & !4095) + 4096 });
        if found.is_some() {
            self.ranges[self.next_range] = range;
            self.next_range = (self.next_range + 1) % RANGES;
        }
        StackRange { start: sp.saturating_sub(128).max(range.start) & !7, end: range.end }
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

/// The stack around `sp` where it is plain: a pthread's ends with its control block, the main thread's with its first frame.
fn near_range(sp: u64) -> Option<StackRange> {
    let control_block: u64;
    // SAFETY: fs:0 holds the thread pointer, x86-64 psABI.
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) control_block, options(pure, readonly, nostack));
    }
    let main_end = settings::main_stack_end();
    for end in [control_block, main_end] {
        if sp < end && end - sp < NEAR {
            // Reads only go up from the present stack pointer, so that the lower end matters to nobody.
            return Some(StackRange { start: end - NEAR, end });
        }
    }
    None
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
        let mut buffer = [0u8; 4096];
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
                        found = Some(StackRange { start, end });
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
