//! `AVLEAK_OPTIONS`: the keys that both ends read, `key=value` joined by `:` as in LSAN_OPTIONS.

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
}

/// Every valid key.
pub const KEYS: [OptionKey; 7] = [
    OptionKey {
        key: "report_dir",
        values: Values::Path,
        help: "folder for avleak.PID.json (bare LD_PRELOAD); default: the working folder",
    },
    OptionKey {
        key: "level",
        values: Values::Words(&["normal", "strict", "draconian"]),
        help: "what counts as a leak; default: normal",
    },
    OptionKey { key: "quiet", values: Values::Words(&["0", "1"]), help: "1: no line on stderr at the end" },
    OptionKey { key: "ptrace", values: Values::Words(&["0", "1"]), help: "0: never trace the process" },
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
];

/// What is wrong with one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// No `=` or an unknown key.
    UnknownKey(&'a str),
    /// The value is none of the valid ones.
    BadValue(&'a OptionKey, &'a str),
}

/// Splits `text` and calls `take` for each valid item, `complain` for each other one. Empty items are skipped.
pub fn parse<'a>(text: &'a str, mut take: impl FnMut(&'static str, &'a str), mut complain: impl FnMut(Problem<'a>)) {
    for item in text.split(':').map(str::trim).filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        let Some(known) = KEYS.iter().find(|known| known.key == key) else {
            complain(Problem::UnknownKey(key));
            continue;
        };
        let valid = match known.values {
            Values::Words(words) => words.contains(&value),
            Values::Path | Values::Name => !value.is_empty(),
            Values::Number(limit) => value.parse::<u32>().is_ok_and(|number| number <= limit),
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
}
