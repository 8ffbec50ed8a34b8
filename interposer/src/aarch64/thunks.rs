//! The second witness's thunks: see [`crate::slots`], whose table and handler they use.

use core::arch::{global_asm, naked_asm};

use crate::slots::{self, Entry};
use crate::{control, recorder, thread};

// 16 bytes each: which entry, and on to the common part; x2 carries the index, for no function behind these has more than two
// arguments. The common part does what that of x86-64 does, in registers that a call may change. A thunk is entered by BLR, or by BR from
// a PLT entry: both need the landing pad where branch targets are enforced. On from here BR uses x16, which the same rule allows.
//
// `lazy` is read before `real`, in that order (LDARB): whoever binds the slot writes `real` first.
global_asm!(
    ".pushsection .text.avleak_thunks,\"ax\",@progbits",
    ".balign 16",
    ".hidden avleak_thunks",
    ".globl avleak_thunks",
    ".type avleak_thunks,@function",
    "avleak_thunks:",
    ".set avleak_thunk_index, 0",
    ".rept 2048",
    ".balign 16",
    "hint #34", // BTI c
    "movz w2, #avleak_thunk_index",
    "b 77f",
    ".set avleak_thunk_index, avleak_thunk_index + 1",
    ".endr",
    ".balign 16",
    "77:",
    "adrp x9, :gottprel:avleak_thread_slot",
    "ldr x9, [x9, :gottprel_lo12:avleak_thread_slot]",
    "mrs x10, tpidr_el0",
    "add x9, x9, x10",
    "ldr w10, [x9, #{generation}]",
    "cbz w10, 78f",
    "adrp x11, {armed}",
    "ldr w11, [x11, :lo12:{armed}]",
    "cmp w10, w11",
    "b.ne 78f",
    "ldr x10, [x9, #{calls}]",
    "cbz x10, 78f",
    "adrp x11, {entries}",
    "add x11, x11, :lo12:{entries}",
    "add x11, x11, x2, lsl #5",
    "add x12, x11, #{lazy}",
    "ldarb w12, [x12]",
    "cbnz w12, 78f",
    "ldr w12, [x11, #{api}]",
    "adrp x13, {count_only}",
    "ldr w13, [x13, :lo12:{count_only}]",
    "lsr w13, w13, w12",
    "tbz w13, #0, 78f",
    "ldr x13, [x10, x12, lsl #3]",
    "add x13, x13, #1",
    "str x13, [x10, x12, lsl #3]",
    "ldr x16, [x11, #{real}]",
    "br x16",
    "78:",
    "mov x3, sp",
    "mov x4, x30",
    "mov x5, x29",
    "b {called}",
    ".size avleak_thunks, . - avleak_thunks",
    ".popsection",
    called = sym slots::called,
    armed = sym control::ARMED_PAGE,
    entries = sym slots::ENTRIES,
    count_only = sym recorder::COUNT_ONLY,
    generation = const thread::SLOT_GENERATION,
    calls = const thread::SLOT_CALLS,
    lazy = const core::mem::offset_of!(Entry, lazy),
    api = const core::mem::offset_of!(Entry, api),
    real = const core::mem::offset_of!(Entry, real),
);

/// Calls `real` with two arguments as an entry of the PLT would: the address of its call slot is in x16.
///
/// A slot that is not bound leads to the head of its module's PLT, for every function the same: which one is meant only x16 tells. To
/// a function x16 means nothing.
///
/// # Safety
/// `real` is what ld.so put into `slot`, and takes these arguments.
#[unsafe(naked)]
pub unsafe extern "C" fn call(first: u64, second: u64, slot: u64, real: u64) -> u64 {
    naked_asm!("hint #34", "mov x16, x2", "mov x17, x3", "br x17")
}
