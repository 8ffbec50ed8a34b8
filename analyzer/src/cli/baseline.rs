//! `avleak baseline save` and `avleak baseline check`: known leak groups, and what is new beside them.

use super::gate_options::{known_groups, percent};
use crate::gate::apply::Rules;
use crate::gate::baseline::Baseline;
use crate::render::json;
use crate::render::load::{self, AnyReport};
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::Verdict;
use crate::report::verdict::{EXIT_AVLEAK, EXIT_CLEAN, EXIT_INCONCLUSIVE};
use crate::report::words::counted;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Exit status where a group is new or has grown.
const EXIT_LEAKS: i32 = 1;

/// Save known leak groups, or check a report against them.
#[derive(Debug, clap::Args)]
pub struct BaselineArgs {
    #[command(subcommand)]
    command: BaselineCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BaselineCommand {
    Save(SaveArgs),
    Check(CheckArgs),
}

/// Write a baseline of the groups that count in one or more reports.
///
/// Of several reports of the same command each group gets the largest count that it had in one of them: counts vary from run to
/// run. Comments and notes in an older FILE are kept, its groups are not, unless --merge is given.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Reports, as `avleak run --json FILE` wrote them; `-` is stdin
    #[arg(required = true, value_name = "REPORT.json")]
    reports: Vec<PathBuf>,
    /// The baseline to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Keep the groups of FILE, each with the larger of both counts
    #[arg(long)]
    merge: bool,
}

/// Show what in a report is not known to a baseline.
///
/// Exits with 0: nothing is new or has grown, 1: something is or has, 2: an error, 3: nothing is new, but the report is inconclusive.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The report, as `avleak run --json FILE` wrote it; `-` is stdin
    #[arg(value_name = "REPORT.json")]
    report: PathBuf,
    /// The baseline
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    /// How much a group of the baseline may grow
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    slack: f64,
    /// Write the report as it is judged now as JSON to FILE; `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No text
    #[arg(long, short)]
    quiet: bool,
    /// Show every group, whole stacks, and what is still reachable
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &BaselineArgs) -> i32 {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let done = match &args.command {
        BaselineCommand::Save(args) => save(args, &mut out, &mut err),
        BaselineCommand::Check(args) => check(args, &mut out),
    };
    done.unwrap_or_else(|problem| {
        // Where stderr is gone as well there is no one left to tell.
        let _ = writeln!(err, "avleak: {problem}");
        EXIT_AVLEAK
    })
}

fn save(args: &SaveArgs, out: &mut impl Write, err: &mut impl Write) -> Result<i32, String> {
    let reports = args
        .reports
        .iter()
        .map(|file| load::load(file).map_err(|error| error.to_string()))
        .collect::<Result<Vec<AnyReport>, String>>()?;
    for (file, report) in args.reports.iter().zip(&reports) {
        if verdict(report) == Verdict::Inconclusive {
            let _ = writeln!(err, "avleak: {}: inconclusive: groups may be missing in the baseline", file.display());
        }
    }
    let mut baseline = Baseline::of(&reports);
    // A file that cannot be read is not written over: it may hold notes.
    let old = match args.output.exists() {
        true => Some(Baseline::load(&args.output).map_err(|error| error.to_string())?),
        false => None,
    };
    let mut changes = String::new();
    if let Some(old) = old {
        let (before, now) = (old.groups.clone(), &baseline.groups);
        let new = now.keys().filter(|id| !before.contains_key(*id)).count();
        let gone = if args.merge { 0 } else { before.keys().filter(|id| !now.contains_key(*id)).count() };
        baseline.succeed(old, args.merge);
        let changed =
            before.iter().filter(|(id, old)| baseline.groups.get(*id).is_some_and(|now| now.count != old.count));
        changes = format!(" ({new} new, {gone} gone, {} with another count)", changed.count());
    }
    json::write_text(&args.output, &baseline.to_text()).map_err(|error| error.to_string())?;
    let (groups, objects) = (
        baseline.groups.len() as u64,
        baseline.groups.values().fold(0_u64, |sum, entry| sum.saturating_add(entry.count)),
    );
    let line =
        format!("{}: {}, {}{changes}\n", args.output.display(), counted(groups, "group"), counted(objects, "object"));
    written(out, line.as_bytes())?;
    Ok(EXIT_CLEAN)
}

fn check(args: &CheckArgs, out: &mut (impl Write + AsFd + IsTerminal)) -> Result<i32, String> {
    let rules = Rules { suppressions: None, baseline: Some(known_groups(&args.baseline, args.slack)?) };
    let mut report = load::load(&args.report).map_err(|error| error.to_string())?;
    match &mut report {
        AnyReport::Process(report) => rules.apply_to_process(report, EXIT_LEAKS),
        AnyReport::Run(run) => rules.apply_to_run(run, EXIT_LEAKS),
    }
    if let Some(file) = &args.json {
        match &report {
            AnyReport::Process(report) => json::write(file, report),
            AnyReport::Run(run) => json::write(file, run),
        }
        .map_err(|error| error.to_string())?;
    }
    if !args.quiet {
        let text = text::any(&report, &TextOptions::for_stream(args.color, args.all, out));
        written(out, text.as_bytes())?;
    }
    Ok(match verdict(&report) {
        Verdict::Clean => EXIT_CLEAN,
        Verdict::Leaks => EXIT_LEAKS,
        Verdict::Inconclusive => EXIT_INCONCLUSIVE,
    })
}

fn verdict(report: &AnyReport) -> Verdict {
    match report {
        AnyReport::Process(report) => report.verdict,
        AnyReport::Run(run) => run.verdict,
    }
}

/// To stdout; a reader that went away has seen enough.
pub(super) fn written(out: &mut impl Write, bytes: &[u8]) -> Result<(), String> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {}", crate::render::errno::name(&error)))
        }
        _ => Ok(()),
    }
}
