//! `avleak report FILE.json`: renders a stored report again, as text or as files of other formats.

use super::gate_options::GateOptions;
use super::outputs::Outputs;
use crate::render::file::WriteError;
use crate::render::load::{self, AnyReport};
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::verdict::EXIT_AVLEAK;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Render a JSON report: as text, or as the files that are asked for.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The report, as `avleak run --json FILE` or a bare LD_PRELOAD wrote it; `-` reads stdin
    #[arg(value_name = "FILE.json")]
    pub file: PathBuf,
    /// Show every group, whole stacks, and what is still reachable
    #[arg(long)]
    pub all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// What is let through.
    #[command(flatten)]
    pub gate: GateOptions,
    /// Where files are asked for, no text is written
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Runs the subcommand on this process's stdout and stderr; returns the exit status: 0 rendered, 2 an error.
pub fn run(args: &ReportArgs) -> i32 {
    run_on(args, &mut io::stdout(), &mut io::stderr())
}

fn run_on(args: &ReportArgs, out: &mut (impl Write + AsFd + IsTerminal), err: &mut impl Write) -> i32 {
    let problems = match args.outputs.check().map_err(|error| error.to_string()).and_then(|()| judged(args)) {
        Ok(report) if args.outputs.wanted().is_empty() => {
            let text = text::any(&report, &TextOptions::for_stream(args.color, args.all, out));
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => generate(args, &report).err().into_iter().collect(),
                // `| head` has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
                Err(error) => vec![format!("cannot write to stdout: {}", crate::render::errno::name(&error))],
            }
        }
        Ok(report) => {
            let gone = |error: &WriteError| error.source.kind() == io::ErrorKind::BrokenPipe;
            let errors = args.outputs.write(&report);
            let mut lines: Vec<String> = errors.iter().filter(|error| !gone(error)).map(ToString::to_string).collect();
            lines.extend(generate(args, &report).err());
            lines
        }
        Err(error) => vec![error],
    };
    for problem in &problems {
        // Where stderr is gone as well there is no one left to tell.
        let _ = writeln!(err, "avleak: {problem}");
    }
    if problems.is_empty() { 0 } else { EXIT_AVLEAK }
}

/// The report, judged anew where an option asks for it.
fn judged(args: &ReportArgs) -> Result<AnyReport, String> {
    let rules = args.gate.load_for_stored()?;
    let mut report = load::load(&args.file).map_err(|error| error.to_string())?;
    if let Some(rules) = rules {
        match &mut report {
            AnyReport::Process(report) => rules.apply_to_process(report, 1),
            AnyReport::Run(run) => rules.apply_to_run(run, 1),
        }
    }
    Ok(report)
}

fn generate(args: &ReportArgs, report: &AnyReport) -> Result<(), String> {
    match report {
        AnyReport::Process(report) => args.gate.generate([&**report]),
        AnyReport::Run(run) => args.gate.generate(&run.processes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::json;
    use crate::report::sample;
    use std::fs::File;
    use std::path::Path;

    fn report(file: &Path, out: &mut File) -> (i32, String) {
        let args = ReportArgs {
            file: file.to_path_buf(),
            all: false,
            color: ColorChoice::Never,
            gate: GateOptions::default(),
            outputs: Outputs::default(),
        };
        let mut err = Vec::new();
        let code = run_on(&args, out, &mut err);
        (code, String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_stored_report_is_rendered_as_the_live_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let (stored, shown) = (folder.path().join("r.json"), folder.path().join("r.txt"));
        json::write(&stored, &sample::leaking()).unwrap();
        assert_eq!(report(&stored, &mut File::create(&shown).unwrap()), (0, String::new()));
        let live = text::process(&sample::leaking(), &TextOptions::default());
        assert_eq!(std::fs::read_to_string(&shown).unwrap(), live);
    }

    #[test]
    fn errors_are_one_line_and_exit_2() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.json");
        std::fs::write(&bad, "{\"schema\": \"avleak-re").unwrap();
        for file in [bad.as_path(), Path::new("/nonexistent.json")] {
            let (code, err) = report(file, &mut tempfile::tempfile().unwrap());
            assert_eq!(code, 2);
            assert!(err.starts_with("avleak: ") && err.lines().count() == 1, "{err}");
            assert!(err.contains(&file.display().to_string()), "{err}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_but_a_full_disk_is() {
        let folder = tempfile::tempdir().unwrap();
        let stored = folder.path().join("r.json");
        json::write(&stored, &sample::leaking()).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        assert_eq!(report(&stored, &mut File::from(writer)), (0, String::new()));
        let (code, err) = report(&stored, &mut File::options().write(true).open("/dev/full").unwrap());
        assert_eq!((code, err.as_str()), (2, "avleak: cannot write to stdout: ENOSPC\n"));
    }
}
