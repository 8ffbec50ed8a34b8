//! Rendering: the report model as text and JSON, and reading it back. Sees only the report model.

pub mod diff;
pub mod errno;
mod flow;
mod gate;
mod group;
pub mod json;
pub mod load;
pub mod progress;
#[cfg(test)]
mod schema_tests;
pub(crate) mod stack;
pub mod style;
mod summary;
pub mod text;
pub mod units;
