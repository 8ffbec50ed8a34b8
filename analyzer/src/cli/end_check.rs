//! The check of a process that has come to its end.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::saved_sessions::SavedSessions;
use crate::check::{self, Order, Reach, Subject};
use crate::render::progress::Progress;
use crate::report::model::{Ended, Level, Report};
use crate::session::server::Session;
use crate::session::{saved, vault};
use crate::target::tracer::Tracer;

/// Saves a session to a file; returns its path where that was done.
pub type Save<'a> = &'a dyn Fn(&Path, &[u8]) -> Option<String>;

/// How a process came to its end.
pub struct Ending {
    /// `None`: nobody knows.
    pub ended: Option<Ended>,
    /// What of it can be looked at.
    pub reach: Reach,
    /// What was known before.
    pub known: check::Known,
    /// Since when it stands still.
    pub stopped_at: Instant,
    /// It is not let go here.
    pub holds: bool,
}

/// Checks it. Where it is held it is let go as soon as nothing more is to be read of it, unless it `holds`: then whoever started the tracer lets
/// it go. Its session is saved where that is wished for.
pub fn check_one(
    session: Session,
    Ending { ended, reach, mut known, stopped_at, holds }: Ending,
    (level, names_peaks, quiet): (Level, bool, bool),
    (to, save): (Option<&SavedSessions>, Save<'_>),
    tracer: Option<&Tracer>,
    cancel: &AtomicBool,
) -> Report {
    let pid = session.pid;
    let title = session.exe.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned());
    let held = matches!(reach, Reach::Held { .. });
    let progress = if held { Progress::of_check(&title, pid as u32, 0, quiet) } else { Progress::hidden() };
    let (done_before, kept_at) = (AtomicU64::new(0), AtomicU64::new(0));
    let head = session.head(ended);
    let drained = session.drain.finish();
    let mut drained = match drained {
        Ok(drained) => drained,
        Err(panic) => {
            if held && let Some(tracer) = tracer {
                let _ = tracer.release(pid);
            }
            let why = format!("the drain failed: {panic}");
            return Report::of_failure(pid, &session.exe.to_string_lossy(), session.argv, ended, level, &why);
        }
    };
    if let Some(to) = to.filter(|to| matches!(reach, Reach::Gone(_)) && to.wants(ended, known.dumped_core)) {
        let beside = saved::Known { grew: known.grew.clone() };
        // Where there is no memory for it there is none.
        let bytes = saved::bytes(&head, &mut drained, &beside).ok();
        known.session = bytes.and_then(|bytes| save(&to.file_of(pid), &bytes));
    }
    let subject = Subject {
        pid,
        exe: session.exe.to_string_lossy().into_owned(),
        argv: session.argv,
        origin: session.origin,
        ended,
        drained,
        reach,
        writable_before: session.writable_before,
        untraced: session.untraced,
        notes: Vec::new(),
        known,
    };
    check::run(
        subject,
        &Order {
            level,
            names_peaks,
            progress: &|done, total| {
                progress.set_total(total);
                progress.advance(done.saturating_sub(done_before.swap(done, Ordering::Relaxed)));
                // A long check says that it is alive, or the tracer lets the process go.
                let seconds = stopped_at.elapsed().as_secs();
                if seconds > kept_at.swap(seconds, Ordering::Relaxed) + 4
                    && let Some(tracer) = tracer
                {
                    let _ = tracer.keep(pid);
                }
            },
            cancel,
            release: &|| {
                if held
                    && !holds
                    && let Some(tracer) = tracer
                {
                    let _ = tracer.release(pid);
                }
            },
            // Before it is let go: were this process killed after that, another one would have nothing to look at.
            found: &|found| {
                if let Some(shelf) = &session.shelf {
                    let write =
                        |to: &mut dyn Write| postcard::to_io(found, to).map(drop).map_err(std::io::Error::other);
                    // Where there is no memory for it another analyzer would not know.
                    let _ = vault::set_finding(shelf, write);
                }
            },
            stopped_at,
        },
    )
}
