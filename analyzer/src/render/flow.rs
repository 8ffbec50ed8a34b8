//! Lines of styled text that fit a width: cleaning, shortening, wrapping.

use super::style::{Role, Style};

/// Where running text is wrapped when nobody says how wide the output is.
const WIDTH_UNKNOWN: usize = 120;
/// Narrower than this is no use; wider is hard to read.
const NARROWEST: usize = 40;
const WIDEST_TEXT: usize = 120;

/// A run of text in one look. What it says comes from the target, so it is cleaned of everything that moves a cursor.
#[derive(Debug, Clone)]
struct Span {
    role: Role,
    text: String,
}

/// One line, or a piece of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    spans: Vec<Span>,
}

impl Line {
    /// Begins with `text`.
    pub fn of(role: Role, text: impl AsRef<str>) -> Self {
        Self::default().and(role, text)
    }

    /// Adds `text`.
    pub fn and(mut self, role: Role, text: impl AsRef<str>) -> Self {
        self.push(role, text);
        self
    }

    /// Adds `text`.
    pub fn push(&mut self, role: Role, text: impl AsRef<str>) {
        self.spans.push(Span { role, text: clean(text.as_ref()) });
    }

    /// Adds all of `other`.
    pub fn join(mut self, other: Line) -> Self {
        self.spans.extend(other.spans);
        self
    }

    /// Without a comma at its end.
    pub fn trim_comma(&mut self) {
        if let Some(span) = self.spans.last_mut() {
            span.text.truncate(span.text.trim_end_matches(',').len());
        }
    }

    /// Its runs of text, of which none can drive a terminal, and what each is.
    pub fn pieces(&self) -> impl Iterator<Item = (Role, &str)> {
        self.spans.iter().map(|span| (span.role, span.text.as_str()))
    }

    /// Characters.
    pub fn width(&self) -> usize {
        self.spans.iter().map(|span| width(&span.text)).sum()
    }
}

/// Characters of `text` (wide scripts are counted as narrow: function names and paths rarely hold any).
pub(crate) fn width(text: &str) -> usize {
    text.chars().count()
}

/// Control characters and those that turn the reading direction become visible escapes: `\u{1b}`.
fn clean(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(hostile) {
        return text.to_string();
    }
    text.chars().map(|c| if hostile(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// `text` in at most `limit` characters, its middle replaced by `…`; the end, which tells paths apart, keeps the larger half.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let total = width(text);
    if total <= limit {
        return text.to_string();
    }
    let kept = limit.saturating_sub(1);
    let start = kept / 3;
    let end = kept - start;
    text.chars().take(start).chain(std::iter::once('…')).chain(text.chars().skip(total - end)).collect()
}

/// The page being written.
pub(super) struct Page {
    style: Style,
    width: Option<usize>,
    lines: Vec<Line>,
}

impl Page {
    /// `width`: columns of the terminal; `None` where nothing needs to fit, such as a file.
    pub fn new(style: Style, width: Option<usize>) -> Self {
        Self { style, width: width.map(|w| w.max(NARROWEST)), lines: Vec::new() }
    }

    /// The text, painted.
    pub fn finish(self) -> String {
        let mut out = String::new();
        for line in &self.lines {
            line.pieces().for_each(|(role, text)| self.style.paint(&mut out, role, text));
            out.push('\n');
        }
        out
    }

    /// The lines, for whoever paints them itself.
    pub fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Columns that a row must keep to, if any.
    pub fn limit(&self) -> Option<usize> {
        self.width
    }

    /// Columns that running text is wrapped at.
    pub fn wrap(&self) -> usize {
        self.width.unwrap_or(WIDTH_UNKNOWN).min(WIDEST_TEXT)
    }

    /// An empty line.
    pub fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    /// A line at `indent`.
    pub fn line(&mut self, indent: usize, line: &Line) {
        self.begin(indent);
        self.put(line);
    }

    /// Pieces joined by `separator`, broken between pieces where the width ends; lines after the first start at `next`.
    pub fn flow(&mut self, first: usize, next: usize, separator: &str, pieces: &[Line]) {
        let limit = self.wrap();
        let mut column = first;
        self.begin(first);
        for (i, piece) in pieces.iter().enumerate() {
            if i > 0 {
                if column + width(separator) + piece.width() > limit {
                    let end = separator.trim_end();
                    if column + width(end) <= limit {
                        self.put(&Line::of(Role::Dim, end));
                    }
                    self.begin(next);
                    column = next;
                } else {
                    self.put(&Line::of(Role::Dim, separator));
                    column += width(separator);
                }
            }
            self.put(piece);
            column += piece.width();
        }
    }

    /// Running text, broken between words.
    pub fn words(&mut self, first: usize, next: usize, text: &Line) {
        let mut pieces = Vec::new();
        let mut piece = Line::default();
        for span in &text.spans {
            for (i, word) in span.text.split(' ').enumerate() {
                if i > 0 {
                    pieces.push(std::mem::take(&mut piece));
                }
                if !word.is_empty() {
                    piece.push(span.role, word);
                }
            }
        }
        pieces.push(piece);
        pieces.retain(|piece| piece.width() > 0);
        self.flow(first, next, " ", &pieces);
    }

    /// A new line.
    fn begin(&mut self, indent: usize) {
        self.lines.push(Line::of(Role::Plain, " ".repeat(indent)));
    }

    fn put(&mut self, line: &Line) {
        if let Some(last) = self.lines.last_mut() {
            last.spans.extend(line.spans.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_drive_a_terminal_is_shown_not_sent() {
        assert_eq!(clean("plain · text"), "plain · text");
        assert_eq!(clean("a\x1b[2Jb\nc\u{202e}d\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}");
        let mut page = Page::new(Style::COLORED, None);
        page.line(0, &Line::of(Role::Plain, "\x1b]0;title\x07"));
        assert!(!page.finish().contains('\x1b'));
    }

    #[test]
    fn the_middle_goes_first() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("/home/someone/project/src/server.c:230", 20), "/home/…/server.c:230");
        assert_eq!(width(&shorten("äöüäöüäöü", 4)), 4);
        assert_eq!(shorten("abc", 1), "…");
        assert_eq!(shorten("abc", 0), "…");
    }

    #[test]
    fn flows_break_between_pieces_only_and_fit() {
        let pieces: Vec<Line> = (0..12).map(|i| Line::of(Role::Plain, format!("piece {i}"))).collect();
        let mut page = Page::new(Style::PLAIN, Some(40));
        page.flow(1, 4, " · ", &pieces);
        let text = page.finish();
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|l| width(l) <= 40), "{text}");
        assert!(text.lines().skip(1).all(|l| l.starts_with("    piece")), "{text}");
        let again = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        assert_eq!(again, (0..12).map(|i| format!("piece {i}")).collect::<Vec<_>>().join(" · "));
    }

    #[test]
    fn words_wrap_and_keep_their_looks() {
        let mut page = Page::new(Style::COLORED, Some(40));
        page.words(
            0,
            2,
            &Line::of(Role::Plain, "one two (").and(Role::Strong, "three four").and(Role::Plain, ") five"),
        );
        assert_eq!(page.finish(), "one two (\x1b[1mthree\x1b[0m \x1b[1mfour\x1b[0m) five\n");
    }
}
