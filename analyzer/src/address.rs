//! Addresses in the target: numbers, never pointers.

use std::fmt;

/// An address in the target's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TargetAddr(pub u64);

/// A word as an address: on AArch64 the processor ignores the topmost byte of a pointer, where an allocator may put a tag (MTE).
#[inline(always)]
pub const fn untagged(word: u64) -> u64 {
    if cfg!(target_arch = "aarch64") { word & ((1 << 56) - 1) } else { word }
}

/// A half-open range of the target's addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TargetRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte; never below `start`.
    pub end: u64,
}

impl TargetRange {
    /// From a start and a length in bytes, cut at the end of the address space.
    pub fn with_len(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Holds `address`.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

impl fmt::Display for TargetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for TargetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
