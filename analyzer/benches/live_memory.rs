//! Resident memory of the live set at a million blocks and over 100 million events: `cargo bench -p avleak --bench live_memory`.

#[allow(dead_code, reason = "the other bench uses the rest")]
mod events;

use avleak::live::{LiveSet, Pending, Rings};
use events::{Churn, kind_of};

const BLOCKS: u64 = 1_000_000;
const EVENTS: u64 = 100_000_000;

/// Resident bytes of this process (proc(5): the second number of statm, in pages).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc/self/statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}

fn main() {
    let mut churn = Churn::new(BLOCKS);
    let first = churn.first();
    let before = resident();
    let mut live = LiveSet::new();
    let (mut peak, mut worst) = (0, 0.0f64);
    let pending = Pending::default();
    for events in first.chunks(4096) {
        live.apply_all(events, Rings::Many, kind_of);
        live.passed(events[0].stamp, &pending);
        peak = peak.max(resident());
        // Below that, what does not grow weighs too much to say anything.
        if live.len() > BLOCKS / 2 {
            worst = worst.max((resident() - before) as f64 / live.len() as f64);
        }
    }
    let report = |events: u64, live: &LiveSet| {
        let bytes = resident().saturating_sub(before);
        println!(
            "{:>4} million events: {} blocks alive, {:.1} bytes resident a block, {:.1} of it the map of returned memory",
            events / 1_000_000,
            live.len(),
            bytes as f64 / live.len() as f64,
            live.returned.memory_bytes() as f64 / live.len() as f64,
        );
    };
    println!(
        "while growing from half a million to a million: at most {worst:.1} bytes a block, peak {} KiB",
        (peak - before) / 1024
    );
    report(BLOCKS, &live);
    let mut events = BLOCKS;
    let mut next = 20_000_000;
    while events < EVENTS {
        let pass = churn.pass(4096);
        for ring in &pass.rings {
            live.apply_all(ring, Rings::Many, kind_of);
            events += ring.len() as u64;
        }
        live.passed(pass.passed, &pending);
        if events >= next {
            report(events, &live);
            next += 20_000_000;
        }
    }
}
