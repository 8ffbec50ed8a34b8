//! One frame outwards by framehop, from a module's tables, on AArch64.

use framehop::aarch64::{CacheAarch64, UnwindRegsAarch64};
use framehop::{FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _};

use crate::aarch64::entry::{CODE_MASK, strip_signature};
use crate::modules::Tables;
use crate::rules::{Reads, Taken};
use crate::stacks::StackRange;
use crate::sys;
use crate::unwind::Registers;

/// framehop's own memory: the rule of each address, where it has one of its forms.
pub type Remembered = CacheAarch64<MustNotAllocateDuringUnwind>;

/// Reads this far above a frame's own stack pointer are as safe as the frame.
const FRAME: u64 = 4096;

/// What framehop is told instead of a saved frame pointer of 0, which it takes for the stack's end. It is none where tables lead on: clone
/// starts a thread with a frame pointer of 0, start_thread saves that, and its caller is known all the same.
const NO_FRAME: u64 = u64::MAX;

/// framehop's step. Reads only inside `range`, and notes each word; false: one could not be read.
#[inline(always)]
pub fn step(remembered: &mut Remembered, tables: &Tables, at: Registers, range: StackRange) -> (Taken, bool) {
    let mut reads = Reads::default();
    let Some(address) = FrameAddress::from_return_address(at.pc) else { return (Ok((None, reads)), true) };
    let mut registers = UnwindRegsAarch64::new_with_ptr_auth_mask(CODE_MASK, at.pc, at.sp, at.bp);
    let mut whole = true;
    let mut count = 0;
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
        count += 1;
        // The return address is read first, but by rules of other forms; it is looked at below.
        value.map(|value| if count == 2 && value == 0 { NO_FRAME } else { value }).ok_or(())
    };
    let taken = match tables.unwind_frame(address, &mut registers, remembered, &mut read) {
        Ok(Some(pc)) if pc != strip_signature(NO_FRAME) => {
            let fp = registers.fp();
            let bp = if fp == NO_FRAME { 0 } else { fp };
            Ok((Some(Registers { pc, sp: registers.sp(), bp }), reads))
        }
        Ok(_) => Ok((None, reads)),
        // Code without tables is followed by frame pointers: there 0 is the end.
        Err(_) if at.bp == 0 => Ok((None, reads)),
        Err(_) => Err(()),
    };
    (taken, whole)
}
