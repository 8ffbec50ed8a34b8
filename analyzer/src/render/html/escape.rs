//! Text into a page: everything from a report is somebody else's, and none of it may become markup or script.

/// For element content and quoted attributes.
pub(super) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in HTML, and what a terminal or an editor makes of them is anybody's guess.
            '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f' => out.push('\u{fffd}'),
            _ => out.push(char),
        }
    }
    out
}

/// JSON for the content of a script element. `<`, `>` and `&` occur in JSON only inside strings, where `\u003c` means the
/// same; so neither `</script>` nor `<!--` can occur (HTML, 4.12.1.3 "Restrictions for contents of script elements").
pub(super) fn json_in_script(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 64);
    for char in json.chars() {
        match char {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(text("a<b>&\"'\u{0}\u{1b}[31m\n"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}\u{fffd}[31m\n");
    }

    #[test]
    fn json_keeps_its_meaning_and_cannot_end_the_script() {
        let nasty = "</script><!--<script>]]>\u{2028}&amp;\\";
        let json = serde_json::to_string(nasty).unwrap();
        let escaped = json_in_script(&json);
        assert!(!escaped.contains(['<', '>', '&', '\u{2028}']), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), nasty);
    }
}
