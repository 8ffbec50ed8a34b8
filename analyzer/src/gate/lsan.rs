//! One line of a LeakSanitizer suppression file: `leak:pattern`.

use super::pattern::Pattern;

/// Kinds of other sanitizers that a shared file may hold: nothing of theirs is a leak.
/// From compiler-rt's `tsan_suppressions.cpp`, `asan_suppressions.cpp` and `ubsan_diag.cpp`.
const OTHERS: [&str; 22] = [
    "none",
    "race",
    "race_top",
    "mutex",
    "thread",
    "signal",
    "deadlock",
    "called_from_lib",
    "interceptor_name",
    "interceptor_via_fun",
    "interceptor_via_lib",
    "odr_violation",
    "alloc_dealloc_mismatch",
    "undefined",
    "vptr_check",
    "alignment",
    "bounds",
    "enum",
    "function",
    "null",
    "signed-integer-overflow",
    "unsigned-integer-overflow",
];

/// What a line says.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A leak with this in its stack.
    Leak(Pattern),
    /// Of another sanitizer, by its name.
    Other(String),
}

/// Reads a line that is neither empty nor a comment.
///
/// # Errors
/// The reason, with the remedy.
pub fn parse(line: &str) -> Result<Line, String> {
    let Some((kind, pattern)) = line.split_once(':') else {
        return Err(format!(
            "`{}` is neither `leak:PATTERN` nor the `{{` of a Valgrind suppression (comments begin with #)",
            shown(line)
        ));
    };
    let (kind, pattern) = (kind.trim_end(), pattern.trim());
    if OTHERS.contains(&kind) || kind.starts_with("implicit-") || kind.starts_with("shift-") {
        return Ok(Line::Other(kind.to_string()));
    }
    if kind != "leak" {
        return Err(format!("unknown kind `{}` (avleak knows `leak:PATTERN`)", shown(kind)));
    }
    if pattern.trim_matches(['^', '$']).is_empty() {
        return Err(
            "`leak:` without a pattern (write a part of a function's, module's or file's name; `leak:*` for all)"
                .to_string(),
        );
    }
    Ok(Line::Leak(Pattern::lsan(pattern)))
}

/// A text from a file as an error shows it.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let escaped: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() { format!("{escaped}…") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse("leak:libx264"), Ok(Line::Leak(Pattern::lsan("libx264"))));
        assert_eq!(
            parse("leak: cache::open(std::string const&)"),
            Ok(Line::Leak(Pattern::lsan("cache::open(std::string const&)")))
        );
        assert_eq!(parse("race:^foo"), Ok(Line::Other("race".into())));
        assert!(parse("leek:x").unwrap_err().contains("unknown kind `leek`"));
        assert!(parse("leak:").unwrap_err().contains("without a pattern"));
        assert!(parse("leak:^$").unwrap_err().contains("without a pattern"));
        assert!(parse("libx264").unwrap_err().contains("`libx264` is neither"));
        assert!(parse(&"\u{1b}x".repeat(99)).unwrap_err().contains("\\u{1b}x"));
    }
}
