//! `avleak core CORE --session FILE`: the check of a process that is no more, by its core file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::observe::say;
use super::telling::Telling;
use crate::check::core::{self, CoreOrder};
use crate::render::progress::Progress;
use crate::report::verdict::EXIT_AVLEAK;
use crate::session::saved::Saved;
use crate::target::core::Core;

/// Report what a process had leaked that is no more, from its core file and its session's file.
///
/// The session's file is written where nobody could look at a process's memory when it ended (`session=` in AVLEAK_OPTIONS, `avleak run
/// --session-dir`), or of a process that runs (`avleak check PID --session FILE`, after `gcore`). Exits with 0: clean, 1
/// (--error-exitcode): leaks, 2: avleak's own error or wrong usage, 3: inconclusive.
#[derive(Debug, clap::Args)]
pub struct CoreArgs {
    /// The core file, as the kernel or gcore wrote it
    #[arg(value_name = "CORE")]
    core: PathBuf,
    /// The session's file of the same process: `avleak.PID.session`
    #[arg(long, value_name = "FILE")]
    session: PathBuf,
    /// The folder that the process saw as `/`, where its programs and libraries are [default: /]
    #[arg(long, value_name = "FOLDER")]
    sysroot: Option<PathBuf>,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the subcommand; returns the exit status.
pub fn run(args: &CoreArgs) -> i32 {
    match check(args) {
        Ok(code) => code,
        Err(line) => {
            say(&line);
            EXIT_AVLEAK
        }
    }
}

fn check(args: &CoreArgs) -> Result<i32, String> {
    let rules = args.telling.prepare()?;
    if let Some(root) = args.sysroot.as_ref().filter(|root| !root.is_dir()) {
        return Err(format!("cannot use --sysroot {}: it is no folder", root.display()));
    }
    let saved = Saved::read(&args.session).map_err(|error| error.to_string())?;
    let core = Core::open(&args.core).map_err(|error| error.to_string())?;
    let exe = String::from_utf8_lossy(&saved.head.exe).into_owned();
    let title = exe.rsplit('/').next().unwrap_or_default();
    let progress = Progress::of_check(title, saved.head.pid as u32, 0, args.telling.is_quiet());
    let (cancel, done_before) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let order = CoreOrder {
        session_path: &args.session,
        core_path: &args.core,
        root: args.sysroot.as_deref(),
        level: args.telling.level(),
        progress: &|done, total| {
            progress.set_total(total);
            progress.advance(done.saturating_sub(done_before.swap(done, Ordering::Relaxed)));
        },
        cancel: &cancel,
    };
    let report = core::run(saved, core, &order)?;
    drop(progress);
    Ok(args.telling.tell("core", &rules, vec![report], Vec::new()))
}
