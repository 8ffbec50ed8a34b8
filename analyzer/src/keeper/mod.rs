//! The keeper: holds what must outlive the analyzer, and starts another one where it is killed.
//!
//! ```text
//!            ┌──────────── keeper (`avleak run`, or `avleak serve`) ────────────┐
//! process ──▶│ connection, segment, vault, pidfd of each session; its report     │
//!            └───┬───────────────────────────────┬──────────────────────────────┘
//!                ▼ `avleak analyze FD`           ▼ `avleak tracer FD`
//!             analyzer ──────────────────────▶ tracer
//! ```
//! It reads no events and no memory of a target: there is little that could end it. The analyzer keeps what it knows in the sessions'
//! vaults ([`crate::session::vault`]), what a check found included before its process is let go. So an analyzer may be killed at any moment.
//! Where it dies again and again without any progress, the sessions are given up and reported as such.

pub mod message;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::message::{FromAnalyzer, LetThrough, Setup, ToAnalyzer};
use crate::cli::saved_sessions::SavedSessions;
use crate::http;
use crate::monitor::settings::Settings;
use crate::report::model::{Level, Report};
use crate::session::place::{Place, SocketFile};
use crate::session::server::{self, Arrival, Arrived, ServerError};
use crate::session::vault;
use crate::target::tracer::{TracerOptions, TracerProcess};

/// The hidden subcommand that starts an analyzer.
pub const SUBCOMMAND: &str = "analyze";
/// An analyzer that dies sooner than this has hardly begun …
const SHORT_LIFE: Duration = Duration::from_millis(500);
/// … and so many of those in a row are not followed by another.
const MOST_SHORT_LIVES: u32 = 20;
/// So many analyzers may die over the check of one process: no memory is enough for it, perhaps.
const MOST_DEATHS_OVER_ONE: u32 = 20;
/// A tracer that dies sooner than this is not followed by another.
const SHORT_TRACE: Duration = Duration::from_secs(10);
/// How long the analyzer may take to end when nothing is left to do.
const GRACE: Duration = Duration::from_secs(1);
/// A Ctrl-C that ended the program may arrive a little later here.
const MEANT_FOR_THE_PROGRAM: Duration = Duration::from_millis(200);

/// What happens.
pub enum News {
    /// Somebody wants to register.
    Arrived(Arrival),
    /// An analyzer says something.
    Said(FromAnalyzer, Vec<OwnedFd>),
    /// The analyzer of this number is gone; the signal that ended it.
    Ended(u64, Option<i32>),
}

/// What the keeper works with.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// What counts as a leak.
    pub level: Level,
    /// No progress bar.
    pub quiet: bool,
    /// What made up the peaks is named in the reports.
    pub names_peaks: bool,
    /// Processes are traced.
    pub traces: bool,
    /// Processes that end are held until this keeper has shut down.
    pub holds: bool,
    /// How long a process may have to wait until it is traced.
    pub patience: Duration,
    /// How processes are checked while they run on; `None`: only when somebody asks.
    pub monitor: Option<Settings>,
    /// Where sessions are saved whose process ended with nobody to look at its memory; `None`: nowhere.
    pub sessions: Option<SavedSessions>,
    /// Where is told of them over HTTP, if anywhere.
    pub http: http::Wish,
    /// What the verdict of checks of running processes lets through.
    pub let_through: LetThrough,
}

struct Kept {
    arrived: Arrived,
    title: String,
    vault: Option<OwnedFd>,
    /// What its monitor knows.
    monitor: Option<OwnedFd>,
    /// It was registered with the present tracer.
    traced: bool,
    checking_since: Option<Instant>,
    /// Analyzers that died while they checked it.
    deaths: u32,
}

struct Analyzer {
    number: u64,
    socket: OwnedFd,
    started: Instant,
}

/// See the module.
pub struct Keeper {
    setup: Setup,
    tracer: Option<TracerProcess>,
    tracer_since: Instant,
    /// Of HTTP: who connects while no analyzer runs is answered by the next one.
    listener: Option<OwnedFd>,
    analyzer: Option<Analyzer>,
    analyzers: u64,
    short_lives: u32,
    sessions: BTreeMap<u64, Kept>,
    next: u64,
    gave_up: bool,
    /// Reports of ended processes, in the order of their ends.
    pub reports: Vec<Report>,
    /// One line each: what could not be watched.
    pub refusals: Vec<String>,
    /// What is to be said now.
    pub lines: Vec<String>,
    /// How often an analyzer was started in place of one that had died, and by what signal the last one had.
    pub restarts: (u64, Option<i32>),
    sender: Sender<News>,
    news: Receiver<News>,
}

impl Keeper {
    /// Starts tracer and analyzer.
    ///
    /// # Errors
    /// A line: why no analyzer can be started. Where only the tracer cannot, processes are watched without.
    pub fn start(options: &KeeperOptions) -> Result<Self, String> {
        let (sender, news) = unbounded();
        let mut untraced = None;
        let tracer = if options.traces {
            match TracerProcess::start(&TracerOptions::default()) {
                Ok(tracer) => Some(tracer),
                Err(error) => {
                    untraced = Some(error.to_string());
                    None
                }
            }
        } else {
            untraced = Some("ptrace=0 in AVLEAK_OPTIONS".into());
            None
        };
        let (mut lines, mut listener, mut service) = (Vec::new(), None, None);
        match http::open(&options.http) {
            Ok(None) => {}
            Ok(Some((socket, at))) => {
                lines.push(format!("serving http://{}/", at.address));
                (listener, service) = (Some(OwnedFd::from(socket)), Some(at));
            }
            Err(line) => lines.push(line),
        }
        let setup = Setup {
            level: options.level,
            quiet: options.quiet,
            names_peaks: options.names_peaks,
            untraced,
            holds: options.holds,
            patience_ms: options.patience.as_millis() as u64,
            monitor: options.monitor.clone(),
            sessions: options.sessions.clone(),
            http: service,
            let_through: options.let_through.clone(),
        };
        let mut keeper = Self {
            setup,
            tracer,
            tracer_since: Instant::now(),
            listener,
            analyzer: None,
            analyzers: 0,
            short_lives: 0,
            sessions: BTreeMap::new(),
            next: 1,
            gave_up: false,
            reports: Vec::new(),
            refusals: Vec::new(),
            lines,
            restarts: (0, None),
            sender,
            news,
        };
        keeper.start_analyzer().map_err(|error| format!("cannot start the analyzer process: {error}"))?;
        Ok(keeper)
    }

    /// Listens for processes.
    ///
    /// # Errors
    /// Where no socket can be made or no thread started.
    pub fn listen(&self, place: &Place) -> Result<Option<SocketFile>, ServerError> {
        let sender = self.sender.clone();
        server::listen(place, move |arrival| sender.send(News::Arrived(arrival)).is_ok())
    }

    /// False once none could be started any more: nobody is watched then.
    pub fn has_analyzer(&self) -> bool {
        self.analyzer.is_some()
    }

    /// What to pass to [`Self::on`].
    pub fn news(&self) -> Receiver<News> {
        self.news.clone()
    }

    /// Nobody is watched or checked any more.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A check has been under way for a while: a Ctrl-C now is meant for it, not for the program, whose end it would have brought.
    pub fn is_checking(&self) -> bool {
        let since = self.sessions.values().filter_map(|kept| kept.checking_since);
        since.into_iter().any(|since| since.elapsed() > MEANT_FOR_THE_PROGRAM)
    }

    /// Those that still run, one word each: `server (pid 812)`.
    pub fn running(&self) -> Vec<String> {
        let mut running: Vec<String> = self
            .sessions
            .values()
            .filter(|kept| kept.checking_since.is_none())
            .map(|kept| kept.title.clone())
            .collect();
        running.sort();
        running
    }

    /// Ends every check at once; what was held goes on dying.
    pub fn cancel(&self) {
        self.say(&ToAnalyzer::Cancel, &[]);
    }

    /// Those that still run are reported as they are: alive, unclassified.
    pub fn give_up_on_running(&mut self) {
        self.gave_up = true;
        self.say(&ToAnalyzer::GiveUp, &[]);
    }

    /// Those that still run are checked once more, as they run, and reported.
    pub fn check_the_running(&mut self) {
        self.say(&ToAnalyzer::LastCheck, &[]);
    }

    /// Something happened.
    pub fn on(&mut self, news: News) {
        match news {
            News::Arrived(Arrival::Hello(arrived)) => self.take(arrived),
            News::Arrived(Arrival::Refused(line)) => self.refusals.push(line),
            News::Arrived(Arrival::Closed) => (),
            // What a dead analyzer still said is as true.
            News::Said(said, descriptors) => self.on_said(said, descriptors),
            News::Ended(number, signal) => {
                if self.analyzer.as_ref().is_some_and(|analyzer| analyzer.number == number) {
                    self.replace_analyzer(signal);
                }
            }
        }
    }

    fn take(&mut self, arrived: Arrived) {
        let number = self.next;
        self.next += 1;
        let tid = crate::target::threads::live_thread(arrived.pid).unwrap_or(arrived.pid);
        let name = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
        let name = name.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned());
        let title = format!("{name} (pid {})", arrived.pid);
        // Without one, another analyzer would begin with nothing, and say so.
        let vault = vault::create().ok();
        let kept = Kept { arrived, title, vault, monitor: None, traced: false, checking_since: None, deaths: 0 };
        if self.analyzer.is_none() {
            self.reports.push(broken(
                &kept,
                self.setup.level,
                "the analyzer process had ended and could not be started again",
            ));
            return;
        }
        self.sessions.insert(number, kept);
        self.register(number);
    }

    fn register(&self, number: u64) {
        let Some(kept) = self.sessions.get(&number) else { return };
        let Arrived { pid, connection, segment, pidfd } = &kept.arrived;
        let (has_vault, has_monitor) = (kept.vault.is_some(), kept.monitor.is_some());
        let optional = [kept.vault.as_ref(), kept.monitor.as_ref(), pidfd.as_ref()].into_iter().flatten();
        let descriptors: Vec<BorrowedFd<'_>> =
            [connection.as_fd(), segment.as_fd()].into_iter().chain(optional.map(AsFd::as_fd)).collect();
        let message = ToAnalyzer::Register { number, pid: *pid, has_vault, has_monitor, traced_before: kept.traced };
        self.say(&message, &descriptors);
    }

    /// Where it fails the analyzer is gone, and the next one is told.
    fn say(&self, message: &ToAnalyzer, descriptors: &[BorrowedFd<'_>]) {
        if let Some(analyzer) = &self.analyzer {
            let _ = message::send(&analyzer.socket, message, descriptors);
        }
    }

    fn on_said(&mut self, said: FromAnalyzer, descriptors: Vec<OwnedFd>) {
        match said {
            FromAnalyzer::Registered { number } => {
                if let Some(kept) = self.sessions.get_mut(&number) {
                    kept.traced = true;
                }
            }
            FromAnalyzer::Checking { number } => {
                if let Some(kept) = self.sessions.get_mut(&number) {
                    kept.checking_since.get_or_insert_with(Instant::now);
                }
            }
            FromAnalyzer::Checked { number } => {
                let Some(kept) = self.sessions.remove(&number) else { return };
                self.short_lives = 0;
                match descriptors.into_iter().next().map(read_report) {
                    Some(Ok(report)) => self.reports.push(report),
                    failed => {
                        let why = match failed {
                            Some(Err(why)) => why.to_string(),
                            _ => "it is missing".into(),
                        };
                        self.reports.push(broken(
                            &kept,
                            self.setup.level,
                            &format!("its report could not be read: {why}"),
                        ));
                    }
                }
            }
            FromAnalyzer::Refused { number } => {
                self.sessions.remove(&number);
            }
            FromAnalyzer::Monitored { number } => {
                if let Some(kept) = self.sessions.get_mut(&number) {
                    kept.monitor = descriptors.into_iter().next();
                }
            }
            FromAnalyzer::TracerLost => self.replace_tracer(),
            FromAnalyzer::Say(line) => self.refusals.push(line),
            FromAnalyzer::SayNow(line) => self.lines.push(line),
        }
    }

    /// The analyzer listens to the one that is gone: another one comes with the new one, and has everybody traced anew.
    fn replace_tracer(&mut self) {
        let Some(old) = self.tracer.take() else { return };
        old.shut_down();
        let lived = std::mem::replace(&mut self.tracer_since, Instant::now()).elapsed();
        let started = if lived < SHORT_TRACE {
            Err("it ends as soon as it is to trace (a seccomp filter that kills for ptrace?)".to_string())
        } else {
            TracerProcess::start(&TracerOptions::default()).map_err(|error| error.to_string())
        };
        match started {
            Ok(tracer) => {
                self.refusals.push(
                    "the tracer process ended and was started again: what ended meanwhile is not classified".into(),
                );
                self.tracer = Some(tracer);
            }
            Err(error) => {
                self.refusals.push(format!(
                    "the tracer process is gone: processes that end from now on are not classified: {error}"
                ));
                self.setup.untraced = Some(format!("the tracer process is gone: {error}"));
            }
        }
        self.sessions.values_mut().for_each(|kept| kept.traced = false);
        if let Some(analyzer) = &self.analyzer {
            let _ = rustix::net::shutdown(&analyzer.socket, rustix::net::Shutdown::Both);
        }
    }

    fn replace_analyzer(&mut self, signal: Option<i32>) {
        let Some(old) = self.analyzer.take() else { return };
        self.short_lives = if old.started.elapsed() < SHORT_LIFE { self.short_lives + 1 } else { 0 };
        let started = if self.short_lives > MOST_SHORT_LIVES {
            Err(io::Error::other("it ends as soon as it is started"))
        } else {
            self.start_analyzer()
        };
        if let Err(error) = started {
            self.refusals.push(format!("the analyzer process is gone and cannot be started again: {error}"));
            let level = self.setup.level;
            let why = "the analyzer process ended and could not be started again";
            let kept = std::mem::take(&mut self.sessions);
            self.reports.extend(kept.values().map(|kept| broken(kept, level, why)));
            // Whom it holds goes on.
            if let Some(tracer) = self.tracer.take() {
                tracer.shut_down();
            }
            return;
        }
        self.restarts = (self.restarts.0 + 1, signal);
        let level = self.setup.level;
        self.sessions.retain(|_, kept| {
            kept.deaths += u32::from(kept.checking_since.take().is_some());
            let goes_on = kept.deaths <= MOST_DEATHS_OVER_ONE;
            if !goes_on {
                let why = "the analyzer process ended again and again while it checked this process";
                self.reports.push(broken(kept, level, why));
            }
            goes_on
        });
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.register(number));
        self.say(&ToAnalyzer::Ready, &[]);
        if self.gave_up {
            self.say(&ToAnalyzer::GiveUp, &[]);
        }
    }

    fn start_analyzer(&mut self) -> io::Result<()> {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(SUBCOMMAND).arg(theirs.as_raw_fd().to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        crate::target::child::in_own_session_with(&mut command, theirs.as_raw_fd());
        let child = command.spawn()?;
        drop(theirs);
        self.analyzers += 1;
        let number = self.analyzers;
        let (sender, socket) = (self.sender.clone(), ours.try_clone()?);
        std::thread::Builder::new().name("analyzer".into()).spawn(move || {
            while let Some((said, descriptors)) = message::receive::<FromAnalyzer>(&socket) {
                if sender.send(News::Said(said, descriptors)).is_err() {
                    break;
                }
            }
            let _ = sender.send(News::Ended(number, end_of(child)));
        })?;
        let tracer = self.tracer.as_ref().and_then(|tracer| tracer.socket().ok());
        let beside: Vec<BorrowedFd<'_>> =
            tracer.iter().map(AsFd::as_fd).chain(self.listener.iter().map(AsFd::as_fd)).collect();
        // Where it fails it is gone already, and the thread above says so.
        let _ = message::send(&ours, &ToAnalyzer::Setup(Box::new(self.setup.clone())), &beside);
        self.analyzer = Some(Analyzer { number, socket: ours, started: Instant::now() });
        Ok(())
    }

    /// Ends analyzer and tracer, and waits for them.
    pub fn shut_down(mut self) {
        if let Some(analyzer) = self.analyzer.take() {
            // It ends when its socket closes.
            let _ = rustix::net::shutdown(&analyzer.socket, rustix::net::Shutdown::Both);
            let until = Instant::now() + GRACE;
            while let Ok(news) = self.news.recv_deadline(until) {
                if matches!(news, News::Ended(number, _) if number == analyzer.number) {
                    break;
                }
            }
        }
        if let Some(tracer) = self.tracer.take() {
            tracer.shut_down();
        }
    }
}

/// Waits for a child whose socket is closed: it has ended, or is about to. The signal that ended it.
fn end_of(mut child: Child) -> Option<i32> {
    let until = Instant::now() + GRACE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.signal(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                let _ = child.kill();
                return child.wait().ok().and_then(|status| status.signal());
            }
            Err(_) => return None,
        }
    }
}

fn read_report(descriptor: OwnedFd) -> io::Result<Report> {
    let mut file = File::from(descriptor);
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn broken(kept: &Kept, level: Level, why: &str) -> Report {
    let exe = kept.title.split(" (pid").next().unwrap_or("?");
    Report::of_failure(kept.arrived.pid, exe, Vec::new(), None, level, why)
}
