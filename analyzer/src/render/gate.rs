//! What suppressions and a baseline let through, in a line or two of the text report.

use super::flow::{Line, Page, shorten};
use super::style::Role;
use super::units::bytes;
use crate::gate::compare;
use crate::report::gated::{BUILT_IN, Gate, SuppressionPlace};
use crate::report::model::{Group, Totals};
use crate::report::words::{contents, counted, grouped, listed};

/// Names of suppressions, and groups that are gone, that are listed.
const LISTED: usize = 5;

/// The verdict does not count the group because it is suppressed or known.
pub(super) fn lets_through(group: &Group) -> bool {
    !group.leak && (group.suppressed_by.is_some() || group.baseline.is_some())
}

/// What is said of a group, in a line of its own.
pub(super) fn of_group(page: &mut Page, indent: usize, group: &Group) {
    let line = match (&group.suppressed_by, compare::phrase(group)) {
        (Some(name), _) => {
            Line::of(Role::Strong, "suppressed").and(Role::Plain, format!(" by {}", shorten(name, page.wrap() / 2)))
        }
        (None, Some(phrase)) => Line::of(if group.leak { Role::Bad } else { Role::Strong }, phrase),
        (None, None) => return,
    };
    page.words(indent, indent + 2, &line);
}

/// The lines; `blank`: an empty one behind them.
pub(super) fn write(page: &mut Page, gate: Option<&Gate>, indent: usize, blank: bool) {
    let Some(gate) = gate else { return };
    if gate.suppressed != Totals::default() {
        let groups: u64 = gate.used.iter().map(|used| used.groups).sum();
        let mut names: Vec<String> = gate
            .used
            .iter()
            .take(LISTED)
            .map(|used| format!("{} by {}", grouped(used.count), place(&used.suppression)))
            .collect();
        if gate.used.len() > LISTED {
            names.push(format!("{} more", gate.used.len() - LISTED));
        }
        let line = Line::of(Role::Strong, "suppressed").and(
            Role::Plain,
            format!("  {} in {}: {}", amount(&gate.suppressed), counted(groups, "group"), listed(&names)),
        );
        page.words(indent, indent + 2, &line);
    }
    if let Some(baseline) = &gate.baseline {
        let mut parts = vec![match gate.known == Totals::default() {
            true => "nothing known was seen".to_string(),
            false => format!("{} in {} known", amount(&gate.known), counted(baseline.known, "group")),
        }];
        let numbers = [(baseline.new, "new"), (baseline.grown, "grown"), (baseline.moved, "of the known moved")];
        parts.extend(numbers.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", grouped(*n))));
        let line =
            Line::of(Role::Strong, "baseline").and(Role::Plain, format!("  {}: {}", baseline.path, parts.join(", ")));
        page.words(indent, indent + 2, &line);
        if !baseline.gone.is_empty() {
            let mut gone: Vec<String> = baseline
                .gone
                .iter()
                .take(LISTED)
                .map(|gone| format!("{} {} at {}", gone.count, gone.object, gone.at))
                .collect();
            if baseline.gone.len() > LISTED {
                gone.push(format!("{} more", baseline.gone.len() - LISTED));
            }
            let text = format!(
                "{} of the baseline not seen: {}",
                counted(baseline.gone.len() as u64, "group"),
                gone.join("; ")
            );
            page.words(indent, indent + 2, &Line::of(Role::Good, "gone").and(Role::Plain, format!("  {text}")));
        }
    }
    if !gate.unused.is_empty() {
        let mut names: Vec<String> = gate.unused.iter().take(LISTED).map(place).collect();
        if gate.unused.len() > LISTED {
            names.push(format!("{} more", gate.unused.len() - LISTED));
        }
        let text =
            format!("  {} matched nothing: {}", counted(gate.unused.len() as u64, "suppression"), listed(&names));
        page.words(indent, indent + 2, &Line::of(Role::Warn, "unused").and(Role::Plain, text));
    }
    for note in &gate.notes {
        page.words(indent, indent + 2, &Line::of(Role::Dim, "note").and(Role::Plain, format!("  {note}")));
    }
    if blank {
        page.blank();
    }
}

/// `30 frames, 356 MiB pinned`.
fn amount(totals: &Totals) -> String {
    match totals.pinned_bytes {
        0 => contents(totals),
        pinned => format!("{} ({} pinned)", contents(totals), bytes(pinned)),
    }
}

/// `leak:libx264 (ours.supp:7)`.
fn place(place: &SuppressionPlace) -> String {
    match place.file.as_str() {
        BUILT_IN => format!("{} {BUILT_IN}", place.name),
        file => format!("{} ({file}:{})", place.name, place.line),
    }
}
