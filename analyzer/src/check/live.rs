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
//! Blocks that are younger than the check are not judged. Where the process cannot be stopped its stacks are scanned whole, which may hide
//! losses behind stale words, and the report says so.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use rustc_hash::{FxHashMap, FxHashSet};

use super::remembered::Remembered;
use super::snapshot::{Over, Snapshot};
use super::{
    EVERYTHING, Found, Known, Looked, Motion, Prepared, Reach, Search, Subject, conclude, copy, has_missed, mapping_in,
    prepare, roots, time,
};
use crate::address::TargetRange;
use crate::golang::GoProcess;
use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::{self, Control, RootBlock};
use crate::report::model::{Check, Class, Level, MemoryMeans, Report};
use crate::report::origin::Origin;
use crate::session::drain::{Drained, Inquirer};
use crate::session::types::StackTypes;
use crate::target::hurry::Hurry;
use crate::target::maps::{self, Mapping};
use crate::target::memory::Memory;
use crate::target::process_memory::{CachedMemory, ProcessMemory};
use crate::target::threads::{self, ThreadState};
use crate::target::touched::Touched;
use crate::target::tracer::Tracer;

/// Scans before the process is stopped.
const RUNNING: u32 = 3;
/// Scans for each of which it is stopped, at most.
const STOPS: u32 = 3;
/// How often what is new is looked through for pointers to what is suspected, after each round of scans.
const LOOKS: u32 = 16;
/// Between two of these looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);
/// Between two scans, so that what moves has time to move.
const REST: Duration = Duration::from_millis(5);
const ENDED: &str = "the process ended while it was checked";
/// After so long the tracer lets a stopped process go on by itself.
const LONGEST_STOP: Duration = Duration::from_millis(250);
/// How often it is stopped for one scan at most, where that happens.
const ATTEMPTS: u32 = 3;

/// A block by what no other has: its address, and the stamp of its allocation.
pub type Identity = (u64, u64);

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
    /// What was lost at the last check, and so still is: unless a scan finds otherwise, nobody looks for it again and again.
    pub sure: &'a FxHashSet<Identity>,
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
    /// Names, for the next check of the same session.
    pub types: StackTypes,
}

/// One scan of a process that runs, or stood still for a moment.
struct Scan {
    drained: Drained,
    list: Vec<reach::Block>,
    maps: Vec<Mapping>,
    blocks: Vec<LiveBlock>,
    looked: Looked,
    stopped: Duration,
    all_stopped: bool,
}

/// What a moment's stop brought.
struct Stop {
    threads: Vec<ThreadState>,
    copy: Snapshot,
    stopped: Duration,
    all_stopped: bool,
}

/// What no scan reached so far, and whether it is an object of FFmpeg's; `None` before the first scan.
#[derive(Default)]
struct Suspects(Option<FxHashMap<Identity, bool>>);

fn identity(block: &LiveBlock) -> Identity {
    (block.address, block.stamp)
}

impl Suspects {
    /// What this scan reached is none.
    fn keep(&mut self, scan: &Scan) {
        let unreached = (0..).zip(&scan.blocks).filter(|(index, block)| {
            scan.looked.reachability.class(*index) != Class::StillReachable
                && self.0.as_ref().is_none_or(|known| known.contains_key(&identity(block)))
        });
        self.0 = Some(unreached.map(|(_, block)| (identity(block), block.kind.is_object())).collect());
    }

    fn clear(&mut self, block: &Identity) {
        if let Some(known) = &mut self.0 {
            known.remove(block);
        }
    }

    fn contains(&self, block: &LiveBlock) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains_key(&identity(block)))
    }

    fn retain(&mut self, wanted: impl Fn(&Identity) -> bool) {
        self.0.iter_mut().for_each(|known| known.retain(|block, _| wanted(block)));
    }

    /// How many of them are objects of which no earlier check was sure.
    fn objects(&self, sure: &FxHashSet<Identity>) -> usize {
        self.0.iter().flatten().filter(|(block, is_object)| **is_object && !sure.contains(*block)).count()
    }
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
pub fn run(subject: &LiveSubject, mut types: StackTypes, order: &LiveOrder<'_>) -> Result<Outcome, String> {
    let (started, begun) = (time(SystemTime::now()), Instant::now());
    let mut checker =
        Checker { subject, order, suspects: Suspects::default(), scans: 0, since: None, stopped: Duration::ZERO };
    let mut notes = Vec::new();
    for round in 1..=RUNNING {
        let scan = checker.scan(types, false)?;
        checker.suspects.keep(&scan);
        if round == RUNNING {
            checker.look(&scan)?;
        }
        types = scan.drained.types;
    }
    let mut last = checker.decide(types)?;
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
    let Scan { drained, blocks, looked, .. } = last;
    let is_whole = order.hold.is_zero() && order.known.is_none_or(FxHashSet::is_empty);
    let remembered = is_whole.then(|| Remembered::of(&check, drained.now, &blocks, &looked));
    let mut whole = subject.concluded(drained);
    let looked = Some(looked);
    let (memory_reason, ended, post_mortem) = (None, None, None);
    let found = Found { blocks, looked, means, memory_reason, notes, check, ended, post_mortem };
    let report = conclude(&mut whole, order.level, false, found, begun);
    Ok(Outcome { report, lost, remembered, types: whole.drained.types })
}

impl Checker<'_> {
    /// The scans that decide, after those that suspect. Returns the last one.
    fn decide(&mut self, mut types: StackTypes) -> Result<Scan, String> {
        let mut stop = 1;
        loop {
            let before = self.suspects.objects(self.order.sure);
            let scan = self.scan(types, true)?;
            self.suspects.keep(&scan);
            self.look(&scan)?;
            self.stopped += scan.stopped;
            // What is left out has to be reached by a scan, with all that it leads to.
            let complete = stop > 1 || !self.leave_out(&scan);
            // What the first stop cleared was on stacks; what a later one clears was on its way somewhere.
            let now = self.suspects.objects(self.order.sure);
            let settled = now == 0 || stop > 1 && now == before || self.order.tracer.is_none();
            if complete && (settled || stop == STOPS) {
                return Ok(scan);
            }
            types = scan.drained.types;
            stop += 1;
        }
    }

    /// Looks again and again through FFmpeg's objects that are not suspected, and through what is new, for pointers to what is.
    fn look(&mut self, scan: &Scan) -> Result<(), String> {
        let tid = threads::live_thread(self.subject.pid).ok_or(ENDED)?;
        let process = ProcessMemory::new(tid);
        let since = self.since.unwrap_or(u64::MAX);
        let is_holder = |(block, searched): &(&LiveBlock, &reach::Block)| {
            block.kind.is_libav() && searched.scan == reach::Scan::Words && !self.suspects.contains(block)
        };
        let holders: Vec<reach::Block> =
            scan.blocks.iter().zip(&scan.list).filter(is_holder).map(|(_, searched)| *searched).collect();
        for _ in 0..LOOKS {
            if self.suspects.objects(self.order.sure) == 0 {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            let newer = self.subject.inquirer.newer_than(since).ok_or(ENDED)?;
            let held = |block: reach::Block| (block, None);
            let new = |block: &LiveBlock| {
                held(reach::Block {
                    start: block.address,
                    size: block.size,
                    kind: block.kind,
                    scan: if block.kind == ObjectKind::Payload { reach::Scan::Payload } else { reach::Scan::Words },
                })
            };
            let suspects = scan.blocks.iter().zip(&scan.list).filter(|(block, _)| self.suspects.contains(block));
            let suspects = suspects.map(|(block, searched)| (*searched, Some(block)));
            // What is new comes first: where something else lay there, that is gone.
            let mut all: Vec<(reach::Block, Option<&LiveBlock>)> =
                newer.iter().map(new).chain(holders.iter().copied().map(held)).chain(suspects).collect();
            all.sort_by_key(|(block, _)| block.start);
            all.dedup_by_key(|(block, _)| block.start);
            let list: Vec<reach::Block> = all.iter().map(|(block, _)| *block).collect();
            let known = (0..).zip(&all).filter(|(_, (_, suspect))| suspect.is_none());
            let root_blocks: Vec<RootBlock> = known.map(|(block, _)| RootBlock { block, label: 0 }).collect();
            let input = reach::Input {
                blocks: &list,
                roots: &[],
                registers: &[],
                root_blocks: &root_blocks,
                doubtful: &[],
                mapping: &mapping_in(&scan.maps),
                python: None,
            };
            let control = Control { progress: &|_, _| (), cancel: self.order.cancel };
            let found = reach::check(&process, &input, &control).map_err(|error| error.to_string())?;
            let reached = |(index, (_, suspect)): (u32, &(reach::Block, Option<&LiveBlock>))| {
                suspect.filter(|_| found.class(index) == Class::StillReachable).map(identity)
            };
            let cleared: Vec<Identity> = (0..).zip(&all).filter_map(reached).collect();
            cleared.iter().for_each(|block| self.suspects.clear(block));
        }
        Ok(())
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

    /// One scan; with `stop` the process stands still for its registers and stacks, if that is possible.
    fn scan(&mut self, types: StackTypes, stop: bool) -> Result<Scan, String> {
        if self.scans > 0 {
            std::thread::sleep(REST);
        }
        self.scans += 1;
        let subject = self.subject;
        let photograph = subject.inquirer.photograph().ok_or(ENDED)?;
        let mut drained = photograph.develop(subject.inquirer.segment().clone(), types);
        self.since.get_or_insert(drained.now);
        let tid = threads::live_thread(subject.pid).ok_or(ENDED)?;
        let mut maps = maps::read_maps(tid).map_err(|_| ENDED.to_string())?;
        let mapped: Vec<TargetRange> = maps.iter().map(|mapping| mapping.range).collect();
        drained.live.returned.forget_unmapped(&mapped);
        let missed = has_missed(&mut drained);
        let memory = CachedMemory::new(ProcessMemory::new(tid));
        let process = memory.inner();
        let mut blocks = drained.live.blocks();
        let Prepared { graph, formats, list, python } = prepare(&mut drained, &mut blocks, &memory, &maps);
        let stopped = match self.order.tracer.filter(|_| stop) {
            None => None,
            Some(tracer) => {
                let touched = Touched::read(tid, &maps, &roots::own_memory(&drained, &maps));
                let little = copy::all_if_little(&list, &touched);
                Some(self.stand_still(tracer, tid, &mut maps, &list, &little)?)
            }
        };
        let threads = stopped.as_ref().map_or(&[][..], |stop| &stop.threads);
        let over = stopped.as_ref().map(|stop| Over { copy: &stop.copy, rest: process });
        let searched: &dyn Memory = over.as_ref().map_or(process, |over| over);
        let golang = GoProcess::discover(tid, &maps, threads, &memory);
        let touched = Touched::read(tid, &maps, &roots::own_memory(&drained, &maps));
        let reached: Vec<u32> = if stop {
            (0..).zip(&blocks).filter(|(_, block)| !self.suspects.contains(block)).map(|(index, _)| index).collect()
        } else {
            Vec::new()
        };
        let motion = match (&stopped, self.order.tracer) {
            (Some(stop), _) if stop.all_stopped => Motion::Still,
            (Some(_), _) | (None, None) => Motion::Partly,
            (None, Some(_)) => Motion::Running,
        };
        let search = Search {
            tid,
            maps: &maps,
            threads,
            blocks: &blocks,
            list: &list,
            python: python.as_ref(),
            touched: &touched,
            golang: &golang,
            before: if missed { &EVERYTHING } else { &subject.writable_before },
            motion,
            missed,
            reached: &reached,
            control: &Control { progress: &|_, _| (), cancel: self.order.cancel },
        };
        let looked = search.run(&drained, searched, Some(process), graph, formats)?;
        let all_stopped = stopped.as_ref().is_none_or(|stop| stop.all_stopped);
        let stopped = stopped.map_or(Duration::ZERO, |stop| stop.stopped);
        Ok(Scan { drained, list, maps, blocks, looked, stopped, all_stopped })
    }

    /// Stops the process, and copies its stacks as far as they are in use, and what is in `little`. On a machine that is so busy that the tracer
    /// lets the process go on before that is done, it is tried again.
    fn stand_still(
        &mut self,
        tracer: &Tracer,
        tid: i32,
        maps: &mut Vec<Mapping>,
        list: &[reach::Block],
        little: &[TargetRange],
    ) -> Result<Stop, String> {
        let (pid, process) = (self.subject.pid, ProcessMemory::new(tid));
        for _ in 0..ATTEMPTS {
            let _hurry = Hurry::begin();
            let mut paused = tracer.pause(pid, LONGEST_STOP).map_err(|error| error.to_string())?;
            let threads = std::mem::take(&mut paused.threads);
            let is_known = |sp: u64| maps::find(maps, sp).is_some_and(|mapping| mapping.writable);
            if !threads.iter().all(|thread| is_known(thread.stack_pointer)) {
                // A thread is new, or a stack has grown.
                *maps = maps::read_maps(tid).map_err(|_| ENDED.to_string())?;
            }
            let mut ranges = little.to_vec();
            ranges.extend(roots::stacks_in_use(&threads, maps, list, &process));
            let copy = Snapshot::take(&process, ranges, u64::MAX).ok_or("no memory for a copy of the stacks")?;
            let all_stopped = paused.all_stopped;
            let stopped = paused.resume();
            if !stopped.is_zero() {
                return Ok(Stop { threads, copy, stopped, all_stopped });
            }
            self.stopped += LONGEST_STOP;
            std::thread::sleep(REST);
        }
        Err("the process could not be read in the time for which it may stand still".into())
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
