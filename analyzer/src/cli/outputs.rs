//! The options that write a report to files: shared by every subcommand that makes or reads one.

use crate::render::errno;
use crate::render::file::{self, WriteError};
use crate::render::folded::Weight;
use crate::render::format::{Format, RenderOptions};
use crate::render::load::AnyReport;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Files to write the report to.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Files (`-` is stdout)")]
pub struct Outputs {
    /// The report as one HTML page, for people; source lines are embedded where the files are at hand
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The report as JSON (one process: avleak-report/1, else avleak-run/1)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A profile for `go tool pprof` (gzipped profile.proto)
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// A flame graph of what leaked (SVG)
    #[arg(long, value_name = "FILE")]
    pub flamegraph: Option<PathBuf>,
    /// Folded stacks of what leaked, for speedscope, flamegraph.pl, inferno
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
    /// All groups as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// One JSON object a line, for each process and each of its groups, for DuckDB, ClickHouse and others
    #[arg(long, value_name = "FILE")]
    pub ndjson: Option<PathBuf>,
    /// JUnit XML, for Jenkins, GitLab and other CI servers
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// SARIF 2.1.0, for code scanning
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
    /// Markdown for a comment under a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// What --flamegraph and --folded count [default: pinned, or count where nothing is pinned]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub weight: Option<Weight>,
    /// Folder below which --sarif, --junit and --markdown make source paths relative [default: the current one]
    #[arg(long, value_name = "FOLDER")]
    pub source_root: Option<PathBuf>,
}

/// Outputs that cannot be written, or not as asked for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum OutputError {
    /// Two formats would be mixed.
    #[error("--{first} and --{second} both write to stdout: name a file for one of them")]
    TwoOnStdout { first: &'static str, second: &'static str },
    /// One file would replace the other.
    #[error("--{first} and --{second} both write to {}: name different files", .path.display())]
    SameFile { first: &'static str, second: &'static str, path: PathBuf },
    /// Bytes that are no text.
    #[error("--{format} is not for a terminal: redirect stdout, or name a file")]
    Terminal { format: &'static str },
    /// A folder where a file should be.
    #[error("cannot write the report {}: EISDIR (name a file in it with --{format})", .path.display())]
    Folder { format: &'static str, path: PathBuf },
    /// Nothing can be created there.
    #[error("cannot write the report {}: {errno} in {} (create the folder, or name another with --{format})", .path.display(), .folder.display())]
    Unwritable { format: &'static str, path: PathBuf, folder: PathBuf, errno: String },
    /// Not a folder.
    #[error("cannot use --source-root {}: {errno} (name the folder of the sources)", .path.display())]
    SourceRoot { path: PathBuf, errno: String },
}

impl Outputs {
    /// The formats that are asked for, and where each is to go.
    pub fn wanted(&self) -> Vec<(Format, &Path)> {
        let file = |format| match format {
            Format::Html => &self.html,
            Format::Json => &self.json,
            Format::Pprof => &self.pprof,
            Format::Flamegraph => &self.flamegraph,
            Format::Folded => &self.folded,
            Format::Csv => &self.csv,
            Format::Ndjson => &self.ndjson,
            Format::Junit => &self.junit,
            Format::Sarif => &self.sarif,
            Format::Markdown => &self.markdown,
        };
        Format::ALL.into_iter().filter_map(|format| Some((format, file(format).as_deref()?))).collect()
    }

    /// Whether all of it can be written, as far as that can be known before: better than after a day of running.
    ///
    /// # Errors
    /// Two outputs at one place, a terminal that would get bytes, a folder that is missing or not writable.
    pub fn check(&self) -> Result<(), OutputError> {
        let wanted = self.wanted();
        for (i, (format, path)) in wanted.iter().enumerate() {
            let format = *format;
            for (earlier, other) in &wanted[..i] {
                let (first, second) = (earlier.name(), format.name());
                if file::is_stdout(path) && file::is_stdout(other) {
                    return Err(OutputError::TwoOnStdout { first, second });
                }
                if is_plain(path) && place(path) == place(other) {
                    return Err(OutputError::SameFile { first, second, path: path.to_path_buf() });
                }
            }
            if file::is_stdout(path) {
                if format.is_binary() && std::io::stdout().is_terminal() {
                    return Err(OutputError::Terminal { format: format.name() });
                }
                continue;
            }
            check_writable(format.name(), path)?;
        }
        if let Some(root) = &self.source_root {
            let unusable = |errno| OutputError::SourceRoot { path: root.clone(), errno };
            let data = std::fs::metadata(root).map_err(|error| unusable(errno::name(&error)))?;
            if !data.is_dir() {
                return Err(unusable("ENOTDIR".to_string()));
            }
        }
        Ok(())
    }

    /// Writes every file that is asked for, whatever becomes of the others; returns what went wrong.
    pub fn write(&self, report: &AnyReport) -> Vec<WriteError> {
        let root = self.source_root.clone().or_else(|| std::env::current_dir().ok());
        let options = RenderOptions {
            weight: self.weight,
            source_root: root.map(|root| std::fs::canonicalize(&root).unwrap_or(root)),
        };
        let write = |(format, path): (Format, &Path)| file::write(path, &format.render(report, &options)).err();
        self.wanted().into_iter().filter_map(write).collect()
    }
}

/// It is, or would be, a plain file: two writers of `/dev/null` do not disturb each other.
fn is_plain(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |data| data.is_file())
}

/// The same for two paths to one file.
fn place(path: &Path) -> PathBuf {
    if let Ok(whole) = std::fs::canonicalize(path) {
        return whole;
    }
    match (std::fs::canonicalize(folder_of(path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_path_buf(),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a file can be written at `path`, the value of the option `--FORMAT`.
pub(super) fn check_writable(format: &'static str, path: &Path) -> Result<(), OutputError> {
    if path.is_dir() {
        return Err(OutputError::Folder { format, path: path.to_path_buf() });
    }
    let folder = folder_of(path);
    let target = if path.exists() && !path.is_file() { path } else { folder };
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK).map_err(|number| OutputError::Unwritable {
        format,
        path: path.to_path_buf(),
        folder: folder.to_path_buf(),
        errno: errno::name(&std::io::Error::from(number)),
    })
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
