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

use avleak::live::LiveSet;
use avleak_wire::layout::{PAGE, RING_EVENTS, RING_STRIDE};
use avleak_wire::ring::{Consumer, Producer};
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
        (Producer::new(base), Consumer::new(base))
    }
}

/// Times `passes` of a stream over a live set that was filled before.
fn time(live: &mut LiveSet, passes: u64, rings: Option<&mut Rings>, mut next: impl FnMut() -> Pass) -> (Duration, u64) {
    let (mut spent, mut events) = (Duration::ZERO, 0);
    let mut rings = rings;
    for _ in 0..passes {
        let pass = next();
        events += pass.rings.iter().map(|ring| ring.len() as u64).sum::<u64>();
        match &mut rings {
            Some(rings) => {
                rings.fill(&pass);
                let begun = processor_time();
                rings.drain(live);
                live.passed(pass.passed);
                spent += processor_time() - begun;
            }
            None => {
                let begun = processor_time();
                for &event in pass.rings.iter().flatten() {
                    live.apply(event, kind_of);
                }
                live.passed(pass.passed);
                spent += processor_time() - begun;
            }
        }
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

    fn drain(&mut self, live: &mut LiveSet) {
        for (_, consumer, _) in &mut self.0 {
            consumer.drain(|event| live.apply(event, kind_of));
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
    for (name, with_rings) in [("decode, alone", false), ("decode, from rings", true)] {
        let (mut live, mut decode, mut rings) = (LiveSet::new(), Decode::new(), Rings::new());
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let rings = with_rings.then_some(&mut rings);
                per_event(iterations, |passes| time(&mut live, passes, rings, || decode.pass(PASS)))
            });
        });
    }
    for (name, with_rings) in [("a million blocks, alone", false), ("a million blocks, from rings", true)] {
        let (mut live, mut churn, mut rings) = (LiveSet::new(), Churn::new(1_000_000), Rings::new());
        for event in churn.first() {
            live.apply(event, kind_of);
        }
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let rings = with_rings.then_some(&mut rings);
                per_event(iterations, |passes| time(&mut live, passes, rings, || churn.pass(PASS)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, live);
criterion_main!(benches);
