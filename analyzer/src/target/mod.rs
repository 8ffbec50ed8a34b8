//! Reading the target: the only code that touches it.
//!
//! [`process_memory`] reads its memory, [`maps`] says what lies where, [`threads`] lists threads and their registers,
//! [`tracer`] stops it when it is about to end, or for a moment ([`hurry`]); [`child`] starts it, [`exit_status`] asks how it ended.
//! [`core`] is a process that is no more, as its core file has it.
//!
//! **Architecture Invariant**: nothing here writes to the target's memory or registers.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod child;
pub mod core;
pub mod exit_status;
pub mod hurry;
pub mod maps;
pub mod memory;
pub mod process_memory;
pub mod threads;
pub mod touched;
pub mod tracer;
