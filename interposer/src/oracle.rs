//! Whether a stack is right: the same by the `backtrace` crate, with `verify=1`.

use core::ffi::c_void;

use crate::unwind::{DEPTH, Registers};

unsafe extern "C" {
    /// The function that the unwinder's tables have for an address; null where they have none (the C++ ABI's unwinder).
    fn _Unwind_FindEnclosingFunction(pc: *mut c_void) -> *mut c_void;
}

/// Unwinds once more, by the `backtrace` crate; false where that differs. Both start at the hook's caller. `is_whole`: `frames` go up to the
/// stack's end.
#[cold]
pub fn agrees(start: u64, frames: &[Registers], is_whole: bool) -> bool {
    let mut theirs = [0u64; DEPTH + 64];
    let mut count = 0;
    // SAFETY: called on one thread at a time as far as the crate's own state goes: only `trace`, no symbolization.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            theirs[count] = frame.ip() as u64;
            count += 1;
            count < theirs.len()
        });
    }
    let theirs = &theirs[..count];
    let first = theirs.iter().position(|&pc| pc == start).unwrap_or(count);
    let theirs = &theirs[first..];
    let theirs = match theirs.split_last() {
        // libgcc ends some stacks with a null frame.
        Some((0, rest)) => rest,
        _ => theirs,
    };
    let equal = frames.iter().zip(theirs).all(|(ours, &pc)| ours.pc == pc);
    let same_end = if frames.len() == DEPTH { theirs.len() >= DEPTH } else { theirs.len() == frames.len() };
    // Code of crtstuff, which runs a library's destructors, has no tables: the crate ends there, with that frame (libgcc) or without (LLVM).
    let last = theirs.len().checked_sub(1).and_then(|last| frames.get(last));
    let ends_early = || [last, frames.get(theirs.len())].into_iter().flatten().any(|frame| !has_tables(frame.pc));
    // Go's code has no tables: the crate ends there.
    equal && if is_whole { same_end || ends_early() } else { theirs.len() >= frames.len().min(1) }
}

/// A return address: the call lies before it.
fn has_tables(pc: u64) -> bool {
    // SAFETY: looks an address up; nothing is read there.
    unsafe { !_Unwind_FindEnclosingFunction((pc - 1) as *mut c_void).is_null() }
}
