//! The screen: what stands at its top and bottom, and which part fills the rest.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::{App, Contact, Screen, Typing};
use super::keys::said;
use super::theme::Theme;
use super::{chart, pages, table};
use crate::board::state::{Last, Process};
use crate::render::style::Role;
use crate::render::units::{bytes, seconds, two_digits};
use crate::report::model::Verdict;
use crate::report::words::{counted, grouped};

/// When it is: on the clock of this program, and of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the start, seconds.
    pub at_s: f64,
    /// Of the machine.
    pub time: SystemTime,
}

/// No answer for so many times as long as one is asked for is worth a word; and for so long at least.
const LATE: f64 = 3.0;
const LATE_S: f64 = 3.0;

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme, now: Now) {
    let area = frame.area();
    if area.height == 0 || area.width == 0 {
        return;
    }
    let foot = Rect { y: area.bottom() - 1, height: 1, ..area };
    let mut body = Rect { height: area.height - 1, ..area };
    if app.help {
        pages::help(frame, body, theme);
        frame.render_widget(Line::from(theme.span(Role::Dim, " any key: back")), foot);
        return;
    }
    let head = head(app, theme, now, usize::from(area.width));
    // However low the screen is, rows come before all that is said of them.
    let shown = head.len().min(usize::from(body.height / 2).max(1));
    for line in head.into_iter().take(shown) {
        frame.render_widget(line, Rect { height: 1, ..body });
        body = below(body, 1);
    }
    match &app.screen {
        Screen::Choice => pages::choice(frame, body, app, theme),
        Screen::Stack(_) => pages::stack(frame, body, app, theme),
        Screen::Groups => {
            let taken = chart::draw(frame, body, app, theme);
            table::draw(frame, below(body, taken), app, theme);
        }
    }
    frame.render_widget(foot_line(app, theme, usize::from(area.width)), foot);
}

/// What is left of an area below so many lines.
pub fn below(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect { y: area.y + lines, height: area.height - lines, ..area }
}

/// Text at the left and at the right of a line; the left one gives way.
fn sides(left: Vec<Span<'static>>, right: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let of = |spans: &[Span<'static>]| spans.iter().map(Span::width).sum::<usize>();
    let mut left = fitted(left, width.saturating_sub(of(&right) + 1));
    let gap = width.saturating_sub(of(&left) + of(&right));
    left.push(Span::raw(" ".repeat(gap)));
    left.extend(right);
    Line::from(left)
}

/// As much as fits, with a mark where something is left out.
pub fn fitted(spans: Vec<Span<'static>>, width: usize) -> Vec<Span<'static>> {
    let mut left = width;
    let mut out = Vec::new();
    for span in spans {
        if span.width() <= left {
            left -= span.width();
            out.push(span);
            continue;
        }
        if left > 0 {
            let text: String = span.content.chars().take(left - 1).chain(['…']).collect();
            out.push(Span::styled(text, span.style));
        }
        break;
    }
    out
}

fn head(app: &App, theme: Theme, now: Now, width: usize) -> Vec<Line<'static>> {
    let title = theme.span(Role::Strong, "avleak top ");
    let Some(process) = app.model.process.as_ref().filter(|_| !matches!(app.screen, Screen::Choice)) else {
        let what = if matches!(app.screen, Screen::Choice) { "choose a process" } else { "waiting for an answer …" };
        return vec![
            sides(vec![title, theme.span(Role::Plain, what)], contact(app, theme, now), width),
            Line::default(),
        ];
    };
    let name = format!("{} (pid {})", process.process, process.pid);
    let mut lines = vec![sides(vec![title, theme.span(Role::Plain, name)], contact(app, theme, now), width)];
    lines.push(Line::from(fitted(verdict(app, process, theme, now), width)));
    lines.push(Line::from(fitted(numbers(app, process, theme), width)));
    if let Some(last) = process.last.as_ref().filter(|last| last.verdict == Verdict::Inconclusive) {
        lines.insert(2, Line::from(fitted(vec![theme.span(Role::Warn, &last.reason)], width)));
    }
    lines
}

/// Whether what is shown is true.
fn contact(app: &App, theme: Theme, now: Now) -> Vec<Span<'static>> {
    let silent_s = app.answered_s.map_or(now.at_s, |answered_s| now.at_s - answered_s);
    let span = match &app.contact {
        Contact::Ended => theme.span(Role::Warn, "ended: this is how it was"),
        Contact::Lost(_) => theme.span(Role::Warn, "no answer"),
        Contact::Fine if silent_s > LATE_S.max(app.refresh.as_secs_f64() * LATE) => {
            theme.span(Role::Warn, format!("no answer for {}", seconds(silent_s)))
        }
        Contact::Fine if app.paused => theme.span(Role::Warn, "stands still (Space)"),
        Contact::Fine => match app.interval {
            Some(interval) => theme.span(Role::Dim, format!("every {}, check {}", said(app.refresh), said(interval))),
            None => theme.span(Role::Dim, format!("every {}", said(app.refresh))),
        },
    };
    vec![span]
}

/// What the last check found, or how to have one.
fn verdict(app: &App, process: &Process, theme: Theme, now: Now) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    if let Some(begun_s) = app.checking_s {
        spans.push(theme.span(Role::Warn, format!("checking … {:.1} s  ", now.at_s - begun_s)));
    } else if process.checking {
        spans.push(theme.span(Role::Warn, "a check is under way  "));
    }
    match &process.last {
        None if spans.is_empty() => {
            spans.push(theme.span(Role::Strong, "not checked yet"));
            spans.push(Span::raw(": c tells what of this is lost"));
        }
        None => {}
        Some(last) => {
            let role = match last.verdict {
                Verdict::Leaks => Role::Bad,
                Verdict::Clean => Role::Good,
                Verdict::Inconclusive => Role::Warn,
            };
            spans.push(theme.span(role, &last.finding));
            spans.push(theme.span(Role::Dim, format!(" · {}", of_check(last, now))));
        }
    }
    spans
}

fn of_check(last: &Last, now: Now) -> String {
    let check = &last.check;
    let began = humantime::parse_rfc3339(&check.started).ok();
    let ago = began.and_then(|began| now.time.duration_since(began).ok());
    let ago = ago.map_or_else(String::new, |ago| {
        let ended = (ago.as_secs_f64() - check.duration_s).max(0.0);
        if ended < 1.0 { "just now, ".into() } else { format!("{} ago, ", seconds(ended.round())) }
    });
    let stood = if check.stopped_ms > 0.0 {
        format!("stood still {:.1} ms", check.stopped_ms)
    } else {
        "never stood still".into()
    };
    format!("checked {ago}took {}, {stood}", seconds(check.duration_s))
}

fn numbers(app: &App, process: &Process, theme: Theme) -> Vec<Span<'static>> {
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut add = |role: Role, text: String| {
        if !spans.is_empty() {
            spans.push(theme.span(Role::Dim, " · "));
        }
        spans.push(theme.span(role, text));
    };
    if let Some(numbers) = process.numbers {
        add(Role::Strong, counted(numbers.frames, "live frame"));
        add(Role::Plain, format!("{} payload", bytes(numbers.payload_bytes)));
        if numbers.dropped > 0 {
            add(Role::Warn, format!("{} dropped", counted(numbers.dropped, "event")));
        }
        let rate = app.model.made_per_s.map_or_else(String::new, |rate| format!(", {}/s", two_digits(rate)));
        add(Role::Plain, format!("{} made{rate}", grouped(numbers.frames_allocated)));
        add(Role::Plain, counted(numbers.blocks, "block"));
    }
    if let Some(alerts) = process.alerts.filter(|&alerts| alerts > 0) {
        add(Role::Bad, counted(alerts, "alert"));
    }
    if let Some(goroutines) = process.last.as_ref().and_then(|last| last.goroutines) {
        add(Role::Plain, counted(goroutines, "goroutine"));
    }
    if process.checks > 0 {
        let failed = if process.failed > 0 { format!(" ({} failed)", grouped(process.failed)) } else { String::new() };
        add(Role::Plain, format!("{}{failed}", counted(process.checks, "check")));
    }
    spans
}

fn foot_line(app: &App, theme: Theme, width: usize) -> Line<'static> {
    let typed = |what: &str, text: &str, hint: &str| {
        let shown = [
            theme.span(Role::Strong, what),
            theme.span(Role::Plain, text),
            Span::raw("▏"),
            theme.span(Role::Dim, hint),
        ];
        Line::from(fitted(shown.to_vec(), width))
    };
    match (&app.typing, &app.contact, &app.note) {
        (Some(Typing::Filter), ..) => return typed("filter: ", &app.model.filter, "  Enter: keep, Esc: none"),
        (Some(Typing::Interval(text, None)), ..) => {
            return typed("check every: ", text, "  such as 10s; empty: only when c is pressed");
        }
        (Some(Typing::Interval(text, Some(wrong))), ..) => return typed("check every: ", text, &format!("  {wrong}")),
        (None, Contact::Lost(line), _) | (None, _, Some((line, _))) => {
            return Line::from(fitted(vec![theme.span(Role::Warn, line)], width));
        }
        _ => {}
    }
    let keys: &[(&str, &str)] = match app.screen {
        Screen::Choice => &[("Enter", "look"), ("↑↓", "move"), ("?", "help"), ("q", "quit")],
        Screen::Stack(_) => {
            &[("Esc", "back"), ("↑↓", "move"), ("w", "whole"), ("c", "check"), ("?", "help"), ("q", "quit")]
        }
        Screen::Groups => &[
            ("?", "help"),
            ("q", "quit"),
            ("c", "check"),
            ("Enter", "stack"),
            ("s", "sort"),
            ("/", "filter"),
            ("i", "interval"),
            ("e", if app.model.everything { "whole objects" } else { "everything" }),
            ("t", "chart"),
            ("z", "zero"),
            ("Space", "stand still"),
        ],
    };
    let mut line = Line::default();
    for (key, what) in keys {
        let room = line.width() + key.chars().count() + what.chars().count() + 3;
        if room > width + 2 {
            break;
        }
        line.push_span(theme.span(Role::Strong, *key));
        line.push_span(theme.span(Role::Dim, format!(" {what}  ")));
    }
    line
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
