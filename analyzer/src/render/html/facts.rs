//! The sentences and numbers of a page that stand outside groups: the finding, the tiles, what was observed and what was not.

use crate::render::post_mortem;
use crate::render::units::{bytes, seconds};
use crate::report::model::{MemoryMeans, Report, Target, Totals, Verdict};
use crate::report::verdict::blind_spots;
use crate::report::words::{contents, counted, ended, grouped};

/// Label, value, note, tone (`bad`, `warn` or nothing).
pub(super) type Card = (&'static str, String, String, &'static str);

/// `30 frames leaked, 356 MiB pinned`.
pub(super) fn finding(verdict: Verdict, leaks: &Totals) -> String {
    match (verdict, leaks.pinned_bytes) {
        (Verdict::Leaks, 0) => format!("{} leaked", contents(leaks)),
        (Verdict::Leaks, pinned) => format!("{} leaked, {} pinned", contents(leaks), bytes(pinned)),
        (Verdict::Clean, _) => "No leaks".to_string(),
        (Verdict::Inconclusive, _) => "Inconclusive".to_string(),
    }
}

/// `server (pid 812), exit 0`.
pub(super) fn process(target: &Target) -> String {
    crate::render::summary::process(target)
}

/// What kept avleak from seeing everything, and what to do about it.
pub(super) fn blind(report: &Report) -> Vec<(String, &'static str)> {
    blind_spots(&report.observed, &report.completeness).into_iter().map(|blind| (blind.what, blind.remedy)).collect()
}

/// The tiles at the top.
pub(super) fn cards(report: &Report) -> Vec<Card> {
    let (seen, leaks) = (&report.observed, &report.leaks);
    let mut cards: Vec<Card> = Vec::new();
    if report.verdict == Verdict::Leaks {
        let groups = report.groups.iter().filter(|group| group.leak).count() as u64;
        cards.push(("Leaked", contents(leaks), format!("in {}", counted(groups, "group")), "bad"));
        let tone = if leaks.pinned_bytes > 0 { "bad" } else { "" };
        cards.push(("Pinned", bytes(leaks.pinned_bytes), "in buffers that lost refs keep alive".to_string(), tone));
    }
    let rest = seen.frames_allocated.saturating_sub(seen.frames_freed);
    let note = match rest {
        0 => "and every one freed".to_string(),
        rest => format!("{} freed, {} not", grouped(seen.frames_freed), grouped(rest)),
    };
    cards.push((
        "Frames made",
        grouped(seen.frames_allocated),
        if seen.frames_allocated > 0 { note } else { String::new() },
        "",
    ));
    if seen.packets_allocated > 0 {
        let note = format!("{} freed", grouped(seen.packets_freed));
        cards.push(("Packets made", grouped(seen.packets_allocated), note, ""));
    }
    if let Some(timeline) = &report.timeline {
        if let Some(peak) = &timeline.peak_frames {
            cards.push(("Most frames", grouped(peak.value), format!("after {}", seconds(peak.at_s)), ""));
        }
        if let Some(peak) = &timeline.peak_payload {
            cards.push(("Most payload", bytes(peak.value), format!("after {}", seconds(peak.at_s)), ""));
        }
    }
    let end = report.target.ended.map_or_else(|| "its end was not seen".to_string(), ended);
    cards.push(("Watched for", seconds(report.target.duration_s), end, ""));
    if seen.events_dropped > 0 {
        cards.push(("Events dropped", grouped(seen.events_dropped), "not everything was seen".to_string(), "warn"));
    }
    cards
}

/// What was run, what was observed, how the check went.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (seen, check) = (&report.observed, &report.check);
    let mut facts = vec![
        ("Program", report.target.exe.clone()),
        ("Command line", report.target.argv.join(" ")),
        ("First FFmpeg object", report.target.started.clone()),
        ("Allocations", format!("{} made, {} freed", grouped(seen.allocations), grouped(seen.frees))),
        ("Most blocks at once", grouped(seen.peak_blocks)),
        ("Threads", grouped(seen.threads)),
        ("Events dropped", grouped(seen.events_dropped)),
    ];
    let calls: Vec<String> =
        seen.calls.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {}", grouped(*n))).collect();
    if !calls.is_empty() {
        facts.push(("API calls", calls.join(" · ")));
    }
    let memory = match report.completeness.memory {
        MemoryMeans::Ptrace => "process stopped by ptrace, whole memory and registers read".to_string(),
        MemoryMeans::VmReadv => "memory read without ptrace, no registers".to_string(),
        MemoryMeans::Cooperative => "memory copied by the interposer, no registers".to_string(),
        MemoryMeans::Core => "memory and registers from the core file".to_string(),
        MemoryMeans::None => "memory not read".to_string(),
    };
    let stopped = if check.stopped_ms > 0.0 {
        format!(", stood still for {}", seconds(check.stopped_ms / 1e3))
    } else {
        String::new()
    };
    facts.push(("Check", format!("{memory}{stopped}, took {}", seconds(check.duration_s))));
    facts.extend(report.post_mortem.iter().flat_map(post_mortem::facts));
    if let Some(exit) = &report.exit {
        facts.push(("avleak's exit status", format!("{}, decided by: {}", exit.code, exit.decided_by)));
    }
    facts
}

/// What is to be known beside the blind spots.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let about = &report.completeness;
    let mut notes = Vec::new();
    if about.incomplete_stacks > 0 {
        let verb = if about.incomplete_stacks == 1 { "is" } else { "are" };
        let stacks = counted(about.incomplete_stacks, "stack");
        notes.push(format!("{stacks} {verb} incomplete: callers at the outer end are missing"));
    }
    notes.extend(about.disagreements.iter().map(|text| format!("disagreement: {text}")));
    notes.extend(about.notes.iter().cloned());
    notes
}
