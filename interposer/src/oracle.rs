//! Whether a stack is right: the same by the `backtrace` crate, with `verify=1`.

use crate::unwind::{DEPTH, Registers};

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
    // Go's code has no tables: the crate ends there.
    equal && if is_whole { same_end } else { theirs.len() >= frames.len().min(1) }
}
