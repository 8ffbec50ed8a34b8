//! What is known of a process at whose memory nobody could look when it ended: for the terminal report and the page.

use super::flow::{Line, Page};
use super::stack::{name, own_frame, place};
use super::style::Role;
use super::units::{seconds, two_digits};
use crate::report::model::Report;
use crate::report::post_mortem::{Grown, LastCheck, PostMortem};
use crate::report::words::{counted, grouped};

/// Groups that are shown.
const GROUPS: usize = 5;

/// Label and text of each part.
pub(in crate::render) fn facts(known: &PostMortem) -> Vec<(&'static str, String)> {
    let mut facts: Vec<(&'static str, String)> =
        known.last_check.iter().map(|check| ("Last check", last_check(check))).collect();
    facts.extend(known.grew.iter().take(GROUPS).map(|grown| ("It grew", grew(grown))));
    if known.grew.len() > GROUPS {
        let more = grouped((known.grew.len() - GROUPS) as u64);
        facts.push(("It grew", format!("{more} more groups did, see the JSON")));
    }
    let core = if known.dumped_core == Some(true) { "the kernel wrote one" } else { "if there is one" };
    facts.extend(known.session.iter().map(|file| {
        ("Core", format!("{core}: `avleak core CORE --session {file}` finds what was lost, as if the process lived"))
    }));
    if known.session.is_none() && known.dumped_core == Some(true) {
        facts.push(("Core", "the kernel wrote one, but no session was saved to lay beside it".into()));
    }
    facts
}

fn last_check(check: &LastCheck) -> String {
    let when = format!("{} before the end ({})", seconds(check.before_end_s), check.started);
    let lost = format!("{when}: {} lost by then", counted(check.lost, "FFmpeg object"));
    match (check.lost, check.freed_since) {
        (0, _) => lost,
        (_, 0) => format!("{lost}, none given back since"),
        (_, freed) => format!("{lost}, {} given back since all the same", grouped(freed)),
    }
}

fn grew(grown: &Grown) -> String {
    let by = own_frame(&grown.stack).map(|frame| match place(frame) {
        Some(place) => format!(" by {} ({place})", name(frame)),
        None => format!(" by {}", name(frame)),
    });
    let until = match grown.checks_ago {
        0 => "at the last check".to_string(),
        ago => format!("{} before the last one", counted(ago, "check")),
    };
    format!(
        "{}{}: {} {until}, {} an hour over {} · group {}",
        grown.object,
        by.unwrap_or_default(),
        counted(grown.count, "object"),
        two_digits(grown.per_hour),
        counted(grown.checks, "check"),
        grown.group
    )
}

/// Writes it, where there is something.
pub(super) fn write(page: &mut Page, report: &Report) {
    for (label, text) in report.post_mortem.iter().flat_map(facts) {
        page.words(1, 11, &Line::of(Role::Strong, format!("{label:<11}").to_lowercase()).and(Role::Plain, text));
    }
}
