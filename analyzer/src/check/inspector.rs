//! Checks of one process that runs on, one at a time: whoever asks for them, they pass names and what was lost on to each other.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use super::live::{self, Identity, Learned, LiveOrder, LiveSubject};
use super::remembered::Remembered;
use super::stacks;
use crate::live::Made;
use crate::report::model::{Frame, Level, Report};
use crate::report::timeline::Sample;
use crate::session::drain::Numbers;
use crate::session::saved::{self, Moment};
use crate::session::server::Session;
use crate::session::trim;
use crate::session::types::StackTypes;
use crate::session::vault;
use crate::target::threads;
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
    standing: Mutex<Standing>,
    /// What the last whole check judged lost, for the end.
    remembered: Mutex<Option<Remembered>>,
    /// Where that is kept for another analyzer.
    shelf: Option<File>,
}

/// How the checks went so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Checks that were begun.
    pub checks: u64,
    /// Those that came to nothing.
    pub failed: u64,
    /// For how long the process stood still, in all, seconds.
    pub stopped_s: f64,
}

#[derive(Default)]
struct Standing {
    tally: Tally,
    /// A check is under way.
    checking: bool,
    /// The highest numbers that were told.
    told: Numbers,
    last: Option<Arc<Report>>,
}

#[derive(Default)]
struct PassedOn {
    /// Names.
    types: Option<StackTypes>,
    /// What was lost, at the last check that was to be remembered.
    lost: FxHashSet<Identity>,
    /// What the last check learned.
    learned: Learned,
}

impl Inspector {
    /// Of this session's process. `cancel`: set to end every check early. `before`: how the checks of another analyzer went.
    pub fn new(session: &Session, tracer: Option<Arc<Tracer>>, cancel: Arc<AtomicBool>, before: Tally) -> Self {
        let subject = LiveSubject {
            pid: session.pid,
            exe: session.exe.to_string_lossy().into_owned(),
            argv: session.argv.clone(),
            origin: session.origin.clone(),
            writable_before: session.writable_before.clone(),
            untraced: session.untraced.clone(),
            inquirer: session.drain.inquirer(),
        };
        let shelf = session.shelf.as_ref().and_then(|shelf| shelf.try_clone().ok());
        let kept = shelf.as_ref().and_then(vault::remembered);
        let remembered = kept.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Self {
            subject,
            exe: session.exe.clone(),
            root: session.root.clone(),
            tracer: tracer.filter(|_| session.untraced.is_none()),
            cancel,
            passed_on: Mutex::default(),
            standing: Mutex::new(Standing { tally: before, ..Standing::default() }),
            remembered: Mutex::new(remembered),
            shelf,
        }
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.subject.pid
    }

    /// What it is part of, where that is known.
    pub fn service(&self) -> Option<&str> {
        self.subject.origin.service.as_deref()
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
            learned: &passed_on.learned,
            tracer: self.tracer.as_deref(),
            cancel: &self.cancel,
        };
        self.standing().checking = true;
        let outcome = live::run(&self.subject, types, &order);
        {
            let mut standing = self.standing();
            standing.checking = false;
            standing.tally.checks += 1;
            match &outcome {
                Ok(outcome) => standing.tally.stopped_s += outcome.report.check.stopped_ms / 1e3,
                Err(_) => standing.tally.failed += 1,
            }
        }
        let outcome = outcome?;
        passed_on.types = Some(outcome.types);
        if let Some(remembered) = outcome.remembered {
            if let Some(shelf) = &self.shelf {
                // Where there is no memory for it another analyzer would not know.
                let _ = postcard::to_stdvec(&remembered).map(|bytes| vault::set_remembered(shelf, &bytes));
            }
            *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = Some(remembered);
        }
        if remember {
            passed_on.lost = outcome.lost;
        }
        passed_on.learned = outcome.learned;
        trim::give_back();
        Ok(outcome.report)
    }

    /// What the last whole check judged lost; once.
    pub fn take_remembered(&self) -> Option<Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the checks went so far, by whomever they were asked for.
    pub fn tally(&self) -> Tally {
        self.standing().tally
    }

    /// A check is under way, whoever asked for it.
    pub fn is_checking(&self) -> bool {
        self.standing().checking
    }

    /// What was alive over the run so far: seconds that a sample covers, and the samples; `None` where it ended.
    pub fn timeline(&self) -> Option<(f64, Vec<Sample>)> {
        self.subject.inquirer.timeline()
    }

    /// Frames and payload that are alive now, by allocation stack; `None` where it ended.
    pub fn made(&self) -> Option<Vec<Made>> {
        self.subject.inquirer.made()
    }

    /// The named frames of these stacks; `None` while somebody else has the names, a check above all: nobody waits for that.
    pub fn names(&self, stacks: &[u32]) -> Option<Vec<Vec<Frame>>> {
        let mut passed_on = match self.passed_on.try_lock() {
            Ok(passed_on) => passed_on,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let segment = self.subject.inquirer.segment();
        let fresh = || StackTypes::new(segment.clone(), self.exe.clone(), self.root.as_deref());
        let types = passed_on.types.get_or_insert_with(fresh);
        types.learn_modules();
        Some(stacks.iter().map(|&stack| stacks::named(segment, types, stack)).collect())
    }

    /// Keeps the report of a whole check, as it was judged, for whoever wants to see the last one.
    pub fn keep(&self, report: Report) -> Arc<Report> {
        let report = Arc::new(report);
        self.standing().last = Some(report.clone());
        report
    }

    /// The last report that was kept.
    pub fn kept(&self) -> Option<Arc<Report>> {
        self.standing().last.clone()
    }

    /// What is alive now, by groups, unclassified: nothing of the process is read, and it goes on meanwhile.
    ///
    /// # Errors
    /// It ended.
    pub fn census(&self, level: Level) -> Result<Report, String> {
        let mut passed_on = self.passed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = self.subject.inquirer.segment().clone();
        let photograph = self.subject.inquirer.photograph().ok_or("the process ended")?;
        let fresh = || StackTypes::new(segment.clone(), self.exe.clone(), self.root.as_deref());
        let types = passed_on.types.take().unwrap_or_else(fresh);
        let drained = photograph.develop(segment.clone(), types);
        let (report, types) = super::unclassified(&self.subject, drained, level, "it was not checked yet");
        passed_on.types = Some(types);
        Ok(report)
    }

    /// The session as it is now, as the bytes of its file: to be laid beside a core that was written just before.
    ///
    /// # Errors
    /// A line: it ended, or there is no memory for it.
    pub fn session_file(&self, session: &saved::Head) -> Result<Vec<u8>, String> {
        let mut passed_on = self.passed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = self.subject.inquirer.segment().clone();
        let stopped = threads::all_stopped(self.subject.pid);
        let photograph = self.subject.inquirer.photograph().ok_or("the process ended")?;
        // Only where it stood still before and after has nothing happened in between.
        let stopped = stopped && threads::all_stopped(self.subject.pid);
        let head = saved::Head {
            moment: if stopped { Moment::Stopped } else { Moment::Running },
            saved_ns: saved::now_ns(),
            ..session.clone()
        };
        let fresh = || StackTypes::new(segment.clone(), self.exe.clone(), self.root.as_deref());
        let types = passed_on.types.take().unwrap_or_else(fresh);
        let mut drained = photograph.develop(segment.clone(), types);
        let bytes = saved::bytes(&head, &mut drained, &saved::Known::default());
        passed_on.types = Some(drained.types);
        bytes.map_err(|error| format!("the session cannot be saved: {error}"))
    }

    /// How it stands; `None` where it ended. What counts up never falls: who died in between may be known by one way and not yet by the
    /// other.
    pub fn numbers(&self) -> Option<Numbers> {
        let now = self.subject.inquirer.numbers()?;
        let mut standing = self.standing();
        let told = standing.told;
        standing.told = Numbers {
            frames_allocated: now.frames_allocated.max(told.frames_allocated),
            frames_freed: now.frames_freed.max(told.frames_freed),
            allocations: now.allocations.max(told.allocations),
            frees: now.frees.max(told.frees),
            dropped: now.dropped.max(told.dropped),
            waited_s: now.waited_s.max(told.waited_s),
            ..now
        };
        Some(standing.told)
    }
}
