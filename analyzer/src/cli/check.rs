//! `avleak check PID|all`: a check of processes that run on.

use std::path::{Path, PathBuf};

use super::control::{self, Question};
use super::observe::say;
use super::outputs::check_writable;
use super::telling::Telling;
use crate::render::file;
use crate::report::model::Report;
use crate::report::verdict::EXIT_AVLEAK;

/// Check a process that runs under libavleak.so, now, without ending it.
///
/// The process stands still for milliseconds at most; for how long is part of the report. Exits with 0: clean, 1 (--error-exitcode): leaks,
/// 2: avleak's own error or wrong usage, 3: inconclusive.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Process ids, or `all` for every process under watch on this machine
    #[arg(required = true, value_name = "PID|all", value_parser = parse_whom)]
    whom: Vec<Whom>,
    /// Only what was not lost yet at the check before this one
    #[arg(long)]
    increased: bool,
    /// Only objects that are at least so old
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = parse_hold, hide_default_value = true)]
    hold: f64,
    /// Write the session to FILE, for `avleak core`: of a core that was written just before (`gcore PID`), or of a stopped process
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    #[command(flatten)]
    telling: Telling,
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
    let rules = args.telling.prepare()?;
    let pids = pids(&args.whom)?;
    if let Some(file) = &args.session {
        if pids.len() > 1 {
            return Err("--session writes one file: name one process".into());
        }
        check_writable("session", file).map_err(|error| error.to_string())?;
    }
    let question = Question {
        level: args.telling.level(),
        hold_s: args.hold,
        increased: args.increased,
        session: args.session.is_some(),
    };
    let (mut reports, mut problems): (Vec<Report>, Vec<String>) = (Vec::new(), Vec::new());
    for pid in pids {
        match control::ask(pid, &question) {
            Ok((report, session)) => {
                reports.push(report);
                problems.extend(args.session.as_ref().and_then(|file| save(file, &session).err()));
            }
            Err(line) => problems.push(line),
        }
    }
    if reports.is_empty() {
        let last = problems.pop().unwrap_or_default();
        problems.iter().for_each(|line| say(line));
        return Err(last);
    }
    Ok(args.telling.tell("check", &rules, reports, problems))
}

fn save(file: &Path, session: &[u8]) -> Result<(), String> {
    if session.is_empty() {
        return Err("the analyzer sent no session: are both of one version of avleak?".into());
    }
    file::write(file, session).map_err(|error| error.to_string())
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
