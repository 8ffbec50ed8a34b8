//! The screens beside the table: help, the choice of a process, one stack.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::{App, Screen, Stack};
use super::draw::fitted;
use super::keys::HELP;
use super::theme::Theme;
use crate::render::style::Role;
use crate::render::units::{bytes, rate_per_minute};
use crate::render::{brief, flow};
use crate::report::model::Class;
use crate::report::words::{counted, grouped};

/// Puts as many of these lines into the area as fit.
fn put(frame: &mut Frame<'_>, area: Rect, lines: impl IntoIterator<Item = Line<'static>>) {
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

/// What keys do.
pub fn help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let width = usize::from(area.width);
    let keys = HELP.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(width / 3);
    let line = |(key, what): &(&str, &str)| {
        let key = flow::shorten(key, keys);
        let gap = " ".repeat(keys.saturating_sub(flow::width(&key)) + 2);
        Line::from(fitted(vec![Span::raw(" "), theme.span(Role::Strong, key), Span::raw(gap + what)], width))
    };
    let title = Line::from(theme.span(Role::Strong, "avleak top: keys and columns"));
    put(frame, area, [title].into_iter().chain(HELP.iter().map(line)));
}

/// The processes, one of which is to be chosen.
pub fn choice(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let width = usize::from(area.width);
    app.page = usize::from(area.height).saturating_sub(1).max(1);
    let Some(all) = &app.all else {
        return put(frame, area, [Line::from(theme.span(Role::Dim, "looking for processes …"))]);
    };
    if all.is_empty() {
        let text = "no process that uses FFmpeg runs under libavleak.so here any more";
        return put(frame, area, [Line::from(theme.span(Role::Warn, text))]);
    }
    app.scroll = app.scroll.min(all.len() - 1);
    let first = (app.scroll + 1).saturating_sub(app.page);
    let head = format!("{:>9}  {:<20} {:>8} {:>10}  LAST CHECK", "PID", "PROCESS", "FRAMES", "PAYLOAD");
    let head = Line::from(theme.span(Role::Dim, head)).patch_style(Style::new().add_modifier(Modifier::BOLD));
    let line = |(at, process): (usize, &crate::board::state::Process)| {
        let numbers = process.numbers.unwrap_or_default();
        let found = process.last.as_ref().map_or_else(|| "not checked yet".into(), |last| last.finding.clone());
        let text = format!(
            "{:>9}  {:<20} {:>8} {:>10}  {found}",
            process.pid,
            flow::shorten(&process.process, 20),
            grouped(numbers.frames),
            bytes(numbers.payload_bytes)
        );
        let line = Line::from(fitted(vec![theme.span(Role::Plain, format!("{text:<width$}"))], width));
        if at == app.scroll { line.patch_style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
    };
    put(frame, area, [head].into_iter().chain(all.iter().enumerate().skip(first).map(line)));
}

/// One row of the table, with all that is known of it.
pub fn stack(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let Screen::Stack(stack) = &app.screen else { return };
    let lines = lines_of(stack, usize::from(area.width), theme);
    app.page = usize::from(area.height).max(1);
    app.lines = lines.len();
    app.scroll = app.scroll.min(app.lines.saturating_sub(app.page));
    put(frame, area, lines.into_iter().skip(app.scroll));
}

fn lines_of(stack: &Stack, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default(), Line::from(fitted(now(stack, theme), width)), Line::default()];
    let plain = |role, text: &str| Line::from(theme.span(role, text));
    match &stack.groups {
        None => lines.push(plain(Role::Dim, "asking for its stack …")),
        Some(Err(line)) => lines.push(plain(Role::Warn, line)),
        Some(Ok((groups, _))) if groups.is_empty() => lines.push(plain(Role::Dim, "none is alive any more")),
        Some(Ok((groups, duration_s))) => {
            if groups.iter().all(|group| group.class == Class::Unclassified) {
                lines.push(plain(
                    Role::Dim,
                    "not checked yet: c tells which of these are lost, and who holds the others",
                ));
                lines.push(Line::default());
            }
            for (number, group) in groups.iter().enumerate() {
                let shown = brief::lines(number + 1, group, *duration_s, width, stack.whole);
                lines.extend(shown.iter().map(|line| theme.line(line)));
                lines.push(Line::default());
            }
        }
    }
    lines
}

/// How it stands at this moment.
fn now(stack: &Stack, theme: Theme) -> Vec<Span<'static>> {
    let Some(entry) = &stack.entry else { return Vec::new() };
    let when = if entry.is_current { "alive now" } else { "alive at the last check" };
    let mut spans = vec![
        theme.span(Role::Strong, format!("{} {}", grouped(entry.live), stack.identity.1)),
        Span::raw(format!(" {when}")),
    ];
    if entry.change != 0 {
        let sign = if entry.change > 0 { "more" } else { "fewer" };
        spans.push(Span::raw(format!(", {} {sign} than at first", grouped(entry.change.unsigned_abs()))));
    }
    if let Some(growth) = entry.growth {
        spans.push(theme.span(Role::Warn, format!(", grows by {}", rate_per_minute(growth / 60.0))));
    }
    if let Some(judged) = entry.judged.filter(|judged| judged.lost > 0) {
        spans.push(theme.span(Role::Bad, format!(", {} lost at the last check", counted(judged.lost, "object"))));
    }
    spans
}
