//! `AVLEAK_OPTIONS`: the keys that both ends read, `key=value` joined by `:` as in LSAN_OPTIONS.

use core::net::SocketAddr;

/// One valid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionKey {
    /// Before the `=`.
    pub key: &'static str,
    /// What may stand behind it.
    pub values: Values,
    /// One line for a person.
    pub help: &'static str,
}

/// What may stand behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A path; `:` cannot be part of it.
    Path,
    /// A word of yours; `:` cannot be part of it.
    Name,
    /// A decimal number up to this.
    Number(u32),
    /// A decimal number, 1 or more.
    Count,
    /// A number of bytes, 1 or more: [`bytes`].
    Bytes,
    /// An address with a port: [`address`]. Its colons are no end.
    Address,
    /// A time: [`milliseconds`], at least [`SHORTEST_MS`] and at most [`LONGEST_MS`].
    Time,
}

/// Shortest value of [`Values::Time`], milliseconds.
pub const SHORTEST_MS: u64 = 100;
/// Longest value of [`Values::Time`], milliseconds: a day.
pub const LONGEST_MS: u64 = 86_400_000;

/// `60`, `60s`, `500ms`, `5m`, `1h` as milliseconds, where they are within bounds.
pub fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit).filter(|ms| (SHORTEST_MS..=LONGEST_MS).contains(ms))
}

/// `4096`, `64K`, `100M`, `2G` (powers of 1024) as bytes, 1 or more.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// A number, 1 or more.
pub fn count(text: &str) -> Option<u64> {
    number_and_unit(text).filter(|(number, unit)| *number > 0 && unit.is_empty()).map(|(number, _)| number)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Every valid key.
pub const KEYS: [OptionKey; 17] = [
    OptionKey {
        key: "report_dir",
        values: Values::Path,
        help: "folder for avleak.PID.json (bare LD_PRELOAD); default: the working folder",
    },
    OptionKey {
        key: "reports_kept",
        values: Values::Number(100_000),
        help: "earlier reports of the same process id that stay beside it (bare LD_PRELOAD); default: 20",
    },
    OptionKey {
        key: "level",
        values: Values::Words(&["normal", "strict", "draconian"]),
        help: "what counts as a leak; default: normal",
    },
    OptionKey { key: "quiet", values: Values::Words(&["0", "1"]), help: "1: no line on stderr at the end" },
    OptionKey { key: "ptrace", values: Values::Words(&["0", "1"]), help: "0: never trace the process" },
    OptionKey {
        key: "session",
        values: Values::Words(&["0", "1"]),
        help: "whether avleak.PID.session is left of a process at whose memory nobody could look; default: where it dumped core",
    },
    OptionKey {
        key: "verify",
        values: Values::Words(&["0", "1"]),
        help: "1: unwind every stack twice, by framehop and by the backtrace crate, and count differences (slow)",
    },
    OptionKey {
        key: "service",
        values: Values::Name,
        help: "what the process is part of, for reports of many machines; default: OTEL_SERVICE_NAME, or its systemd unit",
    },
    OptionKey { key: "patience_ms", values: Values::Number(60_000), help: "longest wait for a full ring; default: 50" },
    OptionKey {
        key: "check_interval",
        values: Values::Time,
        help: "check the running process so often; default: never",
    },
    OptionKey { key: "alert_frames", values: Values::Count, help: "alert once so many frames of a group are lost" },
    OptionKey { key: "alert_bytes", values: Values::Bytes, help: "alert once lost objects of a group pin so much" },
    OptionKey {
        key: "alert_growth",
        values: Values::Count,
        help: "alert once a group grows by so many objects an hour",
    },
    OptionKey { key: "alert_command", values: Values::Path, help: "program to start at an alert, without arguments" },
    OptionKey { key: "alert_file", values: Values::Path, help: "file to which each alert adds a line of JSON" },
    OptionKey { key: "http", values: Values::Address, help: "tell of the process over HTTP, at this address" },
    OptionKey { key: "http_token_file", values: Values::Path, help: "file with the token that requests have to show" },
];

/// What is wrong with one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// No `=` or an unknown key.
    UnknownKey(&'a str),
    /// The value is none of the valid ones.
    BadValue(&'a OptionKey, &'a str),
}

/// `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464`.
pub fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// The first item of `text`, and what is behind it.
fn split(text: &str) -> (&str, &str) {
    let plain = text.find(':').unwrap_or(text.len());
    let is_address = |known: &&OptionKey| known.values == Values::Address;
    let of_address = KEYS.iter().filter(is_address).find_map(|known| text.strip_prefix(known.key)?.strip_prefix('='));
    let Some(value) = of_address else { return (&text[..plain], text.get(plain + 1..).unwrap_or_default()) };
    // A name or `[…]`, a colon, digits. Without digits there is no port, and the colon is the end.
    let host = if value.starts_with('[') { value.find(']').unwrap_or(0) } else { 0 };
    let end = match value[host..].find(':').map(|colon| host + colon) {
        None => value.len(),
        Some(colon) => match value[colon + 1..].bytes().take_while(u8::is_ascii_digit).count() {
            0 => colon,
            digits => colon + 1 + digits,
        },
    };
    let end = text.len() - value.len() + end;
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// Splits `text` and calls `take` for each valid item, `complain` for each other one. Empty items are skipped.
pub fn parse<'a>(text: &'a str, mut take: impl FnMut(&'static str, &'a str), mut complain: impl FnMut(Problem<'a>)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (item, behind) = split(rest.trim_start());
        rest = behind;
        let item = item.trim();
        if item.is_empty() {
            continue;
        }
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        let Some(known) = KEYS.iter().find(|known| known.key == key) else {
            complain(Problem::UnknownKey(key));
            continue;
        };
        let valid = match known.values {
            Values::Words(words) => words.contains(&value),
            Values::Path | Values::Name => !value.is_empty(),
            Values::Number(limit) => value.parse::<u32>().is_ok_and(|number| number <= limit),
            Values::Count => count(value).is_some(),
            Values::Bytes => bytes(value).is_some(),
            Values::Time => milliseconds(value).is_some(),
            Values::Address => address(value).is_some(),
        };
        if valid { take(known.key, value) } else { complain(Problem::BadValue(known, value)) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn good_items_are_taken_and_bad_ones_named() {
        let (mut taken, mut bad) = (Vec::new(), Vec::new());
        parse(
            "level=strict::report_dir=/var/log:levle=normal:quiet=yes:verify:patience_ms=70000",
            |k, v| taken.push((k, v)),
            |p| bad.push(p),
        );
        assert_eq!(taken, [("level", "strict"), ("report_dir", "/var/log")]);
        assert_eq!(bad[0], Problem::UnknownKey("levle"));
        assert!(matches!(bad[1], Problem::BadValue(key, "yes") if key.key == "quiet"));
        assert!(matches!(bad[2], Problem::BadValue(key, "") if key.key == "verify"));
        assert!(matches!(bad[3], Problem::BadValue(key, "70000") if key.key == "patience_ms"));
    }

    #[test]
    fn addresses_have_colons() {
        fn of(text: &str) -> (Vec<(&'static str, &str)>, Vec<Problem<'_>>) {
            let (mut taken, mut bad) = (Vec::new(), Vec::new());
            parse(text, |k, v| taken.push((k, v)), |p| bad.push(p));
            (taken, bad)
        }
        for value in ["127.0.0.1:9464", "[::1]:9464", "localhost:0", "0.0.0.0:80"] {
            let text = std::format!("quiet=1:http={value}:level=strict:http={value}");
            let (taken, bad) = of(&text);
            assert_eq!(taken, [("quiet", "1"), ("http", value), ("level", "strict"), ("http", value)], "{text}");
            assert_eq!(bad, []);
        }
        for (text, named) in [
            ("http=127.0.0.1:level=strict", "127.0.0.1"),
            ("http=:9464:level=strict", ":9464"),
            ("http=server:9464:level=strict", "server:9464"),
            ("http=[::1]:level=strict", "[::1]"),
            ("http=1.2.3.4:99999:level=strict", "1.2.3.4:99999"),
            ("http=::level=strict", ""),
            ("http=:level=strict", ""),
        ] {
            let (taken, bad) = of(text);
            assert_eq!(taken, [("level", "strict")], "{text}");
            assert!(
                matches!(bad[..], [Problem::BadValue(key, value)] if key.key == "http" && value == named),
                "{text}: {bad:?}"
            );
        }
        assert!(matches!(of("http").1[..], [Problem::BadValue(_, "")]));
    }

    #[test]
    fn times_and_sizes() {
        let times = [("60", 60_000), ("60s", 60_000), ("100ms", 100), ("5m", 300_000), ("24h", LONGEST_MS)];
        assert!(times.iter().all(|(text, ms)| milliseconds(text) == Some(*ms)));
        let wrong =
            ["", "s", "0", "99ms", "25h", "1d", "1.5s", "-1", "1 s", "99999999999999999999", "18446744073709551615h"];
        assert!(wrong.iter().all(|text| milliseconds(text).is_none()));
        let sizes = [("1", 1), ("64K", 65_536), ("100M", 100 << 20), ("2GiB", 2 << 30)];
        assert!(sizes.iter().all(|(text, expected)| bytes(text) == Some(*expected)));
        assert!(["", "0", "M", "1T", "1.5M", "18446744073709551615G"].iter().all(|text| bytes(text).is_none()));
        assert_eq!((count("10"), count("0"), count("10x"), count("")), (Some(10), None, None, None));
    }
}
