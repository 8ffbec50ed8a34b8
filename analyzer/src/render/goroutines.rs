//! The goroutines that hold frames, in the terminal report.

use super::flow::{Line, Page};
use super::stack::{Whose, name, place, whose};
use super::style::Role;
use super::units::seconds;
use crate::report::golang::GoroutineGroup;
use crate::report::model::{Frame, Report};
use crate::report::words::{counted, grouped};

/// Groups that are shown without `--all`.
const GROUPS: usize = 5;
/// Frames of a goroutine's stack that are shown.
const FRAMES: usize = 4;

/// Does any hold something?
pub(super) fn any(report: &Report) -> bool {
    report.go.as_ref().is_some_and(|go| !go.holding.is_empty())
}

/// Writes them, where there are [`any`].
pub(super) fn write(page: &mut Page, report: &Report, all: bool) {
    let Some(go) = &report.go else { return };
    let holders: u64 = go.holding.iter().map(|group| group.count).sum();
    let text = format!("{} of {} goroutines hold frames or packets:", grouped(holders), grouped(go.goroutines));
    page.line(1, &Line::of(Role::Strong, text));
    let shown = if all { go.holding.len() } else { go.holding.len().min(GROUPS) };
    for group in &go.holding[..shown] {
        write_group(page, group);
    }
    if go.holding.len() > shown {
        let more = grouped((go.holding.len() - shown) as u64);
        page.line(3, &Line::of(Role::Dim, format!("… and {more} more stacks, see the JSON or --all")));
    }
}

fn write_group(page: &mut Page, group: &GoroutineGroup) {
    let held = [(group.frames, "frame"), (group.packets, "packet")];
    let held: Vec<String> = held.iter().filter(|held| held.0 > 0).map(|held| counted(held.0, held.1)).collect();
    let age = seconds(group.age_max_s);
    let line = Line::of(Role::Strong, format!("{} × {}", grouped(group.count), group.state))
        .and(Role::Plain, format!(" · {} · the oldest {age} · goroutine {}", held.join(", "), group.example));
    page.words(3, 5, &line);
    let own = group.stack.iter().filter(|frame| whose(frame) == Whose::Own).take(FRAMES);
    for frame in own {
        page.line(7, &Line::of(Role::Plain, at(frame)));
    }
    if let Some(frame) = &group.created_by {
        page.line(7, &Line::of(Role::Dim, format!("started by {}", at(frame))));
    }
}

fn at(frame: &Frame) -> String {
    match place(frame) {
        Some(place) => format!("{}  {place}", name(frame)),
        None => name(frame),
    }
}
