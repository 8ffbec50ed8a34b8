//! Live frames over time, in eighths of a line.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::app::App;
use super::theme::Theme;
use crate::render::style::Role;
use crate::render::units::seconds;
use crate::report::words::grouped;

const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Lower screens have no chart, and higher ones a higher one.
const LOW: u16 = 13;
const HIGH: u16 = 22;
/// Columns of the scale.
const SCALE: usize = 8;

/// Draws it, where there is room; returns how many lines that took.
pub fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) -> u16 {
    let height = match area.height {
        high if high >= HIGH => 4,
        low if low >= LOW => 2,
        _ => return 0,
    };
    let width = usize::from(area.width).saturating_sub(SCALE + 1);
    let Some((values, span_s)) = series(app, width) else { return 0 };
    let high = values.iter().copied().max().unwrap_or(0).max(1);
    let what = if app.recent { "since the start of avleak top" } else { "the whole run" };
    let time = if span_s > 0.0 { format!(", {}", seconds(span_s)) } else { String::new() };
    let title = [theme.span(Role::Strong, "live frames"), theme.span(Role::Dim, format!("  {what}{time}"))];
    frame.render_widget(Line::from(title.to_vec()), Rect { height: 1, ..area });
    for (row, text) in (0_u16..).zip(rows(&values, high, height)) {
        let scale = match row {
            0 => grouped(high),
            last if last + 1 == height => "0".into(),
            _ => String::new(),
        };
        let line = [theme.span(Role::Dim, format!("{scale:>SCALE$} ")), theme.span(Role::Place, text)];
        frame.render_widget(Line::from(line.to_vec()), Rect { y: area.y + 1 + row, height: 1, ..area });
    }
    height + 1
}

/// At most `width` values, the last one the newest, and how long they cover.
fn series(app: &App, width: usize) -> Option<(Vec<u64>, f64)> {
    if app.recent {
        let looks = &app.model.looks;
        let shown = &looks[looks.len().saturating_sub(width)..];
        let span_s = shown.last()?.0 - shown.first()?.0;
        return Some((shown.iter().map(|look| look.1).collect(), span_s));
    }
    let columns = app.model.process.as_ref()?.line.as_ref()?;
    // Of each sample the highest: a peak of a moment is what somebody looks for.
    let highest = &columns.frames[1];
    Some((spread(highest, width), highest.len() as f64 * columns.dt))
}

/// Over exactly `width` columns: of what falls together the highest.
fn spread(values: &[u64], width: usize) -> Vec<u64> {
    if values.is_empty() {
        return Vec::new();
    }
    let of = |column: usize| {
        let from = column * values.len() / width;
        let to = ((column + 1) * values.len() / width).clamp(from + 1, values.len());
        values[from..to].iter().copied().max().unwrap_or(0)
    };
    (0..width).map(of).collect()
}

/// Lines of text, the highest first. What is more than naught is seen.
pub fn rows(values: &[u64], high: u64, height: u16) -> Vec<String> {
    let full = u128::from(height) * 8;
    let filled = |value: u64| {
        let eighths = u128::from(value.min(high)) * full / u128::from(high.max(1));
        if value > 0 { eighths.max(1) } else { 0 }
    };
    let row = |row: u16| {
        let under = u128::from(height - 1 - row) * 8;
        values.iter().map(|&value| EIGHTHS[filled(value).saturating_sub(under).min(8) as usize]).collect()
    };
    (0..height).map(row).collect()
}

/// The last counts in a line, from the lowest of them to the highest.
pub fn spark(values: &[u64], width: usize) -> String {
    let values = &values[values.len().saturating_sub(width)..];
    let (low, high) = (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
    if low == high {
        return String::new();
    }
    let of = |value: u64| EIGHTHS[1 + (u128::from(value - low) * 7 / u128::from(high - low)) as usize];
    values.iter().map(|&value| of(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_high_as_their_values() {
        assert_eq!(rows(&[0, 1, 8, 16], 16, 2), ["   █", " ▁██"]);
        assert_eq!(rows(&[0, 5, u64::MAX], u64::MAX, 1), [" ▁█"]);
        assert_eq!(rows(&[3], 0, 1), ["▁"]);
        assert_eq!(rows(&[], 9, 2), ["", ""]);
    }

    #[test]
    fn peaks_are_not_lost_where_columns_are_few() {
        assert_eq!(spread(&[1, 9, 1, 1], 2), [9, 1]);
        assert_eq!(spread(&[1, 9], 4), [1, 1, 9, 9]);
        assert_eq!(spread(&[7], 3), [7, 7, 7]);
        assert!(spread(&[], 3).is_empty() && spread(&[1, 2], 0).is_empty());
    }

    #[test]
    fn sparks_show_what_changes() {
        assert_eq!(spark(&[3, 3, 3], 8), "");
        assert_eq!(spark(&[9, 1, 2, 8], 3), "▁▂█");
        assert_eq!(spark(&[0, u64::MAX], 8), "▁█");
    }
}
