//! What a CI job shows of a run: one summary, annotations and a step summary for GitHub, a code-quality report for GitLab.
//!
//! A test command starts many processes, and one faulty line leaks in each of them. So all renderings here speak of
//! [`findings::Finding`]s: leak groups, each once, whatever number of processes it was found in.

pub mod findings;
pub mod github;
pub mod gitlab;
pub mod step_summary;
pub mod summary;
pub mod workspace;
