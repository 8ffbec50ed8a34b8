//! Runs a command under `avleak run` and reads the report.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::process::{self, Finished, Running};
use crate::{avleak_binary, repository, scratch};

/// How long a run may take, where a case does not say otherwise.
pub const LIMIT: Duration = Duration::from_secs(120);

/// `avleak run` with its options and the command.
pub struct Run {
    arguments: Vec<OsString>,
    options: Vec<OsString>,
    folder: tempfile::TempDir,
    working_folder: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    limit: Duration,
}

/// What a run under avleak left.
pub struct Outcome {
    /// The run itself; the exit code is avleak's.
    pub finished: Finished,
    /// The JSON file: of one process, or of the run.
    pub document: Value,
    /// One report for each process that used FFmpeg.
    pub reports: Vec<Value>,
}

/// A run that is under way.
pub struct Started {
    /// The process.
    pub running: Running,
    folder: tempfile::TempDir,
}

impl Run {
    /// Of this command.
    pub fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self {
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            options: Vec::new(),
            folder: scratch(),
            working_folder: None,
            environment: Vec::new(),
            limit: LIMIT,
        }
    }

    /// With more options of `avleak run`.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// At this level.
    pub fn level(self, level: &str) -> Self {
        self.options(["--level", level])
    }

    /// With a variable in the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// In this folder.
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.working_folder = Some(folder.to_path_buf());
        self
    }

    /// Within this time.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it.
    pub fn start(self) -> Started {
        let mut command = Command::new(avleak_binary());
        command.args(["run", "--quiet", "--json"]).arg(self.folder.path().join("report.json")).args(&self.options);
        command.arg("--").args(&self.arguments).envs(self.environment);
        if let Some(folder) = &self.working_folder {
            command.current_dir(folder);
        }
        Started { running: process::start(&mut command, self.limit), folder: self.folder }
    }

    /// Runs it to its end.
    pub fn finish(self) -> Outcome {
        self.start().finish()
    }
}

impl Started {
    /// Waits for its end and reads the report.
    pub fn finish(self) -> Outcome {
        let finished = self.running.finish();
        let document = read_report(&self.folder.path().join("report.json")).unwrap_or_else(|why| {
            panic!(
                "{why}; avleak exited with {}\n--- stdout\n{}\n--- stderr\n{}",
                finished.code(),
                finished.text(),
                finished.stderr
            )
        });
        let reports = match document["schema"].as_str() {
            Some("avleak-run/1") => document["processes"].as_array().cloned().unwrap_or_default(),
            _ => vec![document.clone()],
        };
        let processes = reports.len();
        assert!(
            (document["schema"] == "avleak-report/1") == (processes == 1),
            "{processes} processes in a file of schema {}",
            document["schema"]
        );
        Outcome { finished, document, reports }
    }
}

impl Outcome {
    /// The one report, where there is one.
    pub fn report(&self) -> &Value {
        assert_eq!(self.reports.len(), 1, "one process should have used FFmpeg:\n{:#}", self.document);
        &self.reports[0]
    }
}

/// Reads a report file and holds it against `docs/report.schema.json`.
///
/// # Errors
/// What is wrong with it, naming the file.
pub fn read_report(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("no report at {}: {error}", path.display()))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let faults: Vec<String> =
        schema().iter_errors(&document).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    if faults.is_empty() {
        Ok(document)
    } else {
        Err(format!("{} breaks the schema: {}", path.display(), faults.join("; ")))
    }
}

fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = repository().join("docs/report.schema.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
        jsonschema::validator_for(&schema).expect("the schema is a JSON Schema")
    })
}
