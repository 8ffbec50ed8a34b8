//! `avleak run -- CMD…`: starts a command with libavleak.so preloaded, follows every process that uses FFmpeg, reports.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::observe::{Observation, Order, observe, say};
use super::python::PythonArgs;
use crate::render::json;
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::{Ended, Level, RunReport};
use crate::report::verdict::EXIT_AVLEAK;

/// Run a command and report which FFmpeg objects it leaked.
///
/// Exits with the command's own status where that is not 0 (128 + signal for a signal), else 0: clean, 1 (--error-exitcode): leaks, 2:
/// avleak's own error or wrong usage, 3: inconclusive.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Write the report as JSON to FILE (one process: avleak-report/1, else avleak-run/1); `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What counts as a leak. normal: lost FFmpeg objects; strict: possibly lost ones and any lost block too; draconian:
    /// every FFmpeg object alive at the end
    #[arg(long, value_enum, default_value = "normal", value_name = "LEVEL")]
    level: LevelArg,
    /// No text report on stderr
    #[arg(long, short)]
    quiet: bool,
    /// Exit status where leaks were found
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    error_exitcode: u8,
    /// Show every group, whole stacks, and what is still reachable
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
    #[command(flatten)]
    python: PythonArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// [`Level`] as clap reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LevelArg {
    Normal,
    Strict,
    Draconian,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Normal => Self::Normal,
            LevelArg::Strict => Self::Strict,
            LevelArg::Draconian => Self::Draconian,
        }
    }
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &RunArgs) -> i32 {
    match run_command(args) {
        Ok(code) => code,
        Err(line) => {
            say(&line);
            EXIT_AVLEAK
        }
    }
}

fn run_command(args: &RunArgs) -> Result<i32, String> {
    if let Some(file) = &args.json {
        check_writable(file)?;
    }
    let order = Order { command: &args.command, level: args.level.into(), quiet: args.quiet, python: args.python };
    conclude(args, observe(&order)?)
}

fn conclude(args: &RunArgs, observation: Observation) -> Result<i32, String> {
    let (ended, warned) = (observation.ended, observation.warned);
    let run = observation.sum_up(&args.command, i32::from(args.error_exitcode));
    // Who was warned that nothing would be seen needs no report of that.
    if !(args.quiet || warned && run.processes.is_empty()) {
        let stderr = std::io::stderr();
        let options = TextOptions::for_stream(args.color, args.all, &stderr);
        let text = match &run.processes[..] {
            [only] => text::process(only, &options),
            _ => text::run(&run, &options),
        };
        if stderr.is_terminal() || !text.is_empty() {
            let _ = stderr.lock().write_all(text.as_bytes());
        }
    }
    if let Some(file) = &args.json {
        write(file, &run).map_err(|error| error.to_string()).or_else(|line| match ended {
            // The program's own failure comes first; the line is said all the same.
            Some(Ended::Exit(1..) | Ended::Signal(_)) => {
                say(&line);
                Ok(())
            }
            _ => Err(line),
        })?;
    }
    Ok(run.exit.code)
}

pub(super) fn write(file: &Path, run: &RunReport) -> Result<(), json::WriteError> {
    match &run.processes[..] {
        [only] => json::write(file, only),
        _ => json::write(file, run),
    }
}

/// A report that cannot be written is better known before an hour of tests than after.
pub(super) fn check_writable(file: &Path) -> Result<(), String> {
    if file == Path::new("-") {
        return Ok(());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() {
        return Err(format!(
            "cannot write the report {}: EISDIR (name a file in it with --json); the command was not started",
            file.display()
        ));
    }
    let target = if file.exists() && !file.is_file() { file } else { folder };
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        let error = std::io::Error::from(errno);
        format!(
            "cannot write the report {}: {} in {} (create the folder, or name another with --json); the command was not started",
            file.display(),
            crate::render::errno::name(&error),
            folder.display()
        )
    })
}
