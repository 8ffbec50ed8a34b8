//! Rendering: the report model in every format, and reading it back. Sees only the report model.
//!
//! [`format`] lists the formats; each has a file of its own.

pub(crate) mod brief;
pub mod ci;
pub(crate) mod columns;
pub mod csv;
pub mod diff;
pub mod errno;
pub mod file;
pub mod flamegraph;
pub mod fleet;
pub(crate) mod flow;
pub mod folded;
pub mod format;
mod gate;
#[cfg(test)]
pub(crate) mod golden;
mod goroutines;
mod group;
pub mod html;
pub mod json;
pub mod junit;
pub mod load;
pub mod markdown;
pub mod ndjson;
mod post_mortem;
pub mod pprof;
mod pprof_proto;
pub mod progress;
pub mod sarif;
#[cfg(test)]
mod schema_tests;
pub(crate) mod stack;
pub mod style;
mod summary;
pub mod text;
pub mod units;
