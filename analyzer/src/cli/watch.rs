//! Following registered processes to their end, and checking each there: the analyzer's work, in a process of its own.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::check::{self, Order, Reach, Subject};
use crate::render::progress::Progress;
use crate::report::model::{Ended, Level, Report};
use crate::session::server::{Session, Trace};
use crate::target::tracer::{Tracer, TracerEvent};

/// A process with so many live blocks is let go as soon as its memory was copied: to search the copy takes long. An analyzer that is killed
/// meanwhile leaves it unjudged. Any other one stays held until its report is the keeper's …
const MANY_BLOCKS: u64 = 100_000;
/// … but no longer than this after its memory was read.
const HELD_FOR_REPORT: Duration = Duration::from_secs(1);

/// How long after a process's death its tracer may still report the end that it held.
const GRACE: Duration = Duration::from_millis(300);

/// What the watch itself is told by its threads.
pub enum WatchEvent {
    /// A check is finished, and its report is where it is to go.
    Checked,
    /// A registered process is gone.
    Died {
        /// Which session: pids come again.
        session: u64,
    },
}

/// Whom the watch tells of its checks, from any thread: the session's number, and the report where there is one already.
pub type Told = Arc<dyn Fn(u64, Option<&Report>) + Send + Sync>;

/// The registered processes of one command or one bare preload.
pub struct Watch {
    level: Level,
    quiet: bool,
    tracer: Option<Arc<Tracer>>,
    sessions: HashMap<i32, Box<Session>>,
    /// Ends that were reported before the registration was.
    early: HashMap<i32, TracerEvent>,
    /// Those whom another analyzer watched are here; and the tracer has told of all whom it had for that one.
    ready: (bool, bool),
    checking: usize,
    cancel: Arc<AtomicBool>,
    /// What made up the peaks is named in the reports.
    pub names_peaks: bool,
    told: Told,
    /// One line each: processes that could not be taken.
    pub refusals: Vec<String>,
    sender: Sender<WatchEvent>,
    events: Receiver<WatchEvent>,
}

impl Watch {
    /// Nobody is watched yet. Without a tracer every process is reported unclassified.
    pub fn new(level: Level, quiet: bool, tracer: Option<Arc<Tracer>>, told: Told) -> Self {
        let (sender, events) = unbounded();
        Self {
            level,
            quiet,
            tracer,
            sessions: HashMap::new(),
            early: HashMap::new(),
            ready: (false, false),
            checking: 0,
            cancel: Arc::default(),
            names_peaks: true,
            told,
            refusals: Vec::new(),
            sender,
            events,
        }
    }

    /// How the server has a process traced.
    pub fn trace(&self, why_not: Option<String>) -> Trace {
        let tracer = self.tracer.clone();
        Arc::new(move |pid| match (&tracer, &why_not) {
            (_, Some(why)) => Err(why.clone()),
            (None, None) => Err("no tracer could be started".into()),
            (Some(tracer), None) => tracer.seize(pid).map_err(|error| error.to_string()),
        })
    }

    /// What to pass to [`Self::on_watch`].
    pub fn events(&self) -> Receiver<WatchEvent> {
        self.events.clone()
    }

    /// Ends every check at once; what was held goes on dying.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// A process registered.
    pub fn on_registered(&mut self, session: Box<Session>) {
        let pid = session.pid;
        self.await_death(&session);
        if let Some(before) = self.sessions.insert(pid, session) {
            // The same process under a new program: the old image is gone.
            self.check(before, Some(Ended::Exec(true)), Reach::Gone(EXECED.into()));
        }
        if let Some(early) = self.early.remove(&pid) {
            self.on_tracer(early);
        }
    }

    /// Everybody is here whom another analyzer watched.
    pub fn on_ready(&mut self) {
        self.ready.0 = true;
        self.release_strangers();
    }

    /// What is held, and is not known when everybody is here and all is told, was checked by another analyzer.
    fn release_strangers(&mut self) {
        if self.ready != (true, true) {
            return;
        }
        for (pid, event) in self.early.drain() {
            if let (TracerEvent::Ending { .. }, Some(tracer)) = (event, &self.tracer) {
                let _ = tracer.release(pid);
            }
        }
    }

    /// The tracer has news.
    pub fn on_tracer(&mut self, event: TracerEvent) {
        let pid = match event {
            TracerEvent::Ending { pid, .. } | TracerEvent::Exec { pid } | TracerEvent::Gone { pid, .. } => pid,
            TracerEvent::Expired { pid } => {
                self.refusals.push(format!(
                    "pid {pid} was held for the longest allowed time and let go before its check was done"
                ));
                return;
            }
            TracerEvent::AllTold => {
                self.ready.1 = true;
                self.release_strangers();
                return;
            }
            TracerEvent::Lost => {
                self.refusals
                    .push("the tracer process is gone: processes that end from now on are not classified".into());
                return;
            }
        };
        let Some(session) = self.sessions.remove(&pid) else {
            // Of processes that never registered: forgotten when they are many.
            if self.early.len() > 256 {
                self.early.clear();
            }
            self.early.insert(pid, event);
            return;
        };
        match event {
            TracerEvent::Ending { ended, threads, all_stopped, .. } => {
                self.check(session, Some(ended), Reach::Held { threads, all_stopped });
            }
            TracerEvent::Exec { .. } => self.check(session, Some(Ended::Exec(true)), Reach::Gone(EXECED.into())),
            TracerEvent::Gone { ended, .. } => {
                let why = "the process vanished before it could be held: what was alive is unclassified".to_string();
                self.check(session, ended, Reach::Gone(why));
            }
            TracerEvent::Expired { .. } | TracerEvent::AllTold | TracerEvent::Lost => (),
        }
    }

    /// A thread of the watch has news.
    pub fn on_watch(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Checked => self.checking -= 1,
            WatchEvent::Died { session } => {
                let pid = self.sessions.iter().find(|(_, known)| known.number == session).map(|(&pid, _)| pid);
                if let Some(session) = pid.and_then(|pid| self.sessions.remove(&pid)) {
                    self.check(session, None, Reach::Gone("nobody saw how it ended".into()));
                }
            }
        }
    }

    /// Those that still run are reported as they are: alive, unclassified.
    pub fn give_up_on_running(&mut self) {
        let left: Vec<Box<Session>> = self.sessions.drain().map(|(_, session)| session).collect();
        for session in left {
            let why = "the process still ran when the watch ended: what was alive is unclassified".to_string();
            self.check(session, None, Reach::Gone(why));
        }
    }

    fn await_death(&self, session: &Session) {
        let number = session.number;
        let Some(pidfd) = session.pidfd.as_ref().and_then(|fd| fd.try_clone().ok()) else { return };
        let sender = self.sender.clone();
        let spawned = std::thread::Builder::new().name(format!("await-{}", session.pid)).spawn(move || {
            let mut polled = [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
            while matches!(rustix::event::poll(&mut polled, None), Err(rustix::io::Errno::INTR)) {}
            // The tracer knows more: it speaks first.
            std::thread::sleep(GRACE);
            let _ = sender.send(WatchEvent::Died { session: number });
        });
        // Without the thread the tracer's word is the only one.
        drop(spawned);
    }

    fn check(&mut self, session: Box<Session>, ended: Option<Ended>, reach: Reach) {
        let stopped_at = Instant::now();
        self.checking += 1;
        (self.told)(session.number, None);
        let told = self.told.clone();
        let (level, quiet, names_peaks) = (self.level, self.quiet, self.names_peaks);
        let (tracer, cancel) = (self.tracer.clone(), self.cancel.clone());
        let sender = self.sender.clone();
        let name = format!("check-{}", session.pid);
        let work = move || {
            let number = session.number;
            let hold =
                tracer.filter(|_| matches!(reach, Reach::Held { .. })).map(|tracer| Hold::of(session.pid, tracer));
            let mut report =
                check_one(*session, ended, reach, (level, names_peaks), quiet, hold.as_ref(), &cancel, stopped_at);
            if hold.as_ref().is_some_and(Hold::is_held) {
                // Its memory was not needed for all of that time, but it stood still.
                report.check.stopped_ms = stopped_at.elapsed().as_secs_f64() * 1e3;
            }
            // Only then is it let go: were this process killed before, another one would check it once more.
            told(number, Some(&report));
            drop(hold);
            let _ = sender.send(WatchEvent::Checked);
        };
        if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
            self.checking -= 1;
            self.refusals.push(format!("cannot start a thread to check a process: {error}"));
        }
    }
}

/// A process that stands still at its end until this is dropped, or it is let go.
struct Hold {
    pid: i32,
    tracer: Arc<Tracer>,
    /// Behind the lock, so that it is let go once: its id may be another's soon.
    is_held: Arc<Mutex<bool>>,
}

impl Hold {
    fn of(pid: i32, tracer: Arc<Tracer>) -> Self {
        Self { pid, tracer, is_held: Arc::new(Mutex::new(true)) }
    }

    fn is_held(&self) -> bool {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The check goes on: not yet.
    fn keep(&self) {
        if self.is_held() {
            let _ = self.tracer.keep(self.pid);
        }
    }

    fn let_go(&self) {
        let mut is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_held, false) {
            let _ = self.tracer.release(self.pid);
        }
    }

    /// Its memory is not needed any more: it is let go before long.
    fn let_go_soon(&self) {
        let later = Self { pid: self.pid, tracer: self.tracer.clone(), is_held: self.is_held.clone() };
        let spawned = std::thread::Builder::new().name("let-go".into()).spawn(move || {
            std::thread::sleep(HELD_FOR_REPORT);
            drop(later);
        });
        // Without the thread, at once: dropping the closure did it.
        drop(spawned);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

const EXECED: &str =
    "the process replaced itself by another program (execve): what was alive in the old one is unclassified";

#[allow(clippy::too_many_arguments, reason = "a thread's whole task")]
fn check_one(
    session: Session,
    ended: Option<Ended>,
    reach: Reach,
    (level, names_peaks): (Level, bool),
    quiet: bool,
    hold: Option<&Hold>,
    cancel: &AtomicBool,
    stopped_at: Instant,
) -> Report {
    let pid = session.pid;
    let title = session.exe.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned());
    let progress = if hold.is_some() { Progress::of_check(&title, pid as u32, 0, quiet) } else { Progress::hidden() };
    let (done_before, kept_at) = (AtomicU64::new(0), AtomicU64::new(0));
    let drained = session.drain.finish();
    let drained = match drained {
        Ok(drained) => drained,
        Err(panic) => {
            let why = format!("the drain failed: {panic}");
            return Report::of_failure(pid, &session.exe.to_string_lossy(), session.argv, ended, level, &why);
        }
    };
    let is_large = drained.live.len() >= MANY_BLOCKS;
    let subject = Subject {
        pid,
        exe: session.exe.to_string_lossy().into_owned(),
        argv: session.argv,
        ended,
        drained,
        reach,
        writable_before: session.writable_before,
        untraced: session.untraced,
        notes: Vec::new(),
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
                    && let Some(hold) = hold
                {
                    hold.keep();
                }
            },
            cancel,
            release: &|| {
                match hold {
                    Some(hold) if is_large => hold.let_go(),
                    // The names of functions are still to be read.
                    Some(hold) => hold.let_go_soon(),
                    None => (),
                }
            },
            stopped_at,
        },
    )
}
