//! `avleak check PID|all`: a check of processes that run on.

use std::io::Write;

use super::control::{self, Question};
use super::gate_options::GateOptions;
use super::observe::say;
use super::outputs::Outputs;
use super::run::{LevelArg, document};
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::Report;
use crate::report::verdict::{self, EXIT_AVLEAK};

/// Check a process that runs under libavleak.so, now, without ending it.
///
/// The process stands still for milliseconds at most; for how long is part of the report. Exits with 0: clean, 1 (--error-exitcode): leaks,
/// 2: avleak's own error or wrong usage, 3: inconclusive.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Process ids, or `all` for every process under watch on this machine
    #[arg(required = true, value_name = "PID|all", value_parser = parse_whom)]
    whom: Vec<Whom>,
    /// What counts as a leak: as for `avleak run`
    #[arg(long, value_enum, default_value = "normal", value_name = "LEVEL")]
    level: LevelArg,
    /// Only what was not lost yet at the check before this one
    #[arg(long)]
    increased: bool,
    /// Only objects that are at least so old
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = parse_hold, hide_default_value = true)]
    hold: f64,
    /// No text report on stdout
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
    gate: GateOptions,
    #[command(flatten)]
    outputs: Outputs,
}

/// Whom to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    Process(i32),
}

fn parse_whom(text: &str) -> Result<Whom, String> {
    match text {
        "all" => Ok(Whom::All),
        _ => match text.parse() {
            Ok(pid) if pid > 0 => Ok(Whom::Process(pid)),
            _ => Err("neither a process id nor `all`".into()),
        },
    }
}

fn parse_hold(text: &str) -> Result<f64, String> {
    match text.strip_suffix('s').unwrap_or(text).parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err("not a number of seconds".into()),
    }
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &CheckArgs) -> i32 {
    match check(args) {
        Ok(code) => code,
        Err(line) => {
            say(&line);
            EXIT_AVLEAK
        }
    }
}

fn check(args: &CheckArgs) -> Result<i32, String> {
    args.outputs.check().map_err(|error| error.to_string())?;
    let rules = args.gate.load()?;
    args.gate.check().map_err(|error| error.to_string())?;
    let question = Question { level: args.level.into(), hold_s: args.hold, increased: args.increased };
    let (mut reports, mut problems): (Vec<Report>, Vec<String>) = (Vec::new(), Vec::new());
    for pid in pids(&args.whom)? {
        match control::ask(pid, &question) {
            Ok(report) => reports.push(report),
            Err(line) => problems.push(line),
        }
    }
    if reports.is_empty() {
        let last = problems.pop().unwrap_or_default();
        problems.iter().for_each(|line| say(line));
        return Err(last);
    }
    let gate = rules.apply(&mut reports);
    let argv = ["avleak", "check"].map(str::to_string).to_vec();
    let mut run = verdict::sum_up(argv, None, i32::from(args.error_exitcode), reports);
    run.gate = gate;
    if let [only] = &mut run.processes[..] {
        only.exit = Some(run.exit.clone());
        only.gate.clone_from(&run.gate);
    }
    if !args.quiet {
        let stdout = std::io::stdout();
        let options = TextOptions::for_stream(args.color, args.all, &stdout);
        let text = match &run.processes[..] {
            [only] => text::process(only, &options),
            _ => text::run(&run, &options),
        };
        match stdout.lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                problems.push(format!("cannot write to stdout: {}", crate::render::errno::name(&error)));
            }
            _ => (),
        }
    }
    let code = run.exit.code;
    problems.extend(args.gate.generate(&run.processes).err());
    problems.extend(args.outputs.write(&document(run)).iter().map(ToString::to_string));
    problems.iter().for_each(|line| say(line));
    Ok(if problems.is_empty() { code } else { EXIT_AVLEAK })
}

fn pids(whom: &[Whom]) -> Result<Vec<i32>, String> {
    let mut pids = Vec::new();
    for one in whom {
        match one {
            Whom::Process(pid) => pids.push(*pid),
            Whom::All => {
                let all = control::all()?;
                if all.is_empty() {
                    return Err("no process that uses FFmpeg runs under libavleak.so here".into());
                }
                pids.extend(all);
            }
        }
    }
    pids.dedup();
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_and_how_old() {
        assert_eq!(parse_whom("all"), Ok(Whom::All));
        assert_eq!(parse_whom("812"), Ok(Whom::Process(812)));
        assert!(["0", "-3", "ffmpeg", ""].iter().all(|text| parse_whom(text).is_err()));
        assert_eq!((parse_hold("1.5"), parse_hold("30s")), (Ok(1.5), Ok(30.0)));
        assert!(["-1", "inf", "NaN", "soon", ""].iter().all(|text| parse_hold(text).is_err()));
    }
}
