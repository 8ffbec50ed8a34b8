//! Events a second of the live set, alone and behind real rings: `cargo bench -p avleak --bench live`.
//!
//! Times are the thread's processor time: what one core can do, on a machine that others use too.
//!
//! Criterion rather than divan: what is measured is one pass after another over a live set that stays, with the rings filled in
//! between and untimed (`iter_custom`), and a change is judged against a saved baseline (`-- --save-baseline`, `--baseline`).
#![allow(missing_docs, reason = "criterion_group makes a public function")]

mod events;

use std::alloc::{Layout, alloc_zeroed};
use std::time::Duration;

use avleak::live::{LiveSet, Pending, Rings as Order};
use avleak_wire::event::Event;
use avleak_wire::layout::{PAGE, RING_EVENTS, RING_STRIDE};
use avleak_wire::ring::{Consumer, Mapped, Producer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use events::{Churn, Decode, Pass, kind_of};

/// Events of one pass, at most what a ring holds.
const PASS: usize = RING_EVENTS as usize;

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Both ends of a ring in memory that is never given back.
#[allow(unsafe_code, reason = "a bench's ring lies in memory of its own instead of a segment")]
fn ring() -> (Producer, Consumer) {
    let layout = Layout::from_size_align(RING_STRIDE as usize, PAGE as usize).expect("a ring's size");
    // SAFETY: the layout has a size; the bytes are aligned, RING_STRIDE long, never freed, and this thread alone uses both ends.
    unsafe {
        let base = alloc_zeroed(layout);
        (Producer::over(Mapped::new(base)), Consumer::over(Mapped::new(base)))
    }
}

/// How events reach the live set.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Straight.
    Alone,
    /// From as many rings as the stream has.
    Rings,
    /// From one ring that holds all of them in order.
    OneRing,
}

/// Times `passes` of a stream over a live set that was filled before.
fn time(live: &mut LiveSet, passes: u64, way: Way, mut next: impl FnMut() -> Pass) -> (Duration, u64) {
    let (mut spent, mut events) = (Duration::ZERO, 0);
    let (mut rings, pending) = (Rings::new(), Pending::default());
    for _ in 0..passes {
        let mut pass = next();
        events += pass.rings.iter().map(|ring| ring.len() as u64).sum::<u64>();
        if way == Way::OneRing {
            let mut all = pass.rings.concat();
            all.sort_by_key(|event| event.stamp);
            pass.rings = vec![all];
        }
        if way != Way::Alone {
            rings.fill(&pass);
        }
        let begun = processor_time();
        match way {
            Way::Alone => pass.rings.iter().for_each(|ring| live.apply_all(ring, Order::Many, kind_of)),
            Way::Rings => rings.drain(live, Order::Many),
            Way::OneRing => rings.drain(live, Order::One),
        }
        live.passed(pass.passed, &pending);
        spent += processor_time() - begun;
    }
    (spent, events)
}

struct Rings(Vec<(Producer, Consumer, u64)>);

impl Rings {
    fn new() -> Self {
        Self((0..3).map(|_| ring()).map(|(producer, consumer)| (producer, consumer, 0)).collect())
    }

    fn fill(&mut self, pass: &Pass) {
        for ((producer, _, known), events) in self.0.iter_mut().zip(&pass.rings) {
            for &event in events {
                producer.push(event, known).expect("a pass fits into a ring");
            }
        }
    }

    /// As the drain's thread does it.
    fn drain(&mut self, live: &mut LiveSet, order: Order) {
        for (_, consumer, _) in &mut self.0 {
            let mut batch = [Event { stamp: 0, address: 0, kind: 0, size: 0, stack: 0 }; 64];
            let mut filled = 0;
            consumer.drain(|event| {
                batch[filled] = event;
                filled += 1;
                if filled == batch.len() {
                    live.apply_all(&batch, order, kind_of);
                    filled = 0;
                }
            });
            live.apply_all(&batch[..filled], order, kind_of);
        }
    }
}

/// Criterion asks for a number of iterations: of events here, so that it prints the time of one and events a second.
fn per_event(iterations: u64, measure: impl FnOnce(u64) -> (Duration, u64)) -> Duration {
    let (spent, events) = measure(iterations.div_ceil(PASS as u64));
    spent.mul_f64(iterations as f64 / events.max(1) as f64)
}

fn live(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("live set");
    group.throughput(Throughput::Elements(1));
    for (way, name) in [(Way::Alone, "alone"), (Way::Rings, "from rings"), (Way::OneRing, "from one ring")] {
        let (mut live, mut decode) = (LiveSet::new(), Decode::new());
        group.bench_function(format!("decode, {name}"), |bencher| {
            bencher
                .iter_custom(|events| per_event(events, |passes| time(&mut live, passes, way, || decode.pass(PASS))));
        });
        let (mut live, mut churn) = (LiveSet::new(), Churn::new(1_000_000));
        live.apply_all(&churn.first(), Order::Many, kind_of);
        group.bench_function(format!("a million blocks, {name}"), |bencher| {
            bencher.iter_custom(|events| per_event(events, |passes| time(&mut live, passes, way, || churn.pass(PASS))));
        });
    }
    group.finish();
}

criterion_group!(benches, live);
criterion_main!(benches);
