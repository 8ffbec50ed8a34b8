//! Newline-delimited JSON for databases (DuckDB, ClickHouse …): one flat object a line, one for each process and one for each of its groups.
//!
//! Every line has `record` (`process` or `group`) and names its process, so that tables can be made of either alone. What is not known
//! is null. Later versions add fields.

use super::load::AnyReport;
use super::{brief, stack, summary};
use crate::report::model::{Class, Group, Level, Report, Verdict};
use serde::Serialize;

/// Which process a line is about.
#[derive(Clone, Copy, Serialize)]
struct Whose<'a> {
    host: Option<&'a str>,
    service: Option<&'a str>,
    build_id: Option<&'a str>,
    process: &'a str,
    pid: u32,
    /// When avleak armed, RFC 3339.
    started: &'a str,
    /// When it was checked, RFC 3339.
    checked: &'a str,
}

#[derive(Serialize)]
struct ProcessLine<'a> {
    record: &'static str,
    #[serde(flatten)]
    whose: Whose<'a>,
    verdict: Verdict,
    level: Level,
    duration_s: f64,
    stopped_ms: f64,
    frames_allocated: u64,
    frames_freed: u64,
    allocations: u64,
    frees: u64,
    events_dropped: u64,
    leaked_frames: u64,
    leaked_packets: u64,
    leaked_blocks: u64,
    leaked_bytes: u64,
    pinned_bytes: u64,
}

#[derive(Serialize)]
struct GroupLine<'a> {
    record: &'static str,
    #[serde(flatten)]
    whose: Whose<'a>,
    group: &'a str,
    class: Class,
    object: &'a str,
    leak: bool,
    outermost: u64,
    count: u64,
    bytes: u64,
    pinned_bytes: u64,
    age_min_s: f64,
    age_max_s: f64,
    rate_per_minute: f64,
    rate_per_1000_frames: f64,
    siblings_allocated: u64,
    function: Option<String>,
    file: Option<&'a str>,
    line: Option<u32>,
    module: Option<&'a str>,
    freed_at: Option<String>,
    /// Function names, outermost first.
    stack: Vec<String>,
}

/// Every process and every group.
pub fn ndjson(report: &AnyReport) -> Vec<u8> {
    let mut out = Vec::new();
    report.processes().iter().for_each(|process| write(process, &mut out));
    out
}

/// The lines of one process.
pub fn write(report: &Report, out: &mut Vec<u8>) {
    let origin = &report.target.origin;
    let whose = Whose {
        host: origin.host.as_deref(),
        service: origin.service.as_deref(),
        build_id: origin.build_id.as_deref(),
        process: summary::program(&report.target),
        pid: report.target.pid,
        started: &report.target.started,
        checked: &report.check.started,
    };
    let (observed, leaks) = (&report.observed, &report.leaks);
    line(
        out,
        &ProcessLine {
            record: "process",
            whose,
            verdict: report.verdict,
            level: report.level,
            duration_s: report.target.duration_s,
            stopped_ms: report.check.stopped_ms,
            frames_allocated: observed.frames_allocated,
            frames_freed: observed.frames_freed,
            allocations: observed.allocations,
            frees: observed.frees,
            events_dropped: observed.events_dropped,
            leaked_frames: leaks.frames,
            leaked_packets: leaks.packets,
            leaked_blocks: leaks.blocks,
            leaked_bytes: leaks.bytes,
            pinned_bytes: leaks.pinned_bytes,
        },
    );
    report.groups.iter().for_each(|group| line(out, &group_line(whose, group)));
}

fn group_line<'a>(whose: Whose<'a>, group: &'a Group) -> GroupLine<'a> {
    let blamed = brief::blamed(group);
    let freed_at = group.freed_elsewhere.first().and_then(|site| stack::own_frame(&site.stack).or(site.stack.first()));
    GroupLine {
        record: "group",
        whose,
        group: &group.id,
        class: group.class,
        object: &group.object,
        leak: group.leak,
        outermost: group.outermost,
        count: group.count,
        bytes: group.bytes,
        pinned_bytes: group.pinned_bytes,
        age_min_s: group.age_min_s,
        age_max_s: group.age_max_s,
        rate_per_minute: group.rate_per_minute,
        rate_per_1000_frames: group.rate_per_1000_frames,
        siblings_allocated: group.siblings_allocated,
        function: blamed.map(stack::name),
        file: blamed.and_then(|frame| frame.file.as_deref()),
        line: blamed.and_then(|frame| frame.line),
        module: blamed.and_then(|frame| frame.module.as_deref()),
        freed_at: freed_at.map(brief::site),
        stack: group.stack.iter().rev().map(stack::name).collect(),
    }
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) {
    match serde_json::to_writer(&mut *out, value) {
        Ok(()) => out.push(b'\n'),
        Err(error) => unreachable!("a vector takes every byte, and all keys are strings: {error}"),
    }
}
