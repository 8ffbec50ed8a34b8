//! Options of suppressions and baselines, the same for every subcommand that judges.

use super::outputs::{self, OutputError};
use crate::gate::apply::{KnownGroups, Rules};
use crate::gate::baseline::Baseline;
use crate::gate::generate;
use crate::gate::suppression_file::Suppressions;
use crate::keeper::message::LetThrough;
use crate::render::json;
use crate::report::model::Report;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the verdict lets through.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is let through")]
pub struct GateOptions {
    /// Do not count leaks that FILE names, in LSan's syntax (`leak:PATTERN`) or Valgrind's (`{ name Memcheck:Leak … }`); may be
    /// given several times
    #[arg(long, value_name = "FILE")]
    pub suppressions: Vec<PathBuf>,
    /// Count also what FFmpeg's tools and codecs are known to leave
    #[arg(long)]
    pub no_default_suppressions: bool,
    /// Write a suppression for each group that counts, to FILE or stdout
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub gen_suppressions: Option<PathBuf>,
    /// Count only groups that are not in this baseline, or have grown since (`avleak baseline save` writes one)
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// How much a group of the baseline may grow
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub slack: f64,
}

impl From<&GateOptions> for LetThrough {
    fn from(options: &GateOptions) -> Self {
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        Self {
            suppressions: options.suppressions.iter().map(bytes).collect(),
            no_default_suppressions: options.no_default_suppressions,
            baseline: options.baseline.as_ref().map(bytes),
            slack: options.slack,
        }
    }
}

impl From<LetThrough> for GateOptions {
    fn from(files: LetThrough) -> Self {
        let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
        Self {
            suppressions: files.suppressions.into_iter().map(path).collect(),
            no_default_suppressions: files.no_default_suppressions,
            gen_suppressions: None,
            baseline: files.baseline.map(path),
            slack: files.slack,
        }
    }
}

/// A number of percent, 0 or more; a `%` behind it is allowed.
///
/// # Errors
/// What is wrong with it.
pub fn percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("not a number of percent, 0 or more".to_string()),
    }
}

impl GateOptions {
    /// Reads all files that the options name: to be called before the command is started.
    ///
    /// # Errors
    /// One line that names file, line and reason.
    pub fn load(&self) -> Result<Rules, String> {
        let suppressions =
            Suppressions::load(&self.suppressions, self.no_default_suppressions).map_err(|error| error.to_string())?;
        Ok(Rules { suppressions: Some(suppressions), baseline: self.load_baseline()? })
    }

    /// As [`Self::load`], for a stored report: without an option it stays as it was judged, and with a baseline alone what it
    /// says of suppressions stays. `None`: nothing is to be judged anew.
    ///
    /// # Errors
    /// As there.
    pub fn load_for_stored(&self) -> Result<Option<Rules>, String> {
        let suppress = !self.suppressions.is_empty() || self.no_default_suppressions;
        if !suppress && self.baseline.is_none() {
            return Ok(None);
        }
        let rules = self.load()?;
        Ok(Some(Rules { suppressions: rules.suppressions.filter(|_| suppress), ..rules }))
    }

    /// Whether the file of `--gen-suppressions` can be written: better known before an hour of tests than after.
    ///
    /// # Errors
    /// What hinders it.
    pub fn check(&self) -> Result<(), OutputError> {
        match &self.gen_suppressions {
            Some(file) if file != Path::new("-") => outputs::check_writable("gen-suppressions", file),
            _ => Ok(()),
        }
    }

    fn load_baseline(&self) -> Result<Option<KnownGroups>, String> {
        let Some(file) = &self.baseline else { return Ok(None) };
        known_groups(file, self.slack).map(Some)
    }

    /// Writes what `--gen-suppressions` asks for; nothing without it.
    ///
    /// # Errors
    /// One line that names file and reason.
    pub fn generate<'a>(&self, reports: impl IntoIterator<Item = &'a Report>) -> Result<(), String> {
        let Some(file) = &self.gen_suppressions else { return Ok(()) };
        let text = generate::suppressions(reports);
        if file == Path::new("-") {
            let mut out = std::io::stdout().lock();
            return match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                // `| head` has seen enough.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(format!("cannot write suppressions to stdout: {}", crate::render::errno::name(&error)))
                }
                _ => Ok(()),
            };
        }
        json::write_text(file, &text).map_err(|error| error.to_string())
    }
}

/// Reads a baseline.
///
/// # Errors
/// One line that names file, line and reason.
pub fn known_groups(file: &Path, slack_percent: f64) -> Result<KnownGroups, String> {
    let baseline = Baseline::load(file).map_err(|error| error.to_string())?;
    Ok(KnownGroups { baseline, file: file.display().to_string(), slack_percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents() {
        for (text, number) in [("0", 0.0), ("10", 10.0), ("2.5%", 2.5), ("300 %", 300.0)] {
            assert_eq!(percent(text), Ok(number));
        }
        for text in ["", "%", "-1", "ten", "inf", "NaN"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
