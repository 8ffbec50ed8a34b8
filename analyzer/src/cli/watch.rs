//! Following registered processes to their end, and checking each there: the analyzer's work, in a process of its own.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::control::{self, Answer, Asked, Door, Look, Request};
use super::end_check::{Ending, check_one};
use super::passed_on::PassedOn;
use super::saved_sessions::SavedSessions;
use crate::board::{Board, Posted, Watched, state};
use crate::check::inspector::{self, Inspector};
use crate::check::{self, Found, Reach};
use crate::gate::apply::Rules;
use crate::monitor::Monitor;
use crate::monitor::deliver::Delivery;
use crate::monitor::rounds::{self, Keep, Rounds};
use crate::monitor::settings::Settings;
use crate::render::file;
use crate::report::model::{Ended, Level, Report};
use crate::session::server::{Session, Trace};
use crate::session::vault;
use crate::target::exit_status::ExitStatus;
use crate::target::tracer::{Tracer, TracerEvent};

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
        /// How, where the kernel tells.
        how: Option<ExitStatus>,
    },
    /// The last check of a process that runs on came to nothing.
    Unreadable {
        /// Which session.
        session: u64,
    },
    /// Somebody asks about a process that lives.
    Asked {
        /// Which session.
        session: u64,
        /// What, and where the answer goes.
        asked: Asked,
    },
}

/// Whom the watch tells of its checks, from any thread: the session's number, and the report where there is one already.
pub type Told = Arc<dyn Fn(u64, Option<&Report>) + Send + Sync>;

/// What is told of a session under watch, from any thread.
pub enum Note<'a> {
    /// What its checks came to, were this process killed.
    Monitored(u64, &'a [u8]),
    /// The tracer is gone.
    TracerLost,
    /// A line for whoever started avleak, now.
    Line(String),
}

/// Whom the watch tells.
pub type Noted = Arc<dyn Fn(Note<'_>) + Send + Sync>;

/// The registered processes of one command or one bare preload.
pub struct Watch {
    level: Level,
    quiet: bool,
    tracer: Option<Arc<Tracer>>,
    sessions: HashMap<i32, Known>,
    /// Ends that were reported before the registration was.
    early: HashMap<i32, TracerEvent>,
    /// Those whom another analyzer watched are here; and the tracer has told of all whom it had for that one.
    ready: (bool, bool),
    checking: usize,
    cancel: Arc<AtomicBool>,
    /// What made up the peaks is named in the reports.
    pub names_peaks: bool,
    /// Processes that end are not let go by their checks.
    pub holds: bool,
    told: Told,
    /// How often processes are checked while they run on, and what is worth an alert.
    pub monitoring: Option<Settings>,
    /// Where sessions are saved whose process ended with nobody to look at its memory.
    pub sessions_to: Option<SavedSessions>,
    /// What the verdict of such checks lets through.
    pub rules: Arc<Rules>,
    /// The processes, for whoever asks over HTTP.
    pub board: Option<Board>,
    noted: Noted,
    /// One line each: processes that could not be taken.
    pub refusals: Vec<String>,
    sender: Sender<WatchEvent>,
    events: Receiver<WatchEvent>,
}

struct Known {
    session: Box<Session>,
    /// Checks it while it lives, and knows how it stands.
    watched: Arc<Watched>,
    /// Does so again and again; ended with the session.
    _rounds: Option<Rounds>,
    /// Taken off the board with the session.
    _posted: Option<Posted>,
    /// Closed with the session.
    _door: Option<Door>,
}

/// What is known of a process beside its session, for its end.
#[derive(Default)]
struct Aside {
    watched: Option<Arc<Watched>>,
    dumped_core: Option<bool>,
}

impl Known {
    /// The session, and what is known beside; doors and boards close.
    fn part(self) -> (Box<Session>, Aside) {
        (self.session, Aside { watched: Some(self.watched), dumped_core: None })
    }
}

impl Aside {
    fn known(self) -> check::Known {
        let monitor = self.watched.as_ref().and_then(|watched| watched.monitor.as_ref());
        let grew = monitor.map(|monitor| monitor.lock().unwrap_or_else(PoisonError::into_inner).grew().to_vec());
        check::Known {
            remembered: self.watched.and_then(|watched| watched.inspector.take_remembered()),
            grew: grew.unwrap_or_default(),
            dumped_core: self.dumped_core,
            session: None,
        }
    }
}

impl Watch {
    /// Nobody is watched yet. Without a tracer every process is reported unclassified.
    pub fn new(level: Level, quiet: bool, tracer: Option<Arc<Tracer>>, told: Told, noted: Noted) -> Self {
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
            holds: false,
            told,
            monitoring: None,
            sessions_to: None,
            rules: Arc::default(),
            board: None,
            noted,
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

    /// A process registered. `left`: what the checks of another analyzer came to.
    pub fn on_registered(&mut self, session: Box<Session>, left: Option<&[u8]>) {
        let (pid, number) = (session.pid, session.number);
        let found = session.shelf.as_ref().and_then(vault::finding);
        if let Some(found) = found.and_then(|bytes| postcard::from_bytes::<Found>(&bytes).ok()) {
            // Another analyzer has looked at its memory already, and let it go.
            return self.check(session, Aside::default(), None, Reach::Found(Box::new(found)));
        }
        self.await_death(&session);
        let door = control::open(pid, self.sender.clone(), move |asked| WatchEvent::Asked { session: number, asked });
        let left = PassedOn::read(left);
        let inspector = Arc::new(Inspector::new(&session, self.tracer.clone(), self.cancel.clone(), left.tally));
        let before = left.monitor.as_deref();
        let monitor = self.monitoring.clone().map(|settings| Arc::new(Mutex::new(Monitor::new(settings, before))));
        let keep = self.keep(number, &inspector, monitor.as_ref());
        let rounds = monitor.as_ref().and_then(|monitor| self.start_rounds(&inspector, monitor, &keep));
        let watched = Arc::new(Watched {
            process: session.exe.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned()),
            inspector,
            monitor,
            level: self.level,
            rules: self.rules.clone(),
            keep,
            checking: AtomicBool::new(false),
            names: Mutex::default(),
        });
        let posted = self.board.as_ref().map(|board| board.put_up(number, watched.clone()));
        let known = Known { session, watched, _rounds: rounds, _posted: posted, _door: door };
        if let Some(before) = self.sessions.insert(pid, known) {
            // The same process under a new program: the old image is gone.
            let (session, aside) = before.part();
            self.check(session, aside, Some(Ended::Exec(true)), Reach::Gone(EXECED.into()));
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
                (self.noted)(Note::TracerLost);
                return;
            }
        };
        let Some((session, aside)) = self.sessions.remove(&pid).map(Known::part) else {
            // Of processes that never registered: forgotten when they are many.
            if self.early.len() > 256 {
                self.early.clear();
            }
            self.early.insert(pid, event);
            return;
        };
        match event {
            TracerEvent::Ending { ended, threads, all_stopped, .. } => {
                self.check(session, aside, Some(ended), Reach::Held { threads, all_stopped });
            }
            TracerEvent::Exec { .. } => {
                self.check(session, aside, Some(Ended::Exec(true)), Reach::Gone(EXECED.into()));
            }
            TracerEvent::Gone { ended, .. } => {
                let why = "the process vanished before it could be held: what was alive is unclassified".to_string();
                self.check(session, aside, ended, Reach::Gone(why));
            }
            TracerEvent::Expired { .. } | TracerEvent::AllTold | TracerEvent::Lost => (),
        }
    }

    /// A thread of the watch has news.
    pub fn on_watch(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Checked => self.checking -= 1,
            WatchEvent::Asked { session, asked } => self.answer(session, asked),
            WatchEvent::Died { session, how } => {
                if let Some((session, mut aside)) = self.take(session) {
                    aside.dumped_core = how.map(|how| how.dumped_core);
                    let why = "nobody could look at it when it ended".into();
                    self.check(session, aside, how.map(|how| how.ended), Reach::Gone(why));
                }
            }
            WatchEvent::Unreadable { session } => {
                if let Some((session, aside)) = self.take(session) {
                    self.check(session, aside, None, Reach::Gone(STILL_RAN.into()));
                }
            }
        }
    }

    /// To be called after each check of a process that runs on.
    fn keep(&self, number: u64, inspector: &Arc<Inspector>, monitor: Option<&Arc<Mutex<Monitor>>>) -> Keep {
        let (inspector, monitor, noted) = (inspector.clone(), monitor.cloned(), self.noted.clone());
        Arc::new(move || noted(Note::Monitored(number, &PassedOn::write(&inspector, monitor.as_ref()))))
    }

    /// Where monitoring is wished for.
    fn start_rounds(
        &mut self,
        inspector: &Arc<Inspector>,
        monitor: &Arc<Mutex<Monitor>>,
        keep: &Keep,
    ) -> Option<Rounds> {
        let settings = self.monitoring.as_ref()?;
        let say = self.noted.clone();
        let order = rounds::Order {
            inspector: inspector.clone(),
            level: self.level,
            interval: Duration::from_millis(settings.interval_ms),
            rules: self.rules.clone(),
            monitor: monitor.clone(),
            delivery: Delivery::new(settings.clone(), Arc::new(move |line| say(Note::Line(line)))),
            keep: keep.clone(),
        };
        match rounds::start(order) {
            Ok(rounds) => Some(rounds),
            Err(error) => {
                self.refusals.push(format!("cannot start a thread to monitor pid {}: {error}", inspector.pid()));
                None
            }
        }
    }

    /// On a thread of its own.
    fn answer(&self, number: u64, asked: Asked) {
        let Some(known) = self.sessions.values().find(|known| known.session.number == number) else {
            return asked.answer(&Answer::Error("it ended".into()));
        };
        let (watched, pid) = (known.watched.clone(), known.session.pid);
        let head = asked.wants_session().then(|| known.session.head(None));
        let work = move || {
            let found = answer(&watched, &asked.request);
            let saved = head.map(|head| watched.inspector.session_file(&head)).transpose();
            match (found, saved) {
                (Ok(answer), Ok(session)) => asked.answer_with(&answer, session.as_deref()),
                (Err(line), _) | (_, Err(line)) => asked.answer(&Answer::Error(line)),
            }
        };
        // Where there is no thread whoever asked sees the connection closed.
        let spawned = std::thread::Builder::new().name(format!("live-{pid}")).spawn(work);
        drop(spawned);
    }

    /// Those that still run are reported as they are: alive, unclassified.
    pub fn give_up_on_running(&mut self) {
        let left: Vec<Known> = self.sessions.drain().map(|(_, known)| known).collect();
        for (session, aside) in left.into_iter().map(Known::part) {
            self.check(session, aside, None, Reach::Gone(STILL_RAN.into()));
        }
    }

    /// Those that still run are checked for the last time as they run, each on a thread of its own. What ends meanwhile is reported as ever.
    pub fn check_the_running(&mut self) {
        for known in self.sessions.values() {
            let (number, inspector, told) = (known.session.number, known.watched.inspector.clone(), self.told.clone());
            let (level, rules, sender) = (self.level, self.rules.clone(), self.sender.clone());
            let work = move || {
                let question = inspector::Question { level, hold: Duration::ZERO, increased: false };
                match inspector.check(&question, false) {
                    Ok(mut report) => {
                        rules.apply_to_process(&mut report, 1);
                        told(number, Some(&report));
                    }
                    // It ends at this moment, or cannot be read: either way that is known at once.
                    Err(_) => _ = sender.send(WatchEvent::Unreadable { session: number }),
                }
            };
            let name = format!("last-{}", known.session.pid);
            if std::thread::Builder::new().name(name).spawn(work).is_err() {
                let _ = self.sender.send(WatchEvent::Unreadable { session: number });
            }
        }
    }

    /// The session of this number, no longer under watch.
    fn take(&mut self, number: u64) -> Option<(Box<Session>, Aside)> {
        let pid = self.sessions.iter().find(|(_, known)| known.session.number == number).map(|(&pid, _)| pid);
        pid.and_then(|pid| self.sessions.remove(&pid)).map(Known::part)
    }

    fn await_death(&self, session: &Session) {
        let number = session.number;
        let (pid, pidfd) = (session.pid, session.pidfd.as_ref().and_then(|fd| fd.try_clone().ok()));
        let (sender, is_traced) = (self.sender.clone(), session.untraced.is_none());
        let spawned = std::thread::Builder::new().name(format!("await-{}", session.pid)).spawn(move || {
            match &pidfd {
                Some(pidfd) => {
                    let mut polled =
                        [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
                    while matches!(rustix::event::poll(&mut polled, None), Err(rustix::io::Errno::INTR)) {}
                }
                // It did not wait for its answer, and had ended before its descriptor could be had; or the kernel has none.
                None => {
                    while crate::target::threads::live_thread(pid).is_some() {
                        std::thread::sleep(GRACE);
                    }
                }
            }
            // As soon as may be: it is its parent's to take away.
            let how = ExitStatus::of(pid, pidfd.as_ref());
            // The tracer knows more: it speaks first. Where there is none the kernel may still have to be asked once more.
            if is_traced || how.is_none() {
                std::thread::sleep(GRACE);
            }
            let how = how.or_else(|| ExitStatus::of(pid, pidfd.as_ref()));
            let _ = sender.send(WatchEvent::Died { session: number, how });
        });
        // Without the thread the tracer's word is the only one.
        drop(spawned);
    }

    fn check(&mut self, session: Box<Session>, aside: Aside, ended: Option<Ended>, reach: Reach) {
        let stopped_at = Instant::now();
        self.checking += 1;
        (self.told)(session.number, None);
        let told = self.told.clone();
        let (level, quiet, names_peaks, holds) = (self.level, self.quiet, self.names_peaks, self.holds);
        let (tracer, cancel) = (self.tracer.clone(), self.cancel.clone());
        let (to, noted) = (self.sessions_to.clone(), self.noted.clone());
        let sender = self.sender.clone();
        let pid = session.pid;
        let name = format!("check-{pid}");
        let work = move || {
            let number = session.number;
            let known = aside.known();
            let save = |file: &Path, bytes: &[u8]| match file::write(file, bytes) {
                Ok(()) => Some(file.to_string_lossy().into_owned()),
                Err(error) => {
                    noted(Note::Line(format!("the session of pid {pid} is not saved: {error}")));
                    None
                }
            };
            let end = Ending { ended, reach, known, stopped_at, holds };
            let report =
                check_one(*session, end, (level, names_peaks, quiet), (to.as_ref(), &save), tracer.as_deref(), &cancel);
            told(number, Some(&report));
            let _ = sender.send(WatchEvent::Checked);
        };
        if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
            self.checking -= 1;
            self.refusals.push(format!("cannot start a thread to check a process: {error}"));
        }
    }
}

fn answer(watched: &Watched, request: &Request) -> Result<Answer, String> {
    match request {
        Request::Check(question) => {
            let question = inspector::Question {
                level: question.level,
                hold: Duration::try_from_secs_f64(question.hold_s).unwrap_or_default(),
                increased: question.increased,
            };
            let checked = watched.inspector.check(&question, true);
            (watched.keep)();
            Ok(Answer::Report(Box::new(checked?)))
        }
        Request::Look { look: Look::State } => Ok(Answer::State(Box::new(state::with_living(watched)))),
        Request::Look { look: Look::Check } => {
            watched.check()?;
            Ok(Answer::State(Box::new(state::with_living(watched))))
        }
        Request::Look { look: Look::Groups { key, object } } => {
            let (groups, duration_s) = watched.groups(key, object)?;
            Ok(Answer::Groups { groups, duration_s })
        }
    }
}

const STILL_RAN: &str = "the process still ran when the watch ended: what was alive is unclassified";
const EXECED: &str =
    "the process replaced itself by another program (execve): what was alive in the old one is unclassified";
