//! Go's part of a check: its objects and stacks as roots, each with a name.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use crate::address::TargetRange;
use crate::golang::goroutine::{Goroutine, State};
use crate::golang::heap::ARENA;
use crate::golang::mark::{self, Labels};
use crate::golang::{GoProcess, GoRuntime, Unjudged};
use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::{Class, Reachability, RootRange, Source};
use crate::report::golang::{self as model, Go, GoroutineGroup};
use crate::report::model::Frame;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::threads::ThreadState;

/// What the marks of all runtimes came to.
#[derive(Default)]
pub struct Marks {
    /// Live objects and stacks of Go's.
    pub roots: Vec<RootRange>,
    /// Which goroutine a label speaks of: runtime and index there.
    owners: FxHashMap<u32, (usize, usize)>,
    /// Objects that were reached, by runtime.
    objects: Vec<u64>,
}

impl Marks {
    /// Marks the objects of every runtime; `label` gives a name a number.
    pub fn new(
        golang: &GoProcess,
        threads: &[ThreadState],
        memory: &dyn Memory,
        label: &mut impl FnMut(String) -> u32,
    ) -> Self {
        let mut marks = Self::default();
        for (number, runtime) in golang.runtimes.iter().enumerate() {
            marks.add(number, runtime, threads, memory, label);
        }
        marks
    }

    fn add(
        &mut self,
        number: usize,
        runtime: &GoRuntime,
        threads: &[ThreadState],
        memory: &dyn Memory,
        label: &mut impl FnMut(String) -> u32,
    ) {
        let handler = label("stack of a Go signal handler".into());
        let mut heap_labels = Vec::with_capacity(runtime.goroutines.len());
        for (index, goroutine) in runtime.goroutines.iter().enumerate() {
            let name = match runtime.image.function(goroutine.start.wrapping_sub(runtime.bias)) {
                Some(function) => format!("goroutine {} ({function})", goroutine.id),
                None => format!("goroutine {}", goroutine.id),
            };
            let (stack, heap) = (label(format!("stack of {name}")), label(format!("Go heap, held by {name}")));
            self.owners.extend([(stack, (number, index)), (heap, (number, index))]);
            heap_labels.push(heap);
            self.push(goroutine.stack.start, goroutine.stack.end, stack);
        }
        for (_, place) in &runtime.places {
            if let Some(range) = place.handler {
                self.push(range.start, range.end, handler);
            }
        }
        let labels = Labels {
            variables: label(format!("Go heap, held by variables of {}", runtime.module)),
            kept: label("Go heap, kept for a finalizer or cleanup".into()),
            goroutine: &|index| heap_labels[index],
            thread: label("Go heap, held by a register".into()),
        };
        let marked = mark::mark(memory, runtime, threads, &labels);
        self.roots.extend(marked.roots);
        self.objects.push(marked.objects);
    }

    fn push(&mut self, start: u64, end: u64, label: u32) {
        if start < end {
            self.roots.push(RootRange { start, end, label });
        }
    }
}

/// Where the live part of a thread's own stack begins, if it now runs on one of Go's.
pub fn own_stack_pointer(golang: &GoProcess, tid: i32) -> Option<u64> {
    let places = golang.runtimes.iter().flat_map(|runtime| &runtime.places);
    places.filter(|place| place.0 == tid).find_map(|place| place.1.own_sp)
}

/// What holds an object of which only Go's memory knows, where that cannot be judged.
pub fn doubt(golang: &GoProcess) -> String {
    let modules: Vec<&str> = golang.unjudged.iter().map(|unjudged| unjudged.module.as_str()).collect();
    format!("memory that may be the Go heap of {}, which cannot be judged", modules.join(", "))
}

/// Stacks of goroutines that a report shows at most.
const MOST_HOLDERS: usize = 50;

/// What one goroutine holds.
#[derive(Default)]
struct Held {
    frames: u64,
    packets: u64,
    youngest: f64,
    oldest: f64,
}

/// The report's part on Go; `None` where there is none. `age`: seconds since a stamp.
pub fn summary(
    golang: &GoProcess,
    marks: &Marks,
    reachability: &Reachability,
    blocks: &[LiveBlock],
    age: impl Fn(u64) -> f64,
) -> Option<Go> {
    if golang.runtimes.is_empty() && golang.unjudged.is_empty() {
        return None;
    }
    let mut held: FxHashMap<(usize, usize), Held> = FxHashMap::default();
    for (index, block) in (0..).zip(blocks) {
        let (frame, packet) = (block.kind == ObjectKind::Frame, block.kind == ObjectKind::Packet);
        let kept = matches!(reachability.class(index), Class::StillReachable | Class::PossiblyLost);
        if !(frame || packet) || !kept {
            continue;
        }
        let Some(Source::Root { label, .. }) = reachability.root_of(index) else { continue };
        let Some(owner) = marks.owners.get(&label) else { continue };
        let age = age(block.stamp);
        let held = held.entry(*owner).or_insert(Held { youngest: age, ..Held::default() });
        held.frames += u64::from(frame);
        held.packets += u64::from(packet);
        (held.youngest, held.oldest) = (held.youngest.min(age), held.oldest.max(age));
    }
    let judged = golang.runtimes.iter().enumerate().map(|(index, runtime)| model::GoRuntime {
        module: runtime.module.clone(),
        version: runtime.image.version.map(|version| version.to_string()),
        judged: true,
        reason: None,
        objects_reached: marks.objects.get(index).copied().unwrap_or(0),
        heap_bytes: runtime.heap.bytes(),
    });
    let unjudged = golang.unjudged.iter().map(|unjudged| model::GoRuntime {
        module: unjudged.module.clone(),
        version: unjudged.version.map(|version| version.to_string()),
        reason: Some(unjudged.reason.clone()),
        ..model::GoRuntime::default()
    });
    let goroutines = golang
        .runtimes
        .iter()
        .flat_map(|runtime| runtime.goroutines.iter().filter(|goroutine| !is_runtimes(runtime, goroutine)));
    Some(Go {
        runtimes: judged.chain(unjudged).collect(),
        goroutines: goroutines.count() as u64,
        holding: holding(golang, held),
    })
}

fn holding(golang: &GoProcess, held: FxHashMap<(usize, usize), Held>) -> Vec<GoroutineGroup> {
    let mut groups: FxHashMap<(usize, &[u64], &str), GoroutineGroup> = FxHashMap::default();
    for ((number, index), held) in held {
        let runtime = &golang.runtimes[number];
        let goroutine = &runtime.goroutines[index];
        let state = state(runtime, goroutine);
        let group = groups.entry((number, &goroutine.calls, state)).or_insert_with(|| GoroutineGroup {
            state: state.into(),
            example: goroutine.id,
            age_min_s: held.youngest,
            stack: goroutine.calls.iter().flat_map(|&pc| frames(runtime, pc)).collect(),
            created_by: frames(runtime, goroutine.created_at).into_iter().next(),
            ..GoroutineGroup::default()
        });
        group.count += 1;
        group.example = group.example.min(goroutine.id);
        group.frames += held.frames;
        group.packets += held.packets;
        group.age_min_s = group.age_min_s.min(held.youngest);
        group.age_max_s = group.age_max_s.max(held.oldest);
    }
    let mut groups: Vec<GoroutineGroup> = groups.into_values().collect();
    groups.sort_by_key(|group| (Reverse((group.frames, group.packets)), group.example));
    groups.truncate(MOST_HOLDERS);
    groups
}

/// The functions at a return address in Go code.
fn frames(runtime: &GoRuntime, pc: u64) -> Vec<Frame> {
    let svma = pc.wrapping_sub(1).wrapping_sub(runtime.bias);
    let sites = runtime.image.sites(svma);
    let last = sites.len().saturating_sub(1);
    let of = |(index, site): (usize, crate::symbols::pclntab::GoSite)| Frame {
        function: Some(site.function),
        module: Some(runtime.module.clone()),
        file: site.file,
        line: site.line,
        offset: svma,
        inlined: index != last,
        libav: false,
        python: false,
    };
    sites.into_iter().enumerate().map(of).collect()
}

/// One of the runtime's own: collector workers and the like, but not the main goroutine (runtime/traceback.go, `isSystemGoroutine`).
fn is_runtimes(runtime: &GoRuntime, goroutine: &Goroutine) -> bool {
    let start = runtime.image.function(goroutine.start.wrapping_sub(runtime.bias));
    start.is_some_and(|name| {
        name.starts_with("runtime.") && name != "runtime.main" && name != "runtime.handleAsyncEvent"
    })
}

/// What a goroutine waits for, as Go's tracebacks put it, by the function of the runtime that it waits in: the numbers of the reasons change
/// from version to version.
fn state(runtime: &GoRuntime, goroutine: &Goroutine) -> &'static str {
    const WAITS: [(&str, &str); 10] = [
        ("runtime.chanrecv", "chan receive"),
        ("runtime.chansend", "chan send"),
        ("runtime.selectgo", "select"),
        ("runtime.block", "select"),
        ("runtime.semacquire", "sync"),
        ("runtime.notifyListWait", "sync"),
        ("sync.runtime_", "sync"),
        ("runtime.netpollblock", "IO wait"),
        ("internal/poll.runtime_pollWait", "IO wait"),
        ("time.Sleep", "sleep"),
    ];
    match goroutine.state {
        State::Runnable => "runnable",
        State::Running => "running",
        State::InCall => "in a call",
        State::Waiting => {
            let names = goroutine.calls.iter().take(6).filter_map(|pc| runtime.image.function(pc - runtime.bias));
            let mut waits = names.filter_map(|name| WAITS.iter().find(|wait| name.starts_with(wait.0)));
            waits.next().map_or("waiting", |wait| wait.1)
        }
    }
}

/// For the report's notes.
pub fn note(unjudged: &Unjudged) -> String {
    let version = unjudged.version.map(|version| format!(" ({version})")).unwrap_or_default();
    format!("what only the Go heap of {}{version} holds is possibly lost, because {}", unjudged.module, unjudged.reason)
}

/// Mappings that could be Go's heap: anonymous memory in reservations of whole arenas, which glibc's are too.
pub fn may_be_heap(maps: &[Mapping]) -> Vec<TargetRange> {
    let plain = |mapping: &Mapping| {
        !mapping.shared && (mapping.name.is_empty() || mapping.name.to_string_lossy().starts_with("[anon: Go"))
    };
    let mut found = Vec::new();
    for run in maps.chunk_by(|a, b| plain(a) && plain(b) && a.range.end == b.range.start) {
        let (start, end) = (run[0].range.start, run[run.len() - 1].range.end);
        if plain(&run[0]) && start.is_multiple_of(ARENA) && end.is_multiple_of(ARENA) {
            found
                .extend(run.iter().filter(|mapping| mapping.writable && mapping.readable).map(|mapping| mapping.range));
        }
    }
    found
}
