//! The processes under watch, for whoever asks while they run, over HTTP or at their doors: from any thread, without holding up the watch.
//!
//! [`state`] how one stands, as the page and `avleak top` show it · [`living`] what is alive of it by stack.

pub mod living;
pub mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::check::inspector::{Inspector, Question};
use crate::gate::apply::Rules;
use crate::monitor::Monitor;
use crate::monitor::rounds::Keep;
use crate::report::model::{Group, Level, Report};

/// One process.
pub struct Watched {
    /// File name of its executable.
    pub process: String,
    /// Checks it, and knows how it stands.
    pub inspector: Arc<Inspector>,
    /// What the checks so far came to, where it is monitored.
    pub monitor: Option<Arc<Mutex<Monitor>>>,
    /// What counts as a leak.
    pub level: Level,
    /// What the verdict lets through.
    pub rules: Arc<Rules>,
    /// To be called after each check.
    pub keep: Keep,
    /// Somebody's check is under way.
    pub checking: AtomicBool,
    /// Names of the stacks that have something alive.
    pub names: Mutex<living::Names>,
}

impl Watched {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.inspector.pid()
    }

    /// Checks it now.
    ///
    /// # Errors
    /// A line: a check that was asked for is under way, or why it came to nothing.
    pub fn check(&self) -> Result<Arc<Report>, String> {
        if self.checking.swap(true, Ordering::AcqRel) {
            return Err(format!("a check of pid {} is under way already", self.pid()));
        }
        let question = Question { level: self.level, hold: Duration::ZERO, increased: false };
        let checked = self.inspector.check(&question, false);
        self.checking.store(false, Ordering::Release);
        (self.keep)();
        let mut report = checked?;
        self.rules.apply_to_process(&mut report, 1);
        Ok(self.inspector.keep(report))
    }

    /// The report of the last check; where there was none, what is alive now, unclassified: that neither stops it nor reads its memory.
    ///
    /// # Errors
    /// A line: it has ended.
    pub fn report(&self) -> Result<Arc<Report>, String> {
        match self.inspector.kept() {
            Some(report) => Ok(report),
            None => self.inspector.census(self.level).map(Arc::new),
        }
    }

    /// The groups of these objects that were allocated at the stack of this key: as the last check judged them; where it saw none, as they
    /// are now, unclassified. Beside them from arming to then, in seconds.
    ///
    /// # Errors
    /// A line: it has ended.
    pub fn groups(&self, key: &str, object: &str) -> Result<(Vec<Group>, f64), String> {
        let of = |report: &Report| {
            let wanted = |group: &&Group| group.object == object && living::key(&group.stack) == key;
            let groups: Vec<Group> = report.groups.iter().filter(wanted).cloned().collect();
            (groups, report.target.duration_s)
        };
        match self.inspector.kept().map(|report| of(&report)) {
            Some(found) if !found.0.is_empty() => Ok(found),
            _ => self.inspector.census(self.level).map(|report| of(&report)),
        }
    }
}

/// All of them, in the order in which they came.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<u64, Arc<Watched>>>>);

impl Board {
    /// One more. It is taken off when what is returned is dropped.
    pub fn put_up(&self, number: u64, watched: Arc<Watched>) -> Posted {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, watched);
        Posted { board: self.clone(), number }
    }

    /// Those that run.
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// One that is on the board.
pub struct Posted {
    board: Board,
    number: u64,
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.board.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
