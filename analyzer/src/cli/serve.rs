//! `avleak serve --descriptor N`: the analyzer that a bare LD_PRELOAD starts; follows one process and leaves its report.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use avleak_wire::options::{self, KEYS};
use crossbeam_channel::{never, select, unbounded};

use super::gate_options::GateOptions;
use super::watch::Watch;
use crate::render::json;
use crate::report::model::{Level, Report, Verdict};
use crate::report::verdict::EXIT_AVLEAK;
use crate::session::server;
use crate::target::tracer::Tracer;

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

    fn parse(text: &str) -> Self {
        let mut options = Self { report_dir: working_folder(), level: Level::Normal, quiet: false, ptrace: true };
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
    let (tracer, why_not) = if options.ptrace {
        match Tracer::spawn() {
            Ok(tracer) => (Some(Arc::new(tracer)), None),
            Err(error) => (None, Some(error.to_string())),
        }
    } else {
        (None, Some("ptrace=0 in AVLEAK_OPTIONS".into()))
    };
    let mut watch = Watch::new(options.level, true, tracer.clone());
    let (sender, server_events) = unbounded();
    let trace = watch.trace(why_not);
    if std::thread::Builder::new()
        .name("avleak-server".into())
        .spawn(move || {
            let _ = sender.send(server::receive(connection, &trace));
        })
        .is_err()
    {
        say("cannot start a thread");
        return EXIT_AVLEAK;
    }
    let mut traced = tracer.as_ref().map_or_else(never, |tracer| tracer.events());
    let watched = watch.events();
    let mut registered = false;
    while !(registered && watch.is_idle()) {
        select! {
            recv(server_events) -> event => match event {
                Ok(event) => { registered = true; watch.on_server(event); }
                Err(_) => registered = true,
            },
            recv(traced) -> event => match event {
                Ok(event) => watch.on_tracer(event),
                Err(_) => traced = never(),
            },
            recv(watched) -> event => if let Ok(event) = event { watch.on_watch(event) },
            default(Duration::from_secs(1)) => (),
        }
    }
    for line in &watch.refusals {
        say(line);
    }
    // A bare preload has no option for files; what avleak brings along holds here too.
    if let Ok(rules) = GateOptions::default().load() {
        for report in &mut watch.reports {
            rules.apply_to_process(report, 1);
        }
    }
    let status = watch.reports.iter().map(|report| leave(report, &options)).max().unwrap_or(0);
    if let Some(tracer) = tracer {
        tracer.shut_down();
    }
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
    }
}
