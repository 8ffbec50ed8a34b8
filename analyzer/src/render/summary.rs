//! What a report says beside its leak groups: headline, totals by class, what was observed, what was not seen.

use super::flow::{Line, Page, shorten, width};
use super::stack::{name, own_frame};
use super::style::Role;
use super::units::{bytes, bytes_exact, seconds};
use crate::report::model::{Class, Completeness, Group, Level, MemoryMeans, Observed, Report, Target, Totals, Verdict};
use crate::report::timeline::{Peak, Timeline};
use crate::report::verdict::blind_spots;
use crate::report::words::{contents, counted, ended, grouped, listed, objects};

/// `30 frames leaked, 356 MiB pinned`; `no leaks`; `inconclusive`.
pub(super) fn finding(verdict: Verdict, leaks: &Totals) -> Line {
    match verdict {
        Verdict::Leaks => {
            let line = Line::of(Role::Bad, format!("{} leaked", contents(leaks)));
            match leaks.pinned_bytes {
                0 => line,
                pinned => line.and(Role::Plain, ", ").and(Role::Strong, format!("{} pinned", bytes(pinned))),
            }
        }
        Verdict::Clean => Line::of(Role::Good, "no leaks"),
        Verdict::Inconclusive => Line::of(Role::Warn, "INCONCLUSIVE"),
    }
}

/// `server`: the executable's name without its folder.
pub(super) fn program(target: &Target) -> &str {
    match target.exe.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => target.argv.first().map_or("?", String::as_str),
    }
}

/// `server (pid 812), exit 0`.
pub(super) fn process(target: &Target) -> String {
    let mut text = format!("{} (pid {})", program(target), target.pid);
    if let Some(end) = target.ended {
        text.push_str(", ");
        text.push_str(&ended(end));
    }
    text
}

/// The line that many read alone.
pub(super) fn headline(page: &mut Page, report: &Report) {
    let mut line = Line::of(Role::Strong, "avleak: ")
        .join(finding(report.verdict, &report.leaks))
        .and(Role::Plain, format!(" — {}", process(&report.target)));
    if report.level != Level::Normal {
        line.push(Role::Plain, format!(", level {}", report.level.key()));
    }
    page.words(0, 8, &line);
}

/// What a verdict stands on: `6,001 frames allocated, 6,001 freed`, and where there were none the packets.
pub(super) fn seen(observed: &Observed) -> String {
    let (noun, allocated, freed) = match observed {
        Observed { frames_allocated: 0, packets_allocated: 1.., .. } => {
            ("packet", observed.packets_allocated, observed.packets_freed)
        }
        _ => ("frame", observed.frames_allocated, observed.frames_freed),
    };
    format!("{} allocated, {} freed", counted(allocated, noun), grouped(freed))
}

/// `0 events dropped`.
pub(super) fn dropped(observed: &Observed) -> String {
    format!("{} dropped", counted(observed.events_dropped, "event"))
}

/// Groups that the verdict does not count: how many objects of which type in each class.
pub(super) fn not_counted(page: &mut Page, level: Level, groups: &[&Group], all: bool) {
    if groups.is_empty() {
        return;
    }
    let title = Line::of(Role::Strong, format!("alive but not counted at level {}", level.key()));
    page.line(1, &if all { title } else { title.and(Role::Dim, " (--all lists them)") });
    let classes =
        [Class::DefinitelyLost, Class::IndirectlyLost, Class::PossiblyLost, Class::StillReachable, Class::Unclassified];
    for class in classes {
        let mut sums: Vec<(&str, u64)> = Vec::new();
        for group in groups.iter().filter(|g| g.class == class) {
            match sums.iter_mut().find(|(object, _)| *object == group.object) {
                Some((_, count)) => *count = count.saturating_add(group.count),
                None => sums.push((&group.object, group.count)),
            }
        }
        if sums.is_empty() {
            continue;
        }
        // FFmpeg's own types tell more than nameless blocks, whatever their number.
        sums.sort_by_key(|(object, count)| (!object.starts_with("AV"), std::cmp::Reverse(*count)));
        let pieces: Vec<Line> = std::iter::once(Line::of(Role::Plain, format!("{:<17}", class.phrase())))
            .chain(sums.iter().enumerate().map(|(i, (object, count))| {
                let comma = if i + 1 < sums.len() { "," } else { "" };
                Line::of(Role::Plain, format!("{}{comma}", objects(*count, object)))
            }))
            .collect();
        page.flow(3, 21, " ", &pieces);
    }
    page.blank();
}

/// The table of everything alive at the check, by class.
pub(super) fn totals(page: &mut Page, report: &Report) {
    let when = if report.target.ended.is_some() { "alive at the end" } else { "alive at check" };
    let heads = [when, "frames", "packets", "refs", "contexts", "blocks", "bytes", "pinned"];
    let all = &report.totals;
    let rows = [
        (Class::DefinitelyLost, &all.definitely_lost),
        (Class::IndirectlyLost, &all.indirectly_lost),
        (Class::PossiblyLost, &all.possibly_lost),
        (Class::StillReachable, &all.still_reachable),
        (Class::Unclassified, &all.unclassified),
    ];
    let unjudged = *rows[4].1 != Totals::default();
    let judged = rows[..4].iter().any(|(_, t)| **t != Totals::default());
    let mut cells: Vec<[String; 8]> = vec![heads.map(str::to_string)];
    for (class, t) in rows {
        let show = if class == Class::Unclassified { unjudged } else { judged || !unjudged };
        if show {
            let numbers = [t.frames, t.packets, t.buffer_refs, t.contexts, t.blocks].map(grouped);
            let [frames, packets, refs, contexts, blocks] = numbers;
            let sums = [bytes(t.bytes), bytes(t.pinned_bytes)];
            let [own, pinned] = sums;
            cells.push([class.phrase().to_string(), frames, packets, refs, contexts, blocks, own, pinned]);
        }
    }
    let widths: [usize; 8] = std::array::from_fn(|i| cells.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    let fits = |gap: usize| page.limit().is_none_or(|limit| 1 + widths.iter().sum::<usize>() + 7 * gap <= limit);
    let gap = if fits(2) { 2 } else { 1 };
    if !fits(gap) {
        return narrow_totals(page, &cells);
    }
    for (n, row) in cells.iter().enumerate() {
        let mut line = Line::of(if n == 0 { Role::Strong } else { Role::Plain }, format!("{:<1$}", row[0], widths[0]));
        for (cell, widest) in row.iter().zip(widths).skip(1) {
            let blank = " ".repeat(gap + widest - width(cell));
            let role = match cell.as_str() {
                _ if n == 0 => Role::Strong,
                "0" | "0 B" => Role::Dim,
                _ => Role::Plain,
            };
            line = line.and(Role::Plain, blank).and(role, cell);
        }
        page.line(1, &line);
    }
    page.blank();
}

/// The same table where it is too wide: a line for each class, without the zeros.
fn narrow_totals(page: &mut Page, cells: &[[String; 8]]) {
    let Some((heads, rows)) = cells.split_first() else { return };
    page.line(1, &Line::of(Role::Strong, &heads[0]));
    for row in rows {
        let mut pieces = vec![Line::of(Role::Plain, format!("{:<16}", row[0]))];
        for (head, cell) in heads.iter().zip(row).skip(1).filter(|(_, cell)| !matches!(cell.as_str(), "0" | "0 B")) {
            let text = if head == "bytes" { format!("{cell},") } else { format!("{cell} {head},") };
            pieces.push(Line::of(Role::Plain, text));
        }
        if pieces.len() == 1 {
            pieces.push(Line::of(Role::Dim, "none,"));
        }
        if let Some(last) = pieces.last_mut() {
            last.trim_comma();
        }
        page.flow(3, 20, " ", &pieces);
    }
    page.blank();
}

/// What was observed, and how the check went.
pub(super) fn observed(page: &mut Page, report: &Report) {
    let seen = &report.observed;
    let frames = format!("{} allocated, {} freed", counted(seen.frames_allocated, "frame"), grouped(seen.frames_freed));
    let packets =
        format!("{} allocated, {} freed", counted(seen.packets_allocated, "packet"), grouped(seen.packets_freed));
    let mut facts = vec![frames, packets];
    facts.push(format!("{}, {}", counted(seen.allocations, "allocation"), counted(seen.frees, "free")));
    if seen.cancelled_young > 0 {
        let share = seen.cancelled_young.saturating_mul(100) / seen.allocations.max(1);
        facts.push(format!("{share} % of them cancelled young"));
    }
    facts.push(counted(seen.threads, "thread"));
    facts.push(dropped(seen));
    facts.push(format!("over {}", seconds(report.target.duration_s)));
    labelled(page, "observed", facts);
    if let Some(timeline) = &report.timeline {
        let facts = peaks(page, timeline);
        labelled(page, "peak", facts);
    }
    let calls: Vec<String> =
        seen.calls.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {}", grouped(*n))).collect();
    if !calls.is_empty() {
        labelled(page, "API calls", calls);
    }
    let mut check = vec![match report.completeness.memory {
        MemoryMeans::Ptrace => "stopped by ptrace, whole memory and registers".to_string(),
        MemoryMeans::VmReadv => "memory read without ptrace, no registers".to_string(),
        MemoryMeans::Cooperative => "memory copied by the interposer, no registers".to_string(),
        MemoryMeans::Core => "memory and registers from the core file".to_string(),
        MemoryMeans::None => "memory not read".to_string(),
    }];
    if report.check.scans > 0 {
        check.push(counted(u64::from(report.check.scans), "scan"));
    }
    if report.check.stopped_ms > 0.0 {
        check.push(format!("stood still for {}", seconds(report.check.stopped_ms / 1e3)));
    }
    check.push(format!("took {}", seconds(report.check.duration_s)));
    labelled(page, "check", check);
}

/// `42 frames alive after 14 min`, `12 of them by decode_one`; the same of payload.
fn peaks(page: &Page, timeline: &Timeline) -> Vec<String> {
    let by = |peak: &Peak| {
        let frame = own_frame(&peak.by_stack.first()?.stack)?;
        Some(page.limit().map_or_else(|| name(frame), |limit| shorten(&name(frame), limit / 3)))
    };
    let mut facts = Vec::new();
    if let Some(peak) = &timeline.peak_frames {
        facts.push(format!("{} alive after {}", counted(peak.value, "frame"), seconds(peak.at_s)));
        facts.extend(by(peak).map(|name| format!("{} of them by {name}", grouped(peak.by_stack[0].count))));
    }
    if let Some(peak) = &timeline.peak_payload {
        facts.push(format!("{} of payload alive after {}", bytes(peak.value), seconds(peak.at_s)));
        facts.extend(by(peak).map(|name| format!("{} of it by {name}", bytes(peak.by_stack[0].bytes))));
    }
    if facts.is_empty() {
        facts.push("neither a frame nor payload lived long enough to be seen".to_string());
    }
    facts
}

fn labelled(page: &mut Page, label: &str, facts: Vec<String>) {
    let mut pieces: Vec<Line> = facts.iter().map(|fact| Line::of(Role::Plain, fact)).collect();
    if let Some(first) = pieces.first_mut() {
        let fact = std::mem::take(first);
        *first = Line::of(Role::Strong, format!("{label:<10}")).join(fact);
    }
    page.flow(1, 11, " · ", &pieces);
}

/// Everything that was not seen. Nothing is hidden that is not zero.
pub(super) fn completeness(page: &mut Page, report: &Report) {
    let Completeness { incomplete_stacks, disagreements, notes, unreadable_bytes, .. } = &report.completeness;
    let mut lines: Vec<Line> = Vec::new();
    // An inconclusive report has begun with them.
    let said = report.verdict == Verdict::Inconclusive;
    for blind in blind_spots(&report.observed, &report.completeness).into_iter().filter(|_| !said) {
        let mut line = Line::of(Role::Warn, &blind.what);
        if *unreadable_bytes >= 1024 && blind.what.contains("of memory could not be read") {
            line = Line::of(Role::Warn, format!("{} of memory could not be read", bytes_exact(*unreadable_bytes)));
        }
        lines.push(line.and(Role::Plain, format!(": {}", blind.remedy)));
    }
    if *incomplete_stacks > 0 {
        let verb = if *incomplete_stacks == 1 { "is" } else { "are" };
        let text = format!("{} {verb} incomplete", counted(*incomplete_stacks, "stack"));
        lines.push(Line::of(Role::Warn, text).and(Role::Plain, ": callers at the outer end are missing"));
    }
    for text in disagreements {
        lines.push(Line::of(Role::Warn, "disagreement").and(Role::Plain, format!(": {text}")));
    }
    for text in notes {
        lines.push(Line::of(Role::Plain, text));
    }
    if lines.is_empty() {
        return;
    }
    if report.verdict != Verdict::Clean {
        page.blank();
    }
    page.line(1, &Line::of(Role::Strong, "not seen, or to be known"));
    for line in lines {
        page.words(3, 5, &Line::of(Role::Warn, "! ").join(line));
    }
}

/// What was missed, for a report whose verdict is leaks all the same.
pub(super) fn caveat(page: &mut Page, report: &Report) {
    let blind: Vec<String> =
        blind_spots(&report.observed, &report.completeness).into_iter().map(|blind| blind.what).collect();
    if !blind.is_empty() {
        let limits = if report.completeness.memory == MemoryMeans::None { "more" } else { "more or fewer" };
        let text = format!("not everything was seen, there may be {limits}: {}", listed(&blind));
        page.words(8, 8, &Line::of(Role::Warn, "caveat").and(Role::Plain, format!(": {text}")));
    }
}

/// Whether [`completeness`] has nothing to say.
pub(super) fn is_complete(report: &Report) -> bool {
    let Completeness { incomplete_stacks, disagreements, notes, .. } = &report.completeness;
    let rest = *incomplete_stacks == 0 && disagreements.is_empty() && notes.is_empty();
    rest && blind_spots(&report.observed, &report.completeness).is_empty()
}

/// Why there is no verdict, and what to do.
pub(super) fn inconclusive(page: &mut Page, report: &Report) {
    page.words(8, 13, &Line::of(Role::Warn, "why: ").and(Role::Plain, &report.reason));
    for blind in blind_spots(&report.observed, &report.completeness) {
        page.words(8, 12, &Line::of(Role::Strong, "do: ").and(Role::Plain, blind.remedy));
    }
}
