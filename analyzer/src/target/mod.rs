//! Reading the target: the only code that touches it.

pub mod memory;
