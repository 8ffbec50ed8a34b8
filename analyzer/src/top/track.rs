//! Counts of one thing from look to look: how they changed, and whether they grow.

use crate::monitor::trend::trend;

/// Points that are kept; when there are more, every second one goes.
const MOST: usize = 64;
/// Fewer points, or less time, tell nothing.
const LEAST: usize = 8;
const LEAST_SECONDS: f64 = 3.0;
/// One in a thousand by chance. That is no alarm: it is a number beside others, which somebody looks at.
const SURE: f64 = 1e-3;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Track {
    points: Vec<(f64, u64)>,
    /// So many looks make a point.
    every: u32,
    /// Looks since the last point.
    since: u32,
    /// Changes are counted from here.
    first: u64,
    last: u64,
}

impl Track {
    /// It begins with so many.
    pub fn new(at_s: f64, count: u64) -> Self {
        Self { points: vec![(at_s, count)], every: 1, since: 0, first: count, last: count }
    }

    /// As if it had been looked at `at_s`, when there was none.
    pub fn from_nothing(at_s: f64) -> Self {
        Self::new(at_s, 0)
    }

    /// There are so many now.
    pub fn see(&mut self, at_s: f64, count: u64) {
        self.last = count;
        self.since += 1;
        if self.since < self.every {
            return;
        }
        self.since = 0;
        if self.points.len() == MOST {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.every = self.every.saturating_mul(2);
        }
        self.points.push((at_s, count));
    }

    /// Changes are counted from now on.
    pub fn zero(&mut self) {
        self.first = self.last;
    }

    /// The last count.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// More than at first; below 0: less.
    pub fn change(&self) -> i64 {
        let change = i128::from(self.last) - i128::from(self.first);
        change.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Objects an hour, where the counts rise beyond chance, and the lowest of the last ones is above the lowest of the first: what
    /// breathes comes back.
    pub fn growth(&self) -> Option<f64> {
        let points: Vec<(f64, f64)> = self.points.iter().map(|&(at_s, count)| (at_s, count as f64)).collect();
        let span = points.last()?.0 - points.first()?.0;
        if points.len() < LEAST || span < LEAST_SECONDS {
            return None;
        }
        let quarter = points.len() / 4;
        let lowest = |part: &[(f64, f64)]| part.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
        if lowest(&points[points.len() - quarter..]) <= lowest(&points[..quarter]) {
            return None;
        }
        let trend = trend(&points)?;
        (trend.p() < SURE && trend.slope * span >= 1.0).then_some(trend.slope * 3600.0)
    }

    /// The last `most` points.
    pub fn counts(&self, most: usize) -> impl Iterator<Item = u64> {
        self.points.iter().skip(self.points.len().saturating_sub(most)).map(|point| point.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: impl IntoIterator<Item = u64>) -> Track {
        let mut track = Track::default();
        for (at, count) in counts.into_iter().enumerate() {
            if at == 0 {
                track = Track::new(0.0, count);
            } else {
                track.see(at as f64, count);
            }
        }
        track
    }

    #[test]
    fn what_is_lost_again_and_again_grows_and_what_breathes_does_not() {
        let leak = of((0..60).map(|at| 20 + at / 10 * 3));
        assert_eq!(leak.change(), 15);
        let per_hour = leak.growth().expect("it grows");
        assert!((700.0..1500.0).contains(&per_hour), "{per_hour}");
        assert_eq!(of((0..60).map(|at| 20 + at % 7)).growth(), None);
        assert_eq!(of((0..60).map(|_| 20)).growth(), None);
        assert_eq!(of((0..60).map(|at| 60 - at)).growth(), None);
        // One jump is a change, and no growth.
        let jump = of((0..60).map(|at| if at < 50 { 20 } else { 50 }));
        assert_eq!((jump.change(), jump.growth()), (30, None));
    }

    #[test]
    fn a_long_watch_is_kept_coarser_and_says_the_same() {
        let mut track = of(0..50_000);
        assert!(track.points.len() <= MOST);
        assert!((track.growth().expect("it grows") - 3600.0).abs() < 1.0);
        assert_eq!((track.change(), track.last()), (49_999, 49_999));
        track.zero();
        assert_eq!(track.change(), 0);
        track.see(50_000.0, 49_990);
        assert_eq!(track.change(), -9);
        assert_eq!(track.counts(3).count(), 3);
    }

    #[test]
    fn numbers_without_sense_do_no_harm() {
        let track = of((0..20).map(|at| if at % 2 == 0 { u64::MAX } else { 0 }));
        assert_eq!((track.change(), track.growth()), (i64::MIN, None));
        assert_eq!(Track::default().growth(), None);
    }
}
