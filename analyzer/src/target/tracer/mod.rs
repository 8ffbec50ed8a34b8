//! The tracer: a tiny process of its own that stops a target when it is about to end, with its memory whole.
//!
//! ```text
//! analyzer ──Seize, Release, Keep──▶ tracer ──ptrace──▶ every thread of the target
//!          ◀──Seized, Ending, Exec, Gone──
//! ```
//! It is this executable again, started as `avleak tracer FD` in a session of its own: no Ctrl-C, Ctrl-Z or hang-up of the
//! terminal reaches it, and no thread of the analyzer ever delays a target's signals, which all pass through it.
//!
//! **Architecture Invariant**: no path leaves a target stopped. A process whose end was reported is held for a limited time
//! only; if the analyzer's socket closes the tracer exits; if the tracer dies, by whatever, the kernel lets its targets go on.
//!
//! Limits: a target that executes a setuid program *itself* runs it without the rights (children are not traced). The end
//! of a process is not seen where the kernel gives no exit stop; [`TracerEvent::Gone`] says so.

mod eager;
mod engine;
mod message;
mod process;
pub(crate) mod ptrace;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use self::message::{Command, LONGEST, Message, SeizeFailure};
use super::hurry::Hurry;
use super::threads::ThreadState;
use crate::report::model::Ended;

/// The hidden subcommand that starts a tracer.
pub const SUBCOMMAND: &str = "tracer";

/// What happens to a traced process.
#[derive(Debug, Clone, PartialEq)]
pub enum TracerEvent {
    /// The process is about to end and is held: its memory can be read through any of `threads`. Say
    /// [`Tracer::release`] when done.
    Ending {
        /// Process id.
        pid: i32,
        /// How it ends.
        ended: Ended,
        /// Its stopped threads.
        threads: Vec<ThreadState>,
        /// False: some thread did not stop in time (it waits in the kernel); its registers are missing, and it may run on.
        all_stopped: bool,
    },
    /// It replaced itself by another program, whose memory is new; it is no longer traced.
    Exec {
        /// Process id.
        pid: i32,
    },
    /// It vanished without an end that could be held, or while it was held.
    Gone {
        /// Process id.
        pid: i32,
        /// How it ended, where that is known.
        ended: Option<Ended>,
    },
    /// It was held for the longest allowed time and has been let go: what was read after that is worth nothing.
    Expired {
        /// Process id.
        pid: i32,
    },
    /// Of a tracer that another analyzer listened to before ([`Tracer::over`]): what is held, and the last ends that were not, have been told.
    AllTold,
    /// The tracer process is gone. Its targets run on, untraced.
    Lost,
}

/// Why a process is not traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The tracer could not be started.
    #[error("cannot start the tracer process ({exe}): {source}")]
    Start {
        /// The executable.
        exe: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else traces it.
    #[error(
        "cannot trace process {pid}: EPERM, process {tracer} ({name}) traces it already (detach that debugger or strace)"
    )]
    AlreadyTraced {
        /// The target.
        pid: i32,
        /// Who does.
        tracer: i32,
        /// Its name.
        name: String,
    },
    /// Not allowed.
    #[error(
        "cannot trace process {pid}: {source} (run avleak as the same user or as root, allow the system call ptrace, or \
         set /proc/sys/kernel/yama/ptrace_scope to 0)"
    )]
    Denied {
        /// The target.
        pid: i32,
        /// EPERM, EACCES or ENOSYS.
        source: io::Error,
    },
    /// It is gone.
    #[error("cannot trace process {pid}: ESRCH, it has ended")]
    NoSuchProcess {
        /// The target.
        pid: i32,
    },
    /// Another failure.
    #[error("cannot trace process {pid}: {source}")]
    Failed {
        /// The target.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// No answer in time. The attempt goes on: if it succeeds, events of the process will come all the same.
    #[error(
        "cannot tell whether process {pid} is traced: the tracer gave no answer within {ms} ms (is the machine overloaded?)"
    )]
    Slow {
        /// The target.
        pid: i32,
        /// How long was waited.
        ms: u128,
    },
    /// It could not be paused.
    #[error("process {pid} ended, or became another program, while it was to be stopped")]
    NotPaused {
        /// The target.
        pid: i32,
    },
    /// The tracer process is gone.
    #[error("cannot reach the tracer process: it has ended (start the command again)")]
    Lost,
}

/// How the tracer works.
#[derive(Debug, Clone)]
pub struct TracerOptions {
    /// The `avleak` executable.
    pub exe: PathBuf,
    /// How long an ending process is held at most, unless [`Tracer::keep`] is said.
    pub hold: Duration,
    /// How long [`Tracer::seize`] waits.
    pub patience: Duration,
}

impl Default for TracerOptions {
    /// This executable, 30 s, 100 ms.
    fn default() -> Self {
        let (hold, patience) = (Duration::from_secs(30), Duration::from_millis(100));
        Self { exe: PathBuf::from("/proc/self/exe"), hold, patience }
    }
}

/// What the tracer answers to a question.
#[derive(Debug)]
enum Answer {
    Seized(Option<SeizeFailure>),
    Paused { threads: Vec<ThreadState>, all_stopped: bool },
    NotPaused,
    Resumed(Duration),
}

type Answers = Mutex<HashMap<u64, Sender<Answer>>>;

/// How long a pause may take to begin: the tracer gives threads up to a second, and the machine may be busy.
const PAUSING: Duration = Duration::from_secs(3);

/// A process that stands still in the middle of its life. Dropping it lets the process go on, as does the tracer by itself in the end.
#[derive(Debug)]
pub struct Paused<'a> {
    tracer: &'a Tracer,
    pid: i32,
    /// Its threads.
    pub threads: Vec<ThreadState>,
    /// False: some thread did not stop in time (it waits in the kernel); its registers are missing, and it may run on.
    pub all_stopped: bool,
    going: bool,
}

impl Paused<'_> {
    /// Lets the process go on; returns how long it stood still, the slowest thread's stop included. Zero where the tracer had let it go
    /// on already, because it took too long.
    pub fn resume(&mut self) -> Duration {
        self.going = true;
        let id = self.tracer.next_id.fetch_add(1, Ordering::Relaxed);
        match self.tracer.ask(id, &Command::Resume { id, pid: self.pid }, PAUSING) {
            Ok(Some(Answer::Resumed(stopped))) => stopped,
            _ => Duration::ZERO,
        }
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if !self.going {
            self.resume();
        }
    }
}

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    answers: Answers,
    lost: AtomicBool,
    closing: AtomicBool,
}

/// A running tracer process, as whoever started it sees it. Dropping it lets every target go on.
#[derive(Debug)]
pub struct TracerProcess {
    pid: u32,
    child: Mutex<Option<Child>>,
    socket: OwnedFd,
}

impl TracerProcess {
    /// Starts a tracer.
    ///
    /// # Errors
    /// [`TraceError::Start`].
    pub fn start(options: &TracerOptions) -> Result<Self, TraceError> {
        let start = |source: io::Error| TraceError::Start { exe: options.exe.clone(), source };
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
            .map_err(|errno| start(errno.into()))?;
        let mut command = Process::new(&options.exe);
        command.arg(SUBCOMMAND).arg(theirs.as_raw_fd().to_string());
        // Its own stderr would keep a pipe open that somebody reads to its end.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        super::child::in_own_session_with(&mut command, theirs.as_raw_fd());
        let child = command.spawn().map_err(start)?;
        drop(theirs);
        let process = Self { pid: child.id(), child: Mutex::new(Some(child)), socket: ours };
        let ms = u64::try_from(options.hold.as_millis()).unwrap_or(u64::MAX);
        say(&process.socket, &Command::Hold { ms }).map_err(|_| start(io::ErrorKind::BrokenPipe.into()))?;
        Ok(process)
    }

    /// Another handle of the socket on which it is spoken to, for [`Tracer::over`]. One listens at a time; as long as somebody has the
    /// socket, the tracer goes on.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Ends the tracer process and waits for it: what it still traces goes on untraced. Others may hold this handle longer than the
    /// program lives; who ends says so.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let until = Instant::now() + Duration::from_secs(1);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                // Its death lets the targets go on as well.
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for TracerProcess {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The analyzer's side of a tracer.
#[derive(Debug)]
pub struct Tracer {
    shared: Arc<Shared>,
    /// Where this is the one who started it.
    process: Option<TracerProcess>,
    events: Receiver<TracerEvent>,
    reader: Option<JoinHandle<()>>,
    next_id: AtomicU64,
    patience: Duration,
}

impl Tracer {
    /// Starts a tracer with the default options.
    ///
    /// # Errors
    /// [`TraceError::Start`].
    pub fn spawn() -> Result<Self, TraceError> {
        Self::spawn_with(TracerOptions::default())
    }

    /// Starts a tracer and listens to it.
    ///
    /// # Errors
    /// [`TraceError::Start`].
    pub fn spawn_with(options: TracerOptions) -> Result<Self, TraceError> {
        let start = |source: io::Error| TraceError::Start { exe: options.exe.clone(), source };
        let process = TracerProcess::start(&options)?;
        let mut tracer = Self::listen(process.socket().map_err(start)?, options.patience, false).map_err(start)?;
        tracer.process = Some(process);
        Ok(tracer)
    }

    /// Listens to a tracer that somebody else started, in place of an analyzer that may have been killed: what is held is told anew, and
    /// so are the last ends that were not.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn over(socket: OwnedFd, patience: Duration) -> io::Result<Self> {
        Self::listen(socket, patience, true)
    }

    fn listen(socket: OwnedFd, patience: Duration, tells_all_told: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            answers: Mutex::default(),
            lost: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let (sender, events) = crossbeam_channel::unbounded();
        let for_reader = Arc::clone(&shared);
        // Where this fails the reader finds the socket closed and says so.
        let _ = say(&shared.socket, &Command::Again);
        let reader = std::thread::Builder::new()
            .name("tracer-events".into())
            .spawn(move || read_messages(&for_reader, &sender, tells_all_told))?;
        Ok(Self { shared, process: None, events, reader: Some(reader), next_id: AtomicU64::new(1), patience })
    }

    /// Traces every thread of a process, also those to come; not its children. Already traced by this tracer is success.
    /// Waits at most [`TracerOptions::patience`].
    ///
    /// # Errors
    /// All but [`TraceError::Start`].
    pub fn seize(&self, pid: i32) -> Result<(), TraceError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        match self.ask(id, &Command::Seize { id, pid }, self.patience)? {
            Some(Answer::Seized(None)) => Ok(()),
            Some(Answer::Seized(Some(failure))) => Err(explain(pid, failure)),
            _ => Err(TraceError::Slow { pid, ms: self.patience.as_millis() }),
        }
    }

    /// Stops every thread of a traced process, for at most `longest`: then the tracer lets it go on.
    ///
    /// # Errors
    /// [`TraceError::NotPaused`], [`TraceError::Slow`], [`TraceError::Lost`].
    pub fn pause(&self, pid: i32, longest: Duration) -> Result<Paused<'_>, TraceError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        match self.ask(id, &Command::Pause { id, pid, ms }, PAUSING) {
            Ok(Some(Answer::Paused { threads, all_stopped })) => {
                Ok(Paused { tracer: self, pid, threads, all_stopped, going: false })
            }
            Ok(Some(_)) => Err(TraceError::NotPaused { pid }),
            Ok(None) => {
                // It may stand still by now.
                let _ = self.say(&Command::Resume { id: 0, pid });
                Err(TraceError::Slow { pid, ms: PAUSING.as_millis() })
            }
            Err(error) => Err(error),
        }
    }

    /// Asks, and waits for the answer; `None` where it did not come in time.
    fn ask(&self, id: u64, question: &Command, patience: Duration) -> Result<Option<Answer>, TraceError> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        self.lock_answers().insert(id, sender);
        let told = self.say(question);
        let answered = told.map(|()| answer.recv_timeout(patience));
        self.lock_answers().remove(&id);
        match answered? {
            Ok(answer) => Ok(Some(answer)),
            Err(_) if self.shared.lost.load(Ordering::Acquire) => Err(TraceError::Lost),
            Err(_) => Ok(None),
        }
    }

    /// Lets a held process finish dying; stops tracing one that still runs.
    ///
    /// # Errors
    /// [`TraceError::Lost`]: then it was let go by the kernel.
    pub fn release(&self, pid: i32) -> Result<(), TraceError> {
        self.say(&Command::Release { pid })
    }

    /// Starts the time for which a held process is held at most anew: say it now and then while a long check runs.
    ///
    /// # Errors
    /// [`TraceError::Lost`].
    pub fn keep(&self, pid: i32) -> Result<(), TraceError> {
        self.say(&Command::Keep { pid })
    }

    /// What happens to the traced processes. Events wait here for as long as nobody takes them.
    pub fn events(&self) -> Receiver<TracerEvent> {
        self.events.clone()
    }

    /// The tracer's process id; 0 where somebody else started it.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.pid)
    }

    fn say(&self, command: &Command) -> Result<(), TraceError> {
        say(&self.shared.socket, command)
    }

    fn lock_answers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Sender<Answer>>> {
        self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer {
    /// As [`TracerProcess::shut_down`], where this is the one who started it.
    pub fn shut_down(&self) {
        self.shared.closing.store(true, Ordering::Release);
        if let Some(process) = &self.process {
            process.shut_down();
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.shut_down();
        // Somebody else's tracer goes on, and its reader waits for it.
        if let Some(reader) = self.reader.take().filter(|_| self.process.is_some()) {
            let _ = reader.join();
        }
    }
}

fn say(socket: &OwnedFd, command: &Command) -> Result<(), TraceError> {
    let bytes = serde_json::to_vec(command).map_err(|_| TraceError::Lost)?;
    loop {
        match rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(TraceError::Lost),
        }
    }
}

fn read_messages(shared: &Shared, events: &Sender<TracerEvent>, tells_all_told: bool) {
    // Stopped targets wait for what is read here, and it is little.
    let _hurry = Hurry::begin();
    let mut gathered: HashMap<i32, Vec<ThreadState>> = HashMap::new();
    let mut buffer = vec![0; LONGEST];
    let mut for_us = false;
    loop {
        let got = match rustix::net::recv(&shared.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => break,
            Ok((got, _)) => got,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        };
        let Ok(message) = serde_json::from_slice(&buffer[..got.min(LONGEST)]) else { continue };
        if !for_us {
            for_us = matches!(message, Message::Again);
            continue;
        }
        let answer = |id: u64, answer: Answer| {
            let asked = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(asked) = asked {
                let _ = asked.send(answer);
            }
        };
        let event = match message {
            Message::AllTold if tells_all_told => TracerEvent::AllTold,
            Message::Again | Message::AllTold => continue,
            Message::Seized { id, failure } => {
                answer(id, Answer::Seized(failure));
                continue;
            }
            Message::Paused { id, pid, all_stopped } => {
                answer(id, Answer::Paused { threads: gathered.remove(&pid).unwrap_or_default(), all_stopped });
                continue;
            }
            Message::NotPaused { id } => {
                answer(id, Answer::NotPaused);
                continue;
            }
            Message::Resumed { id, stopped_us } => {
                answer(id, Answer::Resumed(Duration::from_micros(stopped_us)));
                continue;
            }
            Message::Threads { pid, threads } => {
                gathered.entry(pid).or_default().extend(threads.into_iter().map(ThreadState::from));
                continue;
            }
            Message::Ending { pid, ended, all_stopped } => {
                let threads = gathered.remove(&pid).unwrap_or_default();
                TracerEvent::Ending { pid, ended, threads, all_stopped }
            }
            Message::Exec { pid } => TracerEvent::Exec { pid },
            Message::Gone { pid, ended } => TracerEvent::Gone { pid, ended },
            Message::Expired { pid } => TracerEvent::Expired { pid },
        };
        // Nobody listens any more: go on, so that the tracer never waits for us.
        let _ = events.send(event);
    }
    shared.lost.store(true, Ordering::Release);
    // Wakes everybody who waits for an answer.
    shared.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    if !shared.closing.load(Ordering::Acquire) {
        let _ = events.send(TracerEvent::Lost);
    }
}

fn explain(pid: i32, failure: SeizeFailure) -> TraceError {
    let source = io::Error::from_raw_os_error(failure.errno);
    match failure.errno {
        libc::ESRCH => TraceError::NoSuchProcess { pid },
        libc::EPERM if failure.tracer != 0 => {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", failure.tracer)).unwrap_or_default();
            TraceError::AlreadyTraced { pid, tracer: failure.tracer, name: name.trim_end().to_owned() }
        }
        libc::EPERM | libc::EACCES | libc::ENOSYS => TraceError::Denied { pid, source },
        _ => TraceError::Failed { pid, source },
    }
}

/// Becomes the tracer if this process was started as one: call it first in `main`. Returns otherwise.
pub fn become_tracer_if_asked() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == SUBCOMMAND)
        && let Some(fd) = args.next().and_then(|arg| arg.to_str()?.parse().ok())
        && args.next().is_none()
    {
        tracer_main(fd);
    }
}

/// The tracer process: serves the analyzer on socket `fd` until that closes, then ends. Its exit status is 0, or 2 where
/// `fd` is no socket of an analyzer.
pub fn tracer_main(fd: i32) -> ! {
    let socket = ptrace::adopt_fd(fd).filter(|fd| rustix::net::sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET));
    if let Some(socket) = socket
        && let Ok(signals) = ptrace::prepare()
    {
        let engine::Done = engine::run(socket, signals);
        std::process::exit(0);
    }
    eprintln!("avleak: `{SUBCOMMAND}` is for avleak's own use and needs its socket (see `avleak --help`)");
    std::process::exit(2)
}
