//! Where a call came from: on AArch64 the return address is in a register, not on the stack.

use crate::unwind::Registers;

/// The stack pointer and the return address (x30) at a stub's first instruction. Passed by value it takes two consecutive
/// registers (AAPCS64, 6.8.2: a composite of at most 16 bytes), into which the stubs put them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entry {
    /// Stack pointer.
    pub sp: u64,
    pc: u64,
}

const _: () = assert!(size_of::<Entry>() == 16, "two registers");

impl Entry {
    /// The caller's registers: the call has left its stack pointer as it was.
    #[inline(always)]
    pub fn caller(self, fp: u64) -> Registers {
        Registers { pc: strip_signature(self.pc), sp: self.sp, bp: fp }
    }
}

/// Bits of a code address. What lies above may be the signature of a signed return address: of user addresses of 48 bits those from
/// 48 up are free for it. A kernel with 52 bits gives addresses above 48 only to who asks mmap for them, and never to code.
const CODE_BITS: u64 = (1 << 48) - 1;

/// A return address without its signature (pointer authentication).
#[inline(always)]
pub fn strip_signature(pc: u64) -> u64 {
    pc & CODE_BITS
}

/// The same for framehop.
pub const CODE_MASK: framehop::aarch64::PtrAuthMask = framehop::aarch64::PtrAuthMask(CODE_BITS);
