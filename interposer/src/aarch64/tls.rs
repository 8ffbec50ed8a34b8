//! The thread's slot by initial-exec TLS: its offset is in the GOT, tpidr_el0 holds the thread pointer.
//!
//! The slot itself is defined beside [`crate::thread::Slot`]; a descriptor (TLSDESC, the default of this processor) would call a
//! function of the loader's that may allocate.

use core::arch::{asm, global_asm};

// The thread's last stamp: see `clock`.
global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".balign 8",
    ".globl avleak_last_stamp",
    ".hidden avleak_last_stamp",
    ".type avleak_last_stamp,@object",
    ".size avleak_last_stamp,8",
    "avleak_last_stamp: .zero 8",
    ".popsection",
);

macro_rules! address_of {
    ($symbol:literal) => {{
        let at: u64;
        // SAFETY: the symbol's offset from the thread pointer is in the GOT (initial-exec); both are only read.
        unsafe {
            asm!(
                concat!("adrp {at}, :gottprel:", $symbol),
                concat!("ldr {at}, [{at}, :gottprel_lo12:", $symbol, "]"),
                "mrs {thread}, tpidr_el0",
                "add {at}, {at}, {thread}",
                at = out(reg) at,
                thread = out(reg) _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        at
    }};
}

/// Where this thread's slot lies.
#[inline(always)]
pub fn slot() -> u64 {
    address_of!("avleak_thread_slot")
}

/// Where this thread's last stamp lies.
#[inline(always)]
pub fn last_stamp() -> *mut u64 {
    address_of!("avleak_last_stamp") as *mut u64
}
