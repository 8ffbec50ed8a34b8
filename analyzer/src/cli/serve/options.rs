//! AVLEAK_OPTIONS, as avleak itself reads them.

use std::path::{Path, PathBuf};

use avleak_wire::options::{self, KEYS};

use crate::cli::saved_sessions::SavedSessions;
use crate::http;
use crate::monitor::settings::Wishes;
use crate::report::model::Level;

/// Where nothing says how many earlier reports of a process id stay.
pub const REPORTS_KEPT: usize = 20;

/// AVLEAK_OPTIONS as the analyzer reads them. Complaints are the interposer's: it stands in the process that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Folder of the report.
    pub report_dir: PathBuf,
    /// What counts as a leak.
    pub level: Level,
    /// Earlier reports of a process id that stay when another process of that id is reported.
    pub reports_kept: usize,
    /// Nothing on stderr.
    pub quiet: bool,
    /// Trace the process.
    pub ptrace: bool,
    /// Check it while it runs on.
    pub monitor: Wishes,
    /// Tell of it over HTTP.
    pub http: http::Wish,
    /// Save its session where nobody can look at its memory when it ends: always, never, or where there may be a core.
    pub session: Option<bool>,
}

/// The folder in which the program was started: it may have moved since (a daemon goes to `/`).
fn working_folder() -> PathBuf {
    let started = std::env::var_os("AVLEAK_CWD").map(PathBuf::from).filter(|folder| folder.is_absolute());
    started.or_else(|| std::env::current_dir().ok()).unwrap_or_else(|| PathBuf::from("."))
}

impl Options {
    /// From the environment.
    pub fn from_environment() -> Self {
        Self::parse(&std::env::var("AVLEAK_OPTIONS").unwrap_or_default())
    }

    /// Where sessions are saved; `folder`: where, unless they are asked for and go beside the reports.
    pub fn sessions(&self, folder: Option<&Path>) -> Option<SavedSessions> {
        match (self.session, folder) {
            (Some(false), _) | (None, None) => None,
            (session, folder) => Some(SavedSessions::to(folder.unwrap_or(&self.report_dir), session == Some(true))),
        }
    }

    fn parse(text: &str) -> Self {
        let folder = working_folder();
        let mut options = Self {
            report_dir: folder.clone(),
            level: Level::Normal,
            reports_kept: REPORTS_KEPT,
            quiet: false,
            ptrace: true,
            monitor: Wishes::default(),
            http: http::Wish::default(),
            session: None,
        };
        let take = |key: &'static str, value: &str| match key {
            "report_dir" => options.report_dir = options.report_dir.join(value),
            "level" => {
                options.level = match value {
                    "strict" => Level::Strict,
                    "draconian" => Level::Draconian,
                    _ => Level::Normal,
                }
            }
            "reports_kept" => options.reports_kept = value.parse().unwrap_or(REPORTS_KEPT),
            "quiet" => options.quiet = value == "1",
            "ptrace" => options.ptrace = value == "1",
            "session" => options.session = ["0", "1"].iter().position(|known| *known == value).map(|at| at == 1),
            "check_interval" => options.monitor.interval_ms = options::milliseconds(value),
            "alert_frames" => options.monitor.frames = options::count(value),
            "alert_bytes" => options.monitor.bytes = options::bytes(value),
            "alert_growth" => options.monitor.growth = options::count(value),
            // A name alone is looked for in PATH.
            "alert_command" if !value.contains('/') => options.monitor.command = Some(value.into()),
            "alert_command" => options.monitor.command = folder.join(value).to_str().map(Into::into),
            "alert_file" => options.monitor.file = folder.join(value).to_str().map(Into::into),
            "http" => options.http.address = options::address(value),
            "http_token_file" => options.http.token_file = Some(folder.join(value)),
            // The interposer's.
            _ => debug_assert!(KEYS.iter().any(|known| known.key == key)),
        };
        options::parse(text, take, |_| ());
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_like_lsan_options() {
        let options =
            Options::parse("report_dir=/var/log/avleak:reports_kept=3:level=draconian:quiet=1:ptrace=0:nonsense=3");
        assert_eq!(options.report_dir, PathBuf::from("/var/log/avleak"));
        assert_eq!((options.level, options.quiet, options.ptrace), (Level::Draconian, true, false));
        assert_eq!((options.reports_kept, Options::parse("").reports_kept), (3, REPORTS_KEPT));
        assert_eq!(options.sessions(Some(Path::new("/x"))), Some(SavedSessions::to(Path::new("/x"), false)));
        assert_eq!(options.sessions(None), None);
        assert_eq!((options.monitor, options.http), (Wishes::default(), http::Wish::default()));
        let options = Options::parse("report_dir=/log:session=1");
        assert_eq!(options.sessions(None), Some(SavedSessions::to(Path::new("/log"), true)));
        assert_eq!(Options::parse("session=0").sessions(Some(Path::new("/x"))), None);
        let options = Options::parse("quiet=1:http=127.0.0.1:9464:http_token_file=/etc/token:level=strict");
        assert_eq!((options.quiet, options.level), (true, Level::Strict));
        assert_eq!(options.http.address, Some(([127, 0, 0, 1], 9464).into()));
        assert_eq!(options.http.token_file, Some("/etc/token".into()));
    }

    #[test]
    fn monitoring_is_read_too() {
        let options =
            Options::parse("check_interval=5m:alert_bytes=1G:alert_growth=0:alert_command=notify:alert_file=/log/a");
        let expected = Wishes {
            interval_ms: Some(300_000),
            bytes: Some(1 << 30),
            command: Some("notify".into()),
            file: Some("/log/a".into()),
            ..Wishes::default()
        };
        assert_eq!(options.monitor, expected);
        let settings = options.monitor.settle("/log").expect("settings");
        assert_eq!((settings.file.as_str(), settings.growth), ("/log/a", None));
    }
}
