//! `avleak ci -- CMD…`: a test command in a CI job: judged as a whole, summed up once, shown where the CI service looks.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::gate_options::GateOptions;
use super::observe::{Order, observe, say};
use super::only::OnlyArgs;
use super::outputs::{self, Outputs};
use super::python::PythonArgs;
use super::run::{self, LevelArg};
use crate::http;
use crate::monitor::settings::Wishes;
use crate::render::ci::workspace::Workspace;
use crate::render::ci::{github, gitlab, step_summary, summary};
use crate::render::style::ColorChoice;
use crate::render::text::TextOptions;
use crate::render::{errno, json};
use crate::report::model::{RunReport, Verdict};
use crate::report::verdict::EXIT_AVLEAK;

/// Run a test command and fail where a process of it leaks FFmpeg objects.
///
/// Every process that the command starts is followed; those that use FFmpeg are judged. One summary goes to stderr; under
/// GitHub Actions there are annotations and a step summary, under GitLab CI a code-quality report as well.
///
/// Exits with the command's own status where that is not 0 (128 + signal for a signal), else 0: clean, 1 (--error-exitcode):
/// leaks, 2: avleak's own error or wrong usage, 3: inconclusive: a process could not be judged, or none used FFmpeg.
#[derive(Debug, clap::Args)]
pub struct CiArgs {
    /// What counts as a leak: see `avleak run --help`
    #[arg(long, value_enum, default_value = "normal", value_name = "LEVEL")]
    level: LevelArg,
    /// Exit with 0 where no leak was found, but a process could not be judged or none used FFmpeg; it is said all the same
    #[arg(long)]
    allow_inconclusive: bool,
    /// With --allow-inconclusive: still exit with 3 where no process used FFmpeg
    #[arg(long)]
    require_ffmpeg: bool,
    /// Write a GitLab code-quality report to FILE [default where GITLAB_CI is set: gl-code-quality-report.json in
    /// CI_PROJECT_DIR]
    #[arg(long, value_name = "FILE")]
    code_quality: Option<PathBuf>,
    /// Exit status where leaks were found
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    error_exitcode: u8,
    /// Show every process and group, and whole stacks
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
    #[command(flatten)]
    only: OnlyArgs,
    #[command(flatten)]
    python: PythonArgs,
    #[command(flatten)]
    gate: GateOptions,
    #[command(flatten)]
    outputs: Outputs,
    /// The test command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What the CI service says of itself in the environment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Service {
    github: bool,
    gitlab: bool,
    /// The folder of the checked-out repository.
    root: Option<PathBuf>,
    /// Where GitHub takes a step's Markdown from.
    step_summary: Option<PathBuf>,
}

impl Service {
    /// `variable`: looks one up; an empty one counts as not set.
    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_true = |name: &str| set(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let (github, gitlab) = (is_true("GITHUB_ACTIONS"), is_true("GITLAB_CI"));
        let named = |wanted: bool, name: &str| set(name).filter(|_| wanted).map(PathBuf::from);
        Self {
            github,
            gitlab,
            root: named(github, "GITHUB_WORKSPACE").or_else(|| named(gitlab, "CI_PROJECT_DIR")),
            step_summary: named(github, "GITHUB_STEP_SUMMARY"),
        }
    }
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &CiArgs) -> i32 {
    run_command(args).unwrap_or_else(|line| {
        say(&line);
        EXIT_AVLEAK
    })
}

fn run_command(args: &CiArgs) -> Result<i32, String> {
    let rules = args.gate.load().map_err(|line| format!("{line}; the command was not started"))?;
    let checked = args.outputs.check().and_then(|()| args.gate.check()).and_then(|()| match &args.code_quality {
        Some(file) => outputs::check_writable("code-quality", file),
        None => Ok(()),
    });
    checked.map_err(|error| format!("{error}; the command was not started"))?;
    let service = Service::from(|name| std::env::var_os(name));
    // A progress bar would stand between the lines of the tests.
    let order = Order {
        command: &args.command,
        level: args.level.into(),
        quiet: true,
        files: !args.outputs.wanted().is_empty(),
        python: args.python,
        only: &args.only,
        monitor: &Wishes::default(),
        http: &http::Wish::default(),
        gate: &args.gate,
        session_dir: None,
    };
    let observation = observe(&order)?;
    let mut report = observation.sum_up(&args.command, &rules, i32::from(args.error_exitcode));
    if allowed(&report, args.allow_inconclusive, args.require_ffmpeg) {
        report.exit.code = 0;
        if let [only] = &mut report.processes[..] {
            only.exit = Some(report.exit.clone());
        }
    }
    let code = report.exit.code;
    let failed = show(args, report, &service);
    // The tests' own failure comes first, and a leak is not to be taken for a full disk.
    match failed.split_last() {
        Some((last, others)) if code == 0 => {
            others.iter().for_each(|line| say(line));
            Err(last.clone())
        }
        _ => {
            failed.iter().for_each(|line| say(line));
            Ok(code)
        }
    }
}

/// Whether an inconclusive run may pass.
fn allowed(report: &RunReport, allow_inconclusive: bool, require_ffmpeg: bool) -> bool {
    let inconclusive = report.verdict == Verdict::Inconclusive && report.exit.decided_by == "inconclusive";
    inconclusive && allow_inconclusive && !(require_ffmpeg && report.processes.is_empty())
}

/// Everything that is shown or written; returns a line for each file that was asked for by name and could not be written.
fn show(args: &CiArgs, report: RunReport, service: &Service) -> Vec<String> {
    let stderr = std::io::stderr();
    let options = TextOptions::for_stream(args.color, args.all, &stderr);
    let mut text = summary::text(&report, &options);
    if report.verdict == Verdict::Inconclusive && report.exit.code == 0 {
        text.push_str("  --allow-inconclusive: that no leak was found does not mean that there is none\n");
    }
    let current = std::env::current_dir().unwrap_or_default();
    let root = service.root.clone().unwrap_or_else(|| current.clone());
    let workspace = Workspace::new(&root, &current);
    if service.github {
        text.push_str(&github::annotations(&report, &workspace));
    }
    // Where stderr is gone there is no one left to tell.
    let _ = stderr.lock().write_all(text.as_bytes());
    if let Some(file) = &service.step_summary
        && let Err(error) = append(file, &step_summary::markdown(&report))
    {
        let (file, error) = (file.display(), errno::name(&error));
        say(&format!(
            "cannot append to the step summary {file}: {error} (GITHUB_STEP_SUMMARY names it); it is left out"
        ));
    }
    let mut failed = Vec::new();
    let quality =
        |file: &Path| json::write(file, &gitlab::issues(&report, &workspace)).map_err(|error| error.to_string());
    match &args.code_quality {
        Some(file) => failed.extend(quality(file).err()),
        // Nobody asked for it by name: what hinders it is said, and changes no status.
        None if service.gitlab => quality(&root.join("gl-code-quality-report.json")).unwrap_or_else(|line| say(&line)),
        None => (),
    }
    failed.extend(args.gate.generate(&report.processes).err());
    failed.extend(args.outputs.write(&run::document(report)).iter().map(ToString::to_string));
    failed
}

/// Other tools of the same step append to the same file.
fn append(file: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).open(file)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Ended;
    use crate::report::{sample, verdict};

    fn service(variables: &[(&str, &str)]) -> Service {
        Service::from(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_service_is_known_by_its_variables() {
        assert_eq!(service(&[]), Service::default());
        assert_eq!(service(&[("GITHUB_ACTIONS", ""), ("GITLAB_CI", "false")]), Service::default());
        let github = service(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_WORKSPACE", "/w"),
            ("GITHUB_STEP_SUMMARY", "/s.md"),
            ("CI_PROJECT_DIR", "/other"),
        ]);
        assert!(github.github && !github.gitlab);
        assert_eq!((github.root, github.step_summary), (Some("/w".into()), Some("/s.md".into())));
        let gitlab =
            service(&[("GITLAB_CI", "true"), ("CI_PROJECT_DIR", "/builds/p"), ("GITHUB_STEP_SUMMARY", "/s.md")]);
        assert_eq!((gitlab.gitlab, gitlab.root, gitlab.step_summary), (true, Some("/builds/p".into()), None));
    }

    #[test]
    fn only_what_is_allowed_passes_unjudged() {
        let of = |processes, ended| verdict::sum_up(vec!["make".into()], ended, 1, processes);
        let ok = Some(Ended::Exit(0));
        assert!(!allowed(&of(Vec::new(), ok), false, false), "no FFmpeg must not stay silently green");
        assert!(allowed(&of(Vec::new(), ok), true, false));
        assert!(!allowed(&of(Vec::new(), ok), true, true));
        assert!(allowed(&of(vec![sample::inconclusive()], ok), true, true));
        assert!(!allowed(&of(vec![sample::inconclusive()], Some(Ended::Exit(4))), true, false), "the tests failed");
        assert!(!allowed(&of(vec![sample::leaking(), sample::inconclusive()], ok), true, false));
        assert!(!allowed(&of(vec![sample::clean()], ok), true, true), "nothing to allow");
    }
}
