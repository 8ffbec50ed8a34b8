//! `avleak serve --socket NAME`: one server for many processes, which come and go.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, unbounded};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::options::Options;
use super::{leave, notify};
use crate::cli::gate_options::GateOptions;
use crate::cli::observe::{restarted, say};
use crate::gate::apply::Rules;
use crate::keeper::{Keeper, KeeperOptions};
use crate::session::place::Place;
use crate::target::child;

/// How long a process may have to wait until it is traced.
const PATIENCE: Duration = Duration::from_millis(avleak_wire::registration::PATIENCE_MS);
/// How long the last checks may take, of those that are still there at the end.
const LAST_CHECKS: Duration = Duration::from_secs(60);

/// How far the server is with ending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// Processes that still run may end until then.
    Waiting(Instant),
    /// Those that still run are being checked.
    Checking(Instant),
    /// Nobody is waited for any more.
    Now,
}

/// Serves until it is told to end.
///
/// # Errors
/// A line: it cannot begin, or cannot go on.
pub fn run(socket: &str, options: Result<Options, String>, gate: &GateOptions, wait: Duration) -> Result<(), String> {
    let options = options?;
    let rules = gate.load()?;
    let place = Place::named(socket)?;
    raise_descriptors();
    // First of all: a request to end must not be lost.
    let (_watch, requests) = requests_to_end()?;
    let mut keeper = Keeper::start(&KeeperOptions {
        level: options.level,
        quiet: true,
        names_peaks: true,
        traces: options.ptrace,
        holds: false,
        patience: PATIENCE,
        monitor: options.monitor.clone().settle(&options.report_dir.to_string_lossy()),
        http: options.http.clone(),
        sessions: options.sessions(Some(&options.report_dir)),
        let_through: gate.into(),
    })?;
    keeper.lines.drain(..).for_each(|line| say(&line));
    let _listening = keeper.listen(&place).map_err(|error| error.to_string())?;
    say(&format!("processes may register: AVLEAK_SOCKET={socket}"));
    notify::ready();
    let outcome = serve(&mut keeper, &requests, &options, &rules, wait);
    keeper.shut_down();
    outcome
}

fn serve(
    keeper: &mut Keeper,
    requests: &Receiver<()>,
    options: &Options,
    rules: &Rules,
    wait: Duration,
) -> Result<(), String> {
    let news = keeper.news();
    let (mut ending, mut restarts) = (Ending::No, 0);
    loop {
        tell(keeper, options, rules, &mut restarts);
        if !keeper.has_analyzer() {
            return Err(
                "there is no analyzer any more: this server ends (whoever started it may start it again)".into()
            );
        }
        let until = match ending {
            Ending::No => never(),
            _ if keeper.is_idle() => return Ok(()),
            Ending::Now => return Ok(()),
            Ending::Waiting(until) | Ending::Checking(until) => after(until.saturating_duration_since(Instant::now())),
        };
        select! {
            recv(news) -> one => if let Ok(one) = one { keeper.on(one) },
            recv(requests) -> _ => ending = next(ending, keeper, wait),
            recv(until) -> _ => ending = next(ending, keeper, wait),
        }
    }
}

/// Asked to end, or once more, or time is up.
fn next(ending: Ending, keeper: &mut Keeper, wait: Duration) -> Ending {
    match ending {
        Ending::No => {
            if !keeper.is_idle() {
                let running = keeper.running().join(", ");
                say(&format!("asked to end: waiting for {running} (once more, and they are checked now, as they run)"));
            }
            Ending::Waiting(Instant::now() + wait)
        }
        Ending::Waiting(_) => {
            keeper.check_the_running();
            Ending::Checking(Instant::now() + LAST_CHECKS)
        }
        Ending::Checking(_) | Ending::Now => {
            say(&format!("not reported: {}", keeper.running().join(", ")));
            Ending::Now
        }
    }
}

/// Leaves what there is to be left, and says what there is to be said.
fn tell(keeper: &mut Keeper, options: &Options, rules: &Rules, restarts: &mut u64) {
    for line in keeper.lines.drain(..).filter(|_| !options.quiet) {
        say(&line);
    }
    keeper.refusals.drain(..).for_each(|line| say(&line));
    if let (times, signal) = keeper.restarts
        && times > *restarts
    {
        say(&restarted(times - *restarts, signal));
        *restarts = times;
    }
    for mut report in keeper.reports.drain(..) {
        rules.apply_to_process(&mut report, 1);
        leave::report(&report, options);
    }
}

/// A message for each signal that asks this process to end.
fn requests_to_end() -> Result<(child::SignalWatch, Receiver<()>), String> {
    let cannot = |error: std::io::Error| format!("cannot receive signals: {error}");
    let (watch, reader) = child::watch_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(cannot)?;
    let (sender, requests) = unbounded();
    let pass_on = move || reader.into_iter().try_for_each(|_| sender.send(()));
    std::thread::Builder::new().name("signals".into()).spawn(pass_on).map_err(cannot)?;
    Ok((watch, requests))
}

/// Each process that is watched takes five descriptors here, and more in the analyzer, which has the same limit.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused fewer processes can be watched.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
