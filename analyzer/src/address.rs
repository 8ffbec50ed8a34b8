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
    /// Hands on what of it lies in none of others, which ascend and may overlap.
    pub fn each_outside(self, others: impl IntoIterator<Item = Self>, mut part: impl FnMut(Self)) {
        let mut at = self.start;
        for other in others.into_iter().take_while(|other| other.start < self.end) {
            if at < other.start {
                part(Self { start: at, end: other.start });
            }
            at = at.max(other.end);
        }
        if at < self.end {
            part(Self { start: at, end: self.end });
        }
    }

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
