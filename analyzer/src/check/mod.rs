//! One check: from a drained session and the process's memory to the report of it.
//!
//! [`live`] checks a process that runs on, [`core`] one that is no more, by its core file, [`remembered`] says what a check found lost where there is no memory to look at, [`inspector`] does so one at a time; [`roots`] says where the search begins, [`heap`] what the allocator holds free there, [`copy`] says what is copied before the process goes on, [`snapshot`] copies it, [`stacks`] names and keys stacks, [`grouping`] makes
//! leak groups of blocks, `modules` says what code they speak of, [`timeline`] makes a report's timeline of the samples.

mod copy;
pub mod core;
#[cfg(target_arch = "aarch64")]
mod descriptor_aarch64;
mod go;
mod grouping;
mod heap;
pub mod inspector;
pub mod live;
mod modules;
pub mod remembered;
mod roots;
mod snapshot;
mod stacks;
mod timeline;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use avleak_wire::layout::{self as wire, API_NAMES};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::address::TargetRange;
use crate::golang::GoProcess;
use crate::graph::{Graph, formats};
use crate::huge;
use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::{self, Control, ReachError, Reachability, RootBlock};
use crate::report::golang::Go;
use crate::report::model::{Check, Class, Completeness, Ended, Level, MemoryMeans, Observed, Report, SCHEMA, Target};
use crate::report::origin::Origin;
use crate::report::post_mortem::{Grown, PostMortem};
use crate::report::{groups, verdict};
use crate::session::drain::Drained;
use crate::session::types::StackTypes;
use crate::target::maps::{self, Mapping};
use crate::target::memory::Memory;
use crate::target::process_memory::{CachedMemory, ProcessMemory};
use crate::target::threads::ThreadState;
use crate::target::touched::Touched;
use crate::typing;
use remembered::Remembered;
use snapshot::Snapshot;

/// Who is checked.
pub struct Subject {
    /// Process id.
    pub pid: i32,
    /// Its executable.
    pub exe: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Host, service, build.
    pub origin: Origin,
    /// How it ended, where known.
    pub ended: Option<Ended>,
    /// What its session brought together.
    pub drained: Drained,
    /// How its memory is reached.
    pub reach: Reach,
    /// What was writable when it registered, ascending; everything where that is not known.
    pub writable_before: Vec<TargetRange>,
    /// Why it is not traced; `None` where it is.
    pub untraced: Option<String>,
    /// What the report should say beside what the check finds out.
    pub notes: Vec<String>,
    /// What is known of it from when it lived.
    pub known: Known,
}

/// What is known of a process from when it lived, and of its end, for where its memory cannot be looked at.
#[derive(Default)]
pub struct Known {
    /// What its last whole check judged lost.
    pub remembered: Option<Remembered>,
    /// What its monitor saw growing.
    pub grew: Vec<Grown>,
    /// The kernel wrote a core.
    pub dumped_core: Option<bool>,
    /// Its session's file.
    pub session: Option<String>,
}

/// How the memory is reached.
pub enum Reach {
    /// Every thread is held by the tracer.
    Held {
        /// Their registers.
        threads: Vec<ThreadState>,
        /// False: some thread could not be stopped.
        all_stopped: bool,
    },
    /// Not at all; why.
    Gone(String),
    /// It was, by another analyzer.
    Found(Box<Found>),
}

/// How a check is asked for.
pub struct Order<'a> {
    /// What counts as a leak.
    pub level: Level,
    /// What made up the peaks of the run is named: that may take longer than the rest of a check.
    pub names_peaks: bool,
    /// Bytes done and to do, now and then.
    pub progress: &'a dyn Fn(u64, u64),
    /// Set to end the check early.
    pub cancel: &'a AtomicBool,
    /// Called as soon as the memory is not needed any more: the process can go.
    pub release: &'a dyn Fn(),
    /// Called with what the memory told, before the process can go, unless a copy of its memory is searched: then after.
    pub found: &'a dyn Fn(&Found),
    /// When the process was stopped.
    pub stopped_at: Instant,
}

/// Whether the process moves while its memory is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    /// Every thread stands still, or did when its registers and its stack were read.
    Still,
    /// Some thread did not stop: which stacks are in use is not known, and all of their memory is root.
    Partly,
    /// All run: what only a stack or a register holds is not found. Only what several such searches agree on is worth anything.
    Running,
}

/// A process that stands still, until it need not any more.
struct Standing<'a> {
    order: &'a Order<'a>,
    /// Milliseconds, once it was let go.
    stopped_ms: std::cell::Cell<Option<f64>>,
}

impl Standing<'_> {
    /// Lets the process go, once.
    fn release(&self) -> f64 {
        if let Some(stopped_ms) = self.stopped_ms.get() {
            return stopped_ms;
        }
        (self.order.release)();
        let stopped_ms = self.order.stopped_at.elapsed().as_secs_f64() * 1e3;
        self.stopped_ms.set(Some(stopped_ms));
        stopped_ms
    }

    /// Milliseconds so far.
    fn stopped_ms(&self) -> f64 {
        self.stopped_ms.get().unwrap_or_else(|| self.order.stopped_at.elapsed().as_secs_f64() * 1e3)
    }
}

/// What one look at the memory found.
#[derive(Serialize, Deserialize)]
pub(super) struct Looked {
    reachability: Reachability,
    graph: Graph,
    formats: Formats,
    labels: Vec<roots::Label>,
    hidden: Vec<roots::Hidden>,
    notes: Vec<String>,
    #[serde(with = "as_json")]
    go: Option<Go>,
}

/// What format numbers mean, by the library that made a frame.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Formats {
    /// By module.
    tables: FxHashMap<u32, formats::PixelFormats>,
    /// The libavutil on an allocation stack.
    library_of: FxHashMap<u32, Option<u32>>,
}

impl Formats {
    fn pixel(&self, stack: u32, number: i32) -> Option<&formats::Format> {
        let table = self.tables.get(&(*self.library_of.get(&stack)?)?)?;
        table.get(usize::try_from(number).ok()?)?.as_ref()
    }
}

/// Checks and reports. Never fails: what cannot be found out is said in the report.
pub fn run(mut subject: Subject, order: &Order<'_>) -> Report {
    let started = SystemTime::now();
    let begun = Instant::now();
    let mut blocks = Vec::new();
    let mut notes = std::mem::take(&mut subject.notes);
    let mut means = MemoryMeans::None;
    let mut memory_reason = None;
    let standing = Standing { order, stopped_ms: std::cell::Cell::new(None) };
    let looked = match std::mem::replace(&mut subject.reach, Reach::Gone(String::new())) {
        Reach::Found(found) => {
            subject.ended = found.ended;
            return conclude(&mut subject, order.level, order.names_peaks, *found, begun);
        }
        Reach::Gone(why) => {
            // Why it was not traced says more than that nobody saw its end.
            memory_reason = Some(subject.untraced.clone().unwrap_or(why));
            None
        }
        Reach::Held { threads, all_stopped } => {
            if !all_stopped {
                notes.push("some threads could not be stopped: their registers and stacks may have moved on".into());
            }
            let missed = has_missed(&mut subject.drained);
            let before = if missed { &EVERYTHING[..] } else { &subject.writable_before[..] };
            let tid = threads.first().map_or(subject.pid, |thread| thread.tid);
            let memory = CachedMemory::new(ProcessMemory::new(tid));
            let motion = if all_stopped { Motion::Still } else { Motion::Partly };
            match look(&mut subject.drained, &mut blocks, &memory, tid, &threads, &standing, before, motion, missed) {
                Ok(looked) => {
                    means = MemoryMeans::Ptrace;
                    Some(looked)
                }
                Err(why) => {
                    memory_reason = Some(why);
                    None
                }
            }
        }
    };
    let (stopped_ms, scans) = (standing.stopped_ms(), u32::from(looked.is_some()));
    let mut post_mortem = None;
    let looked = looked.or_else(|| {
        // As their stacks tell.
        standing.release();
        blocks = subject.drained.live.blocks();
        let Known { remembered, grew, dumped_core, session } = std::mem::take(&mut subject.known);
        let (now, clock) = (subject.drained.now, subject.drained.clock);
        let recalled = remembered.map(|last| last.recall(&mut blocks, now, |units| clock.seconds(units)));
        let (looked, last_check) = recalled.unzip();
        post_mortem = Some(PostMortem { last_check, grew, dumped_core, session }).filter(|known| !known.is_empty());
        looked
    });
    let check = Check { started: time(started), duration_s: 0.0, stopped_ms, scans };
    let mut found = Found { blocks, looked, means, memory_reason, notes, check, ended: subject.ended, post_mortem };
    (order.found)(&found);
    found.check.stopped_ms = standing.release();
    conclude(&mut subject, order.level, order.names_peaks, found, begun)
}

/// What is alive in a process that runs on, without a look at it. Returns the names for who asks next.
fn unclassified(subject: &live::LiveSubject, drained: Drained, level: Level, why: &str) -> (Report, StackTypes) {
    let (started, begun) = (time(SystemTime::now()), Instant::now());
    let blocks = drained.live.blocks();
    let mut whole = subject.concluded(drained);
    let found = Found {
        blocks,
        looked: None,
        means: MemoryMeans::None,
        memory_reason: Some(why.into()),
        notes: Vec::new(),
        check: Check { started, duration_s: 0.0, stopped_ms: 0.0, scans: 0 },
        ended: None,
        post_mortem: None,
    };
    let report = conclude(&mut whole, level, false, found, begun);
    (report, whole.drained.types)
}

/// What a check found out about the memory: with what the session brought together, all that a report is made of.
#[derive(Serialize, Deserialize)]
pub struct Found {
    blocks: Vec<LiveBlock>,
    looked: Option<Looked>,
    means: MemoryMeans,
    memory_reason: Option<String>,
    notes: Vec<String>,
    check: Check,
    ended: Option<Ended>,
    #[serde(with = "as_json")]
    post_mortem: Option<PostMortem>,
}

/// For `#[serde(with)]`: what leaves fields out when it is written can only be read where they have names.
pub(crate) mod as_json {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(value).map_err(S::Error::custom)?.serialize(to)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Groups, names, judges.
fn conclude(subject: &mut Subject, level: Level, names_peaks: bool, found: Found, begun: Instant) -> Report {
    let Found { blocks, mut looked, means, memory_reason, mut notes, check, post_mortem, .. } = found;
    let (mut unreadable, mut hidden_libraries) = (0, 0);
    if let Some(looked) = &looked {
        unreadable = looked.reachability.unreadable_bytes;
        hidden_libraries = looked.hidden.iter().filter(|hidden| hidden.out_of_reach).count() as u64;
        notes.extend(looked.hidden.iter().map(|hidden| hidden.text.clone()));
        notes.extend(looked.notes.iter().cloned());
        if looked.reachability.dropped_pointers > 0 {
            notes.push(format!(
                "{} pointers between lost blocks were too many to keep: some definitely lost blocks may be indirectly lost",
                looked.reachability.dropped_pointers
            ));
        }
    }
    let drained = &mut subject.drained;
    let observed = observed(drained);
    let completeness = completeness(drained, means, unreadable, notes);
    let duration = drained.clock.since_arming(drained.now);
    let (no_graph, no_formats) = (Graph::default(), Formats::default());
    let found = grouping::group(&mut grouping::Input {
        blocks: &blocks,
        graph: looked.as_ref().map_or(&no_graph, |looked| &looked.graph),
        formats: looked.as_ref().map_or(&no_formats, |looked| &looked.formats),
        reachability: looked.as_ref().map(|looked| &looked.reachability),
        labels: looked.as_ref().map_or(&[], |looked| &looked.labels),
        drained,
        level,
        frames_allocated: observed.frames_allocated,
        duration_s: duration,
    });
    let mut groups = found.groups;
    groups::sort(&mut groups);
    let timeline = timeline::of(drained, names_peaks);
    let mut completeness = Completeness { memory_reason, hidden_libraries, ..completeness };
    // Symbols are read while groups are made: what could not be named is known only now.
    completeness.notes.extend(drained.types.symbolizer.notes());
    if found.left_out > 0 {
        completeness.notes.push(format!("{} smaller groups are only counted in the totals", found.left_out));
    }
    let judgement = verdict::verdict(level, &found.leaks, &observed, &completeness);
    Report {
        schema: SCHEMA.into(),
        avleak: env!("CARGO_PKG_VERSION").into(),
        verdict: judgement.verdict,
        reason: judgement.reason,
        level,
        target: Target {
            pid: subject.pid as u32,
            exe: std::mem::take(&mut subject.exe),
            argv: std::mem::take(&mut subject.argv),
            ended: subject.ended,
            started: time(SystemTime::UNIX_EPOCH + Duration::from_nanos(drained.armed_realtime_ns)),
            duration_s: duration,
            origin: std::mem::take(&mut subject.origin),
        },
        observed,
        leaks: found.leaks,
        totals: found.totals,
        modules: modules::in_stacks(&groups, drained.types.symbolizer.modules()),
        groups,
        completeness,
        check: Check { duration_s: begun.elapsed().as_secs_f64(), ..check },
        timeline,
        go: looked.as_mut().and_then(|looked| looked.go.take()),
        post_mortem,
        exit: None,
        gate: None,
    }
}

/// Where the modules of the groups' stacks lie: suppressions may name a path.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

const EVERYTHING: [TargetRange; 1] = [TargetRange { start: 0, end: u64::MAX }];

/// Whether events were lost: then blocks may lie anywhere that nobody saw returned, and in place of blocks that were seen to go, and no
/// freed memory is the allocator's. That can hide a leak, and makes none up.
fn has_missed(drained: &mut Drained) -> bool {
    let missed = drained.dropped > 0 || drained.corrupt_rings > 0;
    if missed {
        drained.live.returned = reach::ReturnedMap::default();
    }
    missed
}

/// Everything that needs the process's memory.
#[allow(clippy::too_many_arguments, reason = "one look is one task; its parts belong to different owners")]
fn look(
    drained: &mut Drained,
    blocks: &mut Vec<LiveBlock>,
    memory: &CachedMemory<ProcessMemory>,
    tid: i32,
    threads: &[ThreadState],
    standing: &Standing<'_>,
    before: &[TargetRange],
    motion: Motion,
    missed: bool,
) -> Result<Looked, String> {
    let order = standing.order;
    let maps = maps::read_maps(tid).map_err(|error| format!("cannot read the mappings of pid {tid}: {error}"))?;
    let mapped: Vec<TargetRange> = maps.iter().map(|mapping| mapping.range).collect();
    drained.live.returned.forget_unmapped(&mapped);
    let touched = Touched::read(tid, &maps, &roots::own_memory(drained, &maps));
    let target: &ProcessMemory = memory.inner();
    let most = copy::most();
    let golang = GoProcess::discover(tid, &maps, threads, memory);
    // Go's heap is told by tables in its constants, and is marked rather than searched: that is done on the process itself.
    let has_go = !golang.runtimes.is_empty() || !golang.unjudged.is_empty();
    let has_python = drained.segment.header().python_type.load(Ordering::Relaxed) != 0;
    // A copy leaves payload out, which is searched where events were missed.
    let is_copied = !has_go && !missed && copy::is_worth_a_thought(&drained.live, &touched);
    // Python's dead objects are told by types anywhere in the process's memory; without those all that is needed can be told before the
    // blocks are sorted.
    let copied_first =
        if is_copied && !has_python { copy_all(drained, blocks, memory, &maps, &touched, standing) } else { None };
    let (Prepared { graph, formats, list, python }, copied) = if let Some((copied, objects, formats)) = copied_first {
        // Of the same live set by the same rule, in the same order.
        for (block, object) in blocks.iter_mut().filter(|block| block.kind.is_libav()).zip(&objects) {
            debug_assert_eq!(block.address, object.address);
            block.kind = object.kind;
        }
        let graph = graph_of(blocks, &copied, &formats);
        let list = list_of(blocks, &graph);
        (Prepared { graph, formats, list, python: None }, Some(copied))
    } else {
        let mut copied = None;
        if is_copied && has_python {
            let live = &drained.live;
            std::thread::scope(|scope| {
                let copying = scope.spawn(|| Snapshot::take(target, copy::wanted(live, &touched)?, most));
                *blocks = live.blocks();
                copied = copying.join().ok().flatten();
            });
        } else {
            *blocks = drained.live.blocks();
        }
        let prepared = prepare(drained, blocks, memory, &maps);
        let copied = copied.and_then(|first| {
            let missing = copy::missing(&prepared.list, first.ranges(), &maps);
            let rest = Snapshot::take(target, missing, most.saturating_sub(first.bytes()))?;
            Some(snapshot::Both(first, rest)).filter(|_| !target.is_gone())
        });
        (prepared, copied)
    };
    let searched: &dyn Memory = match &copied {
        Some(copied) => {
            standing.release();
            copied
        }
        None => target,
    };
    let search = Search {
        tid,
        maps: &maps,
        threads,
        blocks,
        list: &list,
        python: python.as_ref(),
        touched: &touched,
        golang: &golang,
        before,
        motion,
        missed,
        reached: &[],
        left_out: &[],
        control: &Control { progress: order.progress, cancel: order.cancel },
    };
    let looked = search.run(drained, searched, Some(target), graph, formats)?;
    // Killed in the middle of it, though it is held: what could not be read any more is not lost.
    if copied.is_none() && target.is_gone() {
        return Err(format!("pid {tid} was killed while its memory was read"));
    }
    Ok(looked)
}

/// What is known of the blocks before the search.
struct Prepared {
    graph: Graph,
    formats: Formats,
    list: Vec<reach::Block>,
    python: Option<reach::python::Types>,
}

/// A copy of all that a search will read; the process goes on as soon as it is made, perhaps before the blocks are sorted. With FFmpeg's objects,
/// their kinds settled, and the formats of their libraries, which are read from what is not copied. `None` where a copy is not worth it, or
/// there is no room: then the process stands still.
fn copy_all(
    drained: &mut Drained,
    blocks: &mut Vec<LiveBlock>,
    memory: &CachedMemory<ProcessMemory>,
    maps: &[Mapping],
    touched: &Touched,
    standing: &Standing<'_>,
) -> Option<(snapshot::Both, Vec<LiveBlock>, Formats)> {
    let (target, most) = (memory.inner(), copy::most());
    let wanted = copy::wanted(&drained.live, touched)?;
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| Snapshot::take(target, wanted.clone(), most));
        let mut missing = copy::outside(&drained.live, &wanted);
        let mut objects = drained.live.objects();
        // What of large payload is searched after all hangs on FFmpeg's objects alone.
        let Prepared { formats, list, .. } = prepare(drained, &mut objects, memory, maps);
        let live = &drained.live;
        let sorting = scope.spawn(|| live.blocks());
        let first = copying.join().ok().flatten()?;
        missing.extend(copy::missing(&list, first.ranges(), maps));
        let rest = Snapshot::take(target, missing, most.saturating_sub(first.bytes()))?;
        if target.is_gone() {
            return None;
        }
        standing.release();
        *blocks = sorting.join().ok()?;
        Some((snapshot::Both(first, rest), objects, formats))
    })
}

/// Confirms doubtful types by content, reads FFmpeg's objects, tells what is payload and what Python's dead objects.
fn prepare(drained: &mut Drained, blocks: &mut [LiveBlock], memory: &dyn Memory, maps: &[Mapping]) -> Prepared {
    for block in blocks.iter_mut().filter(|block| block.kind.is_libav() && !block.by_call_only) {
        let typing = drained.types.typing_of(block.stack, block.size);
        block.kind = typing::confirm(typing, TargetRange::with_len(block.address, block.size), memory);
    }
    let formats = read_formats(drained, blocks, memory, maps);
    let graph = graph_of(blocks, memory, &formats);
    let mut list = list_of(blocks, &graph);
    let metatype = drained.segment.header().python_type.load(Ordering::Relaxed);
    let python = (metatype != 0).then(|| reach::python::survey(memory, metatype, &mut list));
    Prepared { graph, formats, list, python }
}

/// The blocks as the search takes them.
fn list_of(blocks: &[LiveBlock], graph: &Graph) -> Vec<reach::Block> {
    let mut list = huge::vec(blocks.len());
    list.extend(blocks.iter().zip(&graph.scan).map(|(block, &scan)| reach::Block {
        start: block.address,
        size: block.size,
        kind: block.kind,
        scan,
    }));
    list
}

fn graph_of(blocks: &[LiveBlock], memory: &dyn Memory, formats: &Formats) -> Graph {
    Graph::read(blocks, memory, &|block, number| formats.pixel(block.stack, number).cloned())
}

/// One search of a process's memory.
struct Search<'a> {
    tid: i32,
    maps: &'a [Mapping],
    threads: &'a [ThreadState],
    blocks: &'a [LiveBlock],
    list: &'a [reach::Block],
    python: Option<&'a reach::python::Types>,
    touched: &'a Touched,
    golang: &'a GoProcess,
    before: &'a [TargetRange],
    motion: Motion,
    /// Events were missed: of no block it is certain that it is there.
    missed: bool,
    /// Blocks that are known to be reached, whatever this search finds.
    reached: &'a [u32],
    /// What of the blocks is passed over.
    left_out: &'a [TargetRange],
    control: &'a Control<'a>,
}

impl Search<'_> {
    fn run(
        &self,
        drained: &Drained,
        memory: &dyn Memory,
        process: Option<&ProcessMemory>,
        graph: Graph,
        formats: Formats,
    ) -> Result<Looked, String> {
        let &Self { maps, blocks, golang, .. } = self;
        let mut found =
            roots::find(drained, maps, self.threads, self.list, memory, self.touched, self.before, self.motion, golang);
        if self.missed {
            found.doubt_blocks(self.list);
        }
        let mut root_blocks = loaders_blocks(drained, blocks, found.loader_label);
        root_blocks.extend(self.reached.iter().map(|&block| RootBlock { block, label: found.before_label }));
        let reachability = reach::check(
            memory,
            &reach::Input {
                blocks: self.list,
                roots: &found.roots,
                registers: &found.registers,
                root_blocks: &root_blocks,
                doubtful: &found.doubtful,
                left_out: self.left_out,
                mapping: &mapping_in(maps),
                python: self.python,
            },
            self.control,
        )
        .map_err(|error| match error {
            ReachError::Cancelled if self.control.cancel.load(Ordering::Relaxed) => {
                "the check was interrupted before it had an answer".to_string()
            }
            error => format!("the check failed: {error}"),
        })?;
        if reachability.scanned_bytes == 0
            && let Some(error) = process.and_then(ProcessMemory::failure)
        {
            let tid = self.tid;
            let is_refused =
                error.kind() == std::io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root();
            let remedy = if is_refused { " (run avleak as the same user, or as root)" } else { "" };
            return Err(format!("cannot read the memory of pid {tid}: {error}{remedy}"));
        }
        let hidden = roots::hidden_ffmpegs(drained, maps);
        let notes = golang.unjudged.iter().map(go::note).chain(heap::another_allocator(maps)).collect();
        let age = |stamp: u64| drained.clock.seconds(drained.now.saturating_sub(stamp));
        let go = go::summary(golang, &found.go, &reachability, blocks, age);
        Ok(Looked { reachability, graph, formats, labels: found.labels, hidden, notes, go })
    }
}

/// What an address is mapped to.
fn mapping_in(maps: &[Mapping]) -> impl Fn(u64) -> reach::Mapping {
    |address| match maps::find(maps, address) {
        Some(mapping) if mapping.is_file() && mapping.executable => reach::Mapping::Code,
        Some(mapping) if mapping.is_file() && mapping.readable => reach::Mapping::File,
        _ => reach::Mapping::Other,
    }
}

fn read_formats(drained: &mut Drained, blocks: &[LiveBlock], memory: &dyn Memory, maps: &[Mapping]) -> Formats {
    // Which libavutil made a frame decides what its format number means.
    let mut library_of: FxHashMap<u32, Option<u32>> = FxHashMap::default();
    for block in blocks.iter().filter(|block| block.kind == ObjectKind::Frame) {
        let (segment, symbolizer) = (&drained.segment, &drained.types.symbolizer);
        library_of.entry(block.stack).or_insert_with(|| {
            segment.stack(block.stack).iter().find_map(|frame| {
                let module = symbolizer.module(frame.0?)?;
                (module.flags & wire::MODULE_LIBAVUTIL != 0).then_some(module.index)
            })
        });
    }
    let mut tables: FxHashMap<u32, formats::PixelFormats> = FxHashMap::default();
    for index in library_of.values().flatten() {
        if let Some(known) = drained.types.pixel_formats.get(index) {
            tables.entry(*index).or_insert_with(|| known.clone());
        } else if let Some(module) = drained.types.symbolizer.module(*index) {
            tables.entry(*index).or_insert_with(|| {
                let ranges: Vec<TargetRange> = maps
                    .iter()
                    .filter(|mapping| {
                        mapping.is_scannable()
                            && !mapping.executable
                            && mapping.range.start >= module.range.start
                            && mapping.range.end <= module.range.end.next_multiple_of(wire::PAGE)
                    })
                    .map(|mapping| mapping.range)
                    .collect();
                formats::pixel_formats(memory, &ranges)
            });
        }
    }
    let read = tables.iter().filter(|(_, table)| !table.is_empty());
    drained.types.pixel_formats.extend(read.map(|(index, table)| (*index, table.clone())));
    Formats { tables, library_of }
}

/// Blocks that ld.so asked for are roots: a thread's dtv is held by an interior pointer only.
fn loaders_blocks(drained: &Drained, blocks: &[LiveBlock], label: u32) -> Vec<RootBlock> {
    let mut known: FxHashMap<u32, bool> = FxHashMap::default();
    let mut by_loader = |stack: u32| {
        *known.entry(stack).or_insert_with(|| {
            let frames = drained.segment.stack(stack);
            let first = frames.iter().find(|frame| !drained.types.symbolizer.is_own_frame(frame.0));
            first
                .and_then(|frame| drained.types.symbolizer.module(frame.0?))
                .is_some_and(|module| module.flags & wire::MODULE_LOADER != 0)
        })
    };
    blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| block.kind == ObjectKind::Plain && by_loader(block.stack))
        .map(|(index, _)| RootBlock { block: index as u32, label })
        .collect()
}

fn observed(drained: &Drained) -> Observed {
    let counts = &drained.live.counts;
    let calls: BTreeMap<String, u64> =
        API_NAMES.iter().zip(drained.calls).map(|(name, count)| ((*name).to_string(), count)).collect();
    Observed {
        frames_allocated: counts.frames_allocated,
        frames_freed: counts.frames_freed,
        packets_allocated: counts.packets_allocated,
        packets_freed: counts.packets_freed,
        objects_allocated: drained.live.sites.all_made().map(|(_, count)| count).sum(),
        allocations: counts.allocations.saturating_add(drained.cancelled),
        frees: counts.frees.saturating_add(drained.cancelled),
        cancelled_young: drained.cancelled,
        events_dropped: drained.dropped,
        threads: drained.threads,
        peak_blocks: counts.peak_blocks,
        calls,
    }
}

/// Why stacks name no Python functions; `version` as PY_VERSION_HEX.
fn unread_python(version: u32) -> String {
    let [major, minor, micro, _] = version.to_be_bytes();
    let which = match (minor, micro) {
        (0, 0) => format!("Python {major} before 3.11"),
        _ => format!("Python {major}.{minor}.{micro}, in this build,"),
    };
    format!(
        "{which} has no frames that avleak can read (3.11 to 3.15 with the global lock have): stacks name C functions only"
    )
}

fn completeness(drained: &Drained, memory: MemoryMeans, unreadable_bytes: u64, mut notes: Vec<String>) -> Completeness {
    let header = drained.segment.header();
    let counts = &drained.live.counts;
    let mut disagreements = Vec::new();
    for (count, name) in
        [(counts.frames_by_call_only, "av_frame_alloc"), (counts.packets_by_call_only, "av_packet_alloc")]
    {
        if count > 0 {
            disagreements.push(format!(
                "{name} returned {count} objects that no call of malloc was seen for (RTLD_DEEPBIND, --malloc-prefix, a malloc of its own): they are known by address and call only"
            ));
        }
    }
    if counts.called_but_typed_otherwise > 0 {
        disagreements.push(format!(
            "{} objects that av_frame_alloc or av_packet_alloc returned were made on stacks that say otherwise",
            counts.called_but_typed_otherwise
        ));
    }
    let mut note = |count: u64, text: &str| {
        if count > 0 {
            notes.push(format!("{count} {text}"));
        }
    };
    note(header.nodes_exhausted.load(Ordering::Relaxed), "stacks were not stored: the table of stack nodes is full");
    note(
        header.modules_exhausted.load(Ordering::Relaxed),
        "addresses lie in modules that were not recorded: the table is full",
    );
    note(
        header.slots_refused.load(Ordering::Relaxed),
        "call slots could not be patched: calls through them are not counted",
    );
    note(
        u64::from(header.texts_exhausted.load(Ordering::Relaxed)),
        "Python functions were left out of stacks: the table of their names is full",
    );
    let verified = u64::from(header.verified_stacks.load(Ordering::Relaxed));
    if verified > 0 {
        notes.push(format!(
            "verify=1: {verified} stacks were unwound twice, {} differed",
            header.verify_differences.load(Ordering::Relaxed)
        ));
    }
    let python = header.python_version.load(Ordering::Relaxed);
    if python != 0 && header.python_readable.load(Ordering::Relaxed) == 0 {
        notes.push(unread_python(python));
    }
    if drained.waited_s > 0.1 {
        notes.push(format!("the program waited {:.1} s in all for the analyzer to catch up", drained.waited_s));
    }
    if !drained.live.returned.is_complete() {
        notes.push("too much address space was used to remember all of it: freed memory may hide leaks".into());
    }
    Completeness {
        memory,
        memory_reason: None,
        hidden_libraries: 0,
        unreadable_bytes,
        corrupt_rings: drained.corrupt_rings,
        incomplete_stacks: header
            .stacks_truncated
            .load(Ordering::Relaxed)
            .saturating_add(header.unwind_failures.load(Ordering::Relaxed)),
        untyped_stacks: u64::from(header.stacks_without_room.load(Ordering::Relaxed)),
        disagreements,
        notes,
    }
}

/// The class of a block, unclassified where memory was not read.
fn class_of(reachability: Option<&Reachability>, index: u32) -> Class {
    reachability.map_or(Class::Unclassified, |reachability| reachability.class(index))
}
