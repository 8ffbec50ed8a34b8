//! `avleak diff A.json B.json`: what is new, gone, grown and shrunk between two reports.

use super::baseline::written;
use super::gate_options::percent;
use crate::gate::diff::{self, Measure};
use crate::render::load;
use crate::render::style::ColorChoice;
use crate::render::text::TextOptions;
use crate::render::{diff as render, json};
use crate::report::verdict::EXIT_AVLEAK;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Compare two reports: which leak groups are new, gone, grown or shrunk.
///
/// Exits with 0: nothing is new or has grown, 1: something is or has, 2: an error, 3: nothing is new, but one of the reports is
/// inconclusive.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The older report, as `avleak run --json FILE` wrote it; `-` is stdin
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The newer one
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Also write the difference as JSON (avleak-diff/1) to FILE; `-` is stdout, instead of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Measure growth for each thousand frames allocated, not in all: for runs of different length
    #[arg(long)]
    per_1000_frames: bool,
    /// How much a group may grow or shrink and be called the same
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    slack: f64,
    /// No text
    #[arg(long, short)]
    quiet: bool,
    /// Show every group, also those that are the same, and whole stacks
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
}

/// Runs the subcommand on this process's stdout and stderr; returns the exit status.
pub fn run(args: &DiffArgs) -> i32 {
    run_on(args, &mut std::io::stdout()).unwrap_or_else(|problem| {
        // Where stderr is gone as well there is no one left to tell.
        let _ = writeln!(std::io::stderr(), "avleak: {problem}");
        EXIT_AVLEAK
    })
}

fn run_on(args: &DiffArgs, out: &mut (impl Write + AsFd + IsTerminal)) -> Result<i32, String> {
    let stdin = Path::new("-");
    if args.a == stdin && args.b == stdin {
        return Err("both reports cannot come from stdin: name a file for one of them".into());
    }
    let load = |file: &Path| load::load(file).map_err(|error| error.to_string());
    let (a, b) = (load(&args.a)?, load(&args.b)?);
    let name = |file: &Path| file.display().to_string();
    let measure = Measure { per_1000_frames: args.per_1000_frames, slack_percent: args.slack };
    let diff = diff::diff((&name(&args.a), &a), (&name(&args.b), &b), measure);
    if let Some(file) = &args.json {
        json::write(file, &diff).map_err(|error| error.to_string())?;
    }
    if !args.quiet && args.json.as_deref() != Some(stdin) {
        let text = render::text(&diff, &TextOptions::for_stream(args.color, args.all, out));
        written(out, text.as_bytes())?;
    }
    Ok(diff.exit_status())
}
