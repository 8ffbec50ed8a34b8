//! `avleak serve`: takes the processes that register at a socket and leaves a report of each.
//!
//! [`many`] is for operators: one server for all that are told of its socket, however often they are restarted. [`one`] is what a bare LD_PRELOAD
//! starts, for the process at the other end of an inherited socket. [`options`] AVLEAK_OPTIONS · [`leave`] where reports go.

pub mod leave;
mod many;
mod notify;
mod one;
pub mod options;

use std::path::PathBuf;
use std::time::Duration;

pub use self::options::Options;
use super::gate_options::GateOptions;
use super::http_options::HttpArgs;
use super::monitor_options::{MonitorArgs, milliseconds};
use super::observe::say;
use super::run::LevelArg;
use crate::report::verdict::EXIT_AVLEAK;

/// How long processes that still run are waited for: less than the 30 s that Kubernetes gives a pod.
const DEFAULT_WAIT: &str = "20s";

/// Watch every process that registers at a socket, until SIGTERM.
///
/// Processes with LD_PRELOAD=libavleak.so and AVLEAK_SOCKET=NAME in their environment register at their first use of FFmpeg. Each leaves
/// avleak.PID.json when it ends. What AVLEAK_OPTIONS of this command say holds where no option does.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Socket at which processes register: @NAME, which all of one network namespace see, or the absolute path of a socket
    #[arg(long, value_name = "NAME", required_unless_present = "descriptor")]
    socket: Option<String>,
    /// libavleak.so's own: the socket of the one process to follow
    #[arg(long, value_name = "N", hide = true, conflicts_with = "socket")]
    descriptor: Option<i32>,
    /// Folder of the reports; default: the current one
    #[arg(long, value_name = "FOLDER")]
    report_dir: Option<PathBuf>,
    /// Earlier reports that stay when another process of the same id is reported (a container's processes have the same ids at each start);
    /// default: 20
    #[arg(long, value_name = "N")]
    reports_kept: Option<usize>,
    /// What counts as a leak; default: normal
    #[arg(long, value_enum, value_name = "LEVEL")]
    level: Option<LevelArg>,
    /// No line for each process that ends
    #[arg(long, short)]
    quiet: bool,
    /// After SIGTERM: how long processes that still run are waited for, before they are checked for the last time as they run
    #[arg(long, value_name = "TIME", default_value = DEFAULT_WAIT, value_parser = milliseconds)]
    wait: u64,
    #[command(flatten)]
    gate: GateOptions,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    http: HttpArgs,
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &ServeArgs) -> i32 {
    let options = Options::from_environment();
    match (args.descriptor, &args.socket) {
        (Some(descriptor), _) => one::run(descriptor, &options),
        (None, Some(socket)) => {
            match many::run(socket, args.onto(options), &args.gate, Duration::from_millis(args.wait)) {
                Ok(()) => 0,
                Err(line) => {
                    say(&line);
                    EXIT_AVLEAK
                }
            }
        }
        // clap asks for one of them.
        (None, None) => EXIT_AVLEAK,
    }
}

impl ServeArgs {
    /// What these say, and where they say nothing, AVLEAK_OPTIONS.
    fn onto(&self, mut options: Options) -> Result<Options, String> {
        if let Some(folder) = &self.report_dir {
            options.report_dir = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        }
        options.reports_kept = self.reports_kept.unwrap_or(options.reports_kept);
        options.level = self.level.map_or(options.level, Into::into);
        options.quiet |= self.quiet;
        options.monitor = self.monitor.wishes()?.or(options.monitor);
        options.http = self.http.wish().or(options.http);
        Ok(options)
    }
}
