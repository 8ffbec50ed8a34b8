//! The report: its model, and how it is built from a check.

pub mod model;
