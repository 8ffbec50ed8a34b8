//! One traced process: decides from its threads' stops whether it is ending, and holds it while its memory is read.
//!
//! What an exit stop means (`code` is the wait status that the thread ends with, `syscall` the call that it is in):
//!
//! | code | syscall | meaning |
//! |---|---|---|
//! | a signal | any | the process is being killed |
//! | any | exit_group | the process ends |
//! | not 0 | not exit | the process ends: another thread called exit_group |
//! | any | exit | this thread ends; the process too if it is the last one |
//! | 0 | other | another thread called exit_group(0), or execve, which waits for this one to die |
//!
//! The last case is undecided until the caller of exit_group stops as well, or all but one thread have stopped and that one
//! sleeps in execve. Holding the threads of an execve would deadlock it, so every wait has a deadline.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use super::message::{self, Message, SeizeFailure};
use super::ptrace::{self, Report};
use crate::report::model::Ended;
use crate::target::threads::{self, Stat, ThreadState};

const SYS_EXIT: i64 = libc::SYS_exit;
const SYS_EXIT_GROUP: i64 = libc::SYS_exit_group;
/// Numbers of execve and execveat, as `/proc/TID/syscall` begins.
const EXECVE: &[u8] = if cfg!(target_arch = "aarch64") { b"221 " } else { b"59 " };
const EXECVEAT: &[u8] = if cfg!(target_arch = "aarch64") { b"281 " } else { b"322 " };
/// How long threads are held that may be ending because of exit_group(0) or of execve.
const UNDECIDED: Duration = Duration::from_secs(1);
/// How long stops are taken for those of an execve once it was seen.
const EXECUTING: Duration = Duration::from_secs(2);
/// How long a process that is ending is given until all of its threads have stopped.
const GATHERING: Duration = Duration::from_secs(2);
/// After this time of gathering, a thread that is missing and sleeps in execve means that it was no end.
const DOUBT: Duration = Duration::from_millis(50);
/// How often an unfinished decision is looked at again.
const LOOK: Duration = Duration::from_millis(3);
/// How long a process that is paused is given until all of its threads have stopped: one may wait in the kernel, for a disk or a vfork.
const STOPPING: Duration = Duration::from_millis(50);
/// The same while a thread that is missing only waits for a processor.
const STARVING: Duration = Duration::from_secs(1);
/// Remembered threads that were let go, before the dead among them are forgotten.
const DEPARTED: usize = 256;

/// What holds for every process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// The tracer's own process id.
    pub(super) me: i32,
    /// How long a process whose end was reported is held at most.
    pub(super) hold: Duration,
    /// `/proc/TID/syscall` can be read of a thread in execve (before Linux 5.7 that waits for the execve).
    pub(super) sees_syscalls: bool,
    /// A process whose threads end one by one ends with the leader's status (before Linux 5.19), not the last one's.
    pub(super) status_is_leaders: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    Running,
    /// Held at its exit stop.
    AtExit,
    /// Stands still in the middle of its life, and will go on like this.
    Paused(GoOn),
}

/// How a thread goes on that was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoOn {
    /// With the signal that it was about to receive; 0: none.
    With(i32),
    /// It stays stopped, for job control.
    Listening,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Watching,
    /// Threads are held that end with code 0 by another one's doing.
    Undecided {
        until: Instant,
    },
    /// Another thread executes a program: exits with code 0 are let go.
    Executing {
        until: Instant,
    },
    /// The process ends; not all threads have stopped yet.
    Gathering {
        ended: Ended,
        since: Instant,
    },
    /// Its end was reported; it is held.
    Held {
        until: Instant,
        ended: Ended,
        all_stopped: bool,
    },
    /// It is being stopped in the middle of its life.
    Pausing {
        id: u64,
        since: Instant,
        longest: Duration,
    },
    /// It stands still in the middle of its life.
    Paused {
        since: Instant,
        until: Instant,
    },
    /// No longer of interest: every thread is detached as it stops.
    Leaving,
}

/// What an exit stop says by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Process(Ended),
    /// Only this thread, unless it is the last.
    Thread,
    ByAnother,
}

fn judge(code: i32, syscall: i64) -> Exit {
    match (code & 0x7f, syscall) {
        (0, SYS_EXIT_GROUP) => Exit::Process(ended(code)),
        (0, SYS_EXIT) => Exit::Thread,
        (0, _) if code == 0 => Exit::ByAnother,
        _ => Exit::Process(ended(code)),
    }
}

fn ended(code: i32) -> Ended {
    match code & 0x7f {
        0 => Ended::Exit((code >> 8) & 0xff),
        signal => Ended::Signal(signal),
    }
}

pub(super) struct Process {
    pid: i32,
    threads: HashMap<i32, Thread>,
    /// Let go at their exit stops; they may be listed a little longer.
    departed: HashSet<i32>,
    phase: Phase,
    /// With what the leader ended, where it ended before the others.
    leader_code: Option<i32>,
}

impl Process {
    /// Begins to trace every thread, also those made meanwhile: a thread made by a traced one is traced from its birth,
    /// so a pass that finds no untraced thread is the last. With a failure comes what is traced nevertheless: leave it.
    pub(super) fn seize(pid: i32, settings: &Settings) -> (Self, Option<SeizeFailure>) {
        let mut process =
            Self { pid, threads: HashMap::new(), departed: HashSet::new(), phase: Phase::Watching, leader_code: None };
        loop {
            let tids = match threads::list(pid) {
                Ok(tids) => tids,
                Err(error) => return (process, Some(failure(&error, 0))),
            };
            let mut found = false;
            for tid in tids {
                if process.threads.contains_key(&tid) || process.departed.contains(&tid) {
                    continue;
                }
                match ptrace::guarded(|| ptrace::seize(tid)) {
                    Ok(()) => {
                        process.threads.insert(tid, Thread::Running);
                        found = true;
                    }
                    Err(error) => {
                        let tracer = threads::status_number(tid, "TracerPid").unwrap_or(0);
                        if tracer == settings.me {
                            // Traced since its birth; its first stop is on its way.
                            process.threads.insert(tid, Thread::Running);
                        } else if Stat::of(tid).is_some_and(Stat::is_alive) {
                            return (process, Some(failure(&error, tracer)));
                        } else {
                            process.departed.insert(tid);
                        }
                    }
                }
            }
            if !found {
                break;
            }
        }
        let none = process.threads.is_empty().then_some(SeizeFailure { errno: libc::ESRCH, tracer: 0 });
        (process, none)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// Traced by `me` still: false of an entry that a process of the same id has outlived.
    pub(super) fn is_traced_by(&self, me: i32) -> bool {
        self.threads.keys().any(|&tid| threads::status_number(tid, "TracerPid") == Some(me))
    }

    /// A thread that is traced since its birth has shown up.
    pub(super) fn adopt(&mut self, tid: i32) {
        self.departed.remove(&tid);
        self.threads.entry(tid).or_insert(Thread::Running);
    }

    pub(super) fn has(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    /// When to call [`Self::tick`] next at the latest.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Watching | Phase::Leaving => None,
            Phase::Undecided { .. } | Phase::Gathering { .. } => Some(now + LOOK),
            Phase::Pausing { since, .. } => Some((since + STOPPING).max(now + LOOK)),
            Phase::Executing { until } | Phase::Held { until, .. } | Phase::Paused { until, .. } => Some(until),
        }
    }

    /// Acts on what waitpid reported of one of its threads.
    pub(super) fn on_report(&mut self, tid: i32, report: Report, settings: &Settings, out: &mut Vec<Message>) {
        if let Report::Gone(status) = report {
            return self.on_gone(tid, status, out);
        }
        if report == Report::Executed {
            self.give_up_pause(out);
            // The other threads are dead, and this one has taken the leader's id.
            self.threads.clear();
            let _ = ptrace::detach(tid, 0);
            if self.phase != Phase::Leaving {
                out.push(Message::Exec { pid: self.pid });
            }
            return;
        }
        if report == Report::Cloned {
            self.expect_clone_of(tid);
        }
        if self.phase == Phase::Leaving {
            self.threads.remove(&tid);
            let signal = if let Report::Signal(signal) = report { signal } else { 0 };
            let _ = ptrace::detach(tid, signal);
            return;
        }
        if self.is_pausing() && report != Report::Exiting {
            let go_on = match report {
                Report::Signal(signal) => GoOn::With(signal),
                Report::GroupStop(_) => GoOn::Listening,
                _ => GoOn::With(0),
            };
            self.threads.insert(tid, Thread::Paused(go_on));
            return;
        }
        // A request fails with ESRCH where the thread was killed meanwhile: its exit stop or its end is reported next.
        let _ = match report {
            Report::Exiting => return self.on_exit(tid, settings, out),
            Report::Signal(signal) => ptrace::go_on(tid, signal),
            Report::GroupStop(_) => ptrace::listen(tid),
            Report::Trap | Report::Cloned | Report::Other | Report::Executed | Report::Gone(_) => ptrace::go_on(tid, 0),
        };
    }

    /// The new thread is traced although its first stop may come later than the end of the one that made it: without it this
    /// process would seem to have no threads left. A clone that is a process of its own is not ours.
    fn expect_clone_of(&mut self, tid: i32) {
        let Ok(made) = ptrace::event_message(tid).map(|made| made as i32) else { return };
        // Its whole life may have been reported before this.
        if !self.departed.contains(&made) && std::fs::exists(format!("/proc/{}/task/{made}", self.pid)).unwrap_or(false)
        {
            self.adopt(made);
        }
    }

    fn on_gone(&mut self, tid: i32, status: i32, out: &mut Vec<Message>) {
        self.threads.remove(&tid);
        let last = tid == self.pid || self.threads.is_empty();
        if last {
            self.give_up_pause(out);
            self.threads.clear();
            if self.phase != Phase::Leaving {
                out.push(Message::Gone { pid: self.pid, ended: (tid == self.pid).then(|| ended(status)) });
            }
        }
    }

    fn on_exit(&mut self, tid: i32, settings: &Settings, out: &mut Vec<Message>) {
        let read = ptrace::event_message(tid).and_then(|code| Ok((code as i32, ptrace::system_call(tid)?)));
        // Killed out of its stop: nothing is left to hold.
        let Ok((code, syscall)) = read else { return };
        self.threads.insert(tid, Thread::AtExit);
        if tid == self.pid {
            self.leader_code = Some(code);
        }
        let verdict = judge(code, syscall);
        let now = Instant::now();
        if self.is_pausing() && (verdict != Exit::Thread || self.is_last(tid)) {
            // To come to their exit stops the others have to go on.
            self.give_up_pause(out);
        }
        match (self.phase, verdict) {
            (Phase::Gathering { .. } | Phase::Held { .. } | Phase::Leaving, _) => {}
            (_, Exit::Process(ended)) => self.phase = Phase::Gathering { ended, since: now },
            (_, Exit::Thread) => {
                if self.is_last(tid) {
                    let leader = || Stat::of(self.pid).map_or(code, |stat| stat.exit_code);
                    let status =
                        if settings.status_is_leaders { self.leader_code.unwrap_or_else(leader) } else { code };
                    self.phase = Phase::Gathering { ended: ended(status), since: now };
                } else {
                    self.depart(tid);
                    self.tell_if_empty(out);
                }
            }
            (Phase::Executing { .. }, Exit::ByAnother) => {
                self.depart(tid);
                self.tell_if_empty(out);
            }
            // Given up above.
            (Phase::Pausing { .. } | Phase::Paused { .. }, Exit::ByAnother) => {}
            (Phase::Watching, Exit::ByAnother) => self.phase = Phase::Undecided { until: now + UNDECIDED },
            (Phase::Undecided { .. }, Exit::ByAnother) => {}
        }
    }

    /// Looks at unfinished decisions and deadlines; to be called after every batch of reports.
    pub(super) fn tick(&mut self, now: Instant, settings: &Settings, out: &mut Vec<Message>) {
        match self.phase {
            Phase::Watching | Phase::Leaving => {}
            Phase::Executing { until } => {
                if now >= until {
                    self.phase = Phase::Watching;
                }
            }
            Phase::Undecided { until } => {
                let missing = self.missing();
                if missing.is_empty() {
                    // Everybody ends with 0 and nobody executes anything: its caller was let go or never traced.
                    self.phase = Phase::Gathering { ended: Ended::Exit(0), since: now };
                } else if executes(&missing, settings) || now >= until {
                    self.let_execute(now, out);
                }
            }
            Phase::Gathering { ended, since } => {
                let missing = self.missing_if_any();
                if missing.is_empty() || now >= since + GATHERING {
                    self.report(ended, missing.is_empty(), now + settings.hold, out);
                } else if now >= since + DOUBT && !matches!(ended, Ended::Signal(_)) && executes(&missing, settings) {
                    self.let_execute(now, out);
                }
            }
            Phase::Held { until, .. } => {
                if now >= until {
                    out.push(Message::Expired { pid: self.pid });
                    self.leave();
                }
            }
            // Their stops are on their way, and each comes by itself: to ask how they are would cost more than it takes to stop them.
            Phase::Pausing { since, .. } if now < since + STOPPING && self.running().next().is_some() => {}
            Phase::Pausing { id, since, longest } => {
                let missing = self.missing_if_any();
                let all_stopped = missing.is_empty();
                let starves = || missing.iter().any(|&tid| Stat::of(tid).is_some_and(|stat| stat.state == 'R'));
                if all_stopped || now >= since + STARVING || now >= since + STOPPING && !starves() {
                    self.tell_registers(out);
                    out.push(Message::Paused { id, pid: self.pid, all_stopped });
                    self.phase = Phase::Paused { since, until: now + longest };
                }
            }
            Phase::Paused { until, .. } => {
                if now >= until {
                    self.resume();
                }
            }
        }
    }

    /// Begins to stop every thread in the middle of its life. False where it is about to end, or paused already.
    pub(super) fn pause(&mut self, id: u64, longest: Duration) -> bool {
        if self.phase != Phase::Watching {
            return false;
        }
        self.phase = Phase::Pausing { id, since: Instant::now(), longest };
        for tid in self.running() {
            // One that is gone meanwhile has its end reported.
            let _ = ptrace::interrupt(tid);
        }
        true
    }

    /// Lets every paused thread go on; returns for how long the process stood still.
    pub(super) fn resume(&mut self) -> Duration {
        let (Phase::Pausing { since, .. } | Phase::Paused { since, .. }) = self.phase else { return Duration::ZERO };
        self.phase = Phase::Watching;
        for (&tid, thread) in &mut self.threads {
            let Thread::Paused(how) = *thread else { continue };
            // One that was killed out of its stop has its end reported.
            let _ = match how {
                GoOn::With(signal) => ptrace::go_on(tid, signal),
                GoOn::Listening => ptrace::listen(tid),
            };
            *thread = Thread::Running;
        }
        since.elapsed()
    }

    fn is_pausing(&self) -> bool {
        matches!(self.phase, Phase::Pausing { .. } | Phase::Paused { .. })
    }

    /// It ends, or becomes another program: what was to be seen of it while it lived is gone.
    fn give_up_pause(&mut self, out: &mut Vec<Message>) {
        if let Phase::Pausing { id, .. } = self.phase {
            out.push(Message::NotPaused { id });
        }
        self.resume();
    }

    fn tell_registers(&self, out: &mut Vec<Message>) {
        let stopped = self.threads.iter().filter(|(_, thread)| **thread != Thread::Running);
        let captured = stopped.filter_map(|(&tid, _)| ThreadState::capture(tid).ok());
        out.extend(message::of_threads(self.pid, captured.map(Into::into)));
    }

    fn report(&mut self, ended: Ended, all_stopped: bool, until: Instant, out: &mut Vec<Message>) {
        self.phase = Phase::Held { until, ended, all_stopped };
        self.tell_again(out);
    }

    /// Of a process that is held: how it ends, and what its threads hold.
    pub(super) fn tell_again(&self, out: &mut Vec<Message>) {
        let Phase::Held { ended, all_stopped, .. } = self.phase else { return };
        self.tell_registers(out);
        out.push(Message::Ending { pid: self.pid, ended, all_stopped });
    }

    /// Holds it until `until` from now on, where it is held.
    pub(super) fn keep(&mut self, until: Instant) {
        if let Phase::Held { until: old, .. } = &mut self.phase {
            *old = until;
        }
    }

    /// Lets go of every thread: those at their exit stops at once, others as soon as they stop.
    pub(super) fn leave(&mut self) {
        self.resume();
        self.phase = Phase::Leaving;
        for tid in self.at_exit() {
            self.depart(tid);
        }
        for &tid in self.threads.keys() {
            let _ = ptrace::interrupt(tid);
        }
    }

    fn let_execute(&mut self, now: Instant, out: &mut Vec<Message>) {
        self.phase = Phase::Executing { until: now + EXECUTING };
        for tid in self.at_exit() {
            self.depart(tid);
        }
        self.tell_if_empty(out);
    }

    /// Threads that are not traced may live on; nothing more will be heard of them.
    fn tell_if_empty(&self, out: &mut Vec<Message>) {
        if self.threads.is_empty() {
            out.push(Message::Gone { pid: self.pid, ended: None });
        }
    }

    fn at_exit(&self) -> Vec<i32> {
        self.threads.iter().filter(|(_, thread)| **thread == Thread::AtExit).map(|(&tid, _)| tid).collect()
    }

    /// Lets a thread die that is at its exit stop. Detached, for then nobody need wait for it.
    fn depart(&mut self, tid: i32) {
        if ptrace::detach(tid, 0).is_ok() {
            self.threads.remove(&tid);
            self.departed.insert(tid);
        } else {
            // Killed out of its stop; its end is still to be reported.
            self.threads.insert(tid, Thread::Running);
        }
        if self.departed.len() > DEPARTED {
            let listed: HashSet<i32> = threads::list(self.pid).unwrap_or_default().into_iter().collect();
            self.departed.retain(|tid| listed.contains(tid));
        }
    }

    fn is_last(&self, tid: i32) -> bool {
        !self.threads.keys().any(|&other| other != tid)
            && !self.unknown().into_iter().any(|other| other != tid && Stat::of(other).is_some_and(Stat::is_alive))
    }

    fn running(&self) -> impl Iterator<Item = i32> {
        self.threads.iter().filter(|(_, thread)| **thread == Thread::Running).map(|(&tid, _)| tid)
    }

    /// Live threads that are not at their exit stops.
    fn missing(&self) -> Vec<i32> {
        self.running().chain(self.unknown()).filter(|&tid| Stat::of(tid).is_some_and(Stat::is_alive)).collect()
    }

    /// As [`Self::missing`], but cheap while many are.
    fn missing_if_any(&self) -> Vec<i32> {
        let running: Vec<i32> =
            self.running().filter(|&tid| Stat::of(tid).is_some_and(Stat::is_alive)).take(2).collect();
        if running.len() == 2 { running } else { self.missing() }
    }

    /// Listed threads of which no report has come.
    fn unknown(&self) -> Vec<i32> {
        let listed = threads::list(self.pid).unwrap_or_default();
        listed.into_iter().filter(|tid| !self.threads.contains_key(tid) && !self.departed.contains(tid)).collect()
    }
}

/// The only missing thread sleeps in execve: it waits for the others to die.
fn executes(missing: &[i32], settings: &Settings) -> bool {
    let &[tid] = missing else { return false };
    if !settings.sees_syscalls {
        return false;
    }
    let text = ptrace::guarded(|| std::fs::read(format!("/proc/{tid}/syscall"))).unwrap_or_default();
    text.starts_with(EXECVE) || text.starts_with(EXECVEAT)
}

fn failure(error: &io::Error, tracer: i32) -> SeizeFailure {
    let errno = match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::ENOENT => libc::ESRCH,
        errno => errno,
    };
    SeizeFailure { errno, tracer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_stops_are_judged_by_code_and_call() {
        let futex = libc::SYS_futex;
        for (code, syscall, verdict) in [
            (0, SYS_EXIT_GROUP, Exit::Process(Ended::Exit(0))),
            (7 << 8, SYS_EXIT_GROUP, Exit::Process(Ended::Exit(7))),
            (7 << 8, futex, Exit::Process(Ended::Exit(7))),
            (7 << 8, -1, Exit::Process(Ended::Exit(7))),
            (9, futex, Exit::Process(Ended::Signal(9))),
            (9, SYS_EXIT, Exit::Process(Ended::Signal(9))),
            (0x80 | 11, -1, Exit::Process(Ended::Signal(11))),
            (0, SYS_EXIT, Exit::Thread),
            (3 << 8, SYS_EXIT, Exit::Thread),
            (0, futex, Exit::ByAnother),
            (0, libc::SYS_execve, Exit::ByAnother),
            (0, -1, Exit::ByAnother),
        ] {
            assert_eq!(judge(code, syscall), verdict, "code {code:#x}, call {syscall}");
        }
    }
}
