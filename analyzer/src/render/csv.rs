//! CSV by RFC 4180: one row a group, the columns of [`COLUMNS`].

use super::brief;
use super::load::AnyReport;
use super::{stack, summary};
use crate::report::model::{Group, Report};

/// The columns. Later versions add some at the end only.
///
/// | column | |
/// |---|---|
/// | process, pid | the executable's name, process id |
/// | group | id, the same from run to run |
/// | class, object | as in JSON |
/// | leak | `true`: the verdict counts it |
/// | outermost, count | objects |
/// | bytes, pinned_bytes | bytes |
/// | exclusive | `true`: all live refs of the pinned buffers are lost |
/// | format, width, height, nb_samples | of frames; empty where they differ or are unknown |
/// | pts_first, pts_last | in the stream's time base |
/// | age_min_s, age_max_s | seconds |
/// | rate_per_minute, rate_per_1000_frames | objects; these four to a millionth |
/// | siblings_allocated, siblings_freed | objects of the same stack, and how many of them were freed |
/// | function, file, line, module | who asked for it: the innermost frame outside FFmpeg and the system |
/// | freed_at | where most siblings are freed: function and place |
/// | held_by | the holder next to the object |
/// | stack | function names, outermost first, joined by `;` as in folded stacks |
pub const COLUMNS: [&str; 30] = [
    "process",
    "pid",
    "group",
    "class",
    "object",
    "leak",
    "outermost",
    "count",
    "bytes",
    "pinned_bytes",
    "exclusive",
    "format",
    "width",
    "height",
    "nb_samples",
    "pts_first",
    "pts_last",
    "age_min_s",
    "age_max_s",
    "rate_per_minute",
    "rate_per_1000_frames",
    "siblings_allocated",
    "siblings_freed",
    "function",
    "file",
    "line",
    "module",
    "freed_at",
    "held_by",
    "stack",
];

/// Every group of every process, after a line of column names.
pub fn csv(report: &AnyReport) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut write = |row: &[String]| match writer.write_record(row) {
        Ok(()) => {}
        Err(error) => unreachable!("a vector takes every byte, and every row has as many cells: {error}"),
    };
    write(&COLUMNS.map(str::to_string));
    for process in report.processes() {
        for group in &process.groups {
            write(&row(process, group));
        }
    }
    match writer.into_inner() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a vector takes every byte: {error}"),
    }
}

fn row(process: &Report, group: &Group) -> [String; COLUMNS.len()] {
    fn optional(value: Option<impl ToString>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let blamed = brief::blamed(group);
    let freed: u64 = group.freed_elsewhere.iter().map(|site| site.count).sum();
    let freed_at = group.freed_elsewhere.first().and_then(|site| stack::own_frame(&site.stack).or(site.stack.first()));
    let names: Vec<String> = group.stack.iter().rev().map(|frame| stack::name(frame).replace(';', ":")).collect();
    [
        text(summary::program(&process.target)),
        process.target.pid.to_string(),
        text(&group.id),
        group.class.key().to_string(),
        text(&group.object),
        group.leak.to_string(),
        group.outermost.to_string(),
        group.count.to_string(),
        group.bytes.to_string(),
        group.pinned_bytes.to_string(),
        group.exclusive.to_string(),
        text(group.format.as_deref().unwrap_or_default()),
        optional(group.width),
        optional(group.height),
        optional(group.nb_samples),
        optional(group.pts_first),
        optional(group.pts_last),
        decimal(group.age_min_s),
        decimal(group.age_max_s),
        decimal(group.rate_per_minute),
        decimal(group.rate_per_1000_frames),
        group.siblings_allocated.to_string(),
        freed.to_string(),
        text(&blamed.map(stack::name).unwrap_or_default()),
        text(blamed.and_then(|frame| frame.file.as_deref()).unwrap_or_default()),
        optional(blamed.and_then(|frame| frame.line)),
        text(blamed.and_then(|frame| frame.module.as_deref()).unwrap_or_default()),
        text(&freed_at.map(brief::site).unwrap_or_default()),
        text(group.held_by.last().map_or("", |holder| &holder.what)),
        text(&names.join(";")),
    ]
}

/// To a millionth: more was not measured, and the last digits of a double do not outlive the way through JSON.
fn decimal(value: f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

/// A cell of text. One that a spreadsheet would run as a formula gets a `'` before it: the names come from the target.
fn text(value: &str) -> String {
    let value = brief::clean(value);
    if value.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{value}") } else { value }
}
