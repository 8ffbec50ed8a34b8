//! The thread's slot by initial-exec TLS: its offset is in the GOT, tpidr_el0 holds the thread pointer.
//!
//! The slot itself is defined beside [`crate::thread::Slot`]; a descriptor (TLSDESC, the default of this processor) would call a
//! function of the loader's that may allocate.

use core::arch::asm;

/// Where this thread's slot lies.
#[inline(always)]
pub fn slot() -> u64 {
    let at: u64;
    // SAFETY: the slot's offset from the thread pointer is in the GOT (initial-exec); both are only read.
    unsafe {
        asm!(
            "adrp {at}, :gottprel:avleak_thread_slot",
            "ldr {at}, [{at}, :gottprel_lo12:avleak_thread_slot]",
            "mrs {thread}, tpidr_el0",
            "add {at}, {at}, {thread}",
            at = out(reg) at,
            thread = out(reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    at
}
