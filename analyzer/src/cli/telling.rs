//! Judging reports and telling of them: the options and the way of every subcommand that checks something itself.

use std::io::Write;

use super::gate_options::GateOptions;
use super::observe::say;
use super::outputs::Outputs;
use super::run::{LevelArg, document};
use crate::gate::apply::Rules;
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::{Level, Report};
use crate::report::verdict::{self, EXIT_AVLEAK};

/// How it is judged, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Telling {
    /// What counts as a leak: as for `avleak run`
    #[arg(long, value_enum, default_value = "normal", value_name = "LEVEL")]
    level: LevelArg,
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

impl Telling {
    /// What counts as a leak.
    pub fn level(&self) -> Level {
        self.level.into()
    }

    /// No text report.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether all can be read and written, before anything is done; what is let through.
    ///
    /// # Errors
    /// A line.
    pub fn prepare(&self) -> Result<Rules, String> {
        self.outputs.check().map_err(|error| error.to_string())?;
        let rules = self.gate.load()?;
        self.gate.check().map_err(|error| error.to_string())?;
        Ok(rules)
    }

    /// Judges, tells, and returns the exit status. `problems`: lines that are said too, and make it avleak's own.
    pub fn tell(&self, command: &str, rules: &Rules, mut reports: Vec<Report>, mut problems: Vec<String>) -> i32 {
        let gate = rules.apply(&mut reports);
        let argv = ["avleak", command].map(str::to_string).to_vec();
        let mut run = verdict::sum_up(argv, None, i32::from(self.error_exitcode), reports);
        run.gate = gate;
        if let [only] = &mut run.processes[..] {
            only.exit = Some(run.exit.clone());
            only.gate.clone_from(&run.gate);
        }
        if !self.quiet {
            let stdout = std::io::stdout();
            let options = TextOptions::for_stream(self.color, self.all, &stdout);
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
        problems.extend(self.gate.generate(&run.processes).err());
        problems.extend(self.outputs.write(&document(run)).iter().map(ToString::to_string));
        problems.iter().for_each(|line| say(line));
        if problems.is_empty() { code } else { EXIT_AVLEAK }
    }
}
