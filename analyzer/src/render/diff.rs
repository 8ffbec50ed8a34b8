//! A difference as a person reads it: a verdict first, then what is worse, then the rest in a line each.

use super::flow::{Line, Page, shorten};
use super::stack;
use super::style::Role;
use super::text::TextOptions;
use super::units::{bytes, two_digits};
use crate::gate::diff::{Amount, Change, Diff, GroupDiff};
use crate::report::model::Verdict;
use crate::report::words::{counted, grouped, listed};

/// Groups of one kind that are shown without `all`.
const SHOWN: usize = 20;

/// The text, with a newline at its end.
pub fn text(diff: &Diff, options: &TextOptions) -> String {
    let mut page = Page::new(options.style, options.width);
    headline(&mut page, diff);
    for change in [Change::New, Change::Grown, Change::Shrunk, Change::Gone, Change::Same] {
        let groups: Vec<&GroupDiff> = diff.groups.iter().filter(|group| group.change == change).collect();
        if groups.is_empty() || (change == Change::Same && !options.all) {
            continue;
        }
        page.blank();
        page.line(1, &Line::of(role(change), format!("{} ({})", word(change), grouped(groups.len() as u64))));
        let shown = if options.all { groups.len() } else { SHOWN };
        for group in groups.iter().take(shown) {
            one(&mut page, diff, group, options.all);
        }
        if groups.len() > shown {
            let text = format!("… and {} more, see --json or --all", grouped((groups.len() - shown) as u64));
            page.line(3, &Line::of(Role::Warn, text));
        }
    }
    if !diff.notes.is_empty() {
        page.blank();
        page.line(1, &Line::of(Role::Strong, "to be known"));
        for note in &diff.notes {
            page.words(3, 5, &Line::of(Role::Warn, "! ").and(Role::Plain, note));
        }
    }
    page.finish()
}

fn headline(page: &mut Page, diff: &Diff) {
    let summary = &diff.summary;
    let parts: Vec<String> = [
        (summary.new, "new"),
        (summary.grown, "grown"),
        (summary.shrunk, "shrunk"),
        (summary.gone, "gone"),
        (summary.same, "the same"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what}", grouped(*number)))
    .collect();
    let parts = if parts.is_empty() { "no leak groups in either".to_string() } else { listed(&parts) };
    let unsure = [&diff.a, &diff.b].iter().any(|side| side.verdict == Verdict::Inconclusive);
    let finding = match (diff.worse, unsure) {
        (true, _) => Line::of(Role::Bad, "worse"),
        (false, true) => Line::of(Role::Warn, "INCONCLUSIVE, nothing seen that is worse"),
        (false, false) => Line::of(Role::Good, "nothing new, nothing grown"),
    };
    let moved = match summary.moved {
        0 => String::new(),
        moved => format!(" ({} moved: matched by stack, not by id)", grouped(moved)),
    };
    let line = Line::of(Role::Strong, "avleak diff: ").join(finding).and(Role::Plain, format!(" — {parts}{moved}"));
    page.words(0, 8, &line);
    for (name, side) in [("A", &diff.a), ("B", &diff.b)] {
        let mut facts = format!(
            "{name}  {}: {} in {}, {}",
            side.file,
            counted(side.count, "object"),
            counted(side.frames_allocated, "frame"),
            side.verdict.key()
        );
        if side.processes != 1 {
            let s = if side.processes == 1 { "" } else { "es" };
            facts.push_str(&format!(", {} process{s}", grouped(side.processes)));
        }
        page.words(8, 11, &Line::of(Role::Plain, facts));
    }
    if diff.per_1000_frames || diff.slack_percent > 0.0 {
        let per = if diff.per_1000_frames { "objects per 1,000 frames" } else { "objects" };
        let text = format!("measured: {per}, {} % is the same", diff.slack_percent);
        page.words(8, 11, &Line::of(Role::Dim, text));
    }
}

fn one(page: &mut Page, diff: &Diff, group: &GroupDiff, all: bool) {
    let worse = matches!(group.change, Change::New | Change::Grown);
    let mut pieces = vec![
        Line::of(if worse { Role::Bad } else { Role::Plain }, amounts(group)).and(Role::Plain, " ").and(
            Role::Plain,
            match group.class.phrase() {
                phrase if worse => format!("{} {phrase}", group.object),
                _ => group.object.clone(),
            },
        ),
        Line::of(Role::Own, shorten(&group.at, page.wrap() - 8)),
    ];
    let rate = |amount: Option<Amount>| amount.map(|amount| amount.rate_per_1000_frames).filter(|rate| *rate > 0.0);
    match (rate(group.a), rate(group.b)) {
        (Some(a), Some(b)) => {
            pieces.push(Line::of(Role::Plain, format!("{} → {} per 1,000 frames", two_digits(a), two_digits(b))));
        }
        (one, other) => {
            if let Some(rate) = one.or(other) {
                pieces.push(Line::of(Role::Plain, format!("{} per 1,000 frames", two_digits(rate))));
            }
        }
    }
    let pinned = |amount: Option<Amount>| amount.map_or(0, |amount| amount.pinned_bytes);
    match (pinned(group.a), pinned(group.b)) {
        (0, 0) => {}
        (a, b) if group.a.is_some() && group.b.is_some() && a != b => {
            pieces.push(Line::of(Role::Strong, format!("pins {} → {}", bytes(a), bytes(b))));
        }
        (a, b) => pieces.push(Line::of(Role::Strong, format!("pins {}", bytes(a.max(b))))),
    }
    if diff.a.processes != 1 || diff.b.processes != 1 {
        pieces.push(Line::of(Role::Plain, format!("in {}", group.program)));
    }
    if let Some(id) = &group.moved_from {
        pieces.push(Line::of(Role::Warn, format!("moved from {id}")));
    }
    page.flow(3, 7, " · ", &pieces);
    if worse || all {
        stack::write(page, 7, &group.stack, all);
    }
    page.line(7, &Line::of(Role::Dim, format!("group {}", group.id)));
}

/// `5 → 8`, `7`.
fn amounts(group: &GroupDiff) -> String {
    match (group.a, group.b) {
        (Some(a), Some(b)) if a.count == b.count => grouped(b.count),
        (Some(a), Some(b)) => format!("{} → {}", grouped(a.count), grouped(b.count)),
        (a, b) => grouped(a.or(b).map_or(0, |amount| amount.count)),
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::New => "new",
        Change::Grown => "grown",
        Change::Shrunk => "shrunk",
        Change::Gone => "gone",
        Change::Same => "the same",
    }
}

fn role(change: Change) -> Role {
    match change {
        Change::New | Change::Grown => Role::Bad,
        Change::Shrunk | Change::Gone => Role::Good,
        Change::Same => Role::Strong,
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
