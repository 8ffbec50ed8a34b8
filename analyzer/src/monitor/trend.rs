//! Whether a series of numbers rises, how fast, and how sure that is: Mann and Kendall's test, Theil and Sen's slope.
//!
//! Counts of live objects are anything but normal: they sit still, jump, saturate, swing. Least squares and its t-test take one jump for a
//! slope and one outlier for another; both of these look at pairs only, at their order and at the median of their slopes, so that a third
//! of the points may be anything. Ties are the rule here and are allowed for.
//!
//! Mann (1945), *Nonparametric tests against trend*; Kendall (1975), *Rank correlation methods*; Sen (1968), *Estimates of the regression
//! coefficient based on Kendall's tau*.

use std::cmp::Ordering;

/// A trend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Median of the slopes of all pairs.
    pub slope: f64,
    /// How many standard deviations the number of rising pairs, less the falling ones, is above what chance gives.
    pub z: f64,
}

impl Trend {
    /// The probability that chance alone shows so much of a rise.
    pub fn p(&self) -> f64 {
        upper_tail(self.z)
    }
}

/// The trend of `points`, times ascending; `None` of fewer than three.
pub fn trend(points: &[(f64, f64)]) -> Option<Trend> {
    if points.len() < 3 {
        return None;
    }
    let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
    let mut rising = 0_i64;
    for (at, later) in points.iter().enumerate() {
        for earlier in &points[..at] {
            let (time, rise) = (later.0 - earlier.0, later.1 - earlier.1);
            rising += match rise.partial_cmp(&0.0) {
                Some(Ordering::Greater) => 1,
                Some(Ordering::Less) => -1,
                _ => 0,
            };
            if time > 0.0 {
                slopes.push(rise / time);
            }
        }
    }
    let deviation = variance(points).sqrt();
    // One less: the normal distribution is continuous, pairs are counted.
    let excess = (rising - rising.signum()) as f64;
    let z = if deviation > 0.0 { excess / deviation } else { 0.0 };
    Some(Trend { slope: median(&mut slopes)?, z })
}

/// Of the number of rising pairs less the falling ones, where order is chance. `f(n) = n(n − 1)(2n + 5)`, less that of each set of equals.
fn variance(points: &[(f64, f64)]) -> f64 {
    let of = |n: usize| (n * n.saturating_sub(1) * (2 * n + 5)) as f64;
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    let ties: f64 = values.chunk_by(|a, b| a == b).map(|equal| of(equal.len())).sum();
    (of(values.len()) - ties) / 18.0
}

/// `None` of nothing.
fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len().checked_sub(1)? / 2;
    let (_, low, above) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let low = *low;
    if values_are_even(middle, above.len()) {
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        return Some((low + high) / 2.0);
    }
    Some(low)
}

/// As many below and at the lower middle as above it.
fn values_are_even(middle: usize, above: usize) -> bool {
    middle + 1 == above
}

/// Of the normal distribution beyond `z`: Abramowitz and Stegun, *Handbook of mathematical functions*, 26.2.17, good to 7.5e-8.
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let coefficients = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = coefficients.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    (sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Trend {
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(at, &value)| (at as f64, value)).collect();
        trend(&points).expect("three points")
    }

    /// The figures of Gilbert (1987), *Statistical methods for environmental pollution monitoring*: S = 19 of ten values has Z = 18 / √125.
    #[test]
    fn known_values() {
        let rising = of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((rising.slope - 1.0).abs() < 1e-12);
        // S = 10, variance 5 · 4 · 15 / 18.
        assert!((rising.z - 9.0 / (300.0_f64 / 18.0).sqrt()).abs() < 1e-12, "{rising:?}");
        assert!((upper_tail(1.644_853_6) - 0.05).abs() < 1e-6 && (upper_tail(-3.090_232_3) - 0.999).abs() < 1e-6);
        assert!((upper_tail(0.0) - 0.5).abs() < 1e-6);
        let falling = of(&[5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!((falling.slope, falling.z), (-rising.slope, -rising.z));
    }

    #[test]
    fn ties_and_outliers_are_no_slope() {
        let still = of(&[7.0; 20]);
        assert_eq!((still.slope, still.z), (0.0, 0.0));
        let mut outlier = [7.0; 20];
        outlier[19] = 7_000.0;
        assert_eq!(of(&outlier).slope, 0.0);
        assert!(of(&outlier).z < 2.0);
        // A jump is a rise beyond doubt, and yet there is no slope.
        let mut jump = [7.0; 20];
        jump[15..].fill(90.0);
        assert!(of(&jump).z > 3.0 && of(&jump).slope == 0.0, "{:?}", of(&jump));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
        assert_eq!(median(&mut [9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&mut [9.0, 1.0, 4.0, 5.0]), Some(4.5));
    }
}
