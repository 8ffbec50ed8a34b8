//! One scan of a process that lives.

use std::time::Duration;

use super::{Checker, ENDED};
use crate::address::TargetRange;
use crate::check::snapshot::{Over, Snapshot};
use crate::check::{EVERYTHING, Looked, Motion, Prepared, Search, copy, has_missed, prepare, roots};
use crate::golang::GoProcess;
use crate::live::LiveBlock;
use crate::reach::{self, Control};
use crate::session::drain::Drained;
use crate::session::types::StackTypes;
use crate::target::hurry::Hurry;
use crate::target::maps::{self, Mapping};
use crate::target::memory::Memory;
use crate::target::process_memory::{CachedMemory, ProcessMemory};
use crate::target::threads::{self, ThreadState};
use crate::target::touched::Touched;
use crate::target::tracer::Tracer;

/// Between two scans, so that what moves has time to move.
const REST: Duration = Duration::from_millis(5);
/// After so long the tracer lets a stopped process go on by itself.
const LONGEST_STOP: Duration = Duration::from_millis(250);
/// How often it is stopped for one scan at most, where that happens.
const ATTEMPTS: u32 = 3;

/// How a scan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All threads run.
    Running,
    /// The process stands still for its registers and stacks, if that is possible.
    Stopped,
    /// As [`Kind::Running`], without what held no pointer at the last check.
    Glance,
    /// As [`Kind::Stopped`], without what held no pointer at the last check.
    GlanceStopped,
}

impl Kind {
    pub fn stops(self) -> bool {
        matches!(self, Self::Stopped | Self::GlanceStopped)
    }

    pub fn is_glance(self) -> bool {
        matches!(self, Self::Glance | Self::GlanceStopped)
    }
}

/// One scan of a process that runs, or stood still for a moment.
pub(super) struct Scan {
    pub kind: Kind,
    /// What of the blocks was passed over.
    pub left_out: Vec<TargetRange>,
    pub drained: Drained,
    pub list: Vec<reach::Block>,
    pub maps: Vec<Mapping>,
    pub blocks: Vec<LiveBlock>,
    pub looked: Looked,
    pub stopped: Duration,
    pub all_stopped: bool,
}

/// What a moment's stop brought.
struct Stop {
    threads: Vec<ThreadState>,
    copy: Snapshot,
    stopped: Duration,
    all_stopped: bool,
}

impl Checker<'_> {
    /// One scan.
    pub fn scan(&mut self, types: StackTypes, kind: Kind) -> Result<Scan, String> {
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
        let left_out = if kind.is_glance() { self.order.learned.left_out(&blocks) } else { Vec::new() };
        let stopped = match self.order.tracer.filter(|_| kind.stops()) {
            None => None,
            Some(tracer) => {
                let touched = Touched::read(tid, &maps, &roots::own_memory(&drained, &maps));
                let little = copy::all_if_little(&list, &touched, &left_out);
                Some(self.stand_still(tracer, tid, &mut maps, &list, &little)?)
            }
        };
        let threads = stopped.as_ref().map_or(&[][..], |stop| &stop.threads);
        let over = stopped.as_ref().map(|stop| Over { copy: &stop.copy, rest: process });
        let searched: &dyn Memory = over.as_ref().map_or(process, |over| over);
        let golang = GoProcess::discover(tid, &maps, threads, &memory);
        let touched = Touched::read(tid, &maps, &roots::own_memory(&drained, &maps));
        let reached: Vec<u32> = if kind.stops() {
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
            left_out: &left_out,
            control: &Control { progress: &|_, _| (), cancel: self.order.cancel },
        };
        let looked = search.run(&drained, searched, Some(process), graph, formats);
        // In the middle of it, perhaps: what could not be read any more is not lost.
        if process.is_gone() {
            let lives_on = threads::live_thread(subject.pid).is_some_and(|other| other != tid);
            return Err(if lives_on { format!("thread {tid}, by which it was read, ended") } else { ENDED.into() });
        }
        let looked = looked?;
        let all_stopped = stopped.as_ref().is_none_or(|stop| stop.all_stopped);
        let stopped = stopped.map_or(Duration::ZERO, |stop| stop.stopped);
        Ok(Scan { kind, left_out, drained, list, maps, blocks, looked, stopped, all_stopped })
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
}
