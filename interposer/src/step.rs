//! One frame outwards by framehop, from a module's tables.

use framehop::{CacheNative, FrameAddress, MustNotAllocateDuringUnwind, UnwindRegsNative, Unwinder as _};

use crate::modules::Tables;
use crate::rules::{Reads, Taken};
use crate::stacks::StackRange;
use crate::sys;
use crate::unwind::Registers;

/// framehop's own memory: the rule of each address, where it has one of its forms.
pub type Remembered = CacheNative<MustNotAllocateDuringUnwind>;

/// Reads this far above a frame's own stack pointer are as safe as the frame.
const FRAME: u64 = 4096;

#[cfg(target_arch = "x86_64")]
fn native(at: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(at.pc, at.sp, at.bp)
}

#[cfg(target_arch = "x86_64")]
fn frame_pointer(registers: &UnwindRegsNative) -> u64 {
    registers.bp()
}

#[cfg(target_arch = "aarch64")]
fn native(at: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new_with_ptr_auth_mask(crate::aarch64::entry::CODE_MASK, at.pc, at.sp, at.bp)
}

#[cfg(target_arch = "aarch64")]
fn frame_pointer(registers: &UnwindRegsNative) -> u64 {
    registers.fp()
}

/// framehop's step. Reads only inside `range`, and notes each word; false: one could not be read.
#[inline(always)]
pub fn step(remembered: &mut Remembered, tables: &Tables, at: Registers, range: StackRange) -> (Taken, bool) {
    let mut reads = Reads::default();
    let Some(address) = FrameAddress::from_return_address(at.pc) else { return (Ok((None, reads)), true) };
    let mut registers = native(at);
    let mut whole = true;
    let mut read = |address: u64| {
        let mut word = [0; 8];
        let value = if !range.holds(address) {
            None
        } else if range.own || address.wrapping_sub(at.sp) < FRAME {
            // SAFETY: aligned, and inside this thread's own stack, or on the frame in use.
            Some(unsafe { *(address as *const u64) })
        } else {
            (sys::read_self(address, &mut word) == 8).then_some(u64::from_le_bytes(word))
        };
        match value {
            Some(value) => reads.note(address, value),
            None => whole = false,
        }
        value.ok_or(())
    };
    let taken = match tables.unwind_frame(address, &mut registers, remembered, &mut read) {
        Ok(Some(pc)) => Ok((Some(Registers { pc, sp: registers.sp(), bp: frame_pointer(&registers) }), reads)),
        Ok(None) => Ok((None, reads)),
        Err(_) => Err(()),
    };
    (taken, whole)
}
