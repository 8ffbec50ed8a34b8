//! Following registered processes to their end, and checking each there: what `run` and `serve` have in common.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustc_hash::FxHashSet;

use super::control::{self, Answer, Asked, Door};
use crate::check::live::{self, Identity, LiveOrder, LiveSubject};
use crate::check::{self, Order, Reach, Subject};
use crate::render::progress::Progress;
use crate::report::model::{Ended, Level, Report};
use crate::session::server::{ServerEvent, Session, Trace};
use crate::session::types::StackTypes;
use crate::target::tracer::{Tracer, TracerEvent};

/// How long after a process's death its tracer may still report the end that it held.
const GRACE: Duration = Duration::from_millis(300);

/// A Ctrl-C that ended the program may arrive a little later here.
const MEANT_FOR_THE_PROGRAM: Duration = Duration::from_millis(200);

/// What the watch itself is told by its threads.
pub enum WatchEvent {
    /// A check is finished.
    Checked(Box<Report>),
    /// A registered process is gone.
    Died {
        /// Which session: pids come again.
        session: u64,
    },
    /// Somebody asks for a check of a process that lives.
    Asked {
        /// Which session.
        session: u64,
        /// What, and where the answer goes.
        asked: Asked,
    },
}

/// The registered processes of one command or one bare preload.
pub struct Watch {
    level: Level,
    quiet: bool,
    tracer: Option<Arc<Tracer>>,
    sessions: HashMap<i32, Known>,
    next: u64,
    /// Ends that were reported before the registration was.
    early: HashMap<i32, TracerEvent>,
    checking: usize,
    /// When the oldest of the checks under way was started.
    checking_since: Option<Instant>,
    cancel: Arc<AtomicBool>,
    /// What made up the peaks is named in the reports.
    pub names_peaks: bool,
    /// Finished.
    pub reports: Vec<Report>,
    /// One line each: processes that could not be taken.
    pub refusals: Vec<String>,
    sender: Sender<WatchEvent>,
    events: Receiver<WatchEvent>,
}

struct Known {
    number: u64,
    session: Box<Session>,
    /// What checks of the living process pass on to each other; one at a time.
    passed_on: Arc<Mutex<PassedOn>>,
    /// Closed with the session.
    _door: Option<Door>,
}

#[derive(Default)]
struct PassedOn {
    /// Names.
    types: Option<StackTypes>,
    /// What was lost.
    lost: FxHashSet<Identity>,
}

impl Watch {
    /// Nobody is watched yet. Without a tracer every process is reported unclassified.
    pub fn new(level: Level, quiet: bool, tracer: Option<Arc<Tracer>>) -> Self {
        let (sender, events) = unbounded();
        Self {
            level,
            quiet,
            tracer,
            sessions: HashMap::new(),
            next: 0,
            early: HashMap::new(),
            checking: 0,
            checking_since: None,
            cancel: Arc::default(),
            names_peaks: true,
            reports: Vec::new(),
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

    /// Nobody is watched or checked any more.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.checking == 0
    }

    /// A check has been under way for a while: a Ctrl-C now is meant for it, not for the program, whose end it would have brought.
    pub fn is_checking(&self) -> bool {
        self.checking_since.is_some_and(|since| since.elapsed() > MEANT_FOR_THE_PROGRAM)
    }

    /// Those that still run, one word each: `server (pid 812)`.
    pub fn running(&self) -> Vec<String> {
        let mut running: Vec<String> = self.sessions.values().map(|known| title(&known.session)).collect();
        running.sort();
        running
    }

    /// Ends every check at once; what was held goes on dying.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// The server has news.
    pub fn on_server(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Refused(line) => self.refusals.push(line),
            ServerEvent::Closed => (),
            ServerEvent::Registered(session) => {
                let pid = session.pid;
                self.next += 1;
                let number = self.next;
                self.await_death(number, &session);
                let sender = self.sender.clone();
                let door = control::open(pid, sender, move |asked| WatchEvent::Asked { session: number, asked });
                let known = Known { number, session, passed_on: Arc::default(), _door: door };
                let before = self.sessions.insert(pid, known);
                if let Some(before) = before {
                    // The same process under a new program: the old image is gone.
                    self.check(before.session, Some(Ended::Exec(true)), Reach::Gone(EXECED.into()));
                }
                if let Some(early) = self.early.remove(&pid) {
                    self.on_tracer(early);
                }
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
            TracerEvent::Lost => {
                self.refusals
                    .push("the tracer process is gone: processes that end from now on are not classified".into());
                return;
            }
        };
        let Some(known) = self.sessions.remove(&pid) else {
            // Of processes that never registered: forgotten when they are many.
            if self.early.len() > 256 {
                self.early.clear();
            }
            self.early.insert(pid, event);
            return;
        };
        let session = known.session;
        match event {
            TracerEvent::Ending { ended, threads, all_stopped, .. } => {
                self.check(session, Some(ended), Reach::Held { threads, all_stopped });
            }
            TracerEvent::Exec { .. } => self.check(session, Some(Ended::Exec(true)), Reach::Gone(EXECED.into())),
            TracerEvent::Gone { ended, .. } => {
                let why = "the process vanished before it could be held: what was alive is unclassified".to_string();
                self.check(session, ended, Reach::Gone(why));
            }
            TracerEvent::Expired { .. } | TracerEvent::Lost => (),
        }
    }

    /// A thread of the watch has news.
    pub fn on_watch(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Checked(report) => {
                self.checking -= 1;
                if self.checking == 0 {
                    self.checking_since = None;
                }
                self.reports.push(*report);
            }
            WatchEvent::Asked { session, asked } => self.check_living(session, asked),
            WatchEvent::Died { session } => {
                let pid = self.sessions.iter().find(|(_, known)| known.number == session).map(|(&pid, _)| pid);
                if let Some(known) = pid.and_then(|pid| self.sessions.remove(&pid)) {
                    self.check(known.session, None, Reach::Gone("nobody saw how it ended".into()));
                }
            }
        }
    }

    /// On a thread of its own.
    fn check_living(&self, number: u64, asked: Asked) {
        let Some(known) = self.sessions.values().find(|known| known.number == number) else {
            return asked.answer(&Answer::Error("it ended".into()));
        };
        let session = &known.session;
        let subject = LiveSubject {
            pid: session.pid,
            exe: session.exe.to_string_lossy().into_owned(),
            argv: session.argv.clone(),
            writable_before: session.writable_before.clone(),
            untraced: session.untraced.clone(),
            inquirer: session.drain.inquirer(),
        };
        let (exe, root) = (session.exe.clone(), session.root.clone());
        let passed_on = known.passed_on.clone();
        let tracer = self.tracer.clone().filter(|_| session.untraced.is_none());
        let cancel = self.cancel.clone();
        let work = move || {
            let mut passed_on = passed_on.lock().unwrap_or_else(PoisonError::into_inner);
            let segment = subject.inquirer.segment().clone();
            let types = passed_on.types.take().unwrap_or_else(|| StackTypes::new(segment, exe, root.as_deref()));
            let order = LiveOrder {
                level: asked.question.level,
                hold: Duration::try_from_secs_f64(asked.question.hold_s).unwrap_or_default(),
                known: asked.question.increased.then_some(&passed_on.lost),
                tracer: tracer.as_deref(),
                cancel: &cancel,
            };
            match live::run(subject, types, &order) {
                Ok(outcome) => {
                    (passed_on.types, passed_on.lost) = (Some(outcome.types), outcome.lost);
                    asked.answer(&Answer::Report(Box::new(outcome.report)));
                }
                Err(line) => asked.answer(&Answer::Error(line)),
            }
        };
        // Where there is no thread whoever asked sees the connection closed.
        let spawned = std::thread::Builder::new().name(format!("live-{}", session.pid)).spawn(work);
        drop(spawned);
    }

    /// Those that still run are reported as they are: alive, unclassified.
    pub fn give_up_on_running(&mut self) {
        let left: Vec<Known> = self.sessions.drain().map(|(_, known)| known).collect();
        for known in left {
            let why = "the process still ran when the watch ended: what was alive is unclassified".to_string();
            self.check(known.session, None, Reach::Gone(why));
        }
    }

    fn await_death(&self, number: u64, session: &Session) {
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
        self.checking_since.get_or_insert(stopped_at);
        let (level, quiet, names_peaks) = (self.level, self.quiet, self.names_peaks);
        let (tracer, cancel) = (self.tracer.clone(), self.cancel.clone());
        let sender = self.sender.clone();
        let name = format!("check-{}", session.pid);
        let work = move || {
            let report =
                check_one(*session, ended, reach, (level, names_peaks), quiet, tracer.as_deref(), &cancel, stopped_at);
            let _ = sender.send(WatchEvent::Checked(Box::new(report)));
        };
        if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
            self.checking -= 1;
            self.refusals.push(format!("cannot start a thread to check a process: {error}"));
        }
    }
}

const EXECED: &str =
    "the process replaced itself by another program (execve): what was alive in the old one is unclassified";

fn title(session: &Session) -> String {
    let name = session.exe.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned());
    format!("{name} (pid {})", session.pid)
}

#[allow(clippy::too_many_arguments, reason = "a thread's whole task")]
fn check_one(
    session: Session,
    ended: Option<Ended>,
    reach: Reach,
    (level, names_peaks): (Level, bool),
    quiet: bool,
    tracer: Option<&Tracer>,
    cancel: &AtomicBool,
    stopped_at: Instant,
) -> Report {
    let pid = session.pid;
    let held = matches!(reach, Reach::Held { .. });
    let title = session.exe.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned());
    let progress = if held { Progress::of_check(&title, pid as u32, 0, quiet) } else { Progress::hidden() };
    let (done_before, kept_at) = (AtomicU64::new(0), AtomicU64::new(0));
    let drained = session.drain.finish();
    let drained = match drained {
        Ok(drained) => drained,
        Err(panic) => {
            if held && let Some(tracer) = tracer {
                let _ = tracer.release(pid);
            }
            return broken(pid, &session.exe.to_string_lossy(), session.argv, ended, level, &panic);
        }
    };
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
                    && let Some(tracer) = tracer
                {
                    let _ = tracer.keep(pid);
                }
            },
            cancel,
            release: &|| {
                if held && let Some(tracer) = tracer {
                    let _ = tracer.release(pid);
                }
            },
            stopped_at,
        },
    )
}

/// The report where avleak itself failed: nothing is claimed.
fn broken(pid: i32, exe: &str, argv: Vec<String>, ended: Option<Ended>, level: Level, panic: &str) -> Report {
    use crate::report::model::{
        Check, ClassTotals, Completeness, MemoryMeans, Observed, SCHEMA, Target, Totals, Verdict,
    };
    Report {
        schema: SCHEMA.into(),
        avleak: env!("CARGO_PKG_VERSION").into(),
        verdict: Verdict::Inconclusive,
        reason: "avleak failed while it followed the process; please report this".into(),
        level,
        target: Target { pid: pid as u32, exe: exe.into(), argv, ended, started: String::new(), duration_s: 0.0 },
        observed: Observed::default(),
        leaks: Totals::default(),
        totals: ClassTotals::default(),
        groups: Vec::new(),
        modules: Vec::new(),
        completeness: Completeness {
            memory: MemoryMeans::None,
            memory_reason: Some("avleak failed".into()),
            hidden_libraries: 0,
            unreadable_bytes: 0,
            corrupt_rings: 0,
            incomplete_stacks: 0,
            untyped_stacks: 0,
            disagreements: Vec::new(),
            notes: vec![format!("the drain failed: {panic}")],
        },
        check: Check::default(),
        timeline: None,
        go: None,
        exit: None,
        gate: None,
    }
}
