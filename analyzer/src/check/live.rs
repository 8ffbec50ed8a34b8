//! A check of a process that lives, and goes on living.
//!
//! It must hardly stand still, so its memory is read while it runs. What it moves between two reads can look lost then; but what is lost
//! never gets a pointer back, so that whatever a single scan reached is not lost. Hence:
//!
//! 1. [`RUNNING`] scans while all threads run, without stacks and registers. What none of them reached is *suspected*: the lost, and what
//!    only a stack or a register holds.
//! 2. What is held only by blocks that are younger than a scan's list of them (a reference that lives for a frame, say) is missed by one
//!    scan after the other. So the objects that FFmpeg itself made, and whatever is new, are looked through [`LOOKS`] times for pointers
//!    to what is suspected.
//! 3. The process is stopped for its registers and the used part of its stacks (and all else, where that is little), which are copied;
//!    then it goes on. One more scan begins at these too. What it reaches is no longer suspected. This is done [`STOPS`] times at
//!    most, until no object of FFmpeg's is suspected or none was cleared by the last one.
//! 4. What was given back meanwhile is not lost either.
//!
//! Most checks find nothing new, and need not read everything for it: a scan that leaves memory out reaches less, never more. So a check begins
//! with a *glance*, scans that leave out what held no pointer at the check before (tables, pictures in pools: most of what a codec has). Where
//! they reach all but what was lost then, that is the result. Only full scans call anything new lost.
//!
//! Blocks that are younger than the check are not judged. Where the process cannot be stopped its stacks are scanned whole, which may hide
//! losses behind stale words, and the report says so.

mod learned;
mod look;
mod scan;
mod suspects;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use rustc_hash::{FxHashMap, FxHashSet};

use super::remembered::Remembered;
use super::{Found, Known, Reach, Subject, conclude, time};
use crate::address::TargetRange;
use crate::report::model::{Check, Class, Level, MemoryMeans, Report};
use crate::report::origin::Origin;
use crate::session::drain::{Drained, Inquirer};
use crate::session::types::StackTypes;
use crate::target::tracer::Tracer;
pub use learned::Learned;
use scan::{Kind, Scan};
pub use suspects::Identity;
use suspects::{Suspects, identity};

/// Scans of a [`glance`](Checker::glance) for which the process is stopped, at most.
const GLANCES: u32 = 2;
/// Scans before the process is stopped.
const RUNNING: u32 = 3;
/// Scans for each of which it is stopped, at most.
const STOPS: u32 = 3;
const ENDED: &str = "the process ended while it was checked";

/// Who is checked.
pub struct LiveSubject {
    /// Process id.
    pub pid: i32,
    /// Its executable.
    pub exe: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Host, service, build.
    pub origin: Origin,
    /// What was writable when it registered, ascending.
    pub writable_before: Vec<TargetRange>,
    /// Why it is not traced; `None` where it is.
    pub untraced: Option<String>,
    /// To look at its live set.
    pub inquirer: Inquirer,
}

impl LiveSubject {
    /// What a report is made of once the memory was looked at, or will not be: nobody reaches for it any more.
    pub(super) fn concluded(&self, drained: Drained) -> Subject {
        Subject {
            pid: self.pid,
            exe: self.exe.clone(),
            argv: self.argv.clone(),
            origin: self.origin.clone(),
            ended: None,
            drained,
            reach: Reach::Gone(String::new()),
            writable_before: Vec::new(),
            untraced: None,
            notes: Vec::new(),
            known: Known::default(),
        }
    }
}

/// How a check is asked for.
pub struct LiveOrder<'a> {
    /// What counts as a leak.
    pub level: Level,
    /// Objects that are younger are taken to be in use.
    pub hold: Duration,
    /// What the last check found lost, where only what is new is wanted.
    pub known: Option<&'a FxHashSet<Identity>>,
    /// From the last check of the same process.
    pub learned: &'a Learned,
    /// Who stops the process; `None`: nobody can.
    pub tracer: Option<&'a Tracer>,
    /// Set to end the check early.
    pub cancel: &'a AtomicBool,
}

/// What a check found.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// What is lost, with that which is left out of the report because it is known.
    pub lost: FxHashSet<Identity>,
    /// What is certainly lost, for the end of the process; `None` where not all of it was judged.
    pub remembered: Option<Remembered>,
    /// For the next check of the same process.
    pub learned: Learned,
    /// Names, for the next check of the same session.
    pub types: StackTypes,
}

/// A check under way.
struct Checker<'a> {
    subject: &'a LiveSubject,
    order: &'a LiveOrder<'a>,
    suspects: Suspects,
    scans: u32,
    /// When the first scan began: what is younger is not judged.
    since: Option<u64>,
    /// For how long the process stood still, in all.
    stopped: Duration,
}

/// Checks. `types`: names and kinds of the session's stacks, kept from the last check.
///
/// # Errors
/// Why there is no report: the process ended meanwhile, its memory cannot be read, or the check was cancelled.
pub fn run(subject: &LiveSubject, types: StackTypes, order: &LiveOrder<'_>) -> Result<Outcome, String> {
    let (started, begun) = (time(SystemTime::now()), Instant::now());
    let mut checker =
        Checker { subject, order, suspects: Suspects::default(), scans: 0, since: None, stopped: Duration::ZERO };
    let mut notes = Vec::new();
    let mut last = match checker.glance(types)? {
        Glance::Enough(scan) => *scan,
        Glance::More(types) => checker.suspect(*types).and_then(|types| checker.decide(types))?,
    };
    if !last.all_stopped {
        notes.push("some threads could not be stopped: what only their registers hold may be called lost".into());
    }
    checker.clear_what_was_given_back(&mut last)?;
    let mut lost: FxHashSet<Identity> = (0..)
        .zip(&last.blocks)
        .filter(|(index, block)| {
            block.kind.is_object() && last.looked.reachability.class(*index) != Class::StillReachable
        })
        .map(|(_, block)| identity(block))
        .collect();
    if let Some(known) = order.known {
        let still: Vec<Identity> = last.blocks.iter().map(identity).filter(|block| known.contains(block)).collect();
        if !still.is_empty() {
            notes.push(format!("{} objects that were lost at the check before are not listed again", still.len()));
        }
        lost.extend(still);
    }
    let unmapped = std::mem::take(&mut last.looked.reachability.unreadable_bytes);
    if unmapped > 0 {
        notes.push(format!("{unmapped} bytes were given back to the system before they could be read"));
    }
    let (scans, stopped) = (checker.scans, checker.stopped);
    let check = Check { started, duration_s: 0.0, stopped_ms: stopped.as_secs_f64() * 1e3, scans };
    let means = if order.tracer.is_some() { MemoryMeans::Ptrace } else { MemoryMeans::VmReadv };
    if let Some(why) = &subject.untraced {
        notes.push(format!(
            "the process could not be stopped ({why}): what is lost rests on {scans} scans while it ran, and stale words on its stacks \
             may hide more"
        ));
    }
    let learned = Learned::of(&last, order.learned);
    let Scan { drained, blocks, looked, .. } = last;
    let is_whole = order.hold.is_zero() && order.known.is_none_or(FxHashSet::is_empty);
    let remembered = is_whole.then(|| Remembered::of(&check, drained.now, &blocks, &looked));
    let mut whole = subject.concluded(drained);
    let looked = Some(looked);
    let (memory_reason, ended, post_mortem) = (None, None, None);
    let found = Found { blocks, looked, means, memory_reason, notes, check, ended, post_mortem };
    let report = conclude(&mut whole, order.level, false, found, begun);
    Ok(Outcome { report, lost, remembered, learned, types: whole.drained.types })
}

/// What a glance came to.
enum Glance {
    /// Nothing is suspected but what was lost before: no more is needed than its last scan.
    Enough(Box<Scan>),
    /// Something is, or may be; names, for the next scan.
    More(Box<StackTypes>),
}

impl Checker<'_> {
    /// Scans of less than everything, with which most checks of a server that loses nothing are over.
    fn glance(&mut self, mut types: StackTypes) -> Result<Glance, String> {
        if self.order.known.is_some() || !self.order.hold.is_zero() {
            return Ok(Glance::More(Box::new(types)));
        }
        let settled = &self.order.learned.lost;
        let scan = self.scan(types, Kind::Glance)?;
        self.suspects.keep(&scan);
        types = scan.drained.types;
        for _ in 1..=GLANCES {
            let scan = self.scan(types, Kind::GlanceStopped)?;
            self.suspects.keep(&scan);
            self.look(&scan)?;
            self.stopped += scan.stopped;
            if self.suspects.unsettled(settled) == 0 {
                return Ok(Glance::Enough(Box::new(scan)));
            }
            types = scan.drained.types;
        }
        Ok(Glance::More(Box::new(types)))
    }

    /// The scans that suspect.
    fn suspect(&mut self, mut types: StackTypes) -> Result<StackTypes, String> {
        // Those of a glance have cleared what they reached as well.
        let rounds = RUNNING.saturating_sub(self.scans).max(1);
        for round in 1..=rounds {
            let scan = self.scan(types, Kind::Running)?;
            self.suspects.keep(&scan);
            if round == rounds {
                self.look(&scan)?;
            }
            types = scan.drained.types;
        }
        Ok(types)
    }

    /// The scans that decide, after those that suspect. Returns the last one.
    fn decide(&mut self, mut types: StackTypes) -> Result<Scan, String> {
        let mut stop = 1;
        loop {
            let before = self.suspects.objects(&self.order.learned.lost);
            let scan = self.scan(types, Kind::Stopped)?;
            self.suspects.keep(&scan);
            self.look(&scan)?;
            self.stopped += scan.stopped;
            // What is left out has to be reached by a scan, with all that it leads to.
            let complete = stop > 1 || !self.leave_out(&scan);
            // What the first stop cleared was on stacks; what a later one clears was on its way somewhere.
            let now = self.suspects.objects(&self.order.learned.lost);
            let settled = now == 0 || stop > 1 && now == before || self.order.tracer.is_none();
            if complete && (settled || stop == STOPS) {
                return Ok(scan);
            }
            types = scan.drained.types;
            stop += 1;
        }
    }

    /// What is too young, or known, is in use for this check. Returns whether there was any.
    fn leave_out(&mut self, scan: &Scan) -> bool {
        let clock = &scan.drained.clock;
        let age = |stamp: u64| clock.seconds(scan.drained.now.saturating_sub(stamp));
        let (hold, known) = (self.order.hold.as_secs_f64(), self.order.known);
        let before = self.suspects.0.as_ref().map_or(0, FxHashMap::len);
        self.suspects
            .retain(|block| (hold == 0.0 || age(block.1) >= hold) && known.is_none_or(|known| !known.contains(block)));
        before != self.suspects.0.as_ref().map_or(0, FxHashMap::len)
    }

    /// What the last look cleared, and what was freed between the photograph and the stop: it had lost its pointers by then.
    fn clear_what_was_given_back(&self, scan: &mut Scan) -> Result<(), String> {
        let lost: Vec<u32> = (0..)
            .zip(&scan.blocks)
            .filter(|(index, _)| scan.looked.reachability.class(*index) != Class::StillReachable)
            .map(|(index, _)| index)
            .collect();
        let named = lost.iter().map(|&index| identity(&scan.blocks[index as usize])).collect();
        let alive = self.subject.inquirer.still_alive(named).ok_or(ENDED)?;
        for (&index, alive) in lost.iter().zip(alive) {
            if !alive || !self.suspects.contains(&scan.blocks[index as usize]) {
                scan.looked.reachability.pardon(index);
            }
        }
        Ok(())
    }
}
