//! Stamps to time: the TSC's rate is measured against CLOCK_MONOTONIC over the session itself.

use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reading {
    /// In stamp units.
    pub stamp: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
}

/// Converts stamps of one session.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Clock {
    first: Reading,
    ns_per_unit: f64,
}

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Reads both clocks now. `tsc`: stamps are the processor's counter, else nanoseconds.
pub fn read(tsc: bool) -> Reading {
    let monotonic_ns = monotonic_ns();
    Reading { stamp: if tsc { tsc_now() } else { monotonic_ns }, monotonic_ns }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the counter has no safe accessor")]
fn tsc_now() -> u64 {
    // SAFETY: RDTSC reads a counter; every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The virtual counter, in the units of stamps.
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code, reason = "the counter has no accessor")]
fn tsc_now() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter, which Linux lets programs read.
    unsafe { core::arch::asm!("mrs {ticks}, cntvct_el0", ticks = out(reg) ticks, options(nomem, nostack)) };
    ticks << avleak_wire::layout::AARCH64_TICK_BITS
}

impl Clock {
    /// From a reading at arming and one now.
    pub fn between(first: Reading, now: Reading) -> Self {
        let units = now.stamp.saturating_sub(first.stamp);
        let ns = now.monotonic_ns.saturating_sub(first.monotonic_ns);
        Self { first, ns_per_unit: if units == 0 || ns == 0 { 1.0 } else { ns as f64 / units as f64 } }
    }

    /// Seconds of a span of stamp units.
    pub fn seconds(&self, units: u64) -> f64 {
        units as f64 * self.ns_per_unit / 1e9
    }

    /// Stamp units in so many seconds.
    pub fn units(&self, seconds: f64) -> u64 {
        (seconds * 1e9 / self.ns_per_unit) as u64
    }

    /// Seconds from arming to `stamp`.
    pub fn since_arming(&self, stamp: u64) -> f64 {
        self.seconds(stamp.saturating_sub(self.first.stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_comes_from_the_two_readings() {
        let clock = Clock::between(
            Reading { stamp: 1000, monotonic_ns: 5_000_000_000 },
            Reading { stamp: 4_000_001_000, monotonic_ns: 7_000_000_000 },
        );
        assert!((clock.seconds(2_000_000_000) - 1.0).abs() < 1e-9);
        assert!((clock.since_arming(1_000_001_000) - 0.5).abs() < 1e-9);
        assert_eq!(clock.since_arming(0), 0.0);
        assert!(clock.units(1.0).abs_diff(2_000_000_000) < 10 && clock.units(-1.0) == 0);
    }
}
