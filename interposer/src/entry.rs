//! What an entry stub passes on of its caller beside the frame pointer.

#[cfg(target_arch = "aarch64")]
pub use crate::aarch64::entry::Entry;

/// The stack pointer at a stub's first instruction: the return address lies there.
#[cfg(target_arch = "x86_64")]
pub type Entry = u64;

/// The stack pointer in it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn stack_pointer(entry: Entry) -> u64 {
    entry
}

/// The stack pointer in it.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub fn stack_pointer(entry: Entry) -> u64 {
    entry.sp
}
