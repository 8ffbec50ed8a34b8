//! The thread that drains one segment into the live set, and sleeps when there is nothing to do.
//!
//! Allocations that threads still keep to themselves ([`avleak_wire::young`]) are only looked at: to know for which addresses an old
//! allocation can still come, and at the end, when all that are left are alive.
#![allow(unsafe_code, reason = "a futex wait on a word of the segment")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use avleak_wire::event::{Event, KIND_ALLOC};
use avleak_wire::layout::{API_NAMES, ASLEEP, CLOCK_TSC, NAPPING};
use avleak_wire::ring::Consumer;
use avleak_wire::young::{MOVING, Young};
use crossbeam_channel::{Receiver, Sender};

use super::clock::{self, Clock, Reading};
use super::segment::Segment;
use super::timeline::Timeline;
use super::types::StackTypes;
use crate::live::{LiveBlock, LiveSet, Pending, Rings};

/// How long a drain naps while events come now and then; after a nap without one it goes to sleep.
const NAP: Duration = Duration::from_millis(50);
/// How long a producer's store may take to be seen, generously: who has looked again after that may sleep without end.
const LAST_LOOK: Duration = Duration::from_millis(1);
/// What is settled is looked for this often at most …
const SETTLE_EVERY: Duration = Duration::from_millis(10);
/// … and so many times as long as the look takes.
const SETTLE_SHARE: u32 = 20;
/// Events that are taken out of a ring before they are applied together.
const BATCH: usize = 64;
/// So many passes at the end, and somebody still writes: another process that inherited the segment, or one that could not be held.
const LAST_PASSES: u32 = 64;
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
    /// Allocations that were given back young, of which no event came.
    pub cancelled: u64,
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

/// What is asked of a drain from outside, and done on its thread between two passes.
type Question = Box<dyn FnOnce(&mut Worker) + Send>;

/// A running drain.
pub struct Drain {
    inquirer: Inquirer,
    worker: JoinHandle<Drained>,
}

/// Looks at the live set of a process that lives.
#[derive(Clone)]
pub struct Inquirer {
    segment: Arc<Segment>,
    orders: Arc<Orders>,
    questions: Sender<Question>,
}

/// What makes a drain leave its sleep.
#[derive(Default)]
struct Orders {
    finish: AtomicBool,
    /// There are questions.
    asked: AtomicBool,
}

impl Orders {
    fn any(&self) -> bool {
        self.finish.load(Ordering::Acquire) || self.asked.load(Ordering::Acquire)
    }
}

/// The live set at one moment, and what belongs to it.
pub struct Photograph {
    live: LiveSet,
    timeline: Timeline,
    cancelled: u64,
    dropped: u64,
    corrupt_rings: u64,
    waited_ns: u64,
    calls: [u64; API_NAMES.len()],
    first: Reading,
    now: Reading,
}

impl Photograph {
    /// With the names and kinds of its stacks it is what a session knows when it has ended. `types`: of the same session.
    pub fn develop(self, segment: Arc<Segment>, mut types: StackTypes) -> Drained {
        types.learn_modules();
        let header = segment.header();
        Drained {
            clock: Clock::between(self.first, self.now),
            now: self.now.stamp,
            armed_realtime_ns: header.armed_realtime_ns.load(Ordering::Relaxed),
            dropped: self.dropped,
            cancelled: self.cancelled,
            corrupt_rings: self.corrupt_rings,
            threads: header.threads_seen.load(Ordering::Relaxed),
            calls: self.calls,
            waited_s: self.waited_ns as f64 / 1e9,
            live: self.live,
            timeline: self.timeline,
            types,
            segment,
        }
    }
}

struct Ring {
    consumer: Consumer,
    /// Every event with an older stamp has come, or was among the young at the last look.
    passed: u64,
    /// The ring's activity before the last look at the young.
    looked_at: Option<u32>,
    /// The addresses of the young at the last look.
    young: Vec<u64>,
    /// The last event that was drained.
    last: Option<Event>,
}

struct Worker {
    segment: Arc<Segment>,
    types: StackTypes,
    live: LiveSet,
    timeline: Timeline,
    rings: Vec<Ring>,
    pending: Pending,
    /// When what is settled is looked for next.
    settle_at: Instant,
    first: Reading,
    tsc: bool,
    /// Events that nobody waited for: they came without end when all should have stood still.
    left_behind: u64,
}

impl Drain {
    /// Starts to drain.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(segment: Arc<Segment>, exe: PathBuf, root: Option<PathBuf>, name: String) -> std::io::Result<Self> {
        let orders = Arc::new(Orders::default());
        let (questions, asked) = crossbeam_channel::unbounded();
        let mut worker = Worker::new(segment.clone(), exe, root);
        let for_worker = orders.clone();
        let worker = std::thread::Builder::new().name(name).spawn(move || {
            worker.run(&for_worker, &asked);
            worker.into_drained()
        })?;
        Ok(Self { inquirer: Inquirer { segment, orders, questions }, worker })
    }

    /// To look at the live set meanwhile.
    pub fn inquirer(&self) -> Inquirer {
        self.inquirer.clone()
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.inquirer.segment
    }

    /// The process stands still or is gone: takes what is left in the rings and ends.
    ///
    /// # Errors
    /// Where the drain's thread panicked; its message.
    pub fn finish(self) -> Result<Drained, String> {
        self.inquirer.orders.finish.store(true, Ordering::Release);
        self.inquirer.wake();
        self.worker.join().map_err(|panic| {
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default()
        })
    }
}

impl Inquirer {
    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// What is alive now; `None` where the session ends.
    pub fn photograph(&self) -> Option<Photograph> {
        self.ask(Worker::photograph)
    }

    /// Which blocks that were returned at `stamp` or later are alive now, in no order; `None` where the session ends.
    pub fn newer_than(&self, stamp: u64) -> Option<Vec<LiveBlock>> {
        self.ask(move |worker| {
            let young = worker.young();
            worker.pass();
            let mut newer: Vec<LiveBlock> = worker.live.newer_than(stamp).collect();
            for (_, one) in young.iter().filter(|(_, one)| one.stamp >= stamp) {
                let event = one.event();
                let kind = worker.types.kind_of(event.stack, event.size);
                let (address, size, stamp, stack) = (event.address, event.size, event.stamp, event.stack);
                newer.push(LiveBlock { address, size, stamp, stack, kind, by_call_only: false });
            }
            newer
        })
    }

    /// Which of these blocks, as addresses with the stamps of their allocations, are alive now; `None` where the session ends.
    pub fn still_alive(&self, blocks: Vec<(u64, u64)>) -> Option<Vec<bool>> {
        self.ask(move |worker| {
            let young = worker.young();
            worker.pass();
            let is_young = |block: &(u64, u64)| young.iter().any(|(_, one)| (one.address, one.stamp) == *block);
            blocks.iter().map(|block| worker.live.is_alive(block.0, block.1) || is_young(block)).collect()
        })
    }

    fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut Worker) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let question = Box::new(move |worker: &mut Worker| {
            let _ = answer.send(what(worker));
        });
        self.questions.send(question).ok()?;
        self.orders.asked.store(true, Ordering::Release);
        self.wake();
        // A drain that ends drops the question.
        answered.recv().ok()
    }

    fn wake(&self) {
        let sleeping = &self.segment.header().consumer_sleeping;
        sleeping.store(0, Ordering::SeqCst);
        let _ = rustix::thread::futex::wake(sleeping, rustix::thread::futex::Flags::empty(), u32::MAX >> 1);
    }
}

impl Ring {
    /// Looks at the young, if they changed. False where the producer was in the middle of an event at every look.
    fn look(&mut self, pending: &mut Pending) -> bool {
        for _ in 0..64 {
            let activity = self.consumer.activity();
            if !activity.is_multiple_of(2) {
                std::hint::spin_loop();
                continue;
            }
            if self.looked_at != Some(activity) {
                self.young.drain(..).for_each(|address| pending.remove(address));
                self.consumer.young(|young| self.young.push(young.address));
                self.young.iter().for_each(|&address| pending.add(address));
                self.looked_at = Some(activity);
            }
            return true;
        }
        false
    }

    /// Applies what the ring holds; returns how many events that were.
    fn drain(&mut self, segment: &Segment, live: &mut LiveSet, types: &mut StackTypes) -> u64 {
        let mut apply = |events: &[Event]| {
            // Counted after the events were seen. What older events of other threads they could meet, the allocation that a free ends
            // above all, happened before them, and the ring of it was counted before that.
            let rings = if segment.ring_count() == 1 { Rings::One } else { Rings::Many };
            live.apply_all(events, rings, |stack, size| types.kind_of(stack, size));
        };
        let mut batch = [Event { stamp: 0, address: 0, kind: 0, size: 0, stack: 0 }; BATCH];
        let mut filled = 0;
        let drained = self.consumer.drain(|event| {
            batch[filled] = event;
            filled += 1;
            if filled == BATCH {
                apply(&batch);
                filled = 0;
            }
        });
        apply(&batch[..filled]);
        if drained.events > 0 {
            // A full batch was not cleared.
            self.last = Some(batch[filled.checked_sub(1).unwrap_or(BATCH - 1)]);
        }
        drained.events
    }

    /// The allocation was drained too: its thread was stopped between its way into the ring and its way out of the young.
    fn has_drained(&self, young: &Young) -> bool {
        young.mark & MOVING != 0
            && self
                .last
                .is_some_and(|last| (last.kind, last.stamp, last.address) == (KIND_ALLOC, young.stamp, young.address))
    }
}

impl Worker {
    fn new(segment: Arc<Segment>, exe: PathBuf, root: Option<PathBuf>) -> Self {
        let header = segment.header();
        Self {
            types: StackTypes::new(segment.clone(), exe, root.as_deref()),
            live: LiveSet::new(),
            timeline: Timeline::new(header.armed_monotonic_ns.load(Ordering::Relaxed)),
            rings: Vec::new(),
            pending: Pending::default(),
            settle_at: Instant::now(),
            left_behind: 0,
            tsc: header.clock.load(Ordering::Relaxed) == CLOCK_TSC,
            first: Reading {
                stamp: header.armed_stamp.load(Ordering::Relaxed),
                monotonic_ns: header.armed_monotonic_ns.load(Ordering::Relaxed),
            },
            segment,
        }
    }

    fn run(&mut self, orders: &Orders, questions: &Receiver<Question>) {
        let mut quiet = false;
        loop {
            // Read before the rings: what was published before the order to finish is drained by this pass.
            let last = orders.finish.load(Ordering::Acquire);
            let asked = orders.asked.swap(false, Ordering::AcqRel);
            let taken = self.pass();
            if last {
                self.finish();
                return;
            }
            if asked {
                questions.try_iter().for_each(|question| question(self));
                continue;
            }
            if taken > 0 {
                quiet = false;
            }
            if !quiet {
                // What comes now and then is not worth a wake-up each: it waits in its ring for the end of the nap.
                self.sleep(NAPPING, Some(NAP), orders);
                quiet = taken == 0;
            } else if !self.events_wait() && !orders.any() {
                self.sleep(ASLEEP, Some(LAST_LOOK), orders);
                if !self.events_wait() {
                    self.sleep(ASLEEP, None, orders);
                }
            }
        }
    }

    /// Some ring has events.
    fn events_wait(&self) -> bool {
        self.segment.ring_count() as usize > self.rings.len()
            || self.rings.iter().any(|ring| ring.consumer.has_events())
    }

    /// Drains every ring once; returns how many events came.
    fn pass(&mut self) -> u64 {
        let begun = Instant::now();
        let settles = begun >= self.settle_at;
        // Before the rings are counted: one that comes later has no older stamp.
        let now = clock::read(self.tsc).stamp.saturating_sub(if self.tsc { MARGIN_TSC } else { MARGIN_NS });
        let count = self.segment.ring_count();
        while (self.rings.len() as u32) < count {
            let Some(consumer) = self.segment.ring(self.rings.len() as u32) else { break };
            self.rings.push(Ring { consumer, passed: 0, looked_at: None, young: Vec::new(), last: None });
        }
        let mut taken = 0;
        let mut passed_by_all = now;
        for ring in &mut self.rings {
            // Order: first the young, then the ring, so that what goes from there to here meanwhile is seen.
            let settled = settles && ring.look(&mut self.pending);
            taken += ring.drain(&self.segment, &mut self.live, &mut self.types);
            if settled {
                ring.passed = now;
            }
            passed_by_all = passed_by_all.min(ring.passed);
        }
        if settles {
            self.live.passed(passed_by_all, &self.pending);
            let done = Instant::now();
            self.settle_at = done + SETTLE_EVERY.max((done - begun) * SETTLE_SHARE);
        }
        self.timeline.sample(clock::monotonic_ns(), &self.live, self.cancelled());
        taken
    }

    /// Allocations so far that were given back young, of which no event came.
    fn cancelled(&self) -> u64 {
        let of = |ring: &Ring| ring.consumer.header().cancelled.load(Ordering::Relaxed);
        self.rings.iter().map(of).fold(0, u64::saturating_add)
    }

    /// What threads keep to themselves, with the numbers of their rings.
    fn young(&self) -> Vec<(usize, Young)> {
        let mut young = Vec::new();
        for (at, ring) in self.rings.iter().enumerate() {
            ring.consumer.young(|one| young.push((at, one)));
        }
        young
    }

    /// What is alive, of a process that runs on: what dies young meanwhile is among it, what goes from there into its ring is counted once.
    fn photograph(&mut self) -> Photograph {
        // First the calls, then what they made: none is counted that is not among the allocations.
        let calls = self.calls();
        let young = self.young();
        self.pass();
        let now = clock::read(self.tsc);
        let mut live = self.live.clone();
        self.add_deaths(&mut live);
        for (ring, one) in &young {
            if !self.rings[*ring].has_drained(one) {
                live.apply(one.event(), Rings::Many, |stack, size| self.types.kind_of(stack, size));
            }
        }
        Photograph { calls, ..self.facts(now, live, self.timeline.clone()) }
    }

    /// What died young and is only counted, to a live set that does not know of it yet.
    fn add_deaths(&mut self, live: &mut LiveSet) {
        for ring in &self.rings {
            ring.consumer.deaths(|made, freed, count| {
                let kind = self.types.kind_by_stack(made);
                live.died_young(made, freed, count, kind);
            });
        }
    }

    /// Calls that the second witness saw, in the order of [`API_NAMES`].
    fn calls(&self) -> [u64; API_NAMES.len()] {
        let mut calls = [0u64; API_NAMES.len()];
        for ring in &self.rings {
            for (sum, count) in calls.iter_mut().zip(&ring.consumer.header().calls) {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            }
        }
        calls
    }

    /// The process stands still or is gone: takes everything. A pass has found every ring already.
    fn finish(&mut self) {
        let mut young = self.young();
        // Of a process that stands still the second pass takes nothing.
        if !(0..LAST_PASSES).any(|_| self.pass() == 0) {
            self.left_behind = self.rings.iter().map(|ring| ring.consumer.waiting()).sum::<u64>().max(1);
        }
        young.retain(|(ring, one)| !self.rings[*ring].has_drained(one));
        for (_, one) in young {
            self.live.apply(one.event(), Rings::Many, |stack, size| self.types.kind_of(stack, size));
        }
        let mut live = std::mem::take(&mut self.live);
        self.add_deaths(&mut live);
        self.live = live;
        self.timeline.sample(clock::monotonic_ns(), &self.live, self.cancelled());
    }

    /// Sleeps until a producer wakes it, or for `at_most`.
    fn sleep(&self, how: u32, at_most: Option<Duration>, orders: &Orders) {
        let sleeping = &self.segment.header().consumer_sleeping;
        sleeping.store(how, Ordering::SeqCst);
        // Who orders something stores it first and then 0 here: this sees the one, or the wait sees the other.
        fence(Ordering::SeqCst);
        if !orders.any() {
            let limit = at_most.map(|time| rustix::fs::Timespec { tv_sec: 0, tv_nsec: time.as_nanos() as i64 });
            let _ = rustix::thread::futex::wait(sleeping, rustix::thread::futex::Flags::empty(), how, limit.as_ref());
        }
        sleeping.store(0, Ordering::Relaxed);
    }

    /// What the segment's headers say beside the live set.
    fn facts(&self, now: Reading, live: LiveSet, timeline: Timeline) -> Photograph {
        let calls = self.calls();
        let mut dropped = self.segment.header().dropped_without_ring.load(Ordering::Relaxed);
        let mut waited_ns = 0u64;
        for ring in &self.rings {
            let header = ring.consumer.header();
            dropped = dropped.saturating_add(header.dropped.load(Ordering::Relaxed));
            waited_ns = waited_ns.saturating_add(header.waited_ns.load(Ordering::Relaxed));
        }
        let dropped = dropped.saturating_add(live.counts.left_out).saturating_add(self.left_behind);
        let corrupt_rings = self.rings.iter().filter(|ring| ring.consumer.is_corrupt()).count() as u64;
        let (cancelled, first) = (self.cancelled(), self.first);
        Photograph { live, timeline, cancelled, dropped, corrupt_rings, waited_ns, calls, first, now }
    }

    fn into_drained(mut self) -> Drained {
        let (live, timeline) = (std::mem::take(&mut self.live), std::mem::take(&mut self.timeline));
        self.facts(clock::read(self.tsc), live, timeline).develop(self.segment, self.types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use avleak_wire::event::KIND_FREE;
    use avleak_wire::layout as wire;
    use avleak_wire::ring::{Mapped, Producer};
    use rustix::fs::{MemfdFlags, SealFlags};

    fn worker(rings: u32) -> Worker {
        let fd =
            rustix::fs::memfd_create("avleak-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&fd, wire::SEGMENT_BYTES).expect("its size");
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("its seal");
        rustix::io::pwrite(&fd, &wire::MAGIC.to_le_bytes(), 0).expect("the magic");
        let at = std::mem::offset_of!(wire::Header, version) as u64;
        rustix::io::pwrite(&fd, &u32::from(wire::MAJOR).to_le_bytes(), at).expect("the version");
        let at = std::mem::offset_of!(wire::Header, ring_slots) as u64;
        rustix::io::pwrite(&fd, &rings.to_le_bytes(), at).expect("the rings");
        let segment = Segment::map(fd).expect("a segment");
        segment.header().ring_count.store(rings, Ordering::Release);
        Worker::new(segment, PathBuf::from("/bin/true"), None)
    }

    fn producer(worker: &Worker, ring: u64) -> Producer {
        let offset = wire::RINGS_OFFSET + ring * wire::RING_STRIDE;
        // SAFETY: inside the mapping, which the worker holds; this thread alone writes.
        Producer::over(unsafe { Mapped::new(worker.segment.as_mut_ptr().add(offset as usize)) })
    }

    fn event(kind: u8, stamp: u64, address: u64) -> Event {
        Event { stamp, address, kind, size: 0, stack: 0 }
    }

    /// A thread that is stopped between an allocation's way into the ring and its way out of the young shows it twice.
    #[test]
    fn an_allocation_on_its_way_into_the_ring_is_counted_once() {
        // As many events before it that its batch is full, or is not.
        for before in [0, 3, BATCH as u64 - 1, BATCH as u64] {
            let mut worker = worker(2);
            let (first, second) = (producer(&worker, 0), producer(&worker, 1));
            let (mut tail, mut other_tail) = (0, 0);
            for at in 0..before {
                first.push(event(KIND_ALLOC, 1 + at, 0x10000 + 16 * at), &mut tail).expect("room");
            }
            let young = Young { stamp: 500, address: 64, size: 0, stack: 0, mark: 0 };
            first.young(0).fill(young);
            first.young(0).mark_moving();
            first.push(young.event(), &mut tail).expect("room");
            // Another thread gives it back and gets its place; one more young one is alive.
            for event in [event(KIND_FREE, 600, 64), event(KIND_ALLOC, 700, 64)] {
                second.push(event, &mut other_tail).expect("room");
            }
            second.young(9).fill(Young { stamp: 800, address: 96, ..young });
            assert_eq!(worker.pass(), before + 3);
            worker.finish();
            let counts = worker.live.counts;
            assert_eq!((counts.allocations, counts.frees), (before + 3, 1), "{before} before it");
            assert_eq!(worker.live.len(), before + 2);
            assert_eq!(worker.live.blocks()[1].stamp, 800);
        }
    }

    /// Another process that has inherited the segment, say, goes on writing when all should stand still.
    #[test]
    fn the_end_comes_even_while_somebody_goes_on_writing() {
        let mut worker = worker(1);
        let only = producer(&worker, 0);
        let (stop, written) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                let mut tail = 0;
                for at in 0u64.. {
                    while only.push(event(KIND_ALLOC, at + 1, 16 * (1 + at % 100_000)), &mut tail).is_err() {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    written.store(at + 1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            while worker.pass() == 0 {}
            worker.finish();
            stop.store(true, Ordering::Relaxed);
        });
        let taken = worker.live.counts.events;
        assert!(taken > 0 && taken <= written.load(Ordering::Relaxed));
    }

    #[test]
    fn an_allocation_that_never_came_into_the_ring_is_alive_at_the_end() {
        let mut worker = worker(1);
        let only = producer(&worker, 0);
        only.push(event(KIND_ALLOC, 400, 32), &mut 0).expect("room");
        only.young(0).fill(Young { stamp: 500, address: 64, size: 0, stack: 0, mark: 0 });
        only.young(0).mark_moving();
        assert_eq!(worker.pass(), 1);
        worker.finish();
        assert_eq!(worker.live.blocks().iter().map(|block| block.stamp).collect::<Vec<_>>(), [400, 500]);
    }
}
