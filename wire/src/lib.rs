//! The contract between the interposer (producer) and the analyzer (consumer): one shared-memory segment a process.
//!
//! * [`layout`]: where everything lies in the segment, with compile-time checks.
//! * [`event`]: the 32-byte event and its decoder.
//! * [`ring`]: the single-producer, single-consumer ring of events that each thread owns.
//! * [`young`]: allocations that a thread keeps to itself until it is clear that they outlive it, and those that did not;
//!   [`table`]: what their thread does with them.
//! * [`options`]: the keys of AVLEAK_OPTIONS.
//! * [`registration`]: the messages on the unix socket by which a segment is handed over.
//!
//! Guarantees: fixed-width little-endian fields; no `usize`, `bool`, pointer or Rust enum in shared memory; a reader copies
//! a field once, checks it, and only then uses it. A change of layout changes [`layout::MAJOR`] or [`layout::MINOR`] and
//! `docs/wire-format.md`.
//!
//! This crate is not for interpreting events: it knows no types, no stacks beyond their ids, no files.

#![no_std]

pub mod event;
pub mod layout;
pub mod options;
pub mod registration;
pub mod ring;
pub mod table;
pub mod young;

/// The atomics of shared memory: loom's where the protocol is explored.
mod sync {
    #[cfg(not(loom))]
    pub use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
}
