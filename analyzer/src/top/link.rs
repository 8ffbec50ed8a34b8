//! Asks the analyzers, on threads of its own, so that the screen never waits for one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::model::Identity;
use crate::board::state::Process;
use crate::cli::control;
use crate::report::model::Group;

/// What came in.
#[derive(Debug)]
pub enum Update {
    /// How the process stands, or why that is not known.
    State(Result<Box<Process>, String>),
    /// The process has ended.
    Ended,
    /// A check is done.
    Checked(Result<Box<Process>, String>),
    /// What is known of some groups, and seconds from arming to then.
    Groups(Identity, Result<(Vec<Group>, f64), String>),
    /// The processes that can be looked at.
    All(Vec<Process>),
}

/// Somebody who asks. Dropping it ends that.
#[derive(Debug)]
pub struct Link {
    pid: i32,
    updates: Sender<Update>,
    received: Receiver<Update>,
    every_ms: Arc<AtomicU64>,
    now: Sender<()>,
}

impl Link {
    /// Asks how process `pid` stands; where there is none, which processes there are.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(pid: Option<i32>, every: Duration) -> std::io::Result<Self> {
        let (updates, received) = unbounded();
        let (now, asked) = bounded::<()>(1);
        let every_ms = Arc::new(AtomicU64::new(0));
        let link = Self { pid: pid.unwrap_or(0), updates: updates.clone(), received, every_ms: every_ms.clone(), now };
        link.refresh(every);
        std::thread::Builder::new().name("looks".into()).spawn(move || {
            // A pid may come again: this one does not.
            let alive = pid.and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            loop {
                let update = match pid {
                    Some(_) if alive.as_ref().is_some_and(has_ended) => Update::Ended,
                    Some(pid) => Update::State(control::state(pid, false).map(Box::new)),
                    None => Update::All(all()),
                };
                let is_last = matches!(update, Update::Ended);
                if updates.send(update).is_err() || is_last {
                    return;
                }
                let pause = Duration::from_millis(every_ms.load(Ordering::Relaxed));
                if asked.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(link)
    }

    /// What comes in.
    pub fn updates(&self) -> &Receiver<Update> {
        &self.received
    }

    /// Asks so often from now on, and once now.
    pub fn refresh(&self, every: Duration) {
        self.every_ms.store(u64::try_from(every.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let _ = self.now.try_send(());
    }

    /// Has the process checked.
    pub fn check(&self) {
        let pid = self.pid;
        self.ask(
            "check",
            move || Update::Checked(control::state(pid, true).map(Box::new)),
            |line| Update::Checked(Err(line)),
        );
    }

    /// Asks for all that is known of some groups.
    pub fn groups(&self, identity: Identity) {
        let (pid, of) = (self.pid, identity.clone());
        self.ask(
            "groups",
            move || {
                let found = control::groups(pid, &identity.0, &identity.1);
                Update::Groups(identity, found)
            },
            |line| Update::Groups(of, Err(line)),
        );
    }

    fn ask(&self, name: &str, ask: impl FnOnce() -> Update + Send + 'static, failed: impl FnOnce(String) -> Update) {
        let updates = self.updates.clone();
        // Who asked may have gone.
        let work = move || drop(updates.send(ask()));
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
            let _ = self.updates.send(failed(format!("cannot start a thread: {error}")));
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
}

/// Those that answer.
fn all() -> Vec<Process> {
    let pids = control::all().unwrap_or_default();
    pids.into_iter().filter_map(|pid| control::state(pid, false).ok()).collect()
}
