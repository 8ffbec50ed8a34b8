//! Stamps: the virtual counter (CNTVCT_EL0), which every core reads alike and Linux lets programs read.
//!
//! It may be slow: 24 MHz is common, and a block is allocated, handed to another thread, freed and handed out again within a few ticks. So
//! that the order of what happens to one address is that of its stamps,
//! * a free waits for the next tick: whatever was allocated before it began has an earlier one;
//! * in one tick an allocation counts as later than a free.

use core::arch::asm;

use avleak_wire::layout::AARCH64_TICK_BITS;

/// Looks at the counter while it stands still; no counter is so slow.
const PATIENCE: u32 = 1 << 16;

/// A stamp not older than anything this thread did before.
#[inline(always)]
pub fn stamp_after() -> u64 {
    // SAFETY: waits until all earlier instructions are executed: without it the counter may be read early.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    ticks() << AARCH64_TICK_BITS | 1
}

/// A stamp for a free that is about to happen.
#[inline(always)]
pub fn stamp_before() -> u64 {
    let first = ticks();
    let mut now = ticks();
    for _ in 0..PATIENCE {
        if now != first {
            break;
        }
        now = ticks();
    }
    // SAFETY: keeps what follows, the real free, behind the counter.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    now << AARCH64_TICK_BITS
}

#[inline(always)]
fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter. Not marked `nomem`, so that the real free is not moved before it.
    unsafe { asm!("mrs {ticks}, cntvct_el0", ticks = out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}
