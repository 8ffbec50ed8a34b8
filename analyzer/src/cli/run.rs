//! `avleak run -- CMD…`: starts a command with libavleak.so preloaded, follows every process that uses FFmpeg, reports.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use super::gate_options::GateOptions;
use super::http_options::HttpArgs;
use super::monitor_options::MonitorArgs;
use super::observe::{Observation, Order, observe, say};
use super::only::OnlyArgs;
use super::outputs::{Outputs, check_writable};
use super::python::PythonArgs;
use crate::gate::apply::Rules;
use crate::render::load::AnyReport;
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
    /// Save the sessions of processes that dump core untraced to this folder, for `avleak core`
    #[arg(long, value_name = "FOLDER")]
    session_dir: Option<PathBuf>,
    #[command(flatten)]
    only: OnlyArgs,
    #[command(flatten)]
    python: PythonArgs,
    #[command(flatten)]
    gate: GateOptions,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    outputs: Outputs,
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
    args.outputs.check().map_err(|error| format!("{error}; the command was not started"))?;
    let rules = args.gate.load().map_err(|line| format!("{line}; the command was not started"))?;
    args.gate.check().map_err(|error| format!("{error}; the command was not started"))?;
    if let Some(folder) = &args.session_dir {
        check_writable("session-dir", &folder.join("avleak.session"))
            .map_err(|error| format!("{error}; the command was not started"))?;
    }
    let wishes = args.monitor.wishes().map_err(|line| format!("{line}; the command was not started"))?;
    let order = Order {
        command: &args.command,
        level: args.level.into(),
        quiet: args.quiet,
        files: !args.outputs.wanted().is_empty(),
        python: args.python,
        only: &args.only,
        monitor: &wishes,
        http: &args.http.wish(),
        gate: &args.gate,
        session_dir: args.session_dir.as_deref(),
    };
    conclude(args, &rules, observe(&order)?)
}

fn conclude(args: &RunArgs, rules: &Rules, observation: Observation) -> Result<i32, String> {
    let (ended, warned) = (observation.ended, observation.warned);
    let run = observation.sum_up(&args.command, rules, i32::from(args.error_exitcode));
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
    let code = run.exit.code;
    let suppressions = args.gate.generate(&run.processes);
    let mut lines: Vec<String> = args.outputs.write(&document(run)).iter().map(ToString::to_string).collect();
    lines.extend(suppressions.err());
    match ended {
        // The program's own failure comes first; the lines are said all the same.
        Some(Ended::Exit(1..) | Ended::Signal(_)) => lines.iter().for_each(|line| say(line)),
        _ => {
            if let Some((last, others)) = lines.split_last() {
                others.iter().for_each(|line| say(line));
                return Err(last.clone());
            }
        }
    }
    Ok(code)
}

/// A command of one process that used FFmpeg is reported as that process.
pub(super) fn document(mut run: RunReport) -> AnyReport {
    match run.processes.len() {
        1 => AnyReport::Process(Box::new(run.processes.remove(0))),
        _ => AnyReport::Run(Box::new(run)),
    }
}
