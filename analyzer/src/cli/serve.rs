//! `avleak serve --descriptor N`: the analyzer that a bare LD_PRELOAD starts; follows one process and leaves its report.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use avleak_wire::options::{self, KEYS};
use avleak_wire::registration::PATIENCE_MS;

use super::gate_options::GateOptions;
use super::saved_sessions::SavedSessions;
use crate::http;
use crate::keeper::{Keeper, KeeperOptions, News};
use crate::monitor::settings::Wishes;
use crate::render::json;
use crate::report::model::{Level, Report, Verdict};
use crate::report::verdict::EXIT_AVLEAK;
use crate::session::server::{self, Arrival};

/// Follow the one process at the other end of an inherited socket (libavleak.so starts this).
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The socket's descriptor
    #[arg(long, value_name = "N")]
    descriptor: i32,
}

/// AVLEAK_OPTIONS as the analyzer reads them. Complaints are the interposer's: it stands in the process that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Folder of the report.
    pub report_dir: PathBuf,
    /// What counts as a leak.
    pub level: Level,
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

/// Runs the subcommand; returns the exit status, which nobody waits for.
#[allow(unsafe_code, reason = "an inherited descriptor is a number on the command line")]
pub fn run(args: &ServeArgs) -> i32 {
    let options = Options::from_environment();
    if args.descriptor < 3 || rustix::io::fcntl_getfd(borrow(args.descriptor)).is_err() {
        say(&format!(
            "descriptor {} is no open socket: libavleak.so starts this command, not a person",
            args.descriptor
        ));
        return EXIT_AVLEAK;
    }
    // SAFETY: an open descriptor that libavleak.so gave to this process and that nothing else here owns.
    let connection = UnixStream::from(unsafe { OwnedFd::from_raw_fd(args.descriptor) });
    let _ = rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::CLOEXEC);
    // Nobody may want to watch it, and then nothing is to be started.
    let arrival = server::receive(connection);
    if matches!(arrival, Arrival::Closed) {
        return 0;
    }
    let options_of_keeper = KeeperOptions {
        level: options.level,
        quiet: true,
        names_peaks: true,
        traces: options.ptrace,
        patience: Duration::from_millis(PATIENCE_MS),
        monitor: options.monitor.clone().settle(&options.report_dir.to_string_lossy()),
        http: options.http.clone(),
        sessions: options.sessions(Some(&options.report_dir)),
        let_through: (&GateOptions::default()).into(),
    };
    let mut keeper = match Keeper::start(&options_of_keeper) {
        Ok(keeper) => keeper,
        Err(line) => {
            say(&line);
            return EXIT_AVLEAK;
        }
    };
    let news = keeper.news();
    keeper.on(News::Arrived(arrival));
    loop {
        for line in keeper.lines.drain(..).filter(|_| !options.quiet) {
            say(&line);
        }
        if keeper.is_idle() {
            break;
        }
        if let Ok(one) = news.recv() {
            keeper.on(one);
        }
    }
    for line in &keeper.refusals {
        say(line);
    }
    // A bare preload has no option for files; what avleak brings along holds here too.
    if let Ok(rules) = GateOptions::default().load() {
        for report in &mut keeper.reports {
            rules.apply_to_process(report, 1);
        }
    }
    let status = keeper.reports.iter().map(|report| leave(report, &options)).max().unwrap_or(0);
    keeper.shut_down();
    status
}

fn borrow(descriptor: i32) -> std::os::fd::BorrowedFd<'static> {
    #[allow(unsafe_code, reason = "only to ask whether it is open")]
    // SAFETY: the number is only passed to fcntl, which checks it.
    unsafe {
        std::os::fd::BorrowedFd::borrow_raw(descriptor)
    }
}

/// Writes `avleak.PID.json` and says so in one line.
fn leave(report: &Report, options: &Options) -> i32 {
    let file = options.report_dir.join(format!("avleak.{}.json", report.target.pid));
    match json::write(&file, report) {
        Ok(()) => {
            if !options.quiet {
                let verdict = match report.verdict {
                    Verdict::Clean => "no leaks",
                    Verdict::Leaks => "leaks",
                    Verdict::Inconclusive => "inconclusive",
                };
                say(&format!("pid {}: {verdict}: {}; report: {}", report.target.pid, report.reason, file.display()));
            }
            0
        }
        Err(error) => {
            say(&error.to_string());
            EXIT_AVLEAK
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "avleak: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_like_lsan_options() {
        let options = Options::parse("report_dir=/var/log/avleak:level=draconian:quiet=1:ptrace=0:nonsense=3");
        assert_eq!(options.report_dir, PathBuf::from("/var/log/avleak"));
        assert_eq!((options.level, options.quiet, options.ptrace), (Level::Draconian, true, false));
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
