//! A command under watch: starts it with libavleak.so preloaded, follows every process of it that uses FFmpeg to its end.
//!
//! What `avleak run` and `avleak ci` have in common. What they make of the reports is theirs.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use avleak_wire::registration::PATIENCE_VARIABLE;
use crossbeam_channel::{never, select};

use super::gate_options::GateOptions;
use super::linked_in;
use super::only::OnlyArgs;
use super::preflight::{self, Preflight};
use super::python::{self, PythonArgs};
use super::serve;
use super::supervise::{Supervisor, SupervisorEvent};
use crate::gate::apply::Rules;
use crate::http;
use crate::keeper::{Keeper, KeeperOptions};
use crate::monitor::settings::Wishes;
use crate::report::model::{Ended, Level, Report, RunReport, Verdict};
use crate::report::verdict;
use crate::session::place::Place;

/// How long a process under `avleak run` may have to wait until it is traced: on a busy machine the default would let it end
/// unjudged.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long whatever outlives the command gets to show whether it uses FFmpeg.
const SETTLING: Duration = Duration::from_secs(1);
/// How long to wait silently for processes that outlive the command.
const SILENCE: Duration = Duration::from_secs(2);

/// What to watch, and how.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The command and its arguments.
    pub command: &'a [OsString],
    /// What counts as a leak.
    pub level: Level,
    /// No progress bar.
    pub quiet: bool,
    /// Files of the whole report are asked for, not only text.
    pub files: bool,
    /// Whether the command is a Python's.
    pub python: PythonArgs,
    /// Which of its programs to watch.
    pub only: &'a OnlyArgs,
    /// How processes are checked while they run on, before what AVLEAK_OPTIONS say.
    pub monitor: &'a Wishes,
    /// Where is told of them over HTTP, before what AVLEAK_OPTIONS say.
    pub http: &'a http::Wish,
    /// What such checks let through.
    pub gate: &'a GateOptions,
    /// Where sessions are saved whose process ended with nobody to look at its memory.
    pub session_dir: Option<&'a Path>,
}

/// What was seen of a command that has ended.
#[derive(Debug)]
pub struct Observation {
    /// How the command itself ended, where that is known.
    pub ended: Option<Ended>,
    /// One report for each process that used FFmpeg, in the order in which they began to.
    pub reports: Vec<Report>,
    /// It was said already that nothing of the command itself can be seen.
    pub warned: bool,
    /// No process was seen to use FFmpeg, but it is linked into this program, and nothing names it there.
    pub linked_in: Option<PathBuf>,
    /// Processes that use FFmpeg, outlived the command, and were not waited for: `server (pid 812)`.
    pub survivors: Vec<String>,
}

impl Observation {
    /// The report over the command and all its processes. `rules`: what the verdict lets through; `error_exitcode`: the exit status for leaks.
    pub fn sum_up(mut self, command: &[OsString], rules: &Rules, error_exitcode: i32) -> RunReport {
        let argv = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let gate = rules.apply(&mut self.reports);
        let mut run = verdict::sum_up(argv, self.ended, error_exitcode, self.reports);
        run.gate = gate;
        if let Some(program) = &self.linked_in {
            run.reason = format!(
                "FFmpeg is linked into {}, which has no symbol table, so that nothing of it could be seen (keep its symbols: link without \
                 -s, do not strip; -g also gives lines)",
                program.display()
            );
        }
        if !self.survivors.is_empty() && run.verdict == Verdict::Clean {
            run.verdict = Verdict::Inconclusive;
            run.reason = format!("{} outlived the command and had not used FFmpeg yet", self.survivors.join(", "));
            run.exit = verdict::exit_status(self.ended, Some(run.verdict), error_exitcode);
            say(&run.reason);
        }
        if let [only] = &mut run.processes[..] {
            only.exit = Some(run.exit.clone());
            only.gate.clone_from(&run.gate);
        }
        run
    }
}

/// One line on stderr.
pub fn say(line: &str) {
    // Where stderr is gone there is no one left to tell.
    let _ = writeln!(std::io::stderr(), "avleak: {line}");
}

/// Runs the command to its end, and that of every process of it that uses FFmpeg.
///
/// # Errors
/// A line that names what could not be found, watched or started, and the remedy; the command was not started then.
pub fn observe(order: &Order) -> Result<Observation, String> {
    let library = library()?;
    let only = order.only.environment()?;
    let mut warned = false;
    let program = match preflight::judge(&order.command[0], std::env::var_os("PATH").as_deref()) {
        Preflight::Ok { path } => path,
        Preflight::Warn { path, message, .. } => {
            say(&message);
            warned = true;
            path
        }
        Preflight::Refused { message, .. } => return Err(message),
    };
    let preload = preflight::preload_value(&library, std::env::var_os("LD_PRELOAD").as_deref())?;
    let options = serve::Options::from_environment();
    let mut keeper = Keeper::start(&KeeperOptions {
        level: order.level,
        quiet: order.quiet,
        names_peaks: order.files,
        traces: options.ptrace,
        holds: false,
        patience: PATIENCE,
        monitor: order.monitor.clone().or(options.monitor.clone()).settle(&options.report_dir.to_string_lossy()),
        http: order.http.clone().or(options.http.clone()),
        sessions: options.sessions(order.session_dir),
        let_through: order.gate.into(),
    })?;
    // Where it serves is known before the command can want to know.
    keeper.lines.drain(..).for_each(|line| say(&line));
    let place = Place::fresh();
    keeper.listen(&place).map_err(|error| error.to_string())?;
    let socket = place.name();
    let patience = PATIENCE_VARIABLE.to_string_lossy().into_owned();
    let mut environment = vec![
        (OsString::from("LD_PRELOAD"), preload),
        (OsString::from("AVLEAK_SOCKET"), socket.into()),
        (patience.into(), PATIENCE.as_millis().to_string().into()),
    ];
    environment.extend(python::environment(order.python, &program, order.command));
    environment.extend(only);
    let supervisor = Supervisor::start(&program, order.command, &environment).map_err(|error| error.to_string())?;
    let (ended, survivors) = follow(&mut keeper, &supervisor, (socket, order.only));
    if let (times @ 1.., signal) = keeper.restarts {
        say(&restarted(times, signal));
    }
    for line in &keeper.refusals {
        say(line);
    }
    let mut reports = std::mem::take(&mut keeper.reports);
    reports.sort_by(|a, b| a.target.started.cmp(&b.target.started).then(a.target.pid.cmp(&b.target.pid)));
    keeper.shut_down();
    let nameless = |program: &Path| linked_in::holds_ffmpeg(program) && !linked_in::names_ffmpeg(program);
    let linked_in = (reports.is_empty() && nameless(&program)).then_some(program);
    Ok(Observation { ended, reports, warned, linked_in, survivors })
}

/// A process of the command that lives on and has not used FFmpeg yet: a daemon that its parent left behind, say.
struct Survivor {
    /// `server (pid 812)`.
    title: String,
    /// It has libavutil in its mappings.
    has_ffmpeg: bool,
}

/// Finds them: they carry the socket's name in their environment.
fn survivors_of((socket, only): (&str, &OnlyArgs), command: i32) -> Vec<Survivor> {
    let variable = format!("AVLEAK_SOCKET={socket}");
    let carries = |pid: i32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|entry| entry == variable.as_bytes()))
    };
    let has_ffmpeg = |pid: i32| {
        let tid = crate::target::threads::live_thread(pid).unwrap_or(pid);
        crate::target::maps::read_maps(tid).is_ok_and(|maps| {
            let names = maps.iter().filter_map(|mapping| mapping.path()?.file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with("libavutil"))
        })
    };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != command && carries(pid) && only.wants(pid))
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Survivor { title: format!("{} (pid {pid})", name.trim_end()), has_ffmpeg: has_ffmpeg(pid) }
        })
        .collect()
}

/// The analyzer was started again.
pub fn restarted(times: u64, signal: Option<i32>) -> String {
    let by = signal.map_or_else(String::new, |signal| format!(" (the last time by signal {signal})"));
    let times = if times == 1 { "once".into() } else { format!("{times} times") };
    format!("the analyzer process ended{by} and was started again {times}; it went on where it stood")
}

/// Until the command and every process that registered has ended and been checked.
fn follow(keeper: &mut Keeper, supervisor: &Supervisor, marks: (&str, &OnlyArgs)) -> (Option<Ended>, Vec<String>) {
    let (supervised, news) = (supervisor.events(), keeper.news());
    let mut supervised = Some(supervised);
    let mut ended = None;
    let mut since: Option<Instant> = None;
    let mut told = false;
    let (mut survivors, mut dormant, mut given_up) = (Vec::new(), Vec::new(), false);
    loop {
        keeper.lines.drain(..).for_each(|line| say(&line));
        if supervised.is_none() && keeper.is_idle() {
            // What registered in the very last moment is in the channel by now.
            if let Ok(one) = news.try_recv() {
                keeper.on(one);
                continue;
            }
            if !given_up {
                let all = survivors_of(marks, supervisor.pid());
                // One that was forked this moment has not executed its program yet.
                let settling = since.is_some_and(|since| since.elapsed() < SETTLING) && !all.is_empty();
                dormant = all.iter().filter(|survivor| !survivor.has_ffmpeg).map(|s| s.title.clone()).collect();
                survivors = all.into_iter().filter(|s| s.has_ffmpeg).map(|s| s.title).collect();
                if settling {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            }
            if survivors.is_empty() || given_up {
                if !dormant.is_empty() {
                    say(&format!(
                        "{} outlived the command, without FFmpeg so far; nobody watches that any more",
                        dormant.join(", ")
                    ));
                }
                return (ended, survivors);
            }
        }
        select! {
            recv(news) -> one => if let Ok(one) = one { keeper.on(one) },
            recv(supervised.clone().unwrap_or_else(never)) -> event => match event {
                Ok(SupervisorEvent::Interrupted { .. }) => {
                    // The program's, unless it is being checked: then for whoever does not want to wait.
                    if keeper.is_checking() {
                        keeper.cancel();
                    }
                }
                Ok(SupervisorEvent::ChildExited(how)) => {
                    ended = Some(how);
                    supervised = None;
                    since = Some(Instant::now());
                }
                Ok(SupervisorEvent::StatusLost) | Err(_) => {
                    supervised = None;
                    since = Some(Instant::now());
                }
                Ok(_) => (),
            },
            default(Duration::from_millis(200)) => (),
        }
        if let Some(since) = since
            && !told
            && since.elapsed() > SILENCE
            && !(keeper.running().is_empty() && survivors.is_empty())
        {
            told = true;
            let all: Vec<String> = keeper.running().into_iter().chain(survivors.iter().cloned()).collect();
            say(&format!("waiting for {}, which outlived the command (Ctrl-C ends the wait)", all.join(", ")));
        }
        if supervised.is_none()
            && let Ok(SupervisorEvent::Interrupted { .. }) = supervisor.events().try_recv()
        {
            if keeper.is_checking() {
                keeper.cancel();
            }
            keeper.give_up_on_running();
            given_up = true;
        }
    }
}

/// libavleak.so: AVLEAK_LIB, or beside this program, or in `../lib` (and `../lib/avleak`).
fn library() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("AVLEAK_LIB").filter(|named| !named.as_bytes().is_empty()) {
        let path = PathBuf::from(named);
        return std::fs::canonicalize(&path)
            .map_err(|error| format!("AVLEAK_LIB names {}: {}", path.display(), crate::render::errno::name(&error)));
    }
    let own = std::env::current_exe().map_err(|error| format!("cannot find avleak's own path: {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let candidates = ["libavleak.so", "../lib/libavleak.so", "../lib/avleak/libavleak.so"];
    candidates
        .iter()
        .find_map(|name| std::fs::canonicalize(folder.join(name)).ok())
        .ok_or_else(|| format!("libavleak.so is neither beside {} nor in ../lib: set AVLEAK_LIB to it", own.display()))
}
