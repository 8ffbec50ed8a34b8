//! Rendering: the report model as text and JSON, and reading it back. Sees only the report model.

pub mod errno;
pub mod flamegraph;
mod flow;
pub mod folded;
mod group;
pub mod html;
pub mod json;
pub mod load;
pub mod progress;
#[cfg(test)]
mod schema_tests;
mod stack;
pub mod style;
mod summary;
pub mod text;
pub mod units;
