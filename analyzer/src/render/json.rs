//! Reports as JSON.

use super::file;
use serde::Serialize;
use std::path::Path;

pub use super::file::WriteError;

/// Pretty JSON with a newline at its end.
pub fn to_string(report: &impl Serialize) -> String {
    match serde_json::to_string_pretty(report) {
        Ok(mut text) => {
            text.push('\n');
            text
        }
        // The model has string keys only and no serializer that fails.
        Err(error) => unreachable!("the report model always serializes: {error}"),
    }
}

/// Writes `report` to `path` as [`file::write`] does.
///
/// # Errors
/// See [`file::write`].
pub fn write(path: &Path, report: &impl Serialize) -> Result<(), WriteError> {
    file::write(path, to_string(report).as_bytes())
}

/// Writes a text as [`write`] writes a report.
///
/// # Errors
/// As there.
pub fn write_text(path: &Path, text: &str) -> Result<(), WriteError> {
    file::write(path, text.as_bytes())
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
