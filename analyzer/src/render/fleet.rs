//! The sum of many reports as a person reads it: the verdict, the leaks by what they cost, the machines that have most of them.

use super::flow::{Line, Page, shorten};
use super::stack;
use super::style::Role;
use super::summary::finding;
use super::text::TextOptions;
use super::units::{bytes, seconds, two_digits};
use crate::fleet::model::{Fleet, FleetGroup, Host, Place};
use crate::report::words::{counted, grouped, listed, objects, processes};

/// Groups, machines and files that are shown without `all`.
const SHOWN: usize = 20;

/// The text, with a newline at its end.
pub fn text(fleet: &Fleet, options: &TextOptions) -> String {
    let mut page = Page::new(options.style, options.width);
    headline(&mut page, fleet);
    let meant: Vec<&FleetGroup> = fleet.groups.iter().filter(|group| group.leak || options.all).collect();
    if !meant.is_empty() {
        page.blank();
        page.line(1, &Line::of(Role::Strong, format!("leak groups ({})", grouped(meant.len() as u64))));
        let shown = if options.all { meant.len() } else { SHOWN };
        meant.iter().take(shown).for_each(|group| one(&mut page, group, options.all));
        more(&mut page, meant.len(), shown);
    }
    let hosts: Vec<&Host> = fleet.hosts.iter().filter(|host| host.leaking > 0 || options.all).collect();
    if !hosts.is_empty() {
        page.blank();
        page.line(
            1,
            &Line::of(
                Role::Strong,
                format!("hosts ({} of {})", grouped(hosts.len() as u64), grouped(fleet.hosts.len() as u64)),
            ),
        );
        let shown = if options.all { hosts.len() } else { SHOWN };
        hosts.iter().take(shown).for_each(|one| page.flow(3, 7, " · ", &host(one)));
        more(&mut page, hosts.len(), shown);
    }
    if !fleet.notes.is_empty() || !fleet.unreadable.is_empty() {
        page.blank();
        page.line(1, &Line::of(Role::Strong, "to be known"));
        for note in &fleet.notes {
            page.words(3, 5, &Line::of(Role::Warn, "! ").and(Role::Plain, note));
        }
        let shown = if options.all { fleet.unreadable.len() } else { SHOWN };
        for unreadable in fleet.unreadable.iter().take(shown) {
            page.words(3, 5, &Line::of(Role::Warn, "! not in the sums: ").and(Role::Plain, &unreadable.reason));
        }
        more(&mut page, fleet.unreadable.len(), shown);
    }
    page.finish()
}

fn more(page: &mut Page, all: usize, shown: usize) {
    if all > shown {
        let text = format!("… and {} more, see --json or --all", grouped((all - shown) as u64));
        page.line(3, &Line::of(Role::Warn, text));
    }
}

fn headline(page: &mut Page, fleet: &Fleet) {
    let line = Line::of(Role::Strong, "avleak merge: ").join(finding(fleet.verdict, &fleet.leaks));
    page.words(0, 8, &line.and(Role::Plain, format!(" — {}", fleet.reason)));
    let mut facts = vec![
        format!("{} on {}", processes(fleet.processes), counted(fleet.hosts.len() as u64, "host")),
        format!("{} allocated, {} freed", counted(fleet.frames_allocated, "frame"), grouped(fleet.frames_freed)),
    ];
    if !fleet.services.is_empty() {
        let services: Vec<String> =
            fleet.services.iter().map(|(name, processes)| format!("{name} ({})", grouped(*processes))).collect();
        facts.push(format!("services: {}", listed(&services)));
    }
    if fleet.builds.len() > 1 {
        facts.push(counted(fleet.builds.len() as u64, "build"));
    }
    let facts: Vec<Line> = facts.iter().map(|fact| Line::of(Role::Plain, fact)).collect();
    page.flow(8, 8, " · ", &facts);
}

fn one(page: &mut Page, group: &FleetGroup, all: bool) {
    let role = if group.leak { Role::Bad } else { Role::Plain };
    let what = format!("{} {}", objects(group.count, &group.object), group.class.phrase());
    let mut pieces = vec![Line::of(role, what)];
    if let Some(frame) = stack::own_frame(&group.stack).or(group.stack.first()) {
        pieces.push(Line::of(Role::Own, shorten(&super::brief::site(frame), page.wrap() - 8)));
    }
    if group.pinned_bytes > 0 {
        pieces.push(Line::of(Role::Strong, format!("pins {}", bytes(group.pinned_bytes))));
    }
    if group.per_1000_frames > 0.0 {
        pieces.push(Line::of(Role::Plain, format!("{} per 1,000 frames", two_digits(group.per_1000_frames))));
    }
    pieces.push(Line::of(Role::Plain, format!("up to {} old", seconds(group.age_max_s))));
    let on = if group.hosts > 0 { format!(" on {}", counted(group.hosts, "host")) } else { String::new() };
    pieces.push(Line::of(Role::Plain, format!("in {}{on}", processes(group.processes))));
    if !group.services.is_empty() {
        pieces.push(Line::of(Role::Plain, listed(&group.services)));
    }
    page.flow(3, 7, " · ", &pieces);
    stack::write(page, 7, &group.stack, all);
    let most: Vec<Line> = group.most.iter().map(|place| Line::of(Role::Plain, self::place(place))).collect();
    if group.processes > 1 {
        page.flow(7, 11, ", ", &[vec![Line::of(Role::Dim, "most in")], most].concat());
    }
    let also =
        if group.also.is_empty() { String::new() } else { format!(", in other builds {}", group.also.join(", ")) };
    page.words(7, 11, &Line::of(Role::Dim, format!("group {}{also}", group.id)));
}

/// `edge-7 (pid 812): 30`.
fn place(place: &Place) -> String {
    let host = place.host.as_deref().unwrap_or("?");
    format!("{host} (pid {}): {}", place.pid, grouped(place.count))
}

fn host(host: &Host) -> Vec<Line> {
    let what = match host.frames {
        0 => counted(host.blocks, "block"),
        frames => counted(frames, "frame"),
    };
    let mut pieces = vec![Line::of(Role::Own, &host.host), Line::of(Role::Plain, format!("{what} leaked"))];
    if host.pinned_bytes > 0 {
        pieces.push(Line::of(Role::Strong, format!("{} pinned", bytes(host.pinned_bytes))));
    }
    pieces.push(Line::of(Role::Plain, format!("{} of {} leak", grouped(host.leaking), processes(host.processes))));
    pieces
}
