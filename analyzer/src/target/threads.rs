//! The threads of a process: which live, and what a ptrace-stopped one holds in its registers.
#![allow(unsafe_code, reason = "ptrace is reached through libc")]

use std::io;

#[cfg(target_arch = "aarch64")]
pub use super::aarch64::{FRAME_POINTER, PROGRAM_COUNTER, REGISTER_NAMES, STACK_POINTER};
#[cfg(target_arch = "x86_64")]
use super::tracer::ptrace;

/// Names of [`ThreadState::registers`], in its order.
#[cfg(target_arch = "x86_64")]
pub const REGISTER_NAMES: [&str; 18] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "gs_base",
];

/// What the registers are called that say where a thread is: its stack pointer, where its code is, and its frame pointer.
#[cfg(target_arch = "x86_64")]
pub const STACK_POINTER: &str = "rsp";
/// See above.
#[cfg(target_arch = "x86_64")]
pub const PROGRAM_COUNTER: &str = "rip";
/// See above.
#[cfg(target_arch = "x86_64")]
pub const FRAME_POINTER: &str = "rbp";

/// No pointer lies outside: the zero page, and what no page table reaches.
pub(super) const POINTERS: std::ops::Range<u64> = 4096..1 << 56;
/// XSAVE's legacy area: control words, then x87 and xmm registers at these bytes, then the header up to 576.
#[cfg(target_arch = "x86_64")]
const LEGACY: std::ops::Range<usize> = 32..416;
#[cfg(target_arch = "x86_64")]
const EXTENDED: usize = 576;
/// Bytes of the XSAVE area that are asked for: AVX-512 and AMX (8 KiB of tiles) fit.
#[cfg(target_arch = "x86_64")]
const XSTATE_BYTES: usize = 16 << 10;

/// The registers of one stopped thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadState {
    /// Thread id.
    pub tid: i32,
    /// Its stack is live from here on; on x86-64 from 128 bytes below (the red zone).
    pub stack_pointer: u64,
    /// The thread pointer (tpidr_el0 on AArch64): where its TLS block and thread descriptor lie.
    pub fs_base: u64,
    /// The general registers, by name.
    pub registers: Vec<(&'static str, u64)>,
    /// The words of the x87, xmm, ymm, zmm registers that could be pointers; none of a thread in a system call.
    pub vector_words: Vec<u64>,
}

impl ThreadState {
    /// Of a thread that the calling thread traces and that is stopped.
    ///
    /// # Errors
    /// ESRCH where it is not stopped, not traced by the caller, or gone.
    #[cfg(target_arch = "aarch64")]
    pub fn capture(tid: i32) -> io::Result<Self> {
        super::aarch64::capture(tid)
    }

    /// Of a thread that the calling thread traces and that is stopped.
    ///
    /// # Errors
    /// ESRCH where it is not stopped, not traced by the caller, or gone.
    #[cfg(target_arch = "x86_64")]
    pub fn capture(tid: i32) -> io::Result<Self> {
        let r = ptrace::registers(tid)?;
        let values = [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15, r.rip, r.gs_base,
        ];
        // Across a call every vector register is the callee's (System V ABI, 3.2.1), and a system call is made in one: what they hold
        // then is left over from whatever copied last, and would hide a lost block now and then.
        let in_system_call = r.orig_rax as i64 >= 0;
        let mut area = vec![0; if in_system_call { 0 } else { XSTATE_BYTES }];
        if !in_system_call {
            let got = ptrace::extended_state(tid, &mut area).unwrap_or(0);
            area.truncate(got);
        }
        Ok(Self::from_values(tid, r.fs_base, &values, vector_words(&area)))
    }

    /// From register values in the order of [`REGISTER_NAMES`]; missing ones are left out.
    pub fn from_values(tid: i32, fs_base: u64, values: &[u64], vector_words: Vec<u64>) -> Self {
        let registers: Vec<_> = REGISTER_NAMES.into_iter().zip(values.iter().copied()).collect();
        let stack_pointer = registers.iter().find(|(name, _)| *name == STACK_POINTER).map_or(0, |&(_, value)| value);
        Self { tid, stack_pointer, fs_base, registers, vector_words }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn vector_words(area: &[u8]) -> Vec<u64> {
    let legacy = area.get(LEGACY).unwrap_or_default();
    let extended = area.get(EXTENDED..).unwrap_or_default();
    let mut words: Vec<u64> = [legacy, extended]
        .into_iter()
        .flat_map(|part| part.as_chunks::<8>().0)
        .map(|&bytes| u64::from_le_bytes(bytes))
        .filter(|word| POINTERS.contains(word))
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// The thread ids of a process, dead leaders included.
///
/// # Errors
/// ENOENT or ESRCH where the process is gone.
pub fn list(pid: i32) -> io::Result<Vec<i32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // An entry that vanishes while it is read is a thread that ended.
        let Ok(entry) = entry else { continue };
        if let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            tids.push(tid);
        }
    }
    Ok(tids)
}

/// State and exit code of a thread, from its `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T` (stopped), `t` (stopped by its tracer), `Z`, `X` …
    pub state: char,
    /// The wait status it ended with; 0 while it lives, or where the reader may not know.
    pub exit_code: i32,
}

impl Stat {
    /// Of thread `tid`; `None` where it is gone.
    pub fn of(tid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{tid}/stat")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The name is in parentheses and may hold any byte, parentheses too.
        let after = text.iter().rposition(|&b| b == b')')? + 1;
        let mut fields = std::str::from_utf8(&text[after..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let exit_code = fields.last().and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Self { state, exit_code })
    }

    /// It still has its memory: not a zombie, not dead.
    pub fn is_alive(self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// A thread of `pid` through which its memory can be read: its leader where that lives, else another.
pub fn live_thread(pid: i32) -> Option<i32> {
    let alive = |tid: &i32| Stat::of(*tid).is_some_and(Stat::is_alive);
    Some(pid).filter(alive).or_else(|| list(pid).ok()?.into_iter().find(alive))
}

/// Job control, or somebody's debugger, has stopped every thread of it.
pub fn all_stopped(pid: i32) -> bool {
    let stopped = |&tid: &i32| Stat::of(tid).is_none_or(|stat| matches!(stat.state, 'T' | 't') || !stat.is_alive());
    list(pid).is_ok_and(|tids| !tids.is_empty() && tids.iter().all(stopped))
}

/// A number from `/proc/TID/status`, such as `Tgid` or `TracerPid`.
pub(crate) fn status_number(tid: i32, key: &str) -> Option<i32> {
    let text = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    text.split(|&b| b == b'\n').find_map(|line| {
        let value = line.strip_prefix(key.as_bytes())?.strip_prefix(b":")?;
        std::str::from_utf8(value).ok()?.split_ascii_whitespace().next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_name_cannot_fool_the_reader_of_stat() {
        let stat = Stat::parse(b"12 (a) Z 1 (b)) t 3 4 5 256\n").unwrap();
        assert_eq!(stat, Stat { state: 't', exit_code: 256 });
        assert!(stat.is_alive() && !Stat::parse(b"1 (x) Z 9").unwrap().is_alive());
        assert_eq!(Stat::parse(b"nonsense"), None);
        assert_eq!(Stat::parse(b"1 (x)"), None);
    }

    #[test]
    fn own_threads_are_listed_and_alive() {
        let pid = std::process::id() as i32;
        assert!(list(pid).unwrap().contains(&pid));
        assert!(live_thread(pid).is_some() && live_thread(i32::MAX).is_none());
        assert_eq!(status_number(pid, "Tgid"), Some(pid));
        assert_eq!(status_number(pid, "TracerPid").map(|t| t >= 0), Some(true));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vector_words_are_the_pointer_like_ones_of_the_register_areas() {
        let mut area = vec![0; 600];
        area[0..8].copy_from_slice(&0x7fff_0000_1000u64.to_le_bytes()); // control words: no register
        area[160..168].copy_from_slice(&0x7fff_0000_2000u64.to_le_bytes());
        area[168..176].copy_from_slice(&u64::MAX.to_le_bytes());
        area[576..584].copy_from_slice(&0x5555_0000_3000u64.to_le_bytes());
        area[584..592].copy_from_slice(&0x5555_0000_3000u64.to_le_bytes());
        assert_eq!(vector_words(&area), [0x5555_0000_3000, 0x7fff_0000_2000]);
        assert!(vector_words(&area[..40]).is_empty());
    }
}
