//! The report: its model, what it concludes, and how it is built from a check.

mod failure;
pub mod gated;
pub mod golang;
pub mod groups;
pub mod model;
pub mod origin;
pub mod post_mortem;
#[cfg(test)]
pub(crate) mod sample;
pub mod timeline;
pub mod verdict;
pub mod words;
