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

use avleak_wire::event::{ADDRESS_BITS, Event, KIND_ALLOC};
use avleak_wire::layout::{API_NAMES, ASLEEP, CLOCK_TSC, NAPPING, RING_EVENTS};
use avleak_wire::ring::Consumer;
use avleak_wire::young::{MOVING, Young};
use crossbeam_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::clock::{self, Clock, Reading};
use super::segment::Segment;
use super::timeline::Timeline;
use super::types::StackTypes;
use super::vault::{self, Journal, Left, PieceWriter, Told, Vault};
use crate::kind::ObjectKind;
use crate::live::{LiveBlock, LiveSet, Made, Pending, Rings};
use crate::report::timeline::Sample;

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
/// Rings are looked at again after this while something else is done: half as long as it takes to fill one.
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);
const NOTHING: Event = Event { stamp: 0, address: 0, kind: 0, size: 0, stack: 0 };
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
    /// Rings given up because they held nonsense, and one more where events came without end when the process stood still.
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

/// A session's numbers at one moment: cheap to ask for, and nothing is looked at in the process.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// AVFrames that are alive.
    pub frames: u64,
    /// Blocks that are alive.
    pub blocks: u64,
    /// Bytes of payload that are alive.
    pub payload_bytes: u64,
    /// AVFrames made.
    pub frames_allocated: u64,
    /// AVFrames freed.
    pub frames_freed: u64,
    /// Blocks returned.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Events lost.
    pub dropped: u64,
    /// Seconds that producers waited for this analyzer.
    pub waited_s: f64,
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
    /// The vault knows that it holds nonsense.
    given_up: bool,
}

/// How far a ring was read by another analyzer. A checkpoint holds these of all rings, then [`LiveSet`] and [`Timeline`].
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct SavedRing {
    position: u64,
    last: Option<[u64; 4]>,
    given_up: bool,
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
    /// Where all this is kept for an analyzer that comes in place of this one.
    vault: Option<Vault>,
    /// How far the one before this came.
    saved: Vec<SavedRing>,
    /// Events that another analyzer took with it.
    forgotten: u64,
}

impl Drain {
    /// Starts to drain. `kept`: what is known is kept there, and what another analyzer left there is taken over.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        segment: Arc<Segment>,
        exe: PathBuf,
        root: Option<PathBuf>,
        name: String,
        kept: Option<(Vault, Option<Left>)>,
    ) -> std::io::Result<Self> {
        let orders = Arc::new(Orders::default());
        let (questions, asked) = crossbeam_channel::unbounded();
        let mut worker = Worker::new(segment.clone(), exe, root);
        let for_worker = orders.clone();
        let worker = std::thread::Builder::new().name(name).spawn(move || {
            if let Some((vault, left)) = kept {
                worker.keep_in(vault, left);
            }
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

    /// How it stands; `None` where the session ends.
    pub fn numbers(&self) -> Option<Numbers> {
        self.ask(Worker::numbers)
    }

    /// What was alive over the run so far: seconds that a sample covers, and the samples; `None` where the session ends.
    pub fn timeline(&self) -> Option<(f64, Vec<Sample>)> {
        self.ask(|worker| {
            let (dt, samples) = worker.timeline.so_far();
            (dt, samples.to_vec())
        })
    }

    /// Frames and payload that are alive now, by allocation stack, in no order; `None` where the session ends.
    pub fn made(&self) -> Option<Vec<Made>> {
        self.ask(Worker::made)
    }

    /// Which blocks that were returned at `stamp` or later are alive now, in no order; `None` where the session ends.
    pub fn newer_than(&self, stamp: u64) -> Option<Vec<LiveBlock>> {
        self.ask(move |worker| {
            let young = worker.young();
            worker.pass();
            let mut newer: Vec<LiveBlock> = worker.live.newer_than(stamp).collect();
            for one in young.iter().filter(|one| one.stamp >= stamp) {
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
            let is_young = |block: &(u64, u64)| young.iter().any(|one| (one.address, one.stamp) == *block);
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

    /// Applies what the ring holds; returns how many events that were. They are in the vault before their slots are given back.
    fn drain(
        &mut self,
        number: u32,
        segment: &Segment,
        live: &mut LiveSet,
        types: &mut StackTypes,
        vault: Option<&mut Vault>,
    ) -> u64 {
        let mut vault = vault;
        if let Some(vault) = &mut vault {
            vault.begin(number);
        }
        let mut apply = |events: &[Event]| {
            // Counted after the events were seen. What older events of other threads they could meet, the allocation that a free ends
            // above all, happened before them, and the ring of it was counted before that.
            let rings = if segment.ring_count() == 1 { Rings::One } else { Rings::Many };
            live.apply_all(events, rings, |stack, size| types.kind_of(stack, size));
        };
        let mut batch = [NOTHING; BATCH];
        let mut filled = 0;
        let drained = self.consumer.copy(|event| {
            batch[filled] = event;
            filled += 1;
            if filled == BATCH {
                if let Some(vault) = &mut vault {
                    vault.add(&batch);
                }
                apply(&batch);
                filled = 0;
            }
        });
        if let Some(vault) = vault {
            vault.add(&batch[..filled]);
            self.keep_position(number, vault);
        }
        self.consumer.give_back();
        apply(&batch[..filled]);
        if drained.events > 0 {
            // A full batch was not cleared.
            self.last = Some(batch[filled.checked_sub(1).unwrap_or(BATCH - 1)]);
        }
        drained.events
    }

    /// Puts what the ring holds into the vault, to be applied later.
    fn put_away(&mut self, number: u32, vault: &mut Vault) {
        if !vault.has_room(RING_EVENTS) {
            return;
        }
        vault.begin(number);
        self.consumer.copy(|event| vault.add(&[event]));
        self.keep_position(number, vault);
        self.consumer.give_back();
    }

    /// Completes the record of what was copied.
    fn keep_position(&mut self, number: u32, vault: &mut Vault) {
        vault.end(self.consumer.position());
        if self.consumer.is_corrupt() && !self.given_up {
            self.given_up = true;
            vault.ring_given_up(number);
        }
    }

    /// This allocation was the last event.
    fn ends_with(&self, young: &Young) -> bool {
        self.last.is_some_and(|last| (last.kind, last.stamp, last.address) == (KIND_ALLOC, young.stamp, young.address))
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
            vault: None,
            saved: Vec::new(),
            forgotten: 0,
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

    /// Keeps everything in `vault` from now on. What another analyzer left there is taken over first; the process goes on meanwhile, and
    /// what it says then is put away.
    fn keep_in(&mut self, mut vault: Vault, left: Option<Left>) {
        let Some(left) = left else {
            self.vault = Some(vault);
            return;
        };
        let (rings, rest) = match postcard::take_from_bytes::<Vec<SavedRing>>(&left.checkpoint) {
            Ok(read) => read,
            Err(_) => (Vec::new(), &left.checkpoint[..]),
        };
        self.saved.clone_from(&rings);
        for journal in &left.journals {
            journal.tell(|told| _ = follow(&mut self.saved, told));
        }
        self.find_rings();
        let from = vault.written();
        let restored = std::thread::scope(|scope| {
            let (types, timeline) = (&mut self.types, &mut self.timeline);
            let restoring = scope.spawn(|| restore(rings, rest, &left.journals, types, std::mem::take(timeline)));
            while !restoring.is_finished() {
                self.rings.iter_mut().zip(0..).for_each(|(ring, number)| ring.put_away(number, &mut vault));
                std::thread::sleep(BETWEEN_LOOKS);
            }
            restoring.join()
        });
        let restored = restored.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let Some((live, timeline)) = restored else {
            // Written by another build, perhaps: nothing is known of what came before, and that is counted.
            vault.give_up();
            self.timeline = Timeline::new(self.first.monotonic_ns);
            self.forgotten = self.rings.iter().fold(0, |sum, ring| sum.saturating_add(ring.consumer.position()));
            return;
        };
        (self.live, self.timeline) = (live, timeline);
        self.catch_up(&vault, from);
        self.vault = Some(vault);
    }

    /// Applies what was put away.
    fn catch_up(&mut self, vault: &Vault, from: u64) {
        vault.written_since(from).tell(|told| match told {
            Told::Events(ring, _, events) => {
                apply_words(&mut self.live, &mut self.types, events);
                if let Some(ring) = self.rings.get_mut(ring as usize) {
                    ring.last = events.last().map(|&words| vault::event_of(words));
                }
            }
            Told::Pass(..) | Told::GivenUp(_) => (),
        });
    }

    /// Writes down what is known, so that the journal begins anew. Rings are emptied all the while.
    fn checkpoint(&mut self) {
        let Some(mut vault) = self.vault.take() else { return };
        let of = |ring: &Ring| {
            let last = ring.last.map(|event| {
                [event.stamp, event.address | u64::from(event.kind) << ADDRESS_BITS, event.size, u64::from(event.stack)]
            });
            SavedRing { position: ring.consumer.position(), last, given_up: ring.given_up }
        };
        let saved: Vec<SavedRing> = self.rings.iter().map(of).collect();
        let (state, rings) = ((saved, &self.live, &self.timeline), &mut self.rings);
        let done = vault.checkpoint(|pieces| {
            let between = |vault: &mut Vault| {
                rings.iter_mut().zip(0..).for_each(|(ring, number)| ring.put_away(number, vault));
            };
            postcard::to_io(&state, PieceWriter { pieces, between }).map(drop).map_err(std::io::Error::other)
        });
        self.catch_up(&vault, 0);
        match done {
            Ok(()) if vault.has_room(RING_EVENTS) => self.vault = Some(vault),
            // There is no memory for it. The next analyzer would begin with nothing, and say so.
            _ => vault.give_up(),
        }
    }

    /// Those that came since the last look.
    fn find_rings(&mut self) {
        let count = self.segment.ring_count();
        while (self.rings.len() as u32) < count {
            let Some(mut consumer) = self.segment.ring(self.rings.len() as u32) else { break };
            let saved = self.saved.get(self.rings.len()).copied().unwrap_or_default();
            if saved.position > 0 {
                consumer.resume(saved.position);
            } else {
                // Somebody has read here, of whom nothing is known.
                self.forgotten = self.forgotten.saturating_add(consumer.position());
            }
            if saved.given_up {
                consumer.abandon();
            }
            let last = saved.last.map(vault::event_of);
            let given_up = saved.given_up;
            self.rings.push(Ring { consumer, passed: 0, looked_at: None, young: Vec::new(), last, given_up });
        }
    }

    /// Drains every ring once; returns how many events came.
    fn pass(&mut self) -> u64 {
        let begun = Instant::now();
        let settles = begun >= self.settle_at;
        // Before the rings are counted: one that comes later has no older stamp.
        let now = clock::read(self.tsc).stamp.saturating_sub(if self.tsc { MARGIN_TSC } else { MARGIN_NS });
        self.find_rings();
        let mut taken = 0;
        let mut passed_by_all = now;
        for at in 0..self.rings.len() {
            if self.vault.as_ref().is_some_and(|vault| !vault.has_room(RING_EVENTS)) {
                self.checkpoint();
            }
            let ring = &mut self.rings[at];
            // Order: first the young, then the ring, so that what goes from there to here meanwhile is seen.
            let settled = settles && ring.look(&mut self.pending);
            let vault = self.vault.as_mut();
            taken += ring.drain(at as u32, &self.segment, &mut self.live, &mut self.types, vault);
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
        let (monotonic_ns, cancelled) = (clock::monotonic_ns(), self.cancelled());
        self.timeline.sample(monotonic_ns, &self.live, cancelled);
        if let Some(vault) = &mut self.vault {
            if taken > 0 && vault.has_room(0) {
                vault.pass(monotonic_ns, cancelled);
            }
            if vault.is_checkpoint_due() {
                self.checkpoint();
            }
        }
        taken
    }

    /// Allocations so far that were given back young, of which no event came.
    fn cancelled(&self) -> u64 {
        let of = |ring: &Ring| ring.consumer.header().cancelled.load(Ordering::Relaxed);
        self.rings.iter().map(of).fold(0, u64::saturating_add)
    }

    /// What threads keep to themselves.
    fn young(&self) -> Vec<Young> {
        let mut young = Vec::new();
        self.rings.iter().for_each(|ring| ring.consumer.young(|one| young.push(one)));
        young
    }

    /// The allocation was drained too: a thread was stopped between its way into a ring, its own or that of who frees it, and its way out
    /// of the young.
    fn has_drained(&self, young: &Young) -> bool {
        young.mark & MOVING != 0 && self.rings.iter().any(|ring| ring.ends_with(young))
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
        for one in &young {
            if !self.has_drained(one) {
                live.apply(one.event(), Rings::Many, |stack, size| self.types.kind_of(stack, size));
            }
        }
        Photograph { calls, ..self.facts(now, live, self.timeline.clone()) }
    }

    fn numbers(&mut self) -> Numbers {
        let (counts, cancelled) = (&self.live.counts, self.cancelled());
        let (dropped, waited_ns) = self.dropped_and_waited(counts.left_out);
        let mut numbers = Numbers {
            frames: self.live.census.frames,
            blocks: self.live.len(),
            payload_bytes: self.live.census.payload_bytes,
            frames_allocated: counts.frames_allocated,
            frames_freed: counts.frames_freed,
            allocations: counts.allocations.saturating_add(cancelled),
            frees: counts.frees.saturating_add(cancelled),
            dropped,
            waited_s: waited_ns as f64 / 1e9,
        };
        for ring in &self.rings {
            ring.consumer.deaths(|made, _, count| {
                if self.types.kind_by_stack(made) == ObjectKind::Frame {
                    numbers.frames_allocated = numbers.frames_allocated.saturating_add(count);
                    numbers.frames_freed = numbers.frames_freed.saturating_add(count);
                }
            });
        }
        for one in self.young() {
            if self.has_drained(&one) {
                continue;
            }
            let event = one.event();
            let kind = self.types.kind_of(event.stack, event.size);
            let is_frame = u64::from(kind == ObjectKind::Frame);
            numbers.allocations += 1;
            numbers.frames_allocated += is_frame;
            // Another thread's free is told at once.
            if !self.live.has_ended(event.address, event.stamp) {
                numbers.blocks += 1;
                numbers.frames += is_frame;
                if kind == ObjectKind::Payload {
                    numbers.payload_bytes = numbers.payload_bytes.saturating_add(event.size);
                }
            }
        }
        numbers
    }

    fn made(&mut self) -> Vec<Made> {
        let mut made: FxHashMap<u32, Made> =
            self.live.census.by_stack().iter().map(|made| (made.stack, *made)).collect();
        for one in self.young() {
            let event = one.event();
            if self.has_drained(&one) || self.live.has_ended(event.address, event.stamp) {
                continue;
            }
            let kind = self.types.kind_of(event.stack, event.size);
            let made = made.entry(event.stack).or_insert(Made { stack: event.stack, ..Made::default() });
            match kind {
                ObjectKind::Frame => made.frames = made.frames.wrapping_add(1),
                ObjectKind::Payload => {
                    made.payloads = made.payloads.wrapping_add(1);
                    made.payload_bytes = made.payload_bytes.wrapping_add(event.size);
                }
                _ => (),
            }
        }
        // A sum that wrapped has a free whose allocation has not been told yet: there is nothing.
        let alive = |count: u32| count.cast_signed() > 0;
        made.into_values().filter(|made| alive(made.frames) || alive(made.payloads)).collect()
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
        young.retain(|one| !self.has_drained(one));
        for one in young {
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
        let (dropped, waited_ns) = self.dropped_and_waited(live.counts.left_out);
        let corrupt_rings = self.rings.iter().filter(|ring| ring.consumer.is_corrupt()).count() as u64;
        let (cancelled, first) = (self.cancelled(), self.first);
        Photograph { live, timeline, cancelled, dropped, corrupt_rings, waited_ns, calls, first, now }
    }

    /// Events lost, and nanoseconds that producers waited.
    fn dropped_and_waited(&self, left_out: u64) -> (u64, u64) {
        let mut dropped = self.segment.header().dropped_without_ring.load(Ordering::Relaxed);
        let mut waited_ns = 0u64;
        for ring in &self.rings {
            let header = ring.consumer.header();
            dropped = dropped.saturating_add(header.dropped.load(Ordering::Relaxed));
            waited_ns = waited_ns.saturating_add(header.waited_ns.load(Ordering::Relaxed));
        }
        let missed = [left_out, self.left_behind, self.forgotten];
        (missed.into_iter().fold(dropped, u64::saturating_add), waited_ns)
    }

    fn into_drained(mut self) -> Drained {
        let (live, timeline) = (std::mem::take(&mut self.live), std::mem::take(&mut self.timeline));
        self.facts(clock::read(self.tsc), live, timeline).develop(self.segment, self.types)
    }
}

/// Notes how far a ring was read; false for events that were told before.
fn follow(rings: &mut Vec<SavedRing>, told: Told<'_>) -> bool {
    match told {
        Told::Events(ring, position, events) => {
            let ring = saved_of(rings, ring);
            let is_new = position > ring.position;
            if is_new {
                (ring.position, ring.last) = (position, events.last().copied());
            }
            is_new
        }
        Told::GivenUp(ring) => {
            saved_of(rings, ring).given_up = true;
            false
        }
        Told::Pass(..) => true,
    }
}

fn saved_of(rings: &mut Vec<SavedRing>, ring: u32) -> &mut SavedRing {
    let at = ring as usize;
    if rings.len() <= at {
        rings.resize(at + 1, SavedRing::default());
    }
    &mut rings[at]
}

/// What another analyzer knew: the checkpoint but for its rings, then the journals. `None` where it cannot be read.
fn restore(
    mut rings: Vec<SavedRing>,
    checkpoint: &[u8],
    journals: &[Journal],
    types: &mut StackTypes,
    fresh: Timeline,
) -> Option<(LiveSet, Timeline)> {
    let (mut live, mut timeline) = if checkpoint.is_empty() {
        (LiveSet::new(), fresh)
    } else {
        postcard::from_bytes::<(LiveSet, Timeline)>(checkpoint).ok()?
    };
    for journal in journals {
        journal.tell(|told| match (follow(&mut rings, told), told) {
            (true, Told::Events(_, _, events)) => apply_words(&mut live, types, events),
            (true, Told::Pass(monotonic_ns, cancelled)) => timeline.sample(monotonic_ns, &live, cancelled),
            _ => (),
        });
    }
    Some((live, timeline))
}

fn apply_words(live: &mut LiveSet, types: &mut StackTypes, events: &[[u64; 4]]) {
    for some in events.chunks(BATCH) {
        let mut batch = [NOTHING; BATCH];
        batch.iter_mut().zip(some).for_each(|(event, &words)| *event = vault::event_of(words));
        live.apply_all(&batch[..some.len()], Rings::Many, |stack, size| types.kind_of(stack, size));
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
