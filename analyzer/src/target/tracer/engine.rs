//! The tracer process: one thread that waits for stops and commands, and lets every thread go on as fast as it can.
//!
//! However this process ends, the kernel detaches what it traced and lets it go on: it asks never for EXITKILL. So it
//! simply exits when its socket closes.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::eager::Eager;
use super::message::{Command, LONGEST, Message};
use super::process::{Process, Settings};
use super::ptrace::{self, Report};
use crate::target::threads;

/// Reports handled before commands are looked at again.
const REPORTS: usize = 1024;
/// For so long the tracer stays awake over stops before it looks at commands again.
const TURN: Duration = Duration::from_millis(5);
/// Messages that wait for an analyzer that does not read; beyond it counts as gone.
const WAITING_BYTES: usize = 64 << 20;

struct Engine {
    socket: OwnedFd,
    settings: Settings,
    processes: HashMap<i32, Process>,
    eager: Eager,
    buffer: Vec<u8>,
    out: VecDeque<Vec<u8>>,
    out_bytes: usize,
}

/// Why the tracer stops.
pub(super) struct Done;

pub(super) fn run(socket: OwnedFd, signals: OwnedFd) -> Done {
    let (me, kernel) = (std::process::id() as i32, kernel());
    let (sees_syscalls, status_is_leaders) = (kernel >= (5, 7), kernel < (5, 19));
    let settings = Settings { me, hold: Duration::from_secs(30), sees_syscalls, status_is_leaders };
    let mut engine = Engine {
        socket,
        settings,
        processes: HashMap::new(),
        eager: Eager::new(Instant::now()),
        buffer: vec![0; LONGEST],
        out: VecDeque::new(),
        out_bytes: 0,
    };
    let mut more = false;
    loop {
        let turn = engine.wait(&signals, more).and_then(|()| engine.take_commands());
        let Ok(()) = turn else { return Done };
        more = engine.take_reports();
        engine.look();
        if engine.flush().is_err() {
            return Done;
        }
    }
}

impl Engine {
    /// Until a command, a stop or a deadline; not at all where `more` is waiting.
    fn wait(&self, signals: &OwnedFd, more: bool) -> Result<(), Done> {
        let now = Instant::now();
        let until = self.processes.values().filter_map(|p| p.next_look(now)).min();
        let time = if more { Some(Duration::ZERO) } else { until.map(|until| until.saturating_duration_since(now)) };
        let time = time.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        let writable = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN | writable), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Done),
        }
        if fds[1].revents().contains(PollFlags::IN) {
            // Only that it came matters: several stops make one SIGCHLD.
            let mut infos = [0u8; 128 * 8];
            while rustix::io::read(signals, &mut infos).is_ok_and(|got| got == infos.len()) {}
        }
        Ok(())
    }

    fn take_commands(&mut self) -> Result<(), Done> {
        loop {
            let got = match rustix::net::recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Done),
                Ok((got, _)) => got,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Done),
            };
            if let Ok(command) = serde_json::from_slice(&self.buffer[..got.min(LONGEST)]) {
                self.obey(command);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Hold { ms } => self.settings.hold = Duration::from_millis(ms),
            Command::Seize { id, pid } => {
                let known = self.processes.get(&pid).is_some_and(|p| p.is_traced_by(self.settings.me));
                let failure = if known {
                    None
                } else {
                    let (mut process, failure) = Process::seize(pid, &self.settings);
                    if failure.is_some() {
                        process.leave();
                    }
                    self.processes.insert(pid, process);
                    failure
                };
                self.send(&Message::Seized { id, failure });
            }
            Command::Release { pid } => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.leave();
                }
            }
            Command::Keep { pid } => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.keep(Instant::now() + self.settings.hold);
                }
            }
            Command::Pause { id, pid, ms } => {
                let longest = Duration::from_millis(ms);
                if !self.processes.get_mut(&pid).is_some_and(|process| process.pause(id, longest)) {
                    self.send(&Message::NotPaused { id });
                }
            }
            Command::Resume { id, pid } => {
                let stopped = self.processes.get_mut(&pid).map_or(Duration::ZERO, Process::resume);
                self.send(&Message::Resumed { id, stopped_us: stopped.as_micros() as u64 });
            }
        }
        self.processes.retain(|_, process| !process.is_empty());
    }

    /// Handles stops and ends; true where more may be waiting.
    fn take_reports(&mut self) -> bool {
        let mut out = Vec::new();
        let (mut taken, begun) = (0, Instant::now());
        loop {
            if let Some((tid, report)) = ptrace::next_report() {
                self.on_report(tid, report, &mut out);
                self.eager.came(Instant::now());
                taken += 1;
                if taken == REPORTS {
                    break;
                }
                continue;
            }
            let now = Instant::now();
            // What is to be told, or has a deadline, comes first.
            let waits =
                out.is_empty() && self.out.is_empty() && self.processes.values().all(|p| p.next_look(now).is_none());
            if !waits || !self.eager.stays_awake(now) {
                break;
            }
            if now.saturating_duration_since(begun) > TURN {
                taken = REPORTS;
                break;
            }
            std::thread::yield_now();
        }
        self.send_all(&out);
        taken == REPORTS
    }

    fn on_report(&mut self, tid: i32, report: Report, out: &mut Vec<Message>) {
        let pid = match self.processes.values().find(|p| p.has(tid)) {
            Some(process) => process.pid(),
            None if matches!(report, Report::Gone(_)) => tid,
            // A thread's first stop can come before that of the thread that made it.
            None => threads::status_number(tid, "Tgid").unwrap_or(tid),
        };
        let Some(process) = self.processes.get_mut(&pid) else {
            // Made by clone without CLONE_THREAD: a process of its own, which is not ours to trace.
            let signal = if let Report::Signal(signal) = report { signal } else { 0 };
            let _ = ptrace::detach(tid, signal);
            return;
        };
        if !matches!(report, Report::Gone(_)) {
            process.adopt(tid);
        }
        process.on_report(tid, report, &self.settings, out);
        if process.is_empty() {
            self.processes.remove(&pid);
        }
    }

    fn look(&mut self) {
        let (now, mut out) = (Instant::now(), Vec::new());
        for process in self.processes.values_mut() {
            process.tick(now, &self.settings, &mut out);
        }
        self.processes.retain(|_, process| !process.is_empty());
        self.send_all(&out);
    }

    fn send_all(&mut self, messages: &[Message]) {
        for message in messages {
            self.send(message);
        }
    }

    fn send(&mut self, message: &Message) {
        // Plain structs of numbers: making JSON of them cannot fail.
        let Ok(bytes) = serde_json::to_vec(message) else { return };
        self.out_bytes += bytes.len();
        self.out.push_back(bytes);
    }

    /// Sends what the socket takes. The analyzer may stand still (Ctrl-Z): then it waits here, not the targets.
    fn flush(&mut self) -> Result<(), Done> {
        while let Some(bytes) = self.out.front() {
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(Errno::AGAIN) if self.out_bytes <= WAITING_BYTES => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Done),
            }
            self.out_bytes -= bytes.len();
            self.out.pop_front();
        }
        Ok(())
    }
}

/// Linux's major and minor version.
fn kernel() -> (u32, u32) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
