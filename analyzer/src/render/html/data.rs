//! What page.js draws from: a report as compact JSON, with the most important groups whole and the others as packed columns.
//!
//! Field names are short because there are many; page.js's first lines say them again in words.

use std::collections::HashMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::facts;
use super::flame::{self, Flame};
use super::source::Sources;
use super::tables::Tables;
use crate::render::columns::Columns;
use crate::render::load::AnyReport;
use crate::render::stack::{self, Whose, own_frame, whose};
use crate::report::model::{Class, Frame, Group, Level, Report, Totals, Verdict};
use crate::report::timeline::{self, Peak, Timeline};

/// How many bytes of a page its parts may take, all processes together. With the page itself they stay below 5 MB.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    /// Groups with everything that is known of them.
    pub(super) whole: usize,
    /// Packed groups.
    pub(super) packed: usize,
    /// Names of the functions and files that packed groups are blamed on.
    pub(super) names: usize,
    /// Source lines.
    pub(super) sources: usize,
    /// Samples of timelines, all processes together.
    pub(super) samples: usize,
}

/// What a page gets.
pub(super) const BUDGET: Budget =
    Budget { whole: 700_000, packed: 3_400_000, names: 400_000, sources: 120_000, samples: 2_048 };
/// Own frames of a stack that get source lines.
const SOURCES_OF_STACK: usize = 4;

/// The document.
#[derive(Serialize)]
struct Page<'a> {
    /// avleak's version.
    v: &'static str,
    /// Strings, frames, stacks.
    t: Tables<'a>,
    /// Source lines by frame: number of the first, the file was changed since, text.
    src: HashMap<u32, (u32, u8, String)>,
    p: Vec<Process<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    title: String,
    verdict: &'static str,
    finding: String,
    reason: &'a str,
    /// What kept avleak from seeing everything, and what to do.
    blind: Vec<(String, &'static str)>,
    /// From arming to the check.
    seconds: f64,
    level: &'static str,
    means: &'static str,
    /// Label, value, note, tone.
    cards: Vec<facts::Card>,
    /// Class, frames, packets, refs, contexts, blocks, bytes, pinned.
    totals: Vec<(u8, [u64; 7])>,
    /// Label, text.
    facts: Vec<(&'static str, String)>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    g: Vec<Whole<'a>>,
    packed: String,
    npacked: u64,
    /// Groups beyond: class, object, groups, objects, bytes, pinned.
    rest: Vec<(u8, u32, u64, u64, u64, u64)>,
    /// Flame graphs: what leaked, everything in groups.
    flames: [Option<Flame>; 2],
}

/// A group with everything that is known of it.
#[derive(Serialize)]
struct Whole<'a> {
    i: &'a str,
    c: u8,
    o: u32,
    l: u8,
    m: u64,
    n: u64,
    b: u64,
    p: u64,
    x: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<String>,
    /// Age of the youngest and the oldest, seconds.
    a: [f64; 2],
    /// Each minute, for each thousand frames.
    r: [f64; 2],
    k: u32,
    /// Free stack, count, median lifetime in ms.
    z: Vec<(u32, u64, f64)>,
    y: u64,
    /// Refs: class, count, stack.
    u: Vec<(u8, u64, u32)>,
    /// Holders: what, offset, interior, stack or −1.
    h: Vec<(u32, u64, u8, i64)>,
}

/// A timeline, and what made up its peaks.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    columns: Columns,
    /// Peaks of frames and of payload: value, at, taken at, (count, bytes, stack) of each stack.
    peaks: [Option<PeakRow>; 2],
}

type PeakRow = (u64, f64, u64, Vec<(u64, u64, u32)>);

/// The JSON of a report.
pub(super) fn json(report: &AnyReport, budget: Budget) -> String {
    let processes = worst_first(report.processes());
    let mut maker = Maker { tables: Tables::default(), sources: Sources::default(), src: HashMap::new(), left: budget };
    let count = processes.len();
    let made = processes.into_iter().enumerate().map(|(at, process)| maker.process(process, count - at)).collect();
    let page = Page { v: env!("CARGO_PKG_VERSION"), t: maker.tables, src: maker.src, p: made };
    // Numbers, strings and lists always have a JSON form.
    serde_json::to_string(&page).unwrap_or_default()
}

/// Those with leaks first, then those of which nothing can be said.
pub(super) fn worst_first(processes: &[Report]) -> Vec<&Report> {
    let mut sorted: Vec<&Report> = processes.iter().collect();
    sorted.sort_by_key(|process| match process.verdict {
        Verdict::Leaks => 0,
        Verdict::Inconclusive => 1,
        Verdict::Clean => 2,
    });
    sorted
}

fn class(class: Class) -> u8 {
    match class {
        Class::DefinitelyLost => 0,
        Class::IndirectlyLost => 1,
        Class::PossiblyLost => 2,
        Class::StillReachable => 3,
        Class::Unclassified => 4,
    }
}

/// Four significant digits: more only take room.
fn rounded(value: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return 0.0;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    let rounded = (value * scale).round() / scale;
    if rounded.is_finite() { rounded } else { value }
}

struct Maker<'a> {
    tables: Tables<'a>,
    sources: Sources,
    src: HashMap<u32, (u32, u8, String)>,
    left: Budget,
}

impl<'a> Maker<'a> {
    /// `waiting`: how many processes share what is left of the budget, this one included.
    fn process(&mut self, report: &'a Report, waiting: usize) -> Process<'a> {
        let checked = humantime::parse_rfc3339(&report.check.started).ok();
        let (mut whole, mut rest) = (Vec::new(), report.groups.as_slice());
        let mut room = self.left.whole / waiting;
        self.left.whole -= room;
        while let Some((group, after)) = rest.split_first() {
            let before = self.tables.size;
            let made = self.whole(group);
            let size = serde_json::to_string(&made).map_or(0, |json| json.len() + 1) + self.tables.size - before;
            if size > room && !whole.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            self.sources_of(group, checked);
            whole.push(made);
            rest = after;
        }
        self.left.whole += room;
        let (packed, count) = self.pack(rest, waiting);
        let line = report.timeline.as_ref().map(|timeline| self.line(timeline, waiting));
        let trees = [flame::tree(report.groups.iter().filter(|group| group.leak)), flame::tree(&report.groups)];
        Process {
            title: facts::process(&report.target),
            verdict: report.verdict.key(),
            finding: facts::finding(report.verdict, &report.leaks),
            reason: &report.reason,
            blind: facts::blind(report),
            seconds: rounded(report.target.duration_s),
            level: report.level.key(),
            means: means(report.level),
            cards: facts::cards(report),
            totals: totals(report),
            facts: facts::facts(report),
            notes: facts::notes(report),
            line,
            g: whole,
            packed,
            npacked: count as u64,
            rest: self.sums(&rest[count..]),
            flames: trees.map(|tree| tree.map(|tree| tree.pruned(&mut self.tables))),
        }
    }

    fn whole(&mut self, group: &'a Group) -> Whole<'a> {
        let tables = &mut self.tables;
        let picture = match (group.width, group.height, group.nb_samples) {
            (Some(width), Some(height), _) => Some(format!("{width}x{height}")),
            (_, _, Some(samples)) => Some(format!("{samples} samples")),
            _ => None,
        };
        let pts = match (group.pts_first, group.pts_last) {
            (Some(first), Some(last)) if first != last => Some(format!("{first} … {last}")),
            (Some(pts), _) | (None, Some(pts)) => Some(pts.to_string()),
            (None, None) => None,
        };
        Whole {
            i: &group.id,
            c: class(group.class),
            o: tables.string(group.object.as_str()),
            l: u8::from(group.leak),
            m: group.outermost,
            n: group.count,
            b: group.bytes,
            p: group.pinned_bytes,
            x: u8::from(group.exclusive),
            f: group.format.as_deref().map(|format| tables.string(format)),
            d: picture,
            t: pts,
            a: [group.age_min_s, group.age_max_s].map(rounded),
            r: [group.rate_per_minute, group.rate_per_1000_frames].map(rounded),
            k: tables.stack(&group.stack),
            z: group
                .freed_elsewhere
                .iter()
                .map(|site| (tables.stack(&site.stack), site.count, rounded(site.lifetime_median_ms)))
                .collect(),
            y: group.siblings_allocated,
            u: group
                .refs
                .iter()
                .map(|holder| (class(holder.class), holder.count, tables.stack(&holder.stack)))
                .collect(),
            h: group
                .held_by
                .iter()
                .map(|holder| {
                    let stack = if holder.stack.is_empty() { -1 } else { i64::from(tables.stack(&holder.stack)) };
                    (tables.string(holder.what.as_str()), holder.offset, u8::from(holder.interior), stack)
                })
                .collect(),
        }
    }

    /// Source lines for the places that a reader of this group looks at.
    fn sources_of(&mut self, group: &'a Group, checked: Option<SystemTime>) {
        let own = |frame: &&Frame| frame.line.is_some() && whose(frame) == Whose::Own;
        let free = group.freed_elsewhere.iter().filter_map(|site| own_frame(&site.stack));
        let wanted: Vec<&'a Frame> = group.stack.iter().filter(own).take(SOURCES_OF_STACK).chain(free).collect();
        for frame in wanted {
            let at = self.tables.frame(frame);
            let (Some(file), Some(line)) = (&frame.file, frame.line) else { continue };
            if self.left.sources == 0 || self.src.contains_key(&at) {
                continue;
            }
            if let Some(snippet) = self.sources.around(file, line, checked) {
                self.left.sources = self.left.sources.saturating_sub(snippet.text.len() + 24);
                self.src.insert(at, (snippet.first, u8::from(snippet.changed), snippet.text));
            }
        }
    }

    /// As many groups as there is room for, a few bytes each: 8 of the id; class, and 8 for a leak; then as LEB128 object, count,
    /// bytes, pinned bytes, the oldest's age in ms, function and file to blame plus one, line. Base64, and how many groups it holds.
    fn pack(&mut self, groups: &'a [Group], waiting: usize) -> (String, usize) {
        let mut out: Vec<u8> = Vec::new();
        let room = self.left.packed / waiting;
        let names = self.tables.size + self.left.names / waiting;
        let before = self.tables.size;
        let mut count = 0;
        for group in groups {
            let at = out.len();
            out.extend(u64::from_str_radix(&group.id, 16).unwrap_or(0).to_be_bytes());
            out.push(class(group.class) | if group.leak { 8 } else { 0 });
            let age = (group.age_max_s * 1e3).clamp(0.0, 1e15) as u64;
            let object = u64::from(self.tables.string(group.object.as_str()));
            let blamed = own_frame(&group.stack).or(group.stack.first()).filter(|_| self.tables.size < names);
            let [function, file, line] = blamed.map_or([0; 3], |frame| {
                let function = u64::from(self.tables.string(stack::name(frame))) + 1;
                let file = frame.file.as_deref().map_or(0, |file| u64::from(self.tables.string(file)) + 1);
                [function, file, u64::from(frame.line.unwrap_or(0))]
            });
            for number in [object, group.count, group.bytes, group.pinned_bytes, age, function, file, line] {
                leb128(&mut out, number);
            }
            if out.len() * 4 / 3 + 4 > room {
                out.truncate(at);
                break;
            }
            count += 1;
        }
        let packed = STANDARD.encode(&out);
        self.left.packed -= packed.len().min(self.left.packed);
        self.left.names = self.left.names.saturating_sub(self.tables.size - before);
        (packed, count)
    }

    /// What did not even find room there.
    fn sums(&mut self, groups: &'a [Group]) -> Vec<(u8, u32, u64, u64, u64, u64)> {
        let mut sums: HashMap<(u8, u32), [u64; 4]> = HashMap::new();
        for group in groups {
            let object = self.tables.string(group.object.as_str());
            let sum = sums.entry((class(group.class), object)).or_default();
            for (sum, part) in sum.iter_mut().zip([1, group.count, group.bytes, group.pinned_bytes]) {
                *sum = sum.saturating_add(part);
            }
        }
        let mut sums: Vec<_> = sums.into_iter().map(|((c, o), [g, n, b, p])| (c, o, g, n, b, p)).collect();
        sums.sort_unstable();
        sums
    }

    fn line(&mut self, timeline: &'a Timeline, waiting: usize) -> Line {
        let (mut samples, mut dt) = (timeline.samples.clone(), timeline.interval_s);
        let most = (self.left.samples / waiting).max(16);
        while samples.len() > most {
            timeline::halve(&mut samples);
            dt *= 2.0;
        }
        self.left.samples = self.left.samples.saturating_sub(samples.len());
        let mut peak = |peak: &'a Option<Peak>| {
            peak.as_ref().map(|peak| {
                let by = peak.by_stack.iter().map(|by| (by.count, by.bytes, self.tables.stack(&by.stack))).collect();
                (peak.value, rounded(peak.at_s), peak.taken_at, by)
            })
        };
        Line { columns: Columns::of(dt, &samples), peaks: [peak(&timeline.peak_frames), peak(&timeline.peak_payload)] }
    }
}

fn leb128(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn means(level: Level) -> &'static str {
    match level {
        Level::Normal => "every outermost lost FFmpeg object",
        Level::Strict => "every lost FFmpeg object, possibly lost ones too, and every definitely lost block",
        Level::Draconian => "every FFmpeg object that was alive at the end",
    }
}

fn totals(report: &Report) -> Vec<(u8, [u64; 7])> {
    let all = &report.totals;
    let rows = [all.definitely_lost, all.indirectly_lost, all.possibly_lost, all.still_reachable, all.unclassified];
    let judged = rows[..4].iter().any(|row| *row != Totals::default());
    let unjudged = rows[4] != Totals::default();
    let shown = |class: u8| if class == 4 { unjudged } else { judged || !unjudged };
    (0..)
        .zip(rows)
        .filter(|(class, _)| shown(*class))
        .map(|(class, t)| (class, [t.frames, t.packets, t.buffer_refs, t.contexts, t.blocks, t.bytes, t.pinned_bytes]))
        .collect()
}
