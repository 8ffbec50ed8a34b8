//! Checks of one process that runs on, one at a time: whoever asks for them, they pass names and what was lost on to each other.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::live::{self, Identity, LiveOrder, LiveSubject};
use crate::report::model::{Level, Report};
use crate::session::server::Session;
use crate::session::types::StackTypes;
use crate::target::tracer::Tracer;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question {
    /// What counts as a leak.
    pub level: Level,
    /// Objects that are younger are not judged.
    pub hold: Duration,
    /// Only what was not lost at the last check.
    pub increased: bool,
}

/// See the module.
pub struct Inspector {
    subject: LiveSubject,
    exe: PathBuf,
    root: Option<PathBuf>,
    tracer: Option<Arc<Tracer>>,
    cancel: Arc<AtomicBool>,
    passed_on: Mutex<PassedOn>,
}

#[derive(Default)]
struct PassedOn {
    /// Names.
    types: Option<StackTypes>,
    /// What was lost.
    lost: FxHashSet<Identity>,
}

impl Inspector {
    /// Of this session's process. `cancel`: set to end every check early.
    pub fn new(session: &Session, tracer: Option<Arc<Tracer>>, cancel: Arc<AtomicBool>) -> Self {
        let subject = LiveSubject {
            pid: session.pid,
            exe: session.exe.to_string_lossy().into_owned(),
            argv: session.argv.clone(),
            writable_before: session.writable_before.clone(),
            untraced: session.untraced.clone(),
            inquirer: session.drain.inquirer(),
        };
        Self {
            subject,
            exe: session.exe.clone(),
            root: session.root.clone(),
            tracer: tracer.filter(|_| session.untraced.is_none()),
            cancel,
            passed_on: Mutex::default(),
        }
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.subject.pid
    }

    /// Checks, after whoever does so already. `remember`: the next one that asks for what has increased is told what did since this.
    ///
    /// # Errors
    /// See [`live::run`].
    pub fn check(&self, question: &Question, remember: bool) -> Result<Report, String> {
        let mut passed_on = self.passed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = self.subject.inquirer.segment().clone();
        let fresh = || StackTypes::new(segment, self.exe.clone(), self.root.as_deref());
        let types = passed_on.types.take().unwrap_or_else(fresh);
        let order = LiveOrder {
            level: question.level,
            hold: question.hold,
            known: question.increased.then_some(&passed_on.lost),
            tracer: self.tracer.as_deref(),
            cancel: &self.cancel,
        };
        let outcome = live::run(&self.subject, types, &order)?;
        passed_on.types = Some(outcome.types);
        if remember {
            passed_on.lost = outcome.lost;
        }
        Ok(outcome.report)
    }
}
