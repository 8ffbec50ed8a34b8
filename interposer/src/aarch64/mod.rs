//! What is written for AArch64 alone, beside the modules that hold its x86-64 counterpart.
//!
//! * [`entry`]: what a stub passes on; `aarch64/stubs.rs` and `aarch64/step.rs` stand in for `stubs.rs` and `step.rs`.
//! * [`signing`]: tables of code that signs its return addresses; [`thunks`]: the second witness's thunks; [`tls`]: the thread's slot; [`clock`]: stamps.
//!
//! Built for every commit, and run under emulation; never run on hardware (docs/compatibility.md).

pub mod clock;
pub mod entry;
pub mod signing;
pub mod thunks;
pub mod tls;
