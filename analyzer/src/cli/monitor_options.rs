//! Options of monitoring: how often a process is checked while it runs on, and what is worth an alert.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use avleak_wire::options;

use super::outputs;
use crate::monitor::settings::Wishes;
use crate::render::errno;

/// As AVLEAK_OPTIONS has them; these go first.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitorArgs {
    /// Check each process so often while it runs on: 100ms to 24h, such as 60s (default where any option of these is given: 60s)
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    check_interval: Option<u64>,
    /// Alert once N frames of a group are lost
    #[arg(long, value_name = "N", value_parser = count)]
    alert_frames: Option<u64>,
    /// Alert once the lost objects of a group pin so much, such as 100M
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    alert_bytes: Option<u64>,
    /// Alert once a group, lost or not, grows by N objects an hour, beyond doubt (default where no threshold is given: 1)
    #[arg(long, value_name = "N", value_parser = count)]
    alert_growth: Option<u64>,
    /// Program to start at an alert, without arguments or a shell; it is told in AVLEAK_ALERT_… and on stdin
    #[arg(long, value_name = "PROGRAM")]
    alert_command: Option<PathBuf>,
    /// File to which each alert adds a line of JSON, reports beside it; default: avleak.alerts.ndjson
    #[arg(long, value_name = "FILE")]
    alert_file: Option<PathBuf>,
}

/// A time, as milliseconds.
///
/// # Errors
/// What it should look like.
pub fn milliseconds(text: &str) -> Result<u64, &'static str> {
    options::milliseconds(text).ok_or("not a time from 100ms to 24h, such as 60s")
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    options::bytes(text).ok_or("not a number of bytes, such as 100M")
}

fn count(text: &str) -> Result<u64, &'static str> {
    options::count(text).ok_or("not a number, 1 or more")
}

impl MonitorArgs {
    /// What they say.
    ///
    /// # Errors
    /// A line where a file cannot be written or a program not be started: better known now than at the first alert.
    pub fn wishes(&self) -> Result<Wishes, String> {
        let text = |option: &str, path: &Path| {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
            whole.into_os_string().into_string().map_err(|path| format!("{option} {}: not UTF-8", path.display()))
        };
        let mut wishes = Wishes {
            interval_ms: self.check_interval,
            frames: self.alert_frames,
            bytes: self.alert_bytes,
            growth: self.alert_growth,
            ..Wishes::default()
        };
        if let Some(file) = &self.alert_file {
            outputs::check_writable("alert-file", file).map_err(|error| error.to_string())?;
            wishes.file = Some(text("--alert-file", file)?);
        }
        if let Some(program) = &self.alert_command {
            let found = program_of(program).map_err(|error| {
                format!(
                    "--alert-command {}: {} (it is one program, without arguments)",
                    program.display(),
                    errno::name(&error)
                )
            })?;
            wishes.command = Some(text("--alert-command", &found)?);
        }
        Ok(wishes)
    }
}

/// Where a program lies: as named, or where PATH leads.
fn program_of(program: &Path) -> std::io::Result<PathBuf> {
    let runs = |file: &Path| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
    let missing = || std::io::Error::from_raw_os_error(libc::ENOENT);
    if program.as_os_str().as_bytes().contains(&b'/') {
        rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?;
        return runs(program).then(|| program.to_path_buf()).ok_or_else(missing);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found =
        path.as_bytes().split(|&byte| byte == b':').map(|folder| Path::new(OsStr::from_bytes(folder)).join(program));
    found.find(|file| runs(file)).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_said_at_once() {
        let args = MonitorArgs { alert_command: Some("mail -s leak".into()), ..MonitorArgs::default() };
        let line = args.wishes().expect_err("no such program");
        assert!(
            line.contains("mail -s leak") && line.contains("ENOENT") && line.contains("without arguments"),
            "{line}"
        );
        let args = MonitorArgs { alert_file: Some("/nonexistent/alerts".into()), ..MonitorArgs::default() };
        assert!(args.wishes().expect_err("no such folder").contains("/nonexistent"));
        let args = MonitorArgs { alert_command: Some("sh".into()), alert_frames: Some(3), ..MonitorArgs::default() };
        let wishes = args.wishes().expect("wishes");
        assert!(wishes.command.is_some_and(|program| program.ends_with("/sh")) && wishes.frames == Some(3));
        assert_eq!(MonitorArgs::default().wishes(), Ok(Wishes::default()));
    }
}
