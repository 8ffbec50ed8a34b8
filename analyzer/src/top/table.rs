//! The table of groups: as many columns as there is room for.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::app::{App, cursor};
use super::chart::spark;
use super::draw::{below, fitted};
use super::model::{Entry, Sort};
use super::theme::Theme;
use crate::render::flow::{shorten, width};
use crate::render::style::Role;
use crate::render::units::{bytes, rate_per_minute, seconds};
use crate::report::words::grouped;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Live,
    Change,
    Growth,
    Trend,
    Lost,
    Pinned,
    Oldest,
    Object,
}

/// Title, the letter of it that is its key, columns that it takes; and how wide the screen has to be for it.
struct Shape {
    column: Column,
    title: &'static str,
    key: Option<usize>,
    width: usize,
    from: usize,
}

const fn shape(column: Column, title: &'static str, key: Option<usize>, width: usize, from: usize) -> Shape {
    Shape { column, title, key, width, from }
}

const SHAPES: [Shape; 8] = [
    shape(Column::Live, "LIVE", Some(0), 7, 0),
    shape(Column::Change, "CHANGE", None, 7, 76),
    shape(Column::Growth, "GROWTH", Some(0), 9, 66),
    shape(Column::Trend, "TREND", None, 10, 120),
    shape(Column::Lost, "LOST", Some(1), 6, 0),
    shape(Column::Pinned, "PINNED", Some(0), 8, 40),
    shape(Column::Oldest, "AGE", Some(0), 6, 88),
    shape(Column::Object, "OBJECT", None, 14, 54),
];

impl Column {
    fn sort(self) -> Option<Sort> {
        match self {
            Self::Live => Some(Sort::Live),
            Self::Growth => Some(Sort::Growth),
            Self::Lost => Some(Sort::Lost),
            Self::Pinned => Some(Sort::Pinned),
            Self::Oldest => Some(Sort::Age),
            Self::Change | Self::Trend | Self::Object => None,
        }
    }

    /// Words begin at the left, numbers end at the right.
    fn is_words(self) -> bool {
        matches!(self, Self::Object | Self::Trend)
    }
}

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let columns = columns(usize::from(area.width), app.model.sort);
    frame.render_widget(header(&columns, app, theme), Rect { height: 1, ..area });
    let body = below(area, 1);
    let rows = usize::from(body.height);
    app.page = rows.max(1);
    let entries = app.model.entries();
    if entries.is_empty() {
        frame.render_widget(
            Line::from(theme.span(Role::Dim, nothing(app))),
            Rect { height: body.height.min(1), ..body },
        );
        return;
    }
    let at = cursor(&entries, app.selected.as_ref());
    // The cursor stays on the screen, and what fits does not scroll.
    let first = (at + 1).saturating_sub(rows);
    for (line, (number, entry)) in (0_u16..).zip(entries.iter().enumerate().skip(first).take(rows)) {
        let mut row = row(entry, &columns, usize::from(area.width), theme);
        if number == at {
            row = row.patch_style(ratatui::style::Style::new().add_modifier(Modifier::REVERSED));
        }
        frame.render_widget(row, Rect { y: body.y + line, height: 1, ..body });
    }
    let more = app.model.process.as_ref().and_then(|process| process.last.as_ref()).map_or(0, |last| last.more_groups);
    let after = entries.len().saturating_sub(first);
    if more > 0 && after < rows {
        let text = format!("… and {} more groups of the last check, in `avleak check`'s report", grouped(more as u64));
        let y = body.y + u16::try_from(after).unwrap_or(0);
        frame.render_widget(Line::from(theme.span(Role::Dim, text)), Rect { y, height: 1, ..body });
    }
}

fn nothing(app: &App) -> &'static str {
    match &app.model.process {
        None => "",
        Some(_) if !app.model.filter.is_empty() => "no row holds what is filtered by (Esc: no filter)",
        Some(process) if process.last.is_none() => "no frame is alive; a check (c) tells of other objects too",
        Some(_) if app.model.everything => "nothing is alive",
        Some(_) => "no frame, packet or context is alive (e: refs, buffers and payload)",
    }
}

fn columns(width: usize, sort: Sort) -> Vec<&'static Shape> {
    SHAPES.iter().filter(|shape| width >= shape.from || shape.column.sort() == Some(sort)).collect()
}

fn header(columns: &[&'static Shape], app: &App, theme: Theme) -> Line<'static> {
    let mut line = Line::default();
    let style = theme.of(Role::Dim).add_modifier(Modifier::BOLD);
    for shape in columns {
        let is_sorted = shape.column.sort() == Some(app.model.sort);
        let mark = match (is_sorted, app.model.reversed) {
            (true, false) => "▾",
            (true, true) => "▴",
            (false, _) => "",
        };
        let style = if is_sorted { theme.of(Role::Strong) } else { style };
        let gap = " ".repeat(shape.width.saturating_sub(shape.title.len() + width(mark)));
        let (before, after) = if shape.column.is_words() { (String::new(), gap) } else { (gap, String::new()) };
        line.push_span(Span::raw(before));
        // The letter that sorts by it is underlined.
        for (at, letter) in shape.title.chars().enumerate() {
            let style = if shape.key == Some(at) { style.add_modifier(Modifier::UNDERLINED) } else { style };
            line.push_span(Span::styled(letter.to_string(), style));
        }
        line.push_span(Span::styled(mark, style));
        line.push_span(Span::raw(after + " "));
    }
    line.push_span(Span::styled("ALLOCATED IN", style));
    if !app.model.filter.is_empty() && app.typing.is_none() {
        line.push_span(theme.span(Role::Warn, format!("  filter: {}", app.model.filter)));
    }
    line
}

fn row(entry: &Entry, columns: &[&'static Shape], whole: usize, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    let mut used = 0;
    for shape in columns {
        let (role, text) = cell(entry, shape.column, shape.width);
        let text = shorten(&text, shape.width);
        let gap = " ".repeat(shape.width - width(&text));
        used += shape.width + 1;
        if shape.column.is_words() {
            spans.push(theme.span(role, text));
            spans.push(Span::raw(gap + " "));
        } else {
            spans.push(Span::raw(gap));
            spans.push(theme.span(role, text));
            spans.push(Span::raw(" "));
        }
    }
    let room = whole.saturating_sub(used);
    let (function, callers, file) = place(entry, room);
    spans.push(theme.span(Role::Own, function));
    spans.push(theme.span(Role::Plain, callers));
    spans.push(theme.span(Role::Place, file));
    let mut line = Line::from(fitted(spans, whole));
    // The cursor's bar goes across the whole screen.
    let rest = whole.saturating_sub(line.width());
    line.push_span(Span::raw(" ".repeat(rest)));
    line
}

fn cell(entry: &Entry, column: Column, width: usize) -> (Role, String) {
    const NOTHING: &str = "·";
    let nothing = || (Role::Dim, NOTHING.to_string());
    let judged = entry.judged;
    match column {
        Column::Live if entry.is_current => (Role::Plain, number(entry.live)),
        Column::Live => (Role::Dim, number(entry.live)),
        Column::Change => match entry.change {
            0 => nothing(),
            more if more > 0 => (Role::Plain, format!("+{}", number(more.unsigned_abs()))),
            less => (Role::Plain, format!("−{}", number(less.unsigned_abs()))),
        },
        Column::Growth => {
            entry.growth.map_or_else(nothing, |per_hour| (Role::Warn, format!("+{}", rate_per_minute(per_hour / 60.0))))
        }
        Column::Trend => (Role::Place, spark(&entry.counts, width)),
        Column::Lost => match judged {
            Some(judged) if judged.lost > 0 => (if judged.leak { Role::Bad } else { Role::Warn }, number(judged.lost)),
            Some(_) => (Role::Dim, "0".into()),
            // It came after the check, or there was none.
            None => nothing(),
        },
        Column::Pinned => match judged {
            Some(judged) if judged.pinned > 0 => (Role::Strong, bytes(judged.pinned)),
            Some(_) => (Role::Dim, "0".into()),
            None => nothing(),
        },
        Column::Oldest => judged.map_or_else(nothing, |judged| (Role::Plain, short_time(judged.oldest_s))),
        Column::Object => (Role::Plain, entry.identity.1.clone()),
    }
}

/// Up to six columns: `99,999`, `1.2M`.
fn number(number: u64) -> String {
    match number {
        0..=99_999 => grouped(number),
        100_000..=999_499 => format!("{}k", number / 1000),
        _ => {
            let (value, unit) = match number as f64 {
                value if value < 999.5e6 => (value / 1e6, 'M'),
                value if value < 999.5e9 => (value / 1e9, 'G'),
                value => (value / 1e12, 'T'),
            };
            if value < 99.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
        }
    }
}

/// The larger unit of a time: `4 min` of `4 min 12 s`.
fn short_time(time_s: f64) -> String {
    let text = seconds(time_s);
    match text.match_indices(' ').nth(1) {
        Some((at, _)) if !text.starts_with('<') => text[..at].to_string(),
        _ => text,
    }
}

/// The function, who called it, and where it is, in so many columns: the file without its folders. The function goes before its callers, for
/// which there is a place in every stack, and these before the file.
fn place(entry: &Entry, room: usize) -> (String, String, String) {
    if room == 0 {
        return Default::default();
    }
    let unnamed = if entry.identity.0.is_empty() { "(being named)" } else { "(a stack that was not recorded)" };
    let text = if entry.place.is_empty() { unnamed } else { entry.place.as_str() };
    let (function, path) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, path)) => (function, path.rsplit('/').next().unwrap_or(path)),
        None => (text, ""),
    };
    let function = shorten(function, room);
    let mut left = room - width(&function);
    let callers = if width(&entry.callers) <= left {
        entry.callers.clone()
    } else if left > 5 {
        entry.callers.chars().take(left - 1).chain(['…']).collect()
    } else {
        String::new()
    };
    left -= width(&callers);
    let file = if path.is_empty() { String::new() } else { format!("  {path}") };
    (function, callers, if width(&file) <= left { file } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_six_columns() {
        let table = [
            (0, "0"),
            (99_999, "99,999"),
            (100_000, "100k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (1_234_567, "1.2M"),
            (123_456_789, "123M"),
            (999_600_000, "1.0G"),
            (u64::MAX, "18446744T"),
        ];
        for (value, expected) in table {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn times_keep_their_larger_unit() {
        let table =
            [(0.0, "< 1 ms"), (0.5, "500 ms"), (252.0, "4 min"), (7_500.0, "2 h"), (1e6, "11 d"), (f64::NAN, "?")];
        for (value, expected) in table {
            assert_eq!(short_time(value), expected, "{value}");
        }
    }

    #[test]
    fn the_column_that_sorts_is_always_there() {
        let shown = |width, sort| columns(width, sort).iter().map(|shape| shape.title).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(40, Sort::Live), "LIVE LOST PINNED");
        assert_eq!(shown(40, Sort::Age), "LIVE LOST PINNED AGE");
        assert_eq!(shown(200, Sort::Live), "LIVE CHANGE GROWTH TREND LOST PINNED AGE OBJECT");
    }

    #[test]
    fn a_function_goes_before_its_callers_and_these_before_its_file() {
        let of = |place: &str, callers: &str, room| {
            let entry = Entry {
                identity: ("k".into(), "AVFrame".into()),
                place: place.into(),
                callers: callers.into(),
                live: 1,
                is_current: true,
                change: 0,
                growth: None,
                counts: Vec::new(),
                judged: None,
            };
            let (function, callers, file) = super::place(&entry, room);
            let text = format!("{function}{callers}{file}");
            assert!(width(&text) <= room, "{text}");
            text
        };
        assert_eq!(of("take (src/deep/a.c:12)", " ← pump ← main", 40), "take ← pump ← main  a.c:12");
        assert_eq!(of("take (src/deep/a.c:12)", " ← pump ← main", 20), "take ← pump ← main");
        assert_eq!(of("take (src/deep/a.c:12)", " ← pump ← main", 14), "take ← pump ←…");
        assert_eq!(of("take (src/deep/a.c:12)", " ← pump ← main", 8), "take");
        assert_eq!(of("libx.so+0x12", "", 40), "libx.so+0x12");
        assert_eq!(of("operator()(int) (a.cpp:1)", "", 40), "operator()(int)  a.cpp:1");
        for room in 0..50 {
            of("a_function_of_a_long_name (some/folder/file.c:1234)", " ← another_long_name", room);
            of("", "", room);
        }
    }
}
