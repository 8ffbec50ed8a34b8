//! One leak group: what, allocated where, where its siblings are freed, who still holds its buffers.

use super::flow::{Line, Page};
use super::stack;
use super::style::Role;
use super::units::{bytes, bytes_exact, rate_per_minute, span_of_seconds, two_digits};
use crate::report::model::{Class, FreeSite, Group, Holder, RefHolder};
use crate::report::words::{grouped, objects};

/// Shorter runs give no rate a minute: one leak in 0.2 s is not 300 a minute.
const SHORTEST_FOR_RATE_S: f64 = 10.0;
/// Lines of free sites, ref holders and chain steps that are shown at most.
const LINES: usize = 4;
const STEPS: usize = 10;

/// Where in the page the parts of a group start.
const LABEL: usize = 5;
const DETAIL: usize = 7;

/// Writes the group as number `number`. `duration_s`: from arming to the check. `all`: whole stacks, every line.
pub(super) fn write(page: &mut Page, number: usize, group: &Group, duration_s: f64, all: bool) {
    let mut pieces = headline(group, duration_s);
    pieces[0] = {
        let role = if group.leak { Role::Bad } else { Role::Strong };
        Line::of(Role::Dim, format!("{number:>3}  "))
            .and(role, format!("{} {}", objects(group.count, &group.object), group.class.phrase()))
    };
    page.flow(0, LABEL, " · ", &pieces);
    super::gate::of_group(page, LABEL, group);

    page.line(LABEL, &Line::of(Role::Strong, "allocated at"));
    stack::write(page, DETAIL, &group.stack, all);
    siblings(page, group, all);
    refs(page, group, all);
    held_by(page, group, all);
    page.line(LABEL, &Line::of(Role::Dim, format!("group {}", group.id)));
}

/// The facts after the name, most telling first. The first piece is replaced by the caller.
fn headline(group: &Group, duration_s: f64) -> Vec<Line> {
    let mut pieces = vec![Line::default()];
    let mut add = |text: String| pieces.push(Line::of(Role::Plain, text));
    if group.leak && group.class == Class::IndirectlyLost && group.outermost < group.count {
        add(format!("{} of them outermost", grouped(group.outermost)));
    }
    let size = match (group.width, group.height, group.nb_samples) {
        (Some(width), Some(height), _) => Some(format!("{width}x{height}")),
        (_, _, Some(samples)) => Some(format!("{} samples", grouped(u64::from(samples)))),
        _ => None,
    };
    let picture: Vec<String> = size.into_iter().chain(group.format.clone()).collect();
    if !picture.is_empty() {
        add(picture.join(" "));
    }
    match (group.pts_first, group.pts_last) {
        (Some(first), Some(last)) if first != last => add(format!("pts {first} … {last}")),
        (Some(pts), _) | (None, Some(pts)) => add(format!("pts {pts}")),
        (None, None) => {}
    }
    add(format!("age {}", span_of_seconds(group.age_min_s, group.age_max_s)));
    let several = group.count > 1;
    if several && duration_s >= SHORTEST_FOR_RATE_S && group.rate_per_minute > 0.0 {
        add(rate_per_minute(group.rate_per_minute));
    } else if several && group.rate_per_1000_frames > 0.0 {
        add(format!("{} per 1,000 frames", two_digits(group.rate_per_1000_frames)));
    }
    if group.pinned_bytes > 0 {
        pieces.push(Line::of(Role::Strong, format!("pins {}", bytes(group.pinned_bytes))));
    } else {
        pieces.push(Line::of(Role::Plain, bytes(group.bytes)));
    }
    pieces
}

/// The most precious line: where the other objects of this stack die.
fn siblings(page: &mut Page, group: &Group, all: bool) {
    let others = group.siblings_allocated.saturating_sub(group.count);
    let these = match group.count {
        1 => "this one".to_string(),
        n => format!("these {}", grouped(n)),
    };
    if group.freed_elsewhere.is_empty() {
        let text = match (group.siblings_allocated, others) {
            (0, _) => return,
            (1, 0) => "the only one that was ever allocated there, and nobody freed it".to_string(),
            (n, 0) => format!("none of the {} allocated there was ever freed", grouped(n)),
            (n, others) => {
                format!(
                    "{} more of the {} allocated there were freed or live on elsewhere",
                    grouped(others),
                    grouped(n)
                )
            }
        };
        page.words(LABEL, DETAIL, &Line::of(Role::Plain, text));
        return;
    }
    let shown = if all { group.freed_elsewhere.len() } else { LINES };
    let (first, more) = (&group.freed_elsewhere[0], &group.freed_elsewhere[1..]);
    let mut line = Line::of(Role::Strong, "siblings are freed at ");
    free_site(page, &mut line, first, group);
    if more.is_empty() {
        line.push(Role::Plain, format!("; {these} never came there"));
    }
    page.words(LABEL, DETAIL, &line);
    freed_through(page, first);
    for site in more.iter().take(shown.saturating_sub(1)) {
        let mut line = Line::of(Role::Plain, "and at ");
        free_site(page, &mut line, site, group);
        page.words(LABEL, DETAIL, &line);
        freed_through(page, site);
    }
    let rest: u64 = more.iter().skip(shown.saturating_sub(1)).map(|site| site.count).sum();
    if rest > 0 {
        let text = format!("and at {} more places ({})", more.len() + 1 - shown, grouped(rest));
        page.line(LABEL, &Line::of(Role::Dim, text));
    }
    if !more.is_empty() {
        page.line(LABEL, &Line::of(Role::Plain, format!("{these} never came to any of them")));
    }
}

fn free_site(page: &Page, line: &mut Line, site: &FreeSite, group: &Group) {
    let place = stack::own_frame(&site.stack).and_then(stack::place);
    match place {
        Some(place) => {
            let place = page.limit().map_or_else(|| place.clone(), |limit| super::flow::shorten(&place, limit / 2));
            line.push(Role::Remedy, place);
        }
        None => *line = std::mem::take(line).join(stack::site(&site.stack, page.limit())),
    }
    let of =
        if group.siblings_allocated > 0 { format!(" of {}", grouped(group.siblings_allocated)) } else { String::new() };
    let after = super::units::seconds(site.lifetime_median_ms / 1e3);
    line.push(Role::Plain, format!(" ({}{of}, median {after})", grouped(site.count)));
}

fn freed_through(page: &mut Page, site: &FreeSite) {
    if !site.stack.is_empty() {
        let text = stack::chain(&site.stack, page.wrap().saturating_sub(DETAIL + 2));
        page.line(DETAIL + 2, &Line::of(Role::Dim, text));
    }
}

/// Who else holds the buffers that the group pins.
fn refs(page: &mut Page, group: &Group, all: bool) {
    if group.refs.is_empty() {
        return;
    }
    let pinned = if group.pinned_bytes > 0 { bytes_exact(group.pinned_bytes) } else { "its buffers".to_string() };
    let end = if group.exclusive { "held by lost refs only" } else { "held by" };
    let line = Line::of(Role::Strong, "buffers").and(Role::Plain, format!(": {pinned}, {end}"));
    page.words(LABEL, DETAIL, &line);
    let shown = if all { group.refs.len() } else { LINES };
    let number = |holder: &RefHolder| grouped(holder.count);
    let widest = group.refs.iter().take(shown).map(|h| number(h).len()).max().unwrap_or(0);
    for holder in group.refs.iter().take(shown) {
        let head = format!("{:>widest$} AVBufferRef {}, made in ", number(holder), holder.class.phrase());
        let role = if holder.class == Class::StillReachable { Role::Warn } else { Role::Plain };
        let line = Line::of(role, head).join(stack::site(&holder.stack, page.limit()));
        page.words(DETAIL + 2, DETAIL + 4, &line);
    }
    let rest: u64 = group.refs.iter().skip(shown).map(|holder| holder.count).sum();
    if rest > 0 {
        let text = format!("and {} made in {} more places", grouped(rest), group.refs.len() - shown);
        page.line(DETAIL + 2, &Line::of(Role::Dim, text));
    }
}

/// The chain from the root, or from the outermost lost holder, down to one of the objects.
fn held_by(page: &mut Page, group: &Group, all: bool) {
    if group.held_by.is_empty() {
        return;
    }
    let label = if group.count > 1 { "held by (one example)" } else { "held by" };
    page.line(LABEL, &Line::of(Role::Strong, label));
    let shown = if all { group.held_by.len() } else { STEPS };
    let left_out = group.held_by.len().saturating_sub(shown);
    for (i, step) in group.held_by.iter().enumerate() {
        // The root and the last holders tell most: the middle of a long chain is left out.
        if left_out > 0 && (2..2 + left_out).contains(&i) {
            if i == 2 {
                page.line(DETAIL + 2, &Line::of(Role::Dim, format!("… {left_out} more steps (--all shows them)")));
            }
            continue;
        }
        page.words(DETAIL + 2, DETAIL + 6, &step_line(page, step, i > 0));
    }
    let inside = group.held_by.last().is_some_and(|step| step.interior);
    let end = if inside { "→ into the middle of the " } else { "→ the " };
    page.line(DETAIL + 2, &Line::of(Role::Plain, format!("{end}{}", group.object)));
}

fn step_line(page: &Page, step: &Holder, arrow: bool) -> Line {
    let mut line = Line::of(Role::Plain, if arrow { "→ " } else { "" }).and(Role::Own, &step.what);
    line.push(Role::Dim, format!(" +{:#x}", step.offset));
    if !step.stack.is_empty() {
        line = line.and(Role::Plain, " made in ").join(stack::site(&step.stack, page.limit()));
    }
    if step.interior { line.and(Role::Dim, " (points into the middle)") } else { line }
}
