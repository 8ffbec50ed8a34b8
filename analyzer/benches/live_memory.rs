//! Resident memory of the live set at a million blocks and over 100 million events: `cargo bench -p avleak --bench live_memory`.

#[allow(dead_code, reason = "the other bench uses the rest")]
mod events;

use avleak::live::LiveSet;
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
    for (count, &event) in (1u64..).zip(&first) {
        live.apply(event, kind_of);
        if count % 4096 == 0 {
            live.passed(event.stamp.saturating_sub(10_000));
            peak = peak.max(resident());
            // Below that, what does not grow weighs too much to say anything.
            if count > BLOCKS / 2 {
                worst = worst.max((resident() - before) as f64 / count as f64);
            }
        }
    }
    live.passed(first.last().map_or(0, |event| event.stamp));
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
        for &event in pass.rings.iter().flatten() {
            live.apply(event, kind_of);
            events += 1;
        }
        live.passed(pass.passed);
        if events >= next {
            report(events, &live);
            next += 20_000_000;
        }
    }
}
