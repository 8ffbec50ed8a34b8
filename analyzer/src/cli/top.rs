//! `avleak top PID`: a running process in a terminal, live.

use std::io::IsTerminal;
use std::time::Duration;

use avleak_wire::options;

use super::control;
use super::observe::say;
use crate::render::style::{ColorChoice, Style};
use crate::report::verdict::EXIT_AVLEAK;
use crate::top::{self, Options};

/// Show a process that runs under libavleak.so, live: its frames by the stacks that allocated them, and what of them is lost.
///
/// Looking neither stops nor checks the process. The key c checks it, as `avleak check` does; ? explains the others.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Process id; without it the one process under watch on this machine, or a choice where there are several
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Look so often: 100ms to 24h
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = time)]
    refresh: Duration,
    /// Check so often: 100ms to 24h; without it only when c is pressed
    #[arg(long, short = 'i', value_name = "TIME", value_parser = time)]
    check_interval: Option<Duration>,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    options::milliseconds(text).map(Duration::from_millis).ok_or("not a time from 100ms to 24h, such as 5s")
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &TopArgs) -> i32 {
    match show(args) {
        Ok(None) => 0,
        Ok(Some(signal)) => {
            top::die_of(signal);
            128 + signal
        }
        Err(line) => {
            say(&line);
            EXIT_AVLEAK
        }
    }
}

fn show(args: &TopArgs) -> Result<Option<i32>, String> {
    let stdout = std::io::stdout();
    let pid = args.pid.map_or_else(|| "PID".to_string(), |pid| pid.to_string());
    if !stdout.is_terminal() {
        return Err(format!("stdout is no terminal: `avleak check {pid}` writes a report anywhere"));
    }
    if std::env::var("TERM").is_ok_and(|name| name == "dumb") {
        return Err(format!("TERM=dumb cannot show it: `avleak check {pid}` writes a report anywhere"));
    }
    let pid = match args.pid {
        Some(pid) => {
            // Better said here than on a screen of its own.
            control::state(pid, false)?;
            Some(pid)
        }
        None => only_one()?,
    };
    let is_colored = Style::for_stream(args.color, &stdout).is_colored();
    top::run(&Options { pid, refresh: args.refresh, interval: args.check_interval, is_colored })
}

/// The process under watch; `None` where there are several.
fn only_one() -> Result<Option<i32>, String> {
    let all = control::all()?;
    let mut answers = all.iter().map(|&pid| (pid, control::state(pid, false)));
    let mut fine: Vec<i32> = Vec::new();
    let mut problem = None;
    for (pid, answer) in &mut answers {
        match answer {
            Ok(_) => fine.push(pid),
            Err(line) => problem = Some(line),
        }
    }
    match (&fine[..], problem) {
        ([], Some(line)) => Err(line),
        ([], None) => Err("no process that uses FFmpeg runs under libavleak.so here".into()),
        ([pid], _) => Ok(Some(*pid)),
        _ => Ok(None),
    }
}
