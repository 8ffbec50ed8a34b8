use super::*;

/// xorshift64*, so that every run sees the same series.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal, deviation 1.
    fn noise(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }

    /// How many come where `mean` are expected.
    fn arrivals(&mut self, mean: f64) -> f64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.next(), 0.0);
        while product > limit {
            product *= self.next();
            count += 1.0;
        }
        count
    }
}

/// The check at which growth is seen first, of those of `counts`, a minute apart. `stays`: the oldest object is as old as the series.
fn first_growth(counts: impl IntoIterator<Item = f64>, is_lost: bool, stays: bool) -> Option<usize> {
    let mut series = Series::new(is_lost);
    counts.into_iter().enumerate().find_map(|(check, count)| {
        let at_s = check as f64 * 60.0;
        let age_max_s = if stays { at_s } else { 0.5 };
        series.push(Sample { at_s, count: count.max(0.0).round() as u64, age_max_s, ..Sample::default() });
        series.growth().map(|_| check)
    })
}

/// How many of 40 such series are said to grow.
fn alarms(is_lost: bool, mut make: impl FnMut(&mut Random) -> Vec<f64>) -> usize {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..40).filter(|_| first_growth(make(&mut random), is_lost, true).is_some()).count()
}

const LONG: usize = 250;

#[test]
fn what_is_steady_does_not_grow() {
    assert_eq!(alarms(false, |_| vec![20.0; LONG]), 0);
    assert_eq!(alarms(true, |_| vec![20.0; LONG]), 0);
    for deviation in [1.0, 5.0, 30.0] {
        assert_eq!(alarms(false, |random| (0..LONG).map(|_| 100.0 + deviation * random.noise()).collect()), 0);
    }
}

#[test]
fn caches_that_fill_do_not_grow() {
    for checks in [1.0, 3.0, 6.0, 12.0] {
        let fill = |random: &mut Random| {
            (0..LONG).map(|at| 200.0 * (1.0 - (-(at as f64) / checks).exp()) + 2.0 * random.noise()).collect()
        };
        assert_eq!(alarms(false, fill), 0, "{checks}");
        let straight = |_: &mut Random| (0..LONG).map(|at| (at as f64 / checks).min(1.0) * 200.0).collect();
        assert_eq!(alarms(false, straight), 0, "{checks}");
    }
    // A second stream comes in, and stays.
    assert_eq!(
        alarms(false, |random| (0..LONG).map(|at| if at < 80 { 30.0 } else { 60.0 } + random.noise()).collect()),
        0
    );
}

#[test]
fn pools_that_breathe_do_not_grow() {
    for period in [2.0, 3.0, 7.0, 12.0, 24.0, 40.0] {
        let breathe = |random: &mut Random| {
            let phase = random.next() * std::f64::consts::TAU;
            let swing = |at: usize| (at as f64 / period * std::f64::consts::TAU + phase).sin();
            (0..LONG).map(|at| 60.0 + 40.0 * swing(at) + 3.0 * random.noise()).collect()
        };
        assert_eq!(alarms(false, breathe), 0, "{period}");
        let saw = |random: &mut Random| {
            let phase = random.next() * period;
            (0..LONG).map(|at| 10.0 + 3.0 * ((at as f64 + phase) % period)).collect()
        };
        assert_eq!(alarms(false, saw), 0, "{period}");
    }
}

#[test]
fn a_busier_pipeline_does_not_grow_while_its_objects_are_young() {
    let busier = || (0..120).map(|at| 10.0 + f64::from(at) * 2.0);
    assert_eq!(first_growth(busier(), false, false), None);
    assert!(first_growth(busier(), false, true).is_some(), "they stay");
}

#[test]
fn leaks_are_seen_to_grow() {
    assert_eq!(first_growth((1..100).map(f64::from), true, true), Some(LEAST_LOST - 1));
    // One in three checks, by chance.
    let mut random = Random(7);
    for _ in 0..40 {
        let mut lost = 0.0;
        let counts: Vec<f64> = (0..120)
            .map(|_| {
                lost += random.arrivals(0.33);
                lost
            })
            .collect();
        assert!(first_growth(counts, true, true).is_some_and(|check| check < 60));
    }
    // Two a check in a cache that breathes.
    for _ in 0..40 {
        let counts: Vec<f64> = (0..150).map(|at| 100.0 + 2.0 * f64::from(at) + 10.0 * random.noise()).collect();
        assert!(first_growth(counts, false, true).is_some_and(|check| check < 100));
    }
    let exponential = (0..120).map(|at| 5.0 * 1.05_f64.powi(at));
    assert!(first_growth(exponential, false, true).is_some());
}

#[test]
fn a_series_is_bounded_and_knows_when_it_is_over() {
    let mut series = Series::after([0.0, 1.0, 2.0], true);
    assert_eq!(series.samples().len(), 3);
    series.push(Sample { count: 9, ..Sample::default() });
    (0..WINDOW).for_each(|_| series.push(Sample::default()));
    assert!(series.samples().len() == WINDOW && series.is_over() && series.highest_before == 9);
}

/// What the page of reasons says of least squares: on the same clean series it calls growth what this does not.
#[test]
fn least_squares_takes_jumps_and_breath_for_growth() {
    let significant = |counts: &[f64]| {
        let n = counts.len() as f64;
        let (mean_t, mean_y) = ((n - 1.0) / 2.0, counts.iter().sum::<f64>() / n);
        let (mut ty, mut tt) = (0.0, 0.0);
        for (at, y) in counts.iter().enumerate() {
            let t = at as f64 - mean_t;
            (ty, tt) = (ty + t * (y - mean_y), tt + t * t);
        }
        let slope = ty / tt;
        let rest: f64 =
            counts.iter().enumerate().map(|(at, y)| (y - mean_y - slope * (at as f64 - mean_t)).powi(2)).sum();
        let error = (rest / (n - 2.0) / tt).sqrt();
        // Student's t of 46 degrees beyond which lies one in two thousand.
        slope > 0.0 && (error == 0.0 || slope / error > 3.5)
    };
    let rate = |values: &[f64]| values.windows(WINDOW).filter(|window| significant(window)).count();
    let step: Vec<f64> = (0..120).map(|at| if at < 60 { 30.0 } else { 60.0 }).collect();
    assert!(rate(&step) > 10, "{}", rate(&step));
    assert_eq!(first_growth(step, false, true), None);
}
