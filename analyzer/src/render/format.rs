//! The formats of a report: one list, from which the command line, the tests and the callers take them.

use super::folded::{self, Weight};
use super::load::AnyReport;
use super::{csv, flamegraph, html, json, junit, markdown, ndjson, pprof, sarif};
use crate::report::model::{Frame, Group};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What a report can be written as, beside the text on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One self-contained page.
    Html,
    /// `docs/report.schema.json`.
    Json,
    /// Gzipped `profile.proto`.
    Pprof,
    /// SVG.
    Flamegraph,
    /// Folded stacks.
    Folded,
    /// RFC 4180.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// JUnit XML.
    Junit,
    /// SARIF 2.1.0.
    Sarif,
    /// GitHub's Markdown.
    Markdown,
}

/// What some formats leave open.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// What flame graphs and folded stacks count; `None`: pinned bytes where any are pinned, else objects.
    pub weight: Option<Weight>,
    /// Folder below which source paths are made relative in JUnit, SARIF and Markdown, absolute; `None`: they stay as the debug
    /// information has them.
    pub source_root: Option<PathBuf>,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Html,
        Self::Json,
        Self::Pprof,
        Self::Flamegraph,
        Self::Folded,
        Self::Csv,
        Self::Ndjson,
        Self::Junit,
        Self::Sarif,
        Self::Markdown,
    ];

    /// As the command line names it, without the dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
            Self::Pprof => "pprof",
            Self::Flamegraph => "flamegraph",
            Self::Folded => "folded",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Junit => "junit",
            Self::Sarif => "sarif",
            Self::Markdown => "markdown",
        }
    }

    /// The usual end of a file's name, without the first dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
            Self::Pprof => "pb.gz",
            Self::Flamegraph => "svg",
            Self::Folded => "folded",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Junit => "xml",
            Self::Sarif => "sarif",
            Self::Markdown => "md",
        }
    }

    /// No text: not for a terminal.
    pub fn is_binary(self) -> bool {
        self == Self::Pprof
    }

    /// The whole file. Never fails: every report has every form, be it "nothing leaked".
    pub fn render(self, report: &AnyReport, options: &RenderOptions) -> Vec<u8> {
        let weight = || {
            let groups = report.processes().iter().flat_map(|process| &process.groups);
            options.weight.unwrap_or_else(|| Weight::fitting(groups))
        };
        match self {
            Self::Html => html::html(report).into_bytes(),
            Self::Json => match report {
                AnyReport::Process(report) => json::to_string(report).into_bytes(),
                AnyReport::Run(run) => json::to_string(run).into_bytes(),
            },
            Self::Pprof => pprof::pprof(report),
            Self::Flamegraph => flamegraph::of_report(report, weight()).into_bytes(),
            Self::Folded => folded::folded(report, weight()).into_bytes(),
            Self::Csv => csv::csv(report),
            Self::Ndjson => ndjson::ndjson(report),
            Self::Junit => junit::junit(&below(report, options)),
            Self::Sarif => sarif::sarif(&below(report, options), options.source_root.as_deref()),
            Self::Markdown => markdown::markdown(&below(report, options)).into_bytes(),
        }
    }
}

/// The report with relative paths for the sources below the root: who reads it has them elsewhere.
fn below<'a>(report: &'a AnyReport, options: &RenderOptions) -> Cow<'a, AnyReport> {
    let Some(root) = options.source_root.as_deref().filter(|root| *root != Path::new("/")) else {
        return Cow::Borrowed(report);
    };
    let mut report = report.clone();
    let processes = match &mut report {
        AnyReport::Process(process) => std::slice::from_mut(process.as_mut()),
        AnyReport::Run(run) => &mut run.processes,
    };
    processes.iter_mut().flat_map(|process| &mut process.groups).flat_map(frames).for_each(|frame| {
        let relative = frame.file.as_deref().and_then(|file| Path::new(file).strip_prefix(root).ok());
        // A path of the target's is text already.
        if let Some(relative) = relative.and_then(Path::to_str).filter(|relative| !relative.is_empty()) {
            frame.file = Some(relative.to_string());
        }
    });
    Cow::Owned(report)
}

fn frames(group: &mut Group) -> impl Iterator<Item = &mut Frame> {
    let freed = group.freed_elsewhere.iter_mut().flat_map(|site| &mut site.stack);
    let refs = group.refs.iter_mut().flat_map(|holder| &mut holder.stack);
    let held = group.held_by.iter_mut().flat_map(|holder| &mut holder.stack);
    group.stack.iter_mut().chain(freed).chain(refs).chain(held)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
