//! placeholder

pub mod preflight;
pub mod supervise;
