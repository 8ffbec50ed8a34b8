//! Runs the command as if avleak were not there: its signals, its stops, its status.
//!
//! The command shares avleak's process group, so what the terminal sends (Ctrl-C, Ctrl-\, Ctrl-Z, hang-up) reaches it by
//! itself; such signals come from the kernel (`SI_KERNEL`) and avleak only survives them. What somebody sends to avleak by
//! kill(2) is passed on. avleak stops when the command was stopped by the terminal, and continues with it.
//!
//! Limit: a kill of the whole group reaches the command twice, once through avleak; nobody can tell it from a kill of avleak.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::report::model::Ended;
use crate::target::child::{self, Received, SignalReader, SignalWatch};
use crate::target::threads::Stat;

/// What avleak receives in the command's stead. SIGALRM and the like are not for a wrapper.
const PASSED_ON: [Signal; 7] =
    [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2, Signal::TSTP];
/// The same request to end from the same sender within this time is one: timeout(1) kills its child, then the group.
const SAME: Duration = Duration::from_millis(100);
/// How far apart one signal to the whole group may reach avleak and the command.
const TOGETHER: Duration = Duration::from_millis(20);

/// What happens to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// Somebody wants it to end: Ctrl-C, or SIGINT sent to avleak. The command has received it too.
    Interrupted {
        /// How often so far, this time included.
        count: u32,
    },
    /// A signal sent to avleak was passed on to it.
    Forwarded {
        /// Its number.
        signal: i32,
    },
    /// It was stopped by the terminal (or SIGTSTP), and avleak is about to stop as well.
    Stopped {
        /// By which signal.
        signal: i32,
    },
    /// It goes on.
    Continued,
    /// It has ended and has been waited for: the last event of the command.
    ChildExited(Ended),
    /// It has ended, but something else in this process waited for it: its status is unknown. Comes instead of `ChildExited`.
    StatusLost,
}

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}: {source}")]
pub struct StartError {
    /// The program.
    pub program: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl StartError {
    /// What a shell would exit with: 127 where there is no such file, else 126.
    pub fn exit_code(&self) -> i32 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// A running command.
#[derive(Debug)]
pub struct Supervisor {
    pid: i32,
    events: Receiver<SupervisorEvent>,
    _watch: SignalWatch,
}

impl Supervisor {
    /// Starts `program` (a path, as `preflight` found it) with `argv` and with `env` on top of avleak's own environment.
    ///
    /// Call it before avleak starts anything that lasts: from here on signals no longer end avleak while the command lives.
    ///
    /// # Errors
    /// [`StartError`], with the shell's exit status for it.
    pub fn start(program: &Path, argv: &[OsString], env: &[(OsString, OsString)]) -> Result<Self, StartError> {
        let failed = |source: io::Error| StartError { program: program.to_owned(), source };
        let numbers: Vec<i32> = PASSED_ON.iter().map(|signal| signal.as_raw()).collect();
        // Before the start: a Ctrl-C in between must not end avleak alone.
        let (watch, reader) = child::watch_signals(&numbers).map_err(failed)?;
        let child = child::start(program, argv, env).map_err(failed)?;
        let (sender, events) = crossbeam_channel::unbounded();
        let pid = child.id() as i32;
        let command = Arc::new(Command {
            pid: Pid::from_child(&child),
            fd: rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok(),
            ended: AtomicBool::new(false),
            stopped_at: AtomicU64::new(0),
        });
        let (for_signals, told) = (Arc::clone(&command), sender.clone());
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(failed)
        };
        spawn("signals", Box::new(move || for_signals.pass_on(reader, &told)))?;
        spawn("command", Box::new(move || command.wait(child, &sender)))?;
        Ok(Self { pid, events, _watch: watch })
    }

    /// The command's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What happens to it. Events wait here for as long as nobody takes them.
    pub fn events(&self) -> Receiver<SupervisorEvent> {
        self.events.clone()
    }
}

/// What a shell exits with for a command that ended so: its status, or 128 + signal.
pub fn exit_code(ended: Ended) -> i32 {
    match ended {
        Ended::Exit(code) => code,
        Ended::Signal(signal) => 128 + signal,
        Ended::Exec(_) => 0,
    }
}

struct Command {
    pid: Pid,
    /// Absent on kernels before 5.3.
    fd: Option<OwnedFd>,
    ended: AtomicBool,
    /// When it was last seen stopped, milliseconds on [`child::monotonic`]'s clock.
    stopped_at: AtomicU64,
}

impl Command {
    fn send(&self, signal: Signal) {
        // By descriptor: the number may be another process's as soon as the command was waited for.
        let _ = match &self.fd {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal),
            None if !self.ended.load(Ordering::Acquire) => rustix::process::kill_process(self.pid, signal),
            None => Ok(()),
        };
    }

    fn pass_on(&self, reader: SignalReader, events: &Sender<SupervisorEvent>) {
        let mut count = 0;
        let mut count_after = 0;
        let mut last: Option<Received> = None;
        for received in reader {
            let Some(signal) = Signal::from_named_raw(received.signal) else { continue };
            let ends = [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP].contains(&signal);
            if self.ended.load(Ordering::Acquire) {
                // Now avleak itself is meant. The first Ctrl-C is the caller's to obey; whoever insists gets the default.
                count_after += u32::from(signal == Signal::INT);
                if ends && (signal != Signal::INT || count_after > 1) {
                    let _ = signal_hook::low_level::emulate_default_handler(received.signal);
                }
            } else if !received.by_kernel {
                let repeated = last.is_some_and(|before| {
                    (before.signal, before.sender) == (received.signal, received.sender)
                        && received.at.saturating_sub(before.at) < SAME
                });
                last = Some(received);
                let needless = if ends { repeated } else { signal == Signal::TSTP && self.has_stopped(received.at) };
                if !needless {
                    self.send(signal);
                    let _ = events.send(SupervisorEvent::Forwarded { signal: received.signal });
                }
            }
            if signal == Signal::INT {
                count += 1;
                let _ = events.send(SupervisorEvent::Interrupted { count });
            }
        }
    }

    /// A stop signal that avleak received at `at` has stopped the command already: it was sent to the group. Passed on after
    /// the command was continued it would stop it again.
    fn has_stopped(&self, at: Duration) -> bool {
        std::thread::sleep(TOGETHER);
        self.is_stopped()
            || u128::from(self.stopped_at.load(Ordering::Acquire)) + TOGETHER.as_millis() >= at.as_millis()
    }

    fn is_stopped(&self) -> bool {
        Stat::of(self.pid.as_raw_nonzero().get()).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Waits for the child, whose handle only keeps anybody else from doing so.
    fn wait(&self, _child: Child, events: &Sender<SupervisorEvent>) {
        loop {
            let status = match rustix::process::waitpid(Some(self.pid), WaitOptions::UNTRACED | WaitOptions::CONTINUED)
            {
                Ok(Some((_, status))) => status,
                Ok(None) | Err(rustix::io::Errno::INTR) => continue,
                Err(_) => {
                    self.ended.store(true, Ordering::Release);
                    let _ = events.send(SupervisorEvent::StatusLost);
                    return;
                }
            };
            if let Some(signal) = status.stopping_signal() {
                self.stop_with(signal, events);
            } else if status.continued() {
                let _ = events.send(SupervisorEvent::Continued);
            } else {
                let ended = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Exit(code),
                    (None, signal) => Ended::Signal(signal.unwrap_or(0)),
                };
                self.ended.store(true, Ordering::Release);
                let _ = events.send(SupervisorEvent::ChildExited(ended));
                return;
            }
        }
    }

    /// Stops avleak where the terminal stopped the command, so that the shell sees its job stopped. A SIGSTOP was meant for
    /// the command alone: whoever sent it continues it alone, and avleak must be there to drain its events.
    fn stop_with(&self, signal: i32, events: &Sender<SupervisorEvent>) {
        if ![libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
            return;
        }
        self.stopped_at.store(child::monotonic().as_millis() as u64, Ordering::Release);
        let _ = events.send(SupervisorEvent::Stopped { signal });
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        // Continued. The shell continues the whole group; who continued avleak alone means the command.
        std::thread::sleep(TOGETHER);
        if self.is_stopped() {
            self.send(Signal::CONT);
        }
    }
}
