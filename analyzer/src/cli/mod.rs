//! The command line: one file for each subcommand.

pub mod analyze;
pub mod baseline;
pub mod check;
pub mod ci;
pub mod control;
mod core;
pub mod diff;
mod end_check;
pub mod gate_options;
mod http_options;
pub mod linked_in;
pub mod man;
pub mod merge;
mod monitor_options;
mod observe;
mod only;
pub mod outputs;
mod passed_on;
pub mod preflight;
mod python;
pub mod report;
pub mod run;
pub mod saved_sessions;
pub mod serve;
pub mod supervise;
mod telling;
pub mod top;
mod watch;

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};

/// Names the leaked frame in any process that uses FFmpeg.
#[derive(Debug, Parser)]
#[command(name = "avleak", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(Box<check::CheckArgs>),
    Core(Box<core::CoreArgs>),
    Top(top::TopArgs),
    Ci(ci::CiArgs),
    Report(report::ReportArgs),
    Baseline(baseline::BaselineArgs),
    Diff(diff::DiffArgs),
    Merge(merge::MergeArgs),
    Serve(Box<serve::ServeArgs>),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Analyze(analyze::AnalyzeArgs),
}

/// Says what is wrong with the arguments, or what was asked about them; returns the exit status.
fn complain(error: &clap::Error) -> i32 {
    let _ = error.print();
    // A command where a subcommand should be, and none that looks like it: `avleak -- ls`, `avleak ./server`.
    if error.kind() == ErrorKind::InvalidSubcommand && error.get(ContextKind::SuggestedSubcommand).is_none() {
        let words = std::env::args_os().skip(1).skip_while(|word| word == "--");
        let command: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        observe::say(&format!("to watch a command: avleak run -- {}", command.join(" ")));
    }
    error.exit_code()
}

/// Reads the arguments of this process and does what they say; returns the exit status.
pub fn main() -> i32 {
    // Wrong usage exits with 2, help and version with 0: clap's own statuses are avleak's.
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return complain(&error),
    };
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Core(arguments) => core::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Baseline(arguments) => baseline::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Analyze(arguments) => analyze::run(&arguments),
    }
}
