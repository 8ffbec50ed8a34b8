//! What a ptrace-stopped thread holds in its registers, on AArch64.
//!
//! Built and tested as far as no process is traced: under emulation ptrace does not work (docs/compatibility.md).
#![allow(unsafe_code, reason = "ptrace is reached through libc")]

use std::io;

use super::threads::{POINTERS, ThreadState};

/// Names of [`ThreadState::registers`], in its order. x29 is the frame pointer, x30 the return address of a function that calls no other.
pub const REGISTER_NAMES: [&str; 33] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp", "pc",
];

/// What the registers are called that say where a thread is: its stack pointer, where its code is, and its frame pointer.
pub const STACK_POINTER: &str = "sp";
/// See above.
pub const PROGRAM_COUNTER: &str = "pc";
/// See above.
pub const FRAME_POINTER: &str = "x29";

/// Register sets of PTRACE_GETREGSET (linux/elf.h).
const NT_PRSTATUS: usize = 1;
const NT_FPREGSET: usize = 2;
const NT_ARM_TLS: usize = 0x401;
const NT_ARM_SYSTEM_CALL: usize = 0x404;

/// Bytes of a vector register, and how many there are (`struct user_fpsimd_state`; FPSR and FPCR follow).
const VECTOR: usize = 16;
const VECTORS: usize = 32;
/// Of v8 to v15 the lower halves outlive a call (AAPCS64, 6.1.2): at these bytes.
const SAVED: std::ops::Range<usize> = 8 * VECTOR..16 * VECTOR;

/// Fills `set` from the register set `kind` of a stopped thread; returns how many bytes came.
fn register_set(tid: i32, kind: usize, set: &mut [u8]) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: set.as_mut_ptr().cast(), iov_len: set.len() };
    // SAFETY: the request fills at most iov_len bytes of the exclusively borrowed buffer and stores their number.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, kind, &raw mut part) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(part.iov_len.min(set.len())),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(8 * at..)?.first_chunk()?))
}

fn incomplete() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a register set is shorter than it should be")
}

/// The system call that a stopped thread is in; -1: none.
pub fn system_call(tid: i32) -> io::Result<i64> {
    let mut number = [0; 4];
    let got = register_set(tid, NT_ARM_SYSTEM_CALL, &mut number)?;
    if got == number.len() { Ok(i64::from(i32::from_le_bytes(number))) } else { Err(incomplete()) }
}

/// See [`ThreadState::capture`].
pub(super) fn capture(tid: i32) -> io::Result<ThreadState> {
    // `struct user_pt_regs`: x0 to x30, sp, pc, pstate.
    let mut general = [0; 8 * 34];
    let got = register_set(tid, NT_PRSTATUS, &mut general)?;
    let values: Vec<u64> = (0..REGISTER_NAMES.len()).map_while(|at| word(&general[..got], at)).collect();
    if values.len() < REGISTER_NAMES.len() {
        return Err(incomplete());
    }
    let mut thread_pointer = [0; 8];
    register_set(tid, NT_ARM_TLS, &mut thread_pointer)?;
    let mut vectors = [0; VECTOR * VECTORS];
    let got = register_set(tid, NT_FPREGSET, &mut vectors).unwrap_or(0);
    let words = vector_words(&vectors[..got], system_call(tid)? >= 0);
    Ok(ThreadState::from_values(tid, u64::from_le_bytes(thread_pointer), &values, words))
}

/// The words that could be pointers. Of a thread in a system call, which is made in a call: only what outlives one; the rest is left over
/// from whatever copied last, and would hide a lost block now and then. What SVE adds to the registers never outlives a call, and is left out.
pub(super) fn vector_words(area: &[u8], in_system_call: bool) -> Vec<u64> {
    let words =
        |area: &[u8]| -> Vec<u64> { area.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect() };
    let mut words = match in_system_call {
        true => words(area.get(SAVED).unwrap_or_default()).into_iter().step_by(2).collect(),
        false => words(area),
    };
    words.retain(|word| POINTERS.contains(word));
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_system_call_only_what_outlives_a_call_counts() {
        let mut area = vec![0; VECTOR * VECTORS];
        let mut set = |at: usize, word: u64| area[at..at + 8].copy_from_slice(&word.to_le_bytes());
        set(0, 0xffff_0000_1000);
        set(8 * VECTOR, 0xffff_0000_2000);
        set(8 * VECTOR + 8, 0xffff_0000_3000);
        set(16 * VECTOR, 0xffff_0000_4000);
        set(31 * VECTOR + 8, u64::MAX);
        assert_eq!(vector_words(&area, true), [0xffff_0000_2000]);
        assert_eq!(
            vector_words(&area, false),
            [0xffff_0000_1000, 0xffff_0000_2000, 0xffff_0000_3000, 0xffff_0000_4000]
        );
        assert!(vector_words(&[], true).is_empty());
    }

    #[test]
    fn a_thread_that_is_not_traced_has_no_registers_for_us() {
        assert!(capture(i32::MAX).is_err() && system_call(i32::MAX).is_err());
    }
}
