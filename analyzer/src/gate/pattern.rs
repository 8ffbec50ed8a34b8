//! Wildcard patterns over names, as Valgrind's and LeakSanitizer's suppression files mean them.

use crate::symbols::demangle::{demangle, is_mangled};
use wildmatch::WildMatchPattern;

/// No character that a name holds: LSan's patterns have no wildcard for a single one.
const NONE: char = '\u{10ffff}';

/// A pattern over one name.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// `*` and `?` are wildcards, and the whole name must match.
    Valgrind(Box<WildMatchPattern<'*', '?'>>),
    /// `*` is the only wildcard.
    Lsan(Box<WildMatchPattern<'*', NONE>>),
}

impl Pattern {
    /// [Valgrind's](https://valgrind.org/docs/manual/manual-core.html#manual-core.suppress): `*` any characters, `?` one.
    pub fn valgrind(text: &str) -> Self {
        Self::Valgrind(Box::new(WildMatchPattern::new(text)))
    }

    /// [LSan's](https://clang.llvm.org/docs/LeakSanitizer.html): `*` any characters, `^` and `$` at the ends the beginning and
    /// the end of the name; without them any part of the name will do.
    pub fn lsan(text: &str) -> Self {
        let (text, from_start) = text.strip_prefix('^').map_or((text, false), |rest| (rest, true));
        let (text, to_end) = text.strip_suffix('$').map_or((text, false), |rest| (rest, true));
        let star = |anchored: bool| if anchored { "" } else { "*" };
        Self::Lsan(Box::new(WildMatchPattern::new(&format!("{}{text}{}", star(from_start), star(to_end)))))
    }

    /// Whether the whole of `name` fits. An empty name fits nothing: nothing is known of it.
    pub fn matches(&self, name: &str) -> bool {
        !name.is_empty()
            && match self {
                Self::Valgrind(pattern) => pattern.matches(name),
                Self::Lsan(pattern) => pattern.matches(name),
            }
    }
}

/// A pattern over linker names as one over the readable names that reports have; `None` where it is none.
///
/// Valgrind writes `fun:_ZN5cache4openEv`. A whole name is demangled. Of one that a wildcard cuts short the nested names before
/// the wildcard are kept: `_ZN5cache4op*` cannot be told, `_ZN5cache4open*` is `cache::open*`.
pub fn readable(pattern: &str) -> Option<String> {
    if !is_mangled(pattern) {
        return None;
    }
    let whole = demangle(pattern);
    if whole != pattern && !pattern.contains(['*', '?']) {
        return Some(whole);
    }
    let mut rest = pattern.strip_prefix("_ZN").map(|rest| rest.strip_prefix('K').unwrap_or(rest));
    let nested = rest.is_some();
    rest = rest.or_else(|| pattern.strip_prefix("_Z"));
    let mut rest = rest?;
    let mut names = Vec::new();
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(length) = rest[..digits].parse::<usize>() else { break };
        let Some(name) = rest.get(digits..digits.saturating_add(length)).filter(|name| !name.contains(['*', '?']))
        else {
            break;
        };
        names.push(name);
        rest = &rest[digits + length..];
        if !nested {
            break;
        }
    }
    (!names.is_empty() && rest.contains('*')).then(|| format!("{}*", names.join("::")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrinds_wildcards() {
        let table = [
            ("av_frame_alloc", "av_frame_alloc", true),
            ("av_frame", "av_frame_alloc", false),
            ("av_*", "av_frame_alloc", true),
            ("*alloc", "av_frame_alloc", true),
            ("av_?rame_*", "av_frame_alloc", true),
            ("av_?frame_*", "av_frame_alloc", false),
            ("*", "x", true),
            ("*", "", false),
            ("a*b*c", "aXbXbc", true),
            ("^a$", "a", false),
            ("a[b]", "a[b]", true),
            ("*f*f*f*f*g", "ffffffffffffffffffffffffffffffff", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Pattern::valgrind(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn lsans_substrings_and_anchors() {
        let table = [
            ("frame", "av_frame_alloc", true),
            ("^frame", "av_frame_alloc", false),
            ("^av_", "av_frame_alloc", true),
            ("alloc$", "av_frame_alloc", true),
            ("frame$", "av_frame_alloc", false),
            ("^av_frame_alloc$", "av_frame_alloc", true),
            ("^av*alloc$", "av_frame_alloc", true),
            ("av*loc", "x av_frame_alloc y", true),
            ("foo$", "foofoo", true),
            ("a?c", "abc", false),
            ("a?c", "a?c", true),
            ("operator$()", "x operator$() y", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Pattern::lsan(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn linker_names_become_readable() {
        let table = [
            ("_ZN5cache4openEv", Some("cache::open()")),
            ("_Znwm", Some("operator new(unsigned long)")),
            ("_ZN5cache4open*", Some("cache::open*")),
            ("_ZN5cache4op*", Some("cache*")),
            ("_ZNK5cache4open*", Some("cache::open*")),
            ("_Z4openPKc*", Some("open*")),
            ("av_frame_alloc", None),
            ("*", None),
            ("_Z*", None),
            ("_ZN99999999999999999999x*", None),
            ("_ZN5cä*", None),
        ];
        for (pattern, expected) in table {
            assert_eq!(readable(pattern).as_deref(), expected, "{pattern}");
        }
    }
}
