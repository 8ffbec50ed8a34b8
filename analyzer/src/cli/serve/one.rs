//! The keeper that a bare LD_PRELOAD starts: follows one process and leaves its report.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use avleak_wire::registration::{PATIENCE_MS, PATIENCE_VARIABLE};

use super::leave;
use super::options::Options;
use crate::cli::gate_options::GateOptions;
use crate::cli::observe::say;
use crate::keeper::{Keeper, KeeperOptions, News};
use crate::report::verdict::EXIT_AVLEAK;
use crate::session::server::{self, Arrival};
use crate::target::child;

/// The machine's own process ids, as the kernel numbers that namespace (PROC_PID_INIT_INO).
const MACHINE: &str = "pid:[4026531836]";

/// Returns the exit status, which nobody waits for.
pub fn run(descriptor: i32, options: &Options) -> i32 {
    // Whoever stops the service means the process that is watched. This one ends when that has.
    child::outlive_requests_to_end();
    let Some(connection) = adopt(descriptor) else {
        say(&format!("descriptor {descriptor} is no open socket: libavleak.so starts this command, not a person"));
        return EXIT_AVLEAK;
    };
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
        holds: is_in_container(),
        patience: patience(),
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
    keeper.refusals.iter().for_each(|line| say(line));
    // A bare preload has no option for files; what avleak brings along holds here too.
    if let Ok(rules) = GateOptions::default().load() {
        for report in &mut keeper.reports {
            rules.apply_to_process(report, 1);
        }
    }
    let failed = keeper.reports.iter().filter(|report| !leave::report(report, options)).count();
    // What is held goes on now. It may be the last but the first process of its container, with which all others end.
    keeper.shut_down();
    if failed == 0 { 0 } else { EXIT_AVLEAK }
}

/// When the first process of a pid namespace ends, which often is soon after the one that is watched, the kernel kills all others. There the
/// process waits until its report is written.
fn is_in_container() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace != Path::new(MACHINE))
}

/// How long the process waits to be traced.
fn patience() -> Duration {
    let wanted = std::env::var(PATIENCE_VARIABLE.to_string_lossy().as_ref()).ok().and_then(|text| text.parse().ok());
    Duration::from_millis(wanted.filter(|ms| (PATIENCE_MS..=60_000).contains(ms)).unwrap_or(PATIENCE_MS))
}

#[allow(unsafe_code, reason = "an inherited descriptor is a number on the command line")]
fn adopt(descriptor: i32) -> Option<UnixStream> {
    if descriptor < 3 {
        return None;
    }
    // SAFETY: the number is only passed to fcntl, which checks it.
    let asked = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    rustix::io::fcntl_getfd(asked).ok()?;
    // SAFETY: an open descriptor that libavleak.so gave to this process and that nothing else here owns.
    let connection = UnixStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    let _ = rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::CLOEXEC);
    Some(connection)
}
