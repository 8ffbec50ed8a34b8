//! Leak groups: the live blocks of one allocation stack and one class, with everything that a report says of them.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::roots::Label;
use super::stacks::{StackKey, Stacks};
use super::{Formats, class_of};
use crate::graph::{Graph, formats::SAMPLE_FORMATS};
use crate::kind::ObjectKind;
use crate::live::{LiveBlock, Site};
use crate::reach::{Reachability, Source, Step};
use crate::report::groups::GroupId;
use crate::report::model::{Class, ClassTotals, FreeSite, Group, Holder, Level, RefHolder, Totals};
use crate::report::verdict::judge;
use crate::session::drain::Drained;

/// Groups that a report holds at most; the rest is in the totals.
const MOST_GROUPS: usize = 10_000;
/// Stack frames that a report holds, all groups together: some 500 MiB while it is written. Real ones have fifty a group.
const MOST_FRAMES: usize = 500_000;
/// Free sites, ref holders and chain steps that a group shows at most.
const MOST_SITES: usize = 5;
const MOST_HOLDERS: usize = 8;
const MOST_STEPS: usize = 12;

/// What groups are made of.
pub struct Input<'a> {
    /// Sorted by address, kinds confirmed.
    pub blocks: &'a [LiveBlock],
    /// FFmpeg's objects.
    pub graph: &'a Graph,
    /// Names of formats.
    pub formats: &'a Formats,
    /// `None` where memory was not read.
    pub reachability: Option<&'a Reachability>,
    /// Names of roots.
    pub labels: &'a [Label],
    /// Stacks, lifetimes, clock.
    pub drained: &'a mut Drained,
    /// What counts.
    pub level: Level,
    /// For the rate per thousand.
    pub frames_allocated: u64,
    /// For the rate per minute.
    pub duration_s: f64,
}

/// What came out.
pub struct Found {
    /// Unsorted.
    pub groups: Vec<Group>,
    /// What the verdict counts.
    pub leaks: Totals,
    /// Everything.
    pub totals: ClassTotals,
    /// Groups that were too many.
    pub left_out: usize,
}

/// Members of one group, by block index.
struct Members {
    key: Arc<StackKey>,
    kind: ObjectKind,
    class: Class,
    stacks: FxHashSet<u32>,
    blocks: Vec<u32>,
    outermost: u64,
    counted: u64,
}

/// Makes the groups.
pub fn group(input: &mut Input<'_>) -> Found {
    let (blocks, graph, reachability) = (input.blocks, input.graph, input.reachability);
    let mut sums = Sums::default();
    let mut groups: FxHashMap<(u64, ObjectKind, Class), Members> = FxHashMap::default();
    let mut stacks = Stacks::new(input.drained);
    for (index, block) in blocks.iter().enumerate() {
        let index = index as u32;
        let class = class_of(reachability, index);
        let outermost = reachability.is_some_and(|reachability| reachability.is_outermost(index));
        let counted = class != Class::Unclassified && judge(input.level, class, block.kind, outermost);
        let pinned = sums.add(class, counted, index, block, graph, reachability);
        let lost = !matches!(class, Class::StillReachable | Class::Unclassified);
        if !(lost || block.kind.is_object() || pinned) {
            continue;
        }
        let key = stacks.key(block.stack);
        let members = groups.entry((key.hash, block.kind, class)).or_insert_with(|| Members {
            key,
            kind: block.kind,
            class,
            stacks: FxHashSet::default(),
            blocks: Vec::new(),
            outermost: 0,
            counted: 0,
        });
        members.stacks.insert(block.stack);
        members.blocks.push(index);
        members.outermost += u64::from(outermost);
        members.counted += u64::from(counted);
    }
    // The verdict's first, then the worst class, then the most numerous: those are worth naming.
    let mut chosen: Vec<Members> = groups.into_values().collect();
    chosen.sort_by_key(|members| (members.counted == 0, members.class, std::cmp::Reverse(members.blocks.len())));
    let all = chosen.len();
    chosen.truncate(MOST_GROUPS);
    let sites = Sites::of(&mut stacks);
    let mut maker = Maker {
        blocks,
        graph,
        formats: input.formats,
        reachability,
        labels: input.labels,
        stacks,
        sites,
        frames_allocated: input.frames_allocated,
        duration_s: input.duration_s,
    };
    let mut frames = 0;
    let mut groups: Vec<Group> = Vec::new();
    for members in &chosen {
        if frames >= MOST_FRAMES {
            break;
        }
        let group = maker.group(members);
        frames += frames_of(&group);
        groups.push(group);
    }
    let (leaks, totals) = sums.finish();
    Found { left_out: all - groups.len(), groups, leaks, totals }
}

fn frames_of(group: &Group) -> usize {
    let freed = group.freed_elsewhere.iter().map(|site| site.stack.len());
    let holders = group.refs.iter().map(|holder| holder.stack.len());
    let chain = group.held_by.iter().map(|step| step.stack.len());
    group.stack.len() + freed.chain(holders).chain(chain).sum::<usize>()
}

/// Sums with each buffer counted once.
#[derive(Default)]
struct Sums {
    by_class: [Totals; 5],
    buffers: [FxHashSet<u32>; 5],
    leaks: Totals,
    leaked_buffers: FxHashSet<u32>,
}

fn place(class: Class) -> usize {
    match class {
        Class::DefinitelyLost => 0,
        Class::IndirectlyLost => 1,
        Class::PossiblyLost => 2,
        Class::StillReachable => 3,
        Class::Unclassified => 4,
    }
}

/// A ref of this class pins its buffer for an object of that class.
fn pins(class_of_ref: Class, class_of_object: Class) -> bool {
    match class_of_ref {
        Class::DefinitelyLost | Class::IndirectlyLost => true,
        Class::PossiblyLost => class_of_object == Class::PossiblyLost,
        Class::StillReachable | Class::Unclassified => false,
    }
}

/// The buffers that a block pins: through its own refs, or as a ref itself.
fn pinned_by<'a>(
    index: u32,
    block: &LiveBlock,
    graph: &'a Graph,
    reachability: Option<&'a Reachability>,
) -> impl Iterator<Item = u32> + 'a {
    let class = class_of(reachability, index);
    let own = (block.kind == ObjectKind::BufferRef).then_some(index);
    let refs = graph.refs_of.get(&index).map_or(&[][..], |refs| refs.as_slice());
    own.into_iter()
        .chain(refs.iter().copied())
        .filter(move |&at| pins(class_of(reachability, at), class))
        .filter_map(|at| graph.buffer_of_ref.get(&at).copied())
}

impl Sums {
    /// Adds a block; true where it pins a buffer.
    fn add(
        &mut self,
        class: Class,
        counted: bool,
        index: u32,
        block: &LiveBlock,
        graph: &Graph,
        reachability: Option<&Reachability>,
    ) -> bool {
        let mut pinned = false;
        if block.kind.is_object() {
            for buffer in pinned_by(index, block, graph, reachability) {
                pinned = true;
                let bytes = graph.buffers[buffer as usize].bytes;
                if self.buffers[place(class)].insert(buffer) {
                    self.by_class[place(class)].pinned_bytes += bytes;
                }
                if counted && self.leaked_buffers.insert(buffer) {
                    self.leaks.pinned_bytes += bytes;
                }
            }
        }
        let leaks = counted.then_some(&mut self.leaks);
        for totals in [Some(&mut self.by_class[place(class)]), leaks].into_iter().flatten() {
            totals.blocks += 1;
            totals.bytes = totals.bytes.saturating_add(block.size);
            totals.frames += u64::from(block.kind == ObjectKind::Frame);
            totals.packets += u64::from(block.kind == ObjectKind::Packet);
            totals.buffer_refs += u64::from(block.kind == ObjectKind::BufferRef);
            totals.contexts += u64::from(block.kind.is_context());
        }
        pinned
    }

    fn finish(self) -> (Totals, ClassTotals) {
        let [definitely_lost, indirectly_lost, possibly_lost, still_reachable, unclassified] = self.by_class;
        (self.leaks, ClassTotals { definitely_lost, indirectly_lost, possibly_lost, still_reachable, unclassified })
    }
}

/// Where siblings die, by the content of the allocation stack.
struct Sites {
    /// Allocation stack's key → free stack's key → a free stack's id and the site.
    died: FxHashMap<u64, FxHashMap<u64, (u32, Site)>>,
    made: FxHashMap<u64, u64>,
}

impl Sites {
    fn of(stacks: &mut Stacks<'_>) -> Self {
        let all: Vec<(u32, u32, Site)> =
            stacks.drained().live.sites.all().map(|(made, freed, site)| (made, freed, site.clone())).collect();
        let counts: Vec<(u32, u64)> = stacks.drained().live.sites.all_made().collect();
        let mut died: FxHashMap<u64, FxHashMap<u64, (u32, Site)>> = FxHashMap::default();
        for (made, freed, site) in all {
            let (made, to) = (stacks.key(made).hash, stacks.key(freed).hash);
            died.entry(made).or_default().entry(to).or_insert_with(|| (freed, Site::default())).1.merge(&site);
        }
        let mut made: FxHashMap<u64, u64> = FxHashMap::default();
        for (stack, count) in counts {
            *made.entry(stacks.key(stack).hash).or_default() += count;
        }
        Self { died, made }
    }
}

struct Maker<'a> {
    blocks: &'a [LiveBlock],
    graph: &'a Graph,
    formats: &'a Formats,
    reachability: Option<&'a Reachability>,
    labels: &'a [Label],
    stacks: Stacks<'a>,
    sites: Sites,
    frames_allocated: u64,
    duration_s: f64,
}

impl Maker<'_> {
    fn group(&mut self, members: &Members) -> Group {
        let count = members.blocks.len() as u64;
        let stack = members.stacks.iter().min().copied().unwrap_or(0);
        let mut buffers: Vec<u32> = members
            .blocks
            .iter()
            .flat_map(|&index| pinned_by(index, &self.blocks[index as usize], self.graph, self.reachability))
            .collect();
        buffers.sort_unstable();
        buffers.dedup();
        let pinned_bytes = buffers.iter().map(|&buffer| self.graph.buffers[buffer as usize].bytes).sum();
        let exclusive = !buffers.is_empty()
            && buffers
                .iter()
                .flat_map(|&buffer| &self.graph.buffers[buffer as usize].refs)
                .all(|&at| pins(class_of(self.reachability, at), members.class));
        let ages = members.blocks.iter().map(|&index| {
            let stamp = self.blocks[index as usize].stamp;
            self.stacks.drained().clock.seconds(self.stacks.drained().now.saturating_sub(stamp))
        });
        let (age_min_s, age_max_s) =
            ages.fold((f64::INFINITY, 0.0_f64), |(min, max), age| (min.min(age), max.max(age)));
        let facts = self.facts(members);
        let counted = members.counted as f64;
        Group {
            id: GroupId::of(members.kind.name(), members.class, members.key.frames.iter().copied()).to_string(),
            class: members.class,
            object: members.kind.name().into(),
            leak: members.counted > 0,
            outermost: members.outermost,
            count,
            bytes: members.blocks.iter().map(|&index| self.blocks[index as usize].size).sum(),
            pinned_bytes,
            exclusive,
            format: facts.format,
            width: facts.width,
            height: facts.height,
            nb_samples: facts.nb_samples,
            pts_first: facts.pts_first,
            pts_last: facts.pts_last,
            age_min_s: if age_min_s.is_finite() { age_min_s } else { 0.0 },
            age_max_s,
            rate_per_minute: if self.duration_s > 0.0 {
                counted.max(count as f64) * 60.0 / self.duration_s
            } else {
                0.0
            },
            rate_per_1000_frames: if self.frames_allocated > 0 {
                count as f64 * 1000.0 / self.frames_allocated as f64
            } else {
                0.0
            },
            freed_elsewhere: self.free_sites(members.key.hash),
            siblings_allocated: self.sites.made.get(&members.key.hash).copied().unwrap_or(count).max(count),
            refs: self.ref_holders(&buffers, members),
            held_by: self.held_by(members),
            stack: self.stacks.named(stack).to_vec(),
            suppressed_by: None,
            baseline: None,
        }
    }

    fn free_sites(&mut self, key: u64) -> Vec<FreeSite> {
        let Some(sites) = self.sites.died.get(&key) else { return Vec::new() };
        let mut sites: Vec<(u32, u64, u64)> =
            sites.values().map(|(stack, site)| (*stack, site.count, site.median())).collect();
        sites.sort_by_key(|&(stack, count, _)| (std::cmp::Reverse(count), stack));
        sites.truncate(MOST_SITES);
        sites
            .into_iter()
            .map(|(stack, count, median)| FreeSite {
                stack: self.stacks.named(stack).to_vec(),
                count,
                lifetime_median_ms: self.stacks.drained().clock.seconds(median) * 1e3,
            })
            .collect()
    }

    /// Who holds refs to the buffers that the group's objects hold or pin.
    fn ref_holders(&mut self, pinned: &[u32], members: &Members) -> Vec<RefHolder> {
        let buffers: FxHashSet<u32> = if pinned.is_empty() && members.kind == ObjectKind::Frame {
            let refs = members.blocks.iter().filter_map(|index| self.graph.refs_of.get(index)).flatten();
            refs.filter_map(|at| self.graph.buffer_of_ref.get(at).copied()).collect()
        } else {
            pinned.iter().copied().collect()
        };
        let mut holders: FxHashMap<(u64, Class), (u32, u64)> = FxHashMap::default();
        for &at in buffers.iter().flat_map(|&buffer| &self.graph.buffers[buffer as usize].refs) {
            let stack = self.blocks[at as usize].stack;
            let class = class_of(self.reachability, at);
            holders.entry((self.stacks.key(stack).hash, class)).or_insert((stack, 0)).1 += 1;
        }
        let mut holders: Vec<(Class, u32, u64)> =
            holders.into_iter().map(|((_, class), (stack, count))| (class, stack, count)).collect();
        holders.sort_by_key(|&(class, stack, count)| (std::cmp::Reverse(count), class, stack));
        holders.truncate(MOST_HOLDERS);
        holders
            .into_iter()
            .map(|(class, stack, count)| RefHolder { class, count, stack: self.stacks.named(stack).to_vec() })
            .collect()
    }

    fn held_by(&mut self, members: &Members) -> Vec<Holder> {
        let (Some(reachability), Some(&example)) = (self.reachability, members.blocks.first()) else {
            return Vec::new();
        };
        let steps = reachability.chain(example);
        // A list's last node has a long chain: its two ends tell most.
        let cut = steps.len().saturating_sub(MOST_STEPS);
        let head = if cut > 0 { 2 } else { steps.len() };
        let mut held: Vec<Holder> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            if at >= head && at < head + cut {
                if at == head {
                    held.push(Holder {
                        what: format!("… {cut} more blocks …"),
                        offset: 0,
                        interior: false,
                        stack: Vec::new(),
                    });
                }
                continue;
            }
            let holder = self.holder(step);
            held.push(holder);
        }
        held
    }

    fn holder(&mut self, step: &Step) -> Holder {
        let label = |number: u32| {
            self.labels.get(number as usize).map_or_else(|| "a root".to_string(), |label| label.0.clone())
        };
        match step.source {
            Source::Register { label: number } => {
                Holder { what: label(number), offset: 0, interior: step.interior, stack: Vec::new() }
            }
            Source::Decree { label: number } => {
                Holder { what: label(number), offset: 0, interior: step.interior, stack: Vec::new() }
            }
            Source::Root { label: number, address } => Holder {
                what: format!("{} at {address:#x}", label(number)),
                offset: 0,
                interior: step.interior,
                stack: Vec::new(),
            },
            Source::Block { block, offset } => {
                let holder = self.blocks[block as usize];
                let what = if holder.kind.is_object() {
                    holder.kind.name().to_string()
                } else {
                    format!("{} of {} bytes", holder.kind.name(), holder.size)
                };
                Holder { what, offset, interior: step.interior, stack: self.stacks.callers(holder.stack, 3) }
            }
        }
    }

    fn facts(&self, members: &Members) -> Facts {
        let mut facts = Facts::default();
        let mut stamped: Vec<(u64, i64)> = Vec::new();
        let mut first: Option<(Option<String>, i32, i32, i32)> = None;
        let mut agree = true;
        for &index in &members.blocks {
            let block = &self.blocks[index as usize];
            if let Some(&pts) = self.graph.packet_pts.get(&index) {
                stamped.push((block.stamp, pts));
            }
            let Some(frame) = self.graph.frames.get(&index) else { continue };
            if let Some(pts) = frame.pts {
                stamped.push((block.stamp, pts));
            }
            if !frame.has_data && frame.format < 0 {
                // A shell says nothing of what it once held.
                continue;
            }
            let picture = frame.width > 0 && frame.height > 0;
            let format = if picture {
                self.formats.pixel(block.stack, frame.format).map(|format| format.name.clone())
            } else {
                usize::try_from(frame.format).ok().and_then(|at| SAMPLE_FORMATS.get(at)).map(|name| (*name).to_string())
            };
            let this = (format, frame.width, frame.height, frame.nb_samples);
            match &first {
                None => first = Some(this),
                Some(known) => agree &= known.0 == this.0 && known.1 == this.1 && known.2 == this.2,
            }
        }
        if let Some((format, width, height, samples)) = first.filter(|_| agree) {
            let positive = |number: i32| u32::try_from(number).ok().filter(|&number| number > 0);
            facts.format = format;
            (facts.width, facts.height) = (positive(width), positive(height));
            facts.nb_samples = positive(samples).filter(|_| facts.width.is_none());
        }
        stamped.sort_unstable();
        facts.pts_first = stamped.first().map(|entry| entry.1);
        facts.pts_last = stamped.last().map(|entry| entry.1);
        facts
    }
}

#[derive(Default)]
struct Facts {
    format: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    nb_samples: Option<u32>,
    pts_first: Option<i64>,
    pts_last: Option<i64>,
}
