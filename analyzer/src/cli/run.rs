//! `avleak run -- CMD…`: starts a command with libavleak.so preloaded, follows every process that uses FFmpeg, reports.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use avleak_wire::registration::PATIENCE_VARIABLE;
use crossbeam_channel::{never, select, unbounded};

use super::gate_options::GateOptions;
use super::preflight::{self, Preflight};
use super::supervise::{Supervisor, SupervisorEvent};
use super::watch::Watch;
use crate::gate::apply::Rules;
use crate::render::json;
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::{Ended, Level, RunReport, Verdict};
use crate::report::verdict::{self, EXIT_AVLEAK};
use crate::session::server;
use crate::target::tracer::{Tracer, TracerOptions};

/// Run a command and report which FFmpeg objects it leaked.
///
/// Exits with the command's own status where that is not 0 (128 + signal for a signal), else 0: clean, 1 (--error-exitcode): leaks, 2:
/// avleak's own error or wrong usage, 3: inconclusive.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Write the report as JSON to FILE (one process: avleak-report/1, else avleak-run/1); `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What counts as a leak. normal: lost FFmpeg objects; strict: possibly lost ones and any lost block too; draconian:
    /// every FFmpeg object alive at the end
    #[arg(long, value_enum, default_value = "normal", value_name = "LEVEL")]
    level: LevelArg,
    /// No text report on stderr
    #[arg(long, short)]
    quiet: bool,
    /// Exit status where leaks were found
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    error_exitcode: u8,
    /// Show every group, whole stacks, and what is still reachable
    #[arg(long)]
    all: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
    #[command(flatten)]
    gate: GateOptions,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// [`Level`] as clap reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LevelArg {
    Normal,
    Strict,
    Draconian,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Normal => Self::Normal,
            LevelArg::Strict => Self::Strict,
            LevelArg::Draconian => Self::Draconian,
        }
    }
}

/// How long a process under `avleak run` may have to wait until it is traced: on a busy machine the default would let it end
/// unjudged.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long whatever outlives the command gets to show whether it uses FFmpeg.
const SETTLING: Duration = Duration::from_secs(1);
/// How long to wait silently for processes that outlive the command.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs the subcommand; returns the exit status.
pub fn run(args: &RunArgs) -> i32 {
    match run_command(args) {
        Ok(code) => code,
        Err(line) => {
            say(&line);
            EXIT_AVLEAK
        }
    }
}

fn say(line: &str) {
    // Where stderr is gone there is no one left to tell.
    let _ = writeln!(std::io::stderr(), "avleak: {line}");
}

fn run_command(args: &RunArgs) -> Result<i32, String> {
    let library = library()?;
    let rules = args.gate.load().map_err(|line| format!("{line}; the command was not started"))?;
    let mut warned = false;
    let program = match preflight::judge(&args.command[0], std::env::var_os("PATH").as_deref()) {
        Preflight::Ok { path } => path,
        Preflight::Warn { path, message, .. } => {
            say(&message);
            warned = true;
            path
        }
        Preflight::Refused { message, .. } => return Err(message),
    };
    if let Some(file) = &args.json {
        check_writable(file, "--json")?;
    }
    if let Some(file) = &args.gate.gen_suppressions {
        check_writable(file, "--gen-suppressions")?;
    }
    let preload = preflight::preload_value(&library, std::env::var_os("LD_PRELOAD").as_deref())?;
    let options = super::serve::Options::from_environment();
    let (tracer, why_not) = if options.ptrace {
        match Tracer::spawn_with(TracerOptions { patience: PATIENCE, ..TracerOptions::default() }) {
            Ok(tracer) => (Some(Arc::new(tracer)), None),
            Err(error) => (None, Some(error.to_string())),
        }
    } else {
        (None, Some("ptrace=0 in AVLEAK_OPTIONS".into()))
    };
    let mut watch = Watch::new(args.level.into(), args.quiet, tracer.clone());
    let (server_sender, server_events) = unbounded();
    let supervisor_env = |socket: String| {
        let patience = PATIENCE_VARIABLE.to_string_lossy().into_owned();
        vec![
            (OsString::from("LD_PRELOAD"), preload.clone()),
            (OsString::from("AVLEAK_SOCKET"), socket.into()),
            (patience.into(), PATIENCE.as_millis().to_string().into()),
        ]
    };
    let socket = server::listen(watch.trace(why_not), server_sender).map_err(|error| error.to_string())?;
    let supervisor = Supervisor::start(&program, &args.command, &supervisor_env(socket.clone()))
        .map_err(|error| error.to_string())?;
    let traced = tracer.as_ref().map_or_else(never, |tracer| tracer.events());
    let (ended, survivors) = follow(&mut watch, &supervisor, &server_events, traced, &socket);
    let status = conclude(args, &rules, watch, ended, warned, &survivors);
    if let Some(tracer) = tracer {
        tracer.shut_down();
    }
    status
}

/// A process of the command that lives on and has not used FFmpeg yet: a daemon that its parent left behind, say.
struct Survivor {
    /// `server (pid 812)`.
    title: String,
    /// It has libavutil in its mappings.
    has_ffmpeg: bool,
}

/// Finds them: they carry the socket's name in their environment.
fn survivors_of(socket: &str, command: i32) -> Vec<Survivor> {
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
        .filter(|&pid| pid != command && carries(pid))
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Survivor { title: format!("{} (pid {pid})", name.trim_end()), has_ffmpeg: has_ffmpeg(pid) }
        })
        .collect()
}

/// Until the command and every process that registered has ended and been checked.
fn follow(
    watch: &mut Watch,
    supervisor: &Supervisor,
    server: &crossbeam_channel::Receiver<server::ServerEvent>,
    tracer: crossbeam_channel::Receiver<crate::target::tracer::TracerEvent>,
    socket: &str,
) -> (Option<Ended>, Vec<String>) {
    let (supervised, watched) = (supervisor.events(), watch.events());
    let mut supervised = Some(supervised);
    let mut tracer = tracer;
    let mut ended = None;
    let mut since: Option<Instant> = None;
    let mut told = false;
    let (mut survivors, mut dormant, mut given_up) = (Vec::new(), Vec::new(), false);
    loop {
        if supervised.is_none() && watch.is_idle() {
            // What registered in the very last moment is in the channel by now.
            if let Ok(event) = server.try_recv() {
                watch.on_server(event);
                continue;
            }
            if !given_up {
                let all = survivors_of(socket, supervisor.pid());
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
            recv(server) -> event => if let Ok(event) = event { watch.on_server(event) },
            recv(tracer) -> event => match event {
                Ok(event) => watch.on_tracer(event),
                Err(_) => tracer = never(),
            },
            recv(watched) -> event => if let Ok(event) = event { watch.on_watch(event) },
            recv(supervised.clone().unwrap_or_else(never)) -> event => match event {
                Ok(SupervisorEvent::Interrupted { .. }) => {
                    // The program's, unless it is being checked: then for whoever does not want to wait.
                    if watch.is_checking() {
                        watch.cancel();
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
            && !(watch.running().is_empty() && survivors.is_empty())
        {
            told = true;
            let all: Vec<String> = watch.running().into_iter().chain(survivors.iter().cloned()).collect();
            say(&format!("waiting for {}, which outlived the command (Ctrl-C ends the wait)", all.join(", ")));
        }
        if supervised.is_none()
            && let Ok(SupervisorEvent::Interrupted { .. }) = supervisor.events().try_recv()
        {
            if watch.is_checking() {
                watch.cancel();
            }
            watch.give_up_on_running();
            given_up = true;
        }
    }
}

fn conclude(
    args: &RunArgs,
    rules: &Rules,
    mut watch: Watch,
    ended: Option<Ended>,
    warned: bool,
    survivors: &[String],
) -> Result<i32, String> {
    for line in &watch.refusals {
        say(line);
    }
    let mut reports = std::mem::take(&mut watch.reports);
    reports.sort_by(|a, b| a.target.started.cmp(&b.target.started).then(a.target.pid.cmp(&b.target.pid)));
    let argv = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let gate = rules.apply(&mut reports);
    let mut run = verdict::sum_up(argv, ended, i32::from(args.error_exitcode), reports);
    run.gate = gate;
    if !survivors.is_empty() && run.verdict == Verdict::Clean {
        run.verdict = Verdict::Inconclusive;
        run.reason = format!("{} outlived the command and had not used FFmpeg yet", survivors.join(", "));
        run.exit = verdict::exit_status(ended, Some(run.verdict), i32::from(args.error_exitcode));
        say(&run.reason);
    }
    if let [only] = &mut run.processes[..] {
        only.exit = Some(run.exit.clone());
        only.gate.clone_from(&run.gate);
    }
    // Who was warned that nothing would be seen needs no report of that.
    if !(args.quiet || warned && run.processes.is_empty()) {
        let stderr = std::io::stderr();
        let options = TextOptions::for_stream(args.color, args.all, &stderr);
        let text = match &run.processes[..] {
            [only] => text::process(only, &options),
            _ => text::run(&run, &options),
        };
        if stderr.is_terminal() || !text.is_empty() {
            let _ = stderr.lock().write_all(text.as_bytes());
        }
    }
    let written = args.json.as_ref().map_or(Ok(()), |file| write(file, &run).map_err(|error| error.to_string()));
    for done in [written, args.gate.generate(&run.processes)] {
        match (done, ended) {
            (Ok(()), _) => (),
            // The program's own failure comes first; the line is said all the same.
            (Err(line), Some(Ended::Exit(1..) | Ended::Signal(_))) => say(&line),
            (Err(line), _) => return Err(line),
        }
    }
    Ok(run.exit.code)
}

fn write(file: &Path, run: &RunReport) -> Result<(), json::WriteError> {
    match &run.processes[..] {
        [only] => json::write(file, only),
        _ => json::write(file, run),
    }
}

/// A report that cannot be written is better known before an hour of tests than after.
fn check_writable(file: &Path, option: &str) -> Result<(), String> {
    if file == Path::new("-") {
        return Ok(());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() {
        return Err(format!(
            "cannot write {}: EISDIR (name a file in it with {option}); the command was not started",
            file.display()
        ));
    }
    let target = if file.exists() && !file.is_file() { file } else { folder };
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        let error = std::io::Error::from(errno);
        format!(
            "cannot write {}: {} in {} (create the folder, or name another with {option}); the command was not started",
            file.display(),
            crate::render::errno::name(&error),
            folder.display()
        )
    })
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
