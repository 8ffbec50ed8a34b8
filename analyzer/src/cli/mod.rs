//! The command line: one file for each subcommand.

pub mod analyze;
pub mod baseline;
pub mod check;
pub mod ci;
pub mod control;
pub mod diff;
pub mod gate_options;
mod http_options;
pub mod linked_in;
pub mod man;
pub mod merge;
mod monitor_options;
mod observe;
mod only;
pub mod outputs;
pub mod preflight;
mod python;
pub mod report;
pub mod run;
pub mod serve;
pub mod supervise;
pub mod top;
mod watch;

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
    Top(top::TopArgs),
    Ci(ci::CiArgs),
    Report(report::ReportArgs),
    Baseline(baseline::BaselineArgs),
    Diff(diff::DiffArgs),
    Merge(merge::MergeArgs),
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Analyze(analyze::AnalyzeArgs),
}

/// Reads the arguments of this process and does what they say; returns the exit status.
pub fn main() -> i32 {
    // Wrong usage exits with 2, help and version with 0: clap's own statuses are avleak's.
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
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
