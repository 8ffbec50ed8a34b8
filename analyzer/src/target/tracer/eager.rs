//! When to look for the next stop at once rather than to sleep until it comes.
//!
//! Each thread that starts and ends stops three times, and each stop wakes this process by way of another processor. On a busy machine
//! with two cores a stop cost 300 µs that way, 20 of them work: 100,000 short threads took 45 to 160 s instead of 5 to 15. While stops
//! follow each other closely the tracer therefore stays awake a little after each, and gives its processor to whoever wants it.

use std::time::{Duration, Instant};

/// Stops this close to each other follow closely: longer than it takes to be woken.
const CLOSE: Duration = Duration::from_millis(2);
/// How long it stays awake after the last.
const AWAKE: Duration = Duration::from_micros(150);
/// So many close ones in a row make a burst.
const BURST: u32 = 6;
/// More are not remembered: after a burst it sleeps again soon.
const MOST: u32 = 12;

/// The memory of a tracer's last stops.
#[derive(Debug)]
pub(super) struct Eager {
    last: Instant,
    close: u32,
}

impl Eager {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, close: 0 }
    }

    /// A stop was handled.
    pub(super) fn came(&mut self, now: Instant) {
        self.close = if now.saturating_duration_since(self.last) < CLOSE {
            (self.close + 1).min(MOST)
        } else {
            self.close.saturating_sub(BURST)
        };
        self.last = now;
    }

    /// The next one is likely to come before it would be worth sleeping.
    pub(super) fn stays_awake(&self, now: Instant) -> bool {
        self.close >= BURST && now.saturating_duration_since(self.last) < AWAKE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_burst_keeps_it_awake_and_not_for_long() {
        let start = Instant::now();
        let at = |us: u64| start + Duration::from_micros(us);
        let mut eager = Eager::new(start);
        assert!(!eager.stays_awake(at(0)));
        for stop in 1..=5 {
            eager.came(at(stop * 100));
        }
        assert!(!eager.stays_awake(at(500)), "five are no burst");
        eager.came(at(600));
        assert!(eager.stays_awake(at(700)));
        assert!(!eager.stays_awake(at(800)), "nothing came for a while");
        eager.came(at(900));
        assert!(eager.stays_awake(at(901)), "the burst goes on");
        eager.came(at(20_000));
        assert!(!eager.stays_awake(at(20_001)), "a lone stop");
    }
}
