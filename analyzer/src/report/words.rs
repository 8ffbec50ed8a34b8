//! How a report says numbers, classes and ends of processes in words: shared by reasons, errors and the terminal text.

use super::model::{Class, Ended, Level, Totals, Verdict};

/// Decimal digits in groups of three: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 frame`, `1,000 frames`: the number and the noun, which takes an s where the number is not one.
pub fn counted(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", grouped(number))
}

/// `1 process`, `1,000 processes`.
pub fn processes(number: u64) -> String {
    if number == 1 { "1 process".to_string() } else { format!("{} processes", grouped(number)) }
}

/// `30 AVFrame`, `1 block`, `2 blocks`: C types keep their name, other words take an s.
pub fn objects(number: u64, object: &str) -> String {
    let s = if number != 1 && object.ends_with("block") { "s" } else { "" };
    format!("{} {object}{s}", grouped(number))
}

/// `a`, `a and b`, `a, b and c`.
pub fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// What a sum of objects holds, the most telling kinds first: `30 frames, 2 packets and 1 other block`; `0 blocks` for none.
pub fn contents(totals: &Totals) -> String {
    let named = [
        (totals.frames, "frame"),
        (totals.packets, "packet"),
        (totals.contexts, "context"),
        (totals.buffer_refs, "buffer ref"),
    ];
    let mut parts: Vec<String> = named.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| counted(*n, noun)).collect();
    let others = named.iter().fold(totals.blocks, |rest, (n, _)| rest.saturating_sub(*n));
    if parts.is_empty() {
        parts.push(counted(others, "block"));
    } else if others > 0 {
        parts.push(counted(others, "other block"));
    }
    listed(&parts)
}

impl Class {
    /// As it stands in JSON and in a group's id: `definitely_lost`.
    pub fn key(self) -> &'static str {
        match self {
            Self::DefinitelyLost => "definitely_lost",
            Self::IndirectlyLost => "indirectly_lost",
            Self::PossiblyLost => "possibly_lost",
            Self::StillReachable => "still_reachable",
            Self::Unclassified => "unclassified",
        }
    }

    /// As it is said: `definitely lost`.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::DefinitelyLost => "definitely lost",
            Self::IndirectlyLost => "indirectly lost",
            Self::PossiblyLost => "possibly lost",
            Self::StillReachable => "still reachable",
            Self::Unclassified => "unclassified",
        }
    }
}

impl Level {
    /// As the command line and JSON name it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Strict => "strict",
            Self::Draconian => "draconian",
        }
    }
}

impl Verdict {
    /// As JSON names it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Leaks => "leaks",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// `exit 0`, `killed by SIGKILL`, `replaced by exec`.
pub fn ended(ended: Ended) -> String {
    match ended {
        Ended::Exit(status) => format!("exit {status}"),
        Ended::Signal(signal) => format!("killed by {}", signal_name(signal)),
        Ended::Exec(_) => "replaced by exec".to_string(),
    }
}

/// `SIGSEGV`; `signal 40` for one without a name (numbers of Linux on x86-64 and AArch64).
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::try_from(signal).ok().and_then(|n| n.checked_sub(1)).and_then(|n| NAMES.get(n)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_nouns_follow_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "frame"), "1 frame");
        assert_eq!(counted(0, "frame"), "0 frames");
    }

    #[test]
    fn contents_name_what_is_there_and_nothing_else() {
        assert_eq!(contents(&Totals::default()), "0 blocks");
        assert_eq!(contents(&Totals { frames: 30, blocks: 30, ..Totals::default() }), "30 frames");
        let all = Totals { frames: 1, packets: 2, contexts: 3, buffer_refs: 4, blocks: 15, ..Totals::default() };
        assert_eq!(contents(&all), "1 frame, 2 packets, 3 contexts, 4 buffer refs and 5 other blocks");
    }

    #[test]
    fn signals_have_their_linux_names() {
        let known = [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (31, "SIGSYS")];
        assert!(known.iter().all(|(number, name)| signal_name(*number) == *name));
        assert_eq!(signal_name(0), "signal 0");
        assert_eq!(signal_name(-3), "signal -3");
        assert_eq!(signal_name(40), "signal 40");
    }
}
