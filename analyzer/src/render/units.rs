//! Quantities as a person reads them: bytes, times, rates.

use crate::report::words::grouped;

/// Binary units with three significant digits: `512 B`, `13.2 KiB`, `356 MiB`.
pub fn bytes(number: u64) -> String {
    if number < 1024 {
        return format!("{number} B");
    }
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// As [`bytes`], the exact number beside it where it was rounded: `356 MiB (373,248,000 bytes)`.
pub fn bytes_exact(number: u64) -> String {
    if number < 1024 { bytes(number) } else { format!("{} ({} bytes)", bytes(number), grouped(number)) }
}

fn three_digits(value: f64) -> String {
    let text = match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => return format!("{v:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A time in seconds: `0.4 ms`, `33 ms`, `3.2 s`, `41 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`. `?` where it is no time.
pub fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "?".to_string();
    }
    let whole = value.round() as u64;
    match value {
        v if v < 0.000_95 => "< 1 ms".to_string(),
        v if v < 0.009_95 => format!("{} ms", one_digit(v * 1e3)),
        v if v < 0.999_5 => format!("{:.0} ms", v * 1e3),
        v if v < 9.95 => format!("{} s", one_digit(v)),
        v if v < 59.5 => format!("{v:.0} s"),
        v if v < 3_599.5 => two(whole / 60, "min", whole % 60, "s"),
        v if v < 86_370.0 => {
            let minutes = (v / 60.0).round() as u64;
            two(minutes / 60, "h", minutes % 60, "min")
        }
        v => {
            let hours = (v / 3600.0).round() as u64;
            two(hours / 24, "d", hours % 24, "h")
        }
    }
}

/// Two times: `3 s … 41 s`; one where they read the same.
pub fn span_of_seconds(low: f64, high: f64) -> String {
    let (low, high) = (seconds(low), seconds(high));
    if low == high { low } else { format!("{low} … {high}") }
}

/// So many a minute, or an hour where that reads better: `2.1/min`, `3/h`.
pub fn rate_per_minute(rate: f64) -> String {
    if rate < 0.1 { format!("{}/h", three_digits(rate * 60.0)) } else { format!("{}/min", two_digits(rate)) }
}

/// Two significant digits below ten, whole numbers above.
pub fn two_digits(value: f64) -> String {
    if value < 9.95 { one_digit(value) } else { grouped(value.round() as u64) }
}

fn one_digit(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_string()
}

fn two(big: u64, big_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{big} {big_unit}") } else { format!("{big} {big_unit} {small} {small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_at_most() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (13_517, "13.2 KiB"),
            (1_023_400, "999 KiB"),
            (1_023_500, "0.98 MiB"),
            (373_248_000, "356 MiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (number, expected) in table {
            assert_eq!(bytes(number), expected, "{number}");
        }
        assert_eq!(bytes_exact(4096), "4 KiB (4,096 bytes)");
        assert_eq!(bytes_exact(96), "96 B");
    }

    #[test]
    fn times_keep_the_unit_that_matters() {
        let table = [
            (0.0, "< 1 ms"),
            (0.0004, "< 1 ms"),
            (0.0014, "1.4 ms"),
            (0.033, "33 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1 s"),
            (3.0, "3 s"),
            (3.24, "3.2 s"),
            (41.3, "41 s"),
            (59.6, "1 min"),
            (252.0, "4 min 12 s"),
            (3_599.6, "1 h"),
            (7_500.0, "2 h 5 min"),
            (86_399.0, "1 d"),
            (273_600.0, "3 d 4 h"),
            (f64::NAN, "?"),
            (-1.0, "?"),
            (f64::INFINITY, "?"),
        ];
        for (value, expected) in table {
            assert_eq!(seconds(value), expected, "{value}");
        }
        assert_eq!(span_of_seconds(3.0, 41.0), "3 s … 41 s");
        assert_eq!(span_of_seconds(3.0, 3.01), "3 s");
    }

    #[test]
    fn rates_turn_to_hours_when_slow() {
        assert_eq!(rate_per_minute(2.14), "2.1/min");
        assert_eq!(rate_per_minute(1200.0), "1,200/min");
        assert_eq!(rate_per_minute(1.0 / 60.0), "1/h");
        assert_eq!(two_digits(29.1), "29");
    }
}
