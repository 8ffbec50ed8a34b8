//! What a reader and the threads of a process may see of each other, in every order that the memory model allows: the ring and the young
//! table on loom's atomics. `make loom` runs it; without `--cfg loom` there is nothing here.
#![cfg(loom)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64 as PlainU64, Ordering::SeqCst};

use avleak_wire::event::{Event, EventCell, KIND_ALLOC, KIND_FREE};
use avleak_wire::layout::RingHeader;
use avleak_wire::ring::{Consumer, Full, Producer, RingMemory};
use avleak_wire::young::{DeathCell, Young};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;

/// A ring of `E` events and `Y` young cells, any of which may hold any address.
struct Words<const E: usize, const Y: usize> {
    header: RingHeader,
    events: Vec<EventCell>,
    young: Vec<EventCell>,
    deaths: Vec<DeathCell>,
}

struct Small<const E: usize, const Y: usize>(Arc<Words<E, Y>>);

impl<const E: usize, const Y: usize> Clone for Small<E, Y> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn words<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl<const E: usize, const Y: usize> Small<E, Y> {
    fn new() -> Self {
        let header = RingHeader {
            head: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            owner_tid: AtomicU32::new(0),
            owners: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            calls: words(),
            cancelled: AtomicU64::new(0),
            padding: words(),
            tail: AtomicU64::new(0),
        };
        Self(Arc::new(Words {
            header,
            events: (0..E).map(|_| EventCell(words())).collect(),
            young: (0..Y).map(|_| EventCell(words())).collect(),
            deaths: (0..4).map(|_| DeathCell(words())).collect(),
        }))
    }
}

impl<const E: usize, const Y: usize> RingMemory for Small<E, Y> {
    const EVENTS: u64 = E as u64;
    const YOUNG: u32 = Y as u32;
    const WAYS: u32 = Y as u32;
    const DEATHS: u32 = 4;
    fn header(&self) -> &RingHeader {
        &self.0.header
    }
    fn event(&self, index: u64) -> &EventCell {
        &self.0.events[index as usize % E]
    }
    fn young(&self, index: u32) -> &EventCell {
        &self.0.young[index as usize % Y]
    }
    fn death(&self, index: u32) -> &DeathCell {
        &self.0.deaths[index as usize % 4]
    }
}

/// A point at which threads may take turns. loom orders only what it takes for dependent, by the last access to each word; a word that a
/// thread reads before it writes it is overlooked. Two of these are always dependent, and, being relaxed, order nothing else.
fn turn(turns: &AtomicU32) {
    turns.fetch_add(1, Ordering::Relaxed);
}

/// What is true, kept beside the model: loom does not see these, so that they order nothing.
#[derive(Default)]
struct Truth {
    clock: PlainU64,
    /// Every allocation: stamp, address, size, stack.
    made: Mutex<Vec<(u64, u64, u64, u32)>>,
    /// What is alive: address to stamp.
    alive: Mutex<BTreeMap<u64, u64>>,
}

impl Truth {
    /// The clock, read by a producer after it said that it is busy. A real reader waits longer than a store buffer keeps that back (the
    /// margin); here a fence on each side stands for the wait.
    fn stamp(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.clock.fetch_add(1, SeqCst) + 1
    }
}

/// How a thread records, as `interposer/src/recorder.rs` does it.
struct Thread<const E: usize, const Y: usize> {
    ring: Producer<Small<E, Y>>,
    /// In whose young table blocks are looked for that this thread frees and does not keep itself, and whether they are cancelled there.
    other: Option<(Producer<Small<E, Y>>, bool)>,
    known_tail: u64,
    /// Count of frees by others than the owner; and the turns.
    foreign: Arc<(AtomicU32, AtomicU32)>,
    truth: std::sync::Arc<Truth>,
}

impl<const E: usize, const Y: usize> Thread<E, Y> {
    fn new(memory: &Small<E, Y>, foreign: &Arc<(AtomicU32, AtomicU32)>, truth: &std::sync::Arc<Truth>) -> Self {
        let ring = Producer::over(memory.clone());
        Self { ring, other: None, known_tail: 0, foreign: foreign.clone(), truth: truth.clone() }
    }

    /// Finds blocks among those that are kept in `memory`, too.
    fn who_looks_into(mut self, memory: &Small<E, Y>, and_cancels: bool) -> Self {
        self.other = Some((Producer::over(memory.clone()), and_cancels));
        self
    }

    fn claimed_elsewhere(&self, address: u64) -> Option<(Producer<Small<E, Y>>, u32, bool)> {
        let (other, cancels) = self.other.as_ref()?;
        turn(&self.foreign.1);
        let index = other.claim_young(address, self.foreign.0.load(Ordering::Relaxed))?;
        turn(&self.foreign.1);
        Some((other.clone(), index, *cancels))
    }

    fn allocated(&mut self, address: u64) {
        self.ring.begin();
        let stamp = self.truth.stamp();
        let young = Young {
            stamp,
            address,
            size: stamp * 100,
            stack: stamp as u32 + 7,
            mark: self.foreign.0.load(Ordering::Relaxed),
        };
        self.truth.made.lock().unwrap().push((stamp, address, young.size, young.stack));
        self.truth.alive.lock().unwrap().insert(address, stamp);
        let (ring, known_tail) = (&self.ring, &mut self.known_tail);
        let turns = &self.foreign.1;
        turn(turns);
        ring.keep_young(young, |old| {
            turn(turns);
            ring.push(old.event(), known_tail).expect("room in the ring");
            turn(turns);
        });
        self.ring.end();
        turn(turns);
    }

    fn freeing(&mut self, address: u64) {
        turn(&self.foreign.1);
        if let Some(index) = self.ring.own_young(address, self.foreign.0.load(Ordering::Relaxed)) {
            self.ring.empty_young(index);
        } else if let Some((other, index, cancels)) = self.claimed_elsewhere(address) {
            if !cancels {
                self.ring.begin();
                let made = other.young(index).held().event();
                self.ring.push(made, &mut self.known_tail).expect("room in the ring");
                turn(&self.foreign.1);
                let free = Event { stamp: self.truth.stamp(), address, kind: KIND_FREE, size: 0, stack: 0 };
                self.ring.push(free, &mut self.known_tail).expect("room in the ring");
                turn(&self.foreign.1);
            }
            other.empty_young(index);
            if !cancels {
                self.ring.end();
            }
        } else {
            self.foreign.0.fetch_add(1, Ordering::Relaxed);
            let (ring, known_tail) = (&self.ring, &mut self.known_tail);
            ring.begin();
            let index = ring.find_young(address);
            if let Some(index) = index {
                ring.publish_young(index, |old| {
                    ring.push(old.event(), known_tail).map(drop).expect("room in the ring")
                });
                turn(&self.foreign.1);
            }
            let free = Event { stamp: self.truth.stamp(), address, kind: KIND_FREE, size: 0, stack: 0 };
            ring.push(free, known_tail).expect("room in the ring");
            turn(&self.foreign.1);
            if let Some(index) = index {
                ring.empty_young(index);
            }
            ring.end();
        }
        turn(&self.foreign.1);
        self.truth.alive.lock().unwrap().remove(&address);
    }
}

/// The analyzer's side, in small: `analyzer/src/session/drain.rs` and `live/mod.rs`.
struct Reader<const E: usize, const Y: usize> {
    rings: Vec<(Consumer<Small<E, Y>>, u64, Vec<u64>)>,
    foreign: Arc<(AtomicU32, AtomicU32)>,
    truth: std::sync::Arc<Truth>,
    /// Address to stamp and whether it is alive.
    known: BTreeMap<u64, (u64, bool)>,
}

impl<const E: usize, const Y: usize> Reader<E, Y> {
    fn new(memories: &[&Small<E, Y>], foreign: &Arc<(AtomicU32, AtomicU32)>, truth: &std::sync::Arc<Truth>) -> Self {
        let rings = memories.iter().map(|memory| (Consumer::over((*memory).clone()), 0, Vec::new())).collect();
        Self { rings, foreign: foreign.clone(), truth: truth.clone(), known: BTreeMap::new() }
    }

    fn assert_true(truth: &Truth, stamp: u64, address: u64, size: u64, stack: u32) {
        let made = truth.made.lock().unwrap();
        assert!(made.contains(&(stamp, address, size, stack)), "torn: {:?} of {made:?}", (stamp, address, size, stack));
    }

    fn apply(known: &mut BTreeMap<u64, (u64, bool)>, event: Event) {
        let entry = known.entry(event.address).or_insert((0, false));
        if event.stamp > entry.0 {
            *entry = (event.stamp, event.kind == KIND_ALLOC);
        }
    }

    /// One pass over all rings; tombstones that every ring has passed go.
    fn pass(&mut self) {
        let now = self.truth.clock.load(SeqCst);
        fence(Ordering::SeqCst);
        let mut passed_by_all = now;
        for (consumer, passed, young) in &mut self.rings {
            turn(&self.foreign.1);
            let idle = consumer.activity().is_multiple_of(2);
            if idle {
                young.clear();
                consumer.young(|one| {
                    Self::assert_true(&self.truth, one.stamp, one.address, one.size, one.stack);
                    young.push(one.address);
                });
            }
            turn(&self.foreign.1);
            consumer.drain(|event| {
                if event.kind == KIND_ALLOC {
                    Self::assert_true(&self.truth, event.stamp, event.address, event.size, event.stack);
                }
                Self::apply(&mut self.known, event);
            });
            assert!(!consumer.is_corrupt(), "an event that was not one");
            if idle {
                *passed = now;
            }
            passed_by_all = passed_by_all.min(*passed);
        }
        let rings = &self.rings;
        self.known.retain(|address, &mut (stamp, alive)| {
            alive || stamp >= passed_by_all || rings.iter().any(|(_, _, young)| young.contains(address))
        });
    }

    /// The process stands still: what is alive, by all that can be known.
    fn finish(mut self) {
        let mut young = Vec::new();
        self.rings.iter().for_each(|(consumer, ..)| consumer.young(|one| young.push(one)));
        self.pass();
        young.iter().for_each(|one| Self::apply(&mut self.known, one.event()));
        let alive: BTreeMap<u64, u64> =
            self.known.into_iter().filter(|(_, (_, alive))| *alive).map(|(at, (stamp, _))| (at, stamp)).collect();
        assert_eq!(alive, *self.truth.alive.lock().unwrap(), "what the reader concludes, and what is true");
    }
}

const X: u64 = 0x1000;
const Y: u64 = 0x2000;
const Z: u64 = 0x3000;

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let orders = std::sync::Arc::new(PlainU64::new(0));
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, SeqCst);
        body();
    });
    // A model that explored one order proved nothing.
    let orders = orders.load(SeqCst);
    println!("{orders} orders");
    assert!(orders > 100, "{orders} orders");
}

/// One cell is filled, cancelled and filled again with the same address while it is looked at.
#[test]
fn a_look_is_never_torn() {
    model(4, || {
        let (memory, foreign, truth) =
            (Small::<4, 1>::new(), Arc::new((AtomicU32::new(0), AtomicU32::new(0))), std::sync::Arc::default());
        let mut owner = Thread::new(&memory, &foreign, &truth);
        let thread = thread::spawn(move || {
            owner.allocated(X);
            owner.freeing(X);
            owner.allocated(X);
        });
        let reader = Reader::new(&[&memory], &foreign, &truth);
        turn(&foreign.1);
        reader.rings[0].0.young(|one| {
            Reader::<4, 1>::assert_true(&truth, one.stamp, one.address, one.size, one.stack);
        });
        thread.join().unwrap();
        reader.finish();
    });
}

/// An allocation moves from its cell to the ring while the reader looks at the one and then at the other: it is seen.
#[test]
fn what_moves_is_seen_at_least_once() {
    model(4, || {
        let (memory, foreign, truth) =
            (Small::<4, 1>::new(), Arc::new((AtomicU32::new(0), AtomicU32::new(0))), std::sync::Arc::default());
        let mut owner = Thread::new(&memory, &foreign, &truth);
        owner.allocated(X);
        let thread = thread::spawn(move || owner.allocated(Y));
        let mut reader = Reader::new(&[&memory], &foreign, &truth);
        let mut seen = false;
        turn(&foreign.1);
        reader.rings[0].0.young(|one| seen |= one.address == X);
        turn(&foreign.1);
        reader.rings[0].0.drain(|event| {
            seen |= event.address == X;
            Reader::<4, 1>::apply(&mut reader.known, event);
        });
        assert!(seen, "a block that lives all the time");
        thread.join().unwrap();
        reader.finish();
    });
}

/// Slots of a ring are written again only when they were read.
#[test]
fn laps_of_a_full_ring() {
    model(3, || {
        let memory = Small::<2, 1>::new();
        let producer = Producer::over(memory.clone());
        let event = |n: u64| Event { stamp: n, address: n * 16, kind: KIND_ALLOC, size: n * 100, stack: n as u32 };
        let turns = Arc::new(AtomicU32::new(0));
        let theirs = turns.clone();
        let thread = thread::spawn(move || {
            let mut known_tail = 0;
            for n in 1..=3 {
                turn(&theirs);
                while producer.push(event(n), &mut known_tail) == Err(Full) {
                    thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::over(memory);
        let mut next = 1;
        while next <= 3 {
            turn(&turns);
            consumer.drain(|got| {
                assert_eq!(got, event(next));
                next += 1;
            });
            assert!(!consumer.is_corrupt());
            thread::yield_now();
        }
        thread.join().unwrap();
    });
}

/// A block is freed by another thread, which gets its address again and cancels; the first thread gets the address a third time.
/// `keeps`: who keeps a block at the end.
fn handed_over(
    preemptions: usize,
    passes: usize,
    script: fn(&mut Thread<8, 1>, &mut Thread<8, 1>, &Arc<AtomicU32>, u32),
) {
    between_two(preemptions, passes, None, script);
}

/// The same; `cancels`: each finds blocks among the other's young, and cancels them there or tells both their events itself.
fn between_two(
    preemptions: usize,
    passes: usize,
    cancels: Option<bool>,
    script: fn(&mut Thread<8, 1>, &mut Thread<8, 1>, &Arc<AtomicU32>, u32),
) {
    model(preemptions, move || {
        let (one, two) = (Small::<8, 1>::new(), Small::<8, 1>::new());
        let (foreign, truth) = (Arc::new((AtomicU32::new(0), AtomicU32::new(0))), std::sync::Arc::default());
        // Whose turn it is: the allocator's and the program's own synchronization.
        let turn = Arc::new(AtomicU32::new(0));
        let handles: Vec<_> = [0, 1]
            .map(|me| {
                let mut threads = (Thread::new(&one, &foreign, &truth), Thread::new(&two, &foreign, &truth));
                if let Some(cancels) = cancels {
                    threads = (threads.0.who_looks_into(&two, cancels), threads.1.who_looks_into(&one, cancels));
                }
                let turn = turn.clone();
                thread::spawn(move || script(&mut threads.0, &mut threads.1, &turn, me))
            })
            .into();
        let mut reader = Reader::new(&[&one, &two], &foreign, &truth);
        for _ in 0..passes {
            reader.pass();
        }
        for handle in handles {
            handle.join().unwrap();
        }
        reader.finish();
    });
}

fn wait_for(turn: &AtomicU32, value: u32) {
    while turn.load(Ordering::Acquire) != value {
        thread::yield_now();
    }
}

#[test]
fn freed_by_another_thread_which_cancels_the_next_life() {
    handed_over(2, 1, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
            second.allocated(X);
            second.freeing(X);
        }
    });
}

#[test]
fn a_later_life_comes_back_to_the_first_thread() {
    handed_over(2, 0, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            wait_for(turn, 2);
            // Not the block that this thread had at X: that one was freed, and this was published by the other.
            first.freeing(X);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
            second.allocated(X);
            second.allocated(Y);
            turn.store(2, Ordering::Release);
        }
    });
}

#[test]
fn an_old_cell_is_driven_out_after_its_block_was_freed_elsewhere() {
    handed_over(2, 1, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            first.allocated(Z);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
        }
    });
}

#[test]
fn an_address_comes_back_to_the_thread_whose_block_another_freed() {
    handed_over(2, 1, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            wait_for(turn, 2);
            first.allocated(X);
            first.freeing(X);
            first.allocated(X);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
            turn.store(2, Ordering::Release);
        }
    });
}

/// As above, but the second thread takes the block out of the first one's young: by cancelling it, or by telling both events itself.
fn taken_out(
    preemptions: usize,
    passes: usize,
    script: fn(&mut Thread<8, 1>, &mut Thread<8, 1>, &Arc<AtomicU32>, u32),
) {
    for cancels in [true, false] {
        between_two(preemptions, passes, Some(cancels), script);
    }
}

/// The owner drives the block out while another frees it: one of the two has it.
#[test]
fn driven_out_while_another_thread_takes_it_out() {
    taken_out(2, 0, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            first.allocated(Z);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
        }
    });
}

/// ... and the address goes on: the second thread gets it, and hands it back to the first.
#[test]
fn taken_out_and_handed_back() {
    taken_out(2, 0, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            wait_for(turn, 2);
            first.freeing(X);
            first.allocated(X);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
            second.allocated(X);
            turn.store(2, Ordering::Release);
        }
    });
}

/// ... while the reader looks on.
#[test]
fn taken_out_while_the_reader_looks() {
    taken_out(1, 1, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
            first.allocated(Z);
        } else {
            wait_for(turn, 1);
            second.freeing(X);
            second.allocated(X);
        }
    });
}

/// The first free went another way, by a thread that did not know where to look: the cell is stale, and nobody may claim it for the next life.
#[test]
fn a_stale_cell_is_not_taken_for_the_next_life() {
    taken_out(2, 0, |first, second, turn, me| {
        if me == 0 {
            first.allocated(X);
            turn.store(1, Ordering::Release);
        } else {
            wait_for(turn, 1);
            let knows = second.other.take();
            second.freeing(X);
            second.other = knows;
            // Published at once, so that it is in no cell.
            second.allocated(X);
            second.allocated(Y);
            second.freeing(X);
        }
    });
}

/// An allocator whose calloc calls the hooked malloc: one block is reported twice, and freed once.
#[test]
fn a_block_that_is_reported_twice_has_one_life() {
    model(2, || {
        let (memory, foreign, truth) =
            (Small::<4, 1>::new(), Arc::new((AtomicU32::new(0), AtomicU32::new(0))), std::sync::Arc::default());
        let mut owner = Thread::new(&memory, &foreign, &truth);
        let thread = thread::spawn(move || {
            owner.allocated(X);
            owner.allocated(X);
            owner.freeing(X);
        });
        let mut reader = Reader::new(&[&memory], &foreign, &truth);
        reader.pass();
        thread.join().unwrap();
        reader.finish();
    });
}
