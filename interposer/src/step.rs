//! One frame outwards by framehop, from a module's tables.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64};
use framehop::{FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _};

use crate::modules::Tables;
use crate::rules::{Reads, Taken};
use crate::stacks::StackRange;
use crate::sys;
use crate::unwind::Registers;

/// framehop's own memory: the rule of each address, where it has one of its forms.
pub type Remembered = CacheX86_64<MustNotAllocateDuringUnwind>;

/// Reads this far above a frame's own stack pointer are as safe as the frame.
const FRAME: u64 = 4096;

/// framehop's step. Reads only inside `range`, and notes each word; false: one could not be read.
#[inline(always)]
pub fn step(remembered: &mut Remembered, tables: &Tables, at: Registers, range: StackRange) -> (Taken, bool) {
    let mut reads = Reads::default();
    let Some(address) = FrameAddress::from_return_address(at.pc) else { return (Ok((None, reads)), true) };
    let mut registers = UnwindRegsX86_64::new(at.pc, at.sp, at.bp);
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
        Ok(Some(pc)) => Ok((Some(Registers { pc, sp: registers.sp(), bp: registers.bp() }), reads)),
        Ok(None) => Ok((None, reads)),
        Err(_) => Err(()),
    };
    (taken, whole)
}
