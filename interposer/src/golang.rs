//! Go callers: where a module's Go code lies, and the way from C's stack to the goroutine that called.
//!
//! Go code has no unwind tables that are loaded, but keeps frame pointers. A call from Go to C runs on the thread's own stack (g0's); the
//! assembly in between (`asmcgocall`, or a binding's own) hands rbp on, so that it still leads to the caller's frame on the goroutine's
//! stack: each frame pointer leads to the next, with the return address behind it, until it is 0.
//!
//! A goroutine's stack lies in Go's heap. The runtime never unmaps its heap, and neither moves nor shrinks the stack of a goroutine that is
//! in C (runtime/stack.go, `isShrinkStackSafe`): what was once seen to be mapped there stays readable. A range is taken for Go's heap only
//! where a frame pointer of Go code led there and a return address into Go code was found.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::elf::Layout;
use crate::file::File;
use crate::stacks::{self, StackRange};
use crate::sys;
use crate::unwind::Registers;

/// Most section headers of a file that are read.
const SECTIONS: usize = 128;
/// Most bytes of section names that are searched: a section has a few dozen.
const MOST_NAMES: u64 = 64 << 10;
/// Most bytes of variables that are searched for `moduledata`.
const MOST_DATA: u64 = 64 << 20;
/// Offset of `text` and `etext` in `runtime.moduledata`, Go 1.18 and later.
const TEXT: u64 = 176;

/// Addresses of a module's Go code; empty where it has none.
pub type Code = (u64, u64);

/// Looks into the module's file for Go's table of functions, and in its memory for where the code lies.
pub fn code_of(layout: &Layout, name: &[u8]) -> Code {
    find_code(layout, name)
        .filter(|code| layout.start <= code.0 && code.0 < code.1 && code.1 <= layout.end)
        .unwrap_or_default()
}

fn find_code(layout: &Layout, name: &[u8]) -> Option<Code> {
    let file = file_of(name)?;
    let mut header = [0; 64];
    whole(&file, &mut header, 0)?;
    let (at, size, count, names) =
        (word(&header, 40), half(&header, 58), usize::from(half(&header, 60)), usize::from(half(&header, 62)));
    if header[..4] != *b"\x7fELF" || size != 64 || count > SECTIONS || names >= count {
        return None;
    }
    let mut one = [0; 64];
    whole(&file, &mut one, at + 64 * names as u64)?;
    let strings = word(&one, 24);
    // This is asked of every object that comes up on a stack, and hardly one is Go's: no further calls for those.
    if !mentions(&file, strings, word(&one, 32), b"gopclntab\0") {
        return None;
    }
    let (mut table, mut module) = (0, 0);
    for index in 0..count {
        whole(&file, &mut one, at + 64 * index as u64)?;
        let mut text = [0; 24];
        // The last names may end before so many bytes do.
        file.read(strings + u64::from(u32_of(&one, 0)), &mut text);
        let is = |name: &[u8]| text.starts_with(name) && text[name.len()] == 0;
        if is(b".gopclntab") || is(b".data.rel.ro.gopclntab") {
            table = layout.base.wrapping_add(word(&one, 16));
        } else if is(b".go.module") {
            module = layout.base.wrapping_add(word(&one, 16));
        }
    }
    // The table's header says where the names in it begin: the first two words of `moduledata` are the table's and theirs.
    let mut bytes = [0; 40];
    if table == 0 || sys::read_self(table, &mut bytes) != bytes.len() {
        return None;
    }
    let known = [table, table.wrapping_add(word(&bytes, 32))];
    if module == 0 {
        for index in 0..count {
            whole(&file, &mut one, at + 64 * index as u64)?;
            // SHT_PROGBITS, SHF_WRITE and SHF_ALLOC.
            if u32_of(&one, 4) == 1 && word(&one, 8) & 3 == 3 && word(&one, 32) <= MOST_DATA {
                module = search(layout.base.wrapping_add(word(&one, 16)), word(&one, 32), known).unwrap_or(module);
            }
        }
    }
    let mut bytes = [0; TEXT as usize + 16];
    if module == 0 || sys::read_self(module, &mut bytes) != bytes.len() {
        return None;
    }
    ([word(&bytes, 0), word(&bytes, 8)] == known)
        .then(|| (word(&bytes, TEXT as usize), word(&bytes, TEXT as usize + 8)))
}

/// `text` occurs in the file's `len` bytes from `at` on: its section names, which are a few hundred bytes.
fn mentions(file: &File, at: u64, len: u64, text: &[u8]) -> bool {
    let mut bytes = [0; 1024];
    let mut done = 0;
    while done < len.min(MOST_NAMES) {
        let wanted = (len - done).min(bytes.len() as u64) as usize;
        let got = file.read(at.saturating_add(done), &mut bytes[..wanted]);
        if bytes[..got].windows(text.len()).any(|window| window == text) {
            return true;
        }
        if got < wanted || got < bytes.len() {
            return false;
        }
        // So much again that no name is cut in two.
        done += (got - (text.len() - 1)) as u64;
    }
    false
}

/// Where two words lie in a row.
fn search(start: u64, len: u64, words: [u64; 2]) -> Option<u64> {
    let mut bytes = [0; 2048 + 8];
    let mut at = start;
    while at < start + len {
        let wanted = (start + len - at).min(bytes.len() as u64) as usize;
        let got = sys::read_self(at, &mut bytes[..wanted]);
        let found = (0..got.saturating_sub(15))
            .step_by(8)
            .find(|&offset| word(&bytes, offset) == words[0] && word(&bytes, offset + 8) == words[1]);
        if let Some(offset) = found {
            return Some(at + offset as u64);
        }
        if got < wanted {
            return None;
        }
        // One word is read twice: no pair is cut in two.
        at += 2048;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// The file of a module, by the loader's name for it, which is empty for the program itself.
fn file_of(name: &[u8]) -> Option<File> {
    let mut path = [0; 512];
    let name = if name.is_empty() { b"/proc/self/exe" } else { name };
    path.get_mut(..name.len())?.copy_from_slice(name);
    File::open(CStr::from_bytes_until_nul(&path).ok()?)
}

/// All of `into`, from byte `at` of the file.
fn whole(file: &File, into: &mut [u8], at: u64) -> Option<()> {
    (file.read(at, into) == into.len()).then_some(())
}

const RANGES: usize = 16;
/// What is known of Go's heap in this process: starts and ends, filled from the front.
static HEAP: [(AtomicU64, AtomicU64); RANGES] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; RANGES];

/// The part of Go's heap that holds `address`, as far as it is known.
#[inline(always)]
fn heap_of(address: u64) -> Option<(u64, u64)> {
    for (start, end) in &HEAP {
        // The end is published last, and only ever grows: pairs with the release in `learn`.
        let end = end.load(Ordering::Acquire);
        if end == 0 {
            return None;
        }
        let start = start.load(Ordering::Relaxed);
        if start <= address && address.wrapping_add(16) <= end {
            return Some((start, end));
        }
    }
    None
}

/// Makes the mapping known that holds `bp`, the frame pointer of Go code, if a Go function's frame is there.
#[cold]
fn learn(bp: u64, code: Code) -> Option<(u64, u64)> {
    let StackRange { start, end, .. } = sys::keep_errno(|| stacks::mapping_of(bp))?;
    let mut frame = [0; 16];
    let whole = bp.wrapping_add(16) <= end && sys::read_self(bp, &mut frame) == frame.len();
    if !whole || !is_code(code, word(&frame, 8)) {
        return None;
    }
    for (known_start, known_end) in &HEAP {
        let known = known_end.load(Ordering::Acquire);
        if known != 0 && known_start.load(Ordering::Relaxed) == start {
            // The heap has grown.
            known_end.fetch_max(end, Ordering::AcqRel);
            return Some((start, end));
        }
        // Whoever claims the start publishes the end: until then the entry is passed by.
        if known == 0 && known_start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            known_end.store(end, Ordering::Release);
            return Some((start, end));
        }
    }
    None
}

#[inline(always)]
fn is_code(code: Code, pc: u64) -> bool {
    code.0 < pc && pc <= code.1
}

/// A walk along Go's frame pointers.
pub struct GoWalk {
    code: Code,
    /// The thread's own stack, as far as it is known.
    own: StackRange,
    /// On it, what lies below was passed.
    passed: u64,
    /// Looking for the heap is slow: it is done once a walk.
    may_learn: bool,
    has_learned: bool,
}

/// Bytes above a frame's stack pointer that are as safe to read as the frame.
const FRAME: u64 = 4096;

impl GoWalk {
    /// From Go code that was called from `at`, on the thread's own stack or not.
    pub fn new(code: Code, own: StackRange, at: &Registers, may_learn: bool) -> Self {
        Self { code, own, passed: at.sp, may_learn, has_learned: false }
    }

    /// The mappings were asked for.
    pub fn has_learned(&self) -> bool {
        self.has_learned
    }

    /// The next caller in Go code; `None` where there is none, or none that can be read.
    #[inline(always)]
    pub fn caller(&mut self, at: &Registers) -> Option<Registers> {
        let bp = at.bp;
        if bp & 7 != 0 || bp == 0 {
            return None;
        }
        let on_own = self.own.start <= bp && bp.wrapping_add(16) <= self.own.end;
        if on_own || bp.wrapping_sub(self.passed) < FRAME - 16 {
            // Outwards is upwards.
            if bp < self.passed {
                return None;
            }
            self.passed = bp + 16;
        } else {
            let heap = match heap_of(bp) {
                Some(heap) => heap,
                None if self.may_learn => {
                    (self.may_learn, self.has_learned) = (false, true);
                    learn(bp, self.code)?
                }
                None => return None,
            };
            if (heap.0..heap.1).contains(&at.sp) && bp < at.sp {
                return None;
            }
        }
        // SAFETY: aligned, and on this thread's own stack above a frame in use, or in Go's heap, which stays mapped.
        let (next, pc) = unsafe { (*(bp as *const u64), *((bp + 8) as *const u64)) };
        is_code(self.code, pc).then_some(Registers { pc, sp: bp + 16, bp: next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Code = (0x40_0000, 0x50_0000);

    /// Frames one above the other: (next frame's index or none, return address).
    fn stack(words: &mut [u64], frames: &[(usize, Option<usize>, u64)]) -> u64 {
        let base = words.as_ptr() as u64;
        for &(at, next, pc) in frames {
            words[at] = next.map_or(0, |next| base + 8 * next as u64);
            words[at + 1] = pc;
        }
        base
    }

    fn walked(own: StackRange, start: Registers) -> Vec<u64> {
        let mut walk = GoWalk::new(CODE, own, &start, true);
        let mut at = start;
        let mut pcs = Vec::new();
        while let Some(caller) = walk.caller(&at) {
            pcs.push(caller.pc);
            at = caller;
            assert!(pcs.len() < 100, "it does not end");
        }
        pcs
    }

    #[test]
    fn frame_pointers_are_followed_upwards_and_in_go_code_only() {
        let mut words = vec![0u64; 512];
        let base = stack(&mut words, &[(4, Some(20), 0x40_1000), (20, Some(40), 0x40_2000), (40, None, 0x40_3000)]);
        let own = StackRange { start: base, end: base + 4096, own: true };
        let at = Registers { pc: 0x40_0500, sp: base, bp: base + 32 };
        assert_eq!(walked(own, at), [0x40_1000, 0x40_2000, 0x40_3000]);
        // A chain that goes back, one that leaves Go's code, one that is not aligned.
        words[20] = base + 32;
        assert_eq!(walked(own, at), [0x40_1000, 0x40_2000]);
        words[21] = 0x60_0000;
        assert_eq!(walked(own, at), [0x40_1000]);
        words[4] = base + 161;
        assert_eq!(walked(own, at), [0x40_1000]);
        assert_eq!(walked(own, Registers { bp: 0, ..at }), []);
        core::hint::black_box(&words);
    }

    #[test]
    fn another_mapping_is_followed_only_where_go_code_returns_from_it() {
        // A goroutine's stack, far from this one.
        let mut words = vec![0u64; 1 << 20];
        let base = stack(&mut words, &[(5000, Some(6000), 0x40_1000), (6000, None, 0x40_2000)]);
        let own = StackRange { start: 0x1000, end: 0x2000, own: true };
        let at = Registers { pc: 0x40_0500, sp: 0x1800, bp: base + 8 * 5000 };
        assert_eq!(walked(own, at), [0x40_1000, 0x40_2000]);
        // Nothing is mapped there.
        assert_eq!(walked(own, Registers { bp: 0x7f00_0000_0000 - 64, ..at }), []);
        core::hint::black_box(&words);
    }

    #[test]
    fn a_program_without_go_has_no_go_code() {
        let layout = Layout { base: 0, start: 0, end: u64::MAX, ..Layout::default() };
        assert_eq!(code_of(&layout, b""), (0, 0));
        assert_eq!(code_of(&layout, b"/nonexistent"), (0, 0));
    }
}
