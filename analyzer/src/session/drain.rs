//! The thread that drains one segment into the live set, and sleeps when there is nothing to do.
#![allow(unsafe_code, reason = "a futex wait on a word of the segment")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

use avleak_wire::layout::{API_NAMES, CLOCK_TSC};
use avleak_wire::ring::Consumer;

use super::clock::{self, Clock, Reading};
use super::segment::Segment;
use super::timeline::Timeline;
use super::types::StackTypes;
use crate::live::LiveSet;

/// How long an idle drain sleeps at most.
const NAP: Duration = Duration::from_millis(50);
/// How far behind "now" a stamp may be that a producer had taken but not yet announced: its store buffer, generously.
const MARGIN_NS: u64 = 1_000_000;
const MARGIN_TSC: u64 = 10_000_000;

/// What a session knows when it has ended.
pub struct Drained {
    /// What is alive, and what became of the rest.
    pub live: LiveSet,
    /// Names and kinds.
    pub types: StackTypes,
    /// The segment, for stacks.
    pub segment: Arc<Segment>,
    /// Stamps to seconds.
    pub clock: Clock,
    /// The last stamp read: "now" for ages.
    pub now: u64,
    /// CLOCK_REALTIME at arming, nanoseconds since 1970.
    pub armed_realtime_ns: u64,
    /// Events lost.
    pub dropped: u64,
    /// Rings given up because they held nonsense.
    pub corrupt_rings: u64,
    /// Threads that recorded something.
    pub threads: u64,
    /// Calls seen by the second witness, in the order of [`API_NAMES`].
    pub calls: [u64; API_NAMES.len()],
    /// Seconds that producers waited for this analyzer.
    pub waited_s: f64,
    /// What was alive over the run.
    pub timeline: Timeline,
}

/// A running drain.
pub struct Drain {
    segment: Arc<Segment>,
    finish: Arc<AtomicBool>,
    worker: JoinHandle<Drained>,
}

struct Ring {
    consumer: Consumer,
    passed: u64,
}

struct Worker {
    segment: Arc<Segment>,
    types: StackTypes,
    live: LiveSet,
    timeline: Timeline,
    rings: Vec<Ring>,
    first: Reading,
    tsc: bool,
}

impl Drain {
    /// Starts to drain.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(segment: Arc<Segment>, exe: PathBuf, root: Option<PathBuf>, name: String) -> std::io::Result<Self> {
        let finish = Arc::new(AtomicBool::new(false));
        let header = segment.header();
        let mut worker = Worker {
            types: StackTypes::new(segment.clone(), exe, root.as_deref()),
            live: LiveSet::new(),
            timeline: Timeline::new(header.armed_monotonic_ns.load(Ordering::Relaxed)),
            rings: Vec::new(),
            tsc: header.clock.load(Ordering::Relaxed) == CLOCK_TSC,
            first: Reading {
                stamp: header.armed_stamp.load(Ordering::Relaxed),
                monotonic_ns: header.armed_monotonic_ns.load(Ordering::Relaxed),
            },
            segment: segment.clone(),
        };
        let flag = finish.clone();
        let worker = std::thread::Builder::new().name(name).spawn(move || {
            worker.run(&flag);
            worker.into_drained()
        })?;
        Ok(Self { segment, finish, worker })
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The process stands still or is gone: takes what is left in the rings and ends.
    ///
    /// # Errors
    /// Where the drain's thread panicked; its message.
    pub fn finish(self) -> Result<Drained, String> {
        self.finish.store(true, Ordering::Release);
        let sleeping = &self.segment.header().consumer_sleeping;
        sleeping.store(0, Ordering::SeqCst);
        let _ = rustix::thread::futex::wake(sleeping, rustix::thread::futex::Flags::empty(), u32::MAX >> 1);
        self.worker.join().map_err(|panic| {
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default()
        })
    }
}

impl Worker {
    fn run(&mut self, finish: &AtomicBool) {
        loop {
            // Read before the rings: what was published before the order to finish is drained by this pass.
            let last = finish.load(Ordering::Acquire);
            let taken = self.pass();
            if last {
                while self.pass() > 0 {}
                return;
            }
            if taken == 0 {
                self.nap(finish);
            }
        }
    }

    /// Drains every ring once; returns how many events came.
    fn pass(&mut self) -> u64 {
        let count = self.segment.ring_count();
        while (self.rings.len() as u32) < count {
            let Some(consumer) = self.segment.ring(self.rings.len() as u32) else { break };
            self.rings.push(Ring { consumer, passed: 0 });
        }
        let now = clock::read(self.tsc).stamp.saturating_sub(if self.tsc { MARGIN_TSC } else { MARGIN_NS });
        let mut taken = 0;
        let mut passed_by_all = now;
        for ring in &mut self.rings {
            let mut latest = ring.passed;
            let drained = ring.consumer.drain(|event| {
                latest = event.stamp;
                self.live.apply(event, |stack, size| self.types.kind_of(stack, size));
            });
            taken += drained.events;
            ring.passed = if drained.idle { now } else { latest.min(now).max(ring.passed) };
            passed_by_all = passed_by_all.min(ring.passed);
        }
        self.live.passed(passed_by_all);
        self.timeline.sample(clock::monotonic_ns(), &self.live);
        taken
    }

    fn nap(&mut self, finish: &AtomicBool) {
        let segment = self.segment.clone();
        let sleeping = &segment.header().consumer_sleeping;
        sleeping.store(1, Ordering::SeqCst);
        // Pairs with the producer's swap: either it sees the 1, or this pass sees its event.
        fence(Ordering::SeqCst);
        if self.pass() > 0 || finish.load(Ordering::Acquire) {
            sleeping.store(0, Ordering::Relaxed);
            return;
        }
        let nap = rustix::fs::Timespec { tv_sec: 0, tv_nsec: NAP.as_nanos() as i64 };
        let _ = rustix::thread::futex::wait(sleeping, rustix::thread::futex::Flags::empty(), 1, Some(&nap));
        sleeping.store(0, Ordering::Relaxed);
    }

    fn into_drained(mut self) -> Drained {
        self.types.learn_modules();
        let header = self.segment.header();
        let mut calls = [0u64; API_NAMES.len()];
        let mut dropped = header.dropped_without_ring.load(Ordering::Relaxed);
        let mut waited_ns = 0u64;
        for ring in &self.rings {
            let header = ring.consumer.header();
            dropped = dropped.saturating_add(header.dropped.load(Ordering::Relaxed));
            waited_ns = waited_ns.saturating_add(header.waited_ns.load(Ordering::Relaxed));
            for (sum, count) in calls.iter_mut().zip(&header.calls) {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            }
        }
        let now = clock::read(self.tsc);
        Drained {
            clock: Clock::between(self.first, now),
            now: now.stamp,
            armed_realtime_ns: header.armed_realtime_ns.load(Ordering::Relaxed),
            dropped,
            corrupt_rings: self.rings.iter().filter(|ring| ring.consumer.is_corrupt()).count() as u64,
            threads: header.threads_seen.load(Ordering::Relaxed),
            calls,
            waited_s: waited_ns as f64 / 1e9,
            live: self.live,
            timeline: self.timeline,
            types: self.types,
            segment: self.segment,
        }
    }
}
