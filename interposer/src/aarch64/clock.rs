//! Stamps: the virtual counter (CNTVCT_EL0), which every core reads alike and Linux lets programs read.
//!
//! It may be slow: 24 MHz is common, where a thread frees a block and gets it back within one tick. Stamps of one thread are therefore
//! made to rise: a tick is 16 units, and each stamp is at least one more than the thread's last. Between threads the counter alone
//! decides: a block that goes from one core to another takes longer than a tick of 42 ns.

use core::arch::asm;

use super::tls;

/// Units of a stamp in a tick, as a power of two. The analyzer's reading has the same (analyzer/src/session/clock.rs).
const SUBDIVISIONS: u32 = 4;

/// A stamp not older than anything this thread did before.
#[inline(always)]
pub fn stamp_after() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter. ISB waits until all earlier instructions are executed: without it the counter may be read early.
    unsafe { asm!("isb", "mrs {ticks}, cntvct_el0", ticks = out(reg) ticks, options(nostack, preserves_flags)) };
    rising(ticks)
}

/// A stamp for a free that is about to happen.
#[inline(always)]
pub fn stamp_before() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter; ISB keeps what follows, the real free, behind it.
    unsafe { asm!("mrs {ticks}, cntvct_el0", "isb", ticks = out(reg) ticks, options(nostack, preserves_flags)) };
    rising(ticks)
}

#[inline(always)]
fn rising(ticks: u64) -> u64 {
    let last = tls::last_stamp();
    // SAFETY: this thread's own word. A signal handler between the two lines may give a stamp out twice, for different addresses.
    unsafe {
        let stamp = (ticks << SUBDIVISIONS).max(last.read_volatile().wrapping_add(1));
        last.write_volatile(stamp);
        stamp
    }
}
