//! `avleak merge REPORT…`: the reports of many processes and machines, summed.

use super::outputs::check_writable;
use crate::fleet::Merger;
use crate::fleet::model::Fleet;
use crate::render::style::ColorChoice;
use crate::render::text::TextOptions;
use crate::render::{errno, file, fleet as render, json, load, ndjson};
use crate::report::model::Verdict;
use crate::report::verdict::{EXIT_AVLEAK, EXIT_CLEAN, EXIT_INCONCLUSIVE};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Exit status where a process leaks.
const EXIT_LEAKS: i32 = 1;

/// Sum the reports of many processes and machines: which leak groups there are, in how many processes, on which hosts.
///
/// The same group of two builds is counted as one. Of a process that was reported several times the latest report counts.
///
/// Exits with 0: all are clean, 1: some leak, 2: an error, 3: some could not be judged, or a file could not be read.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Reports, as `avleak run --json FILE` or a bare LD_PRELOAD wrote them, or folders of them (*.json); `-` is stdin
    #[arg(required = true, value_name = "REPORT.json|FOLDER")]
    reports: Vec<PathBuf>,
    /// Also write the sum as JSON (avleak-fleet/1) to FILE; `-` is stdout, instead of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Also write one JSON object a line to FILE, for each process and each of its groups, for DuckDB, ClickHouse and others; `-` is stdout,
    /// instead of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    ndjson: Option<PathBuf>,
    /// Keep groups of different builds apart
    #[arg(long)]
    by_build: bool,
    /// No text
    #[arg(long, short)]
    quiet: bool,
    /// Show every group, host and file, also groups that no verdict counts, and whole stacks
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
}

/// Runs the subcommand on this process's stdout and stderr; returns the exit status.
pub fn run(args: &MergeArgs) -> i32 {
    run_on(args, &mut io::stdout()).unwrap_or_else(|problem| {
        // Where stderr is gone as well there is no one left to tell.
        let _ = writeln!(io::stderr(), "avleak: {problem}");
        EXIT_AVLEAK
    })
}

fn run_on(args: &MergeArgs, out: &mut (impl Write + AsFd + IsTerminal)) -> Result<i32, String> {
    let is_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(file::is_stdout);
    if is_stdout(&args.json) && is_stdout(&args.ndjson) {
        return Err("--json and --ndjson both write to stdout: name a file for one of them".into());
    }
    // Before hours of reading.
    for (name, path) in [("json", &args.json), ("ndjson", &args.ndjson)] {
        if let Some(path) = path.as_deref().filter(|path| !file::is_stdout(path)) {
            check_writable(name, path).map_err(|error| error.to_string())?;
        }
    }
    let (fleet, lines) = merged(args)?;
    if let Some(path) = &args.ndjson {
        file::write(path, &lines).map_err(|error| error.to_string())?;
    }
    if let Some(path) = &args.json {
        json::write(path, &fleet).map_err(|error| error.to_string())?;
    }
    if !args.quiet && !is_stdout(&args.json) && !is_stdout(&args.ndjson) {
        let text = render::text(&fleet, &TextOptions::for_stream(args.color, args.all, out));
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `| head` has seen enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(format!("cannot write to stdout: {}", errno::name(&error)));
            }
            _ => {}
        }
    }
    Ok(match fleet.verdict {
        Verdict::Leaks => EXIT_LEAKS,
        Verdict::Inconclusive => EXIT_INCONCLUSIVE,
        Verdict::Clean => EXIT_CLEAN,
    })
}

/// The sum, and the lines of `--ndjson` where they are asked for.
fn merged(args: &MergeArgs) -> Result<(Fleet, Vec<u8>), String> {
    let (mut merger, mut lines) = (Merger::default(), Vec::new());
    for given in &args.reports {
        let is_folder = given.is_dir();
        let files = if is_folder { files_in(given)? } else { vec![given.clone()] };
        for path in files {
            match load::load(&path) {
                Ok(report) => {
                    if args.ndjson.is_some() {
                        report.processes().iter().for_each(|process| ndjson::write(process, &mut lines));
                    }
                    merger.add(report);
                }
                // One that was named is a mistake of whoever named it; among thousands there may be one that was cut off.
                Err(error) if !is_folder => return Err(error.to_string()),
                Err(error) => merger.add_unreadable(path.display().to_string(), error.to_string()),
            }
        }
    }
    if merger.is_empty() {
        return Err("there is no process in any of these reports".into());
    }
    Ok((merger.finish(args.by_build), lines))
}

/// The reports in a folder, not in those below it, by name.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("cannot read the folder {}: {}", folder.display(), errno::name(&error));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(format!("there is no *.json in the folder {}", folder.display()));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
