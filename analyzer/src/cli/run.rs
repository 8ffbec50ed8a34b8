//! `avleak run -- CMD…`: starts a command with libavleak.so preloaded, follows every process that uses FFmpeg, reports.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use avleak_wire::registration::PATIENCE_VARIABLE;
use crossbeam_channel::{never, select, unbounded};

use super::preflight::{self, Preflight};
use super::supervise::{Supervisor, SupervisorEvent};
use super::watch::Watch;
use crate::render::json;
use crate::render::style::ColorChoice;
use crate::render::text::{self, TextOptions};
use crate::report::model::{Ended, Level, RunReport};
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
        check_writable(file)?;
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
    let supervisor =
        Supervisor::start(&program, &args.command, &supervisor_env(socket)).map_err(|error| error.to_string())?;
    let ended = follow(&mut watch, &supervisor, &server_events, tracer.as_ref().map_or_else(never, |t| t.events()));
    conclude(args, watch, ended, warned)
}

/// Until the command and every process that registered has ended and been checked.
fn follow(
    watch: &mut Watch,
    supervisor: &Supervisor,
    server: &crossbeam_channel::Receiver<server::ServerEvent>,
    tracer: crossbeam_channel::Receiver<crate::target::tracer::TracerEvent>,
) -> Option<Ended> {
    let (supervised, watched) = (supervisor.events(), watch.events());
    let mut supervised = Some(supervised);
    let mut tracer = tracer;
    let mut ended = None;
    let mut since: Option<Instant> = None;
    let mut told = false;
    loop {
        if supervised.is_none() && watch.is_idle() {
            // What registered in the very last moment is in the channel by now.
            match server.try_recv() {
                Ok(event) => watch.on_server(event),
                Err(_) => return ended,
            }
            continue;
        }
        select! {
            recv(server) -> event => if let Ok(event) = event { watch.on_server(event) },
            recv(tracer) -> event => match event {
                Ok(event) => watch.on_tracer(event),
                Err(_) => tracer = never(),
            },
            recv(watched) -> event => if let Ok(event) = event { watch.on_watch(event) },
            recv(supervised.clone().unwrap_or_else(never)) -> event => match event {
                Ok(SupervisorEvent::Interrupted { count }) => {
                    // The first is the program's; the second is for whoever does not want to wait.
                    if count > 1 {
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
            && !watch.running().is_empty()
        {
            told = true;
            say(&format!(
                "waiting for {}, which outlived the command (Ctrl-C ends the wait)",
                watch.running().join(", ")
            ));
        }
        if supervised.is_none()
            && let Ok(SupervisorEvent::Interrupted { .. }) = supervisor.events().try_recv()
        {
            if watch.is_checking() {
                watch.cancel();
            }
            watch.give_up_on_running();
        }
    }
}

fn conclude(args: &RunArgs, mut watch: Watch, ended: Option<Ended>, warned: bool) -> Result<i32, String> {
    for line in &watch.refusals {
        say(line);
    }
    let mut reports = std::mem::take(&mut watch.reports);
    reports.sort_by(|a, b| a.target.started.cmp(&b.target.started).then(a.target.pid.cmp(&b.target.pid)));
    let argv = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut run = verdict::sum_up(argv, ended, i32::from(args.error_exitcode), reports);
    if let [only] = &mut run.processes[..] {
        only.exit = Some(run.exit.clone());
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
    if let Some(file) = &args.json {
        write(file, &run).map_err(|error| error.to_string()).or_else(|line| match ended {
            // The program's own failure comes first; the line is said all the same.
            Some(Ended::Exit(1..) | Ended::Signal(_)) => {
                say(&line);
                Ok(())
            }
            _ => Err(line),
        })?;
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
fn check_writable(file: &Path) -> Result<(), String> {
    if file == Path::new("-") {
        return Ok(());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target = if file.exists() && !file.is_file() { file } else { folder };
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        let error = std::io::Error::from(errno);
        format!(
            "cannot write the report {}: {} in {} (create the folder, or name another with --json); the command was not started",
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
