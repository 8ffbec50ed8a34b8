//! Where the search begins in a held process: its writable mappings, its stacks, its registers, each with a name.

use avleak_wire::layout as wire;

#[cfg(target_arch = "aarch64")]
use super::descriptor_aarch64::{dead_stacks, stack_block};
use super::{Motion, go, heap};
use crate::address::TargetRange;
use crate::golang::GoProcess;
#[cfg(target_arch = "x86_64")]
use crate::reach::LARGE;
use crate::reach::roots::{RED_ZONE, RootSources, StackRange, WritableRange};
use crate::reach::{Block, Register, RootRange};
use crate::session::drain::Drained;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::threads::{PROGRAM_COUNTER, STACK_POINTER, ThreadState};
use crate::target::touched::Touched;

/// What a root is, in a report's words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Label(pub String);

/// Roots and their names.
pub struct Found {
    /// Ascending.
    pub roots: Vec<RootRange>,
    /// Of all threads.
    pub registers: Vec<Register>,
    /// By number.
    pub labels: Vec<Label>,
    /// For blocks that ld.so asked for.
    pub loader_label: u32,
    /// For blocks that a search before this one reached.
    pub before_label: u32,
    /// What may be root, ascending.
    pub doubtful: Vec<RootRange>,
    /// What Go's part of it came to.
    pub go: go::Marks,
}

/// glibc keeps a thread's descriptor at the top of its stack; it is below this size in every version.
#[cfg(target_arch = "x86_64")]
const DESCRIPTOR_BYTES: u64 = 4096;

/// Finds them.
#[allow(clippy::too_many_arguments, reason = "all that a process is at a check; each part belongs to another owner")]
pub fn find(
    drained: &Drained,
    maps: &[Mapping],
    threads: &[ThreadState],
    blocks: &[Block],
    memory: &dyn Memory,
    touched: &Touched,
    before: &[TargetRange],
    motion: Motion,
    golang: &GoProcess,
) -> Found {
    let mut labels = Vec::new();
    let mut label = |text: String| {
        labels.push(Label(text));
        labels.len() as u32 - 1
    };
    let loader_label = label("the dynamic loader".into());
    let before_label = label("what held it at an earlier scan of this check".into());
    let writable: Vec<WritableRange> = maps
        .iter()
        .enumerate()
        .filter(|(_, mapping)| mapping.writable && mapping.is_scannable())
        .map(|(at, mapping)| WritableRange { range: mapping.range, label: label(name(maps, at)) })
        .collect();
    let mut never = own_memory(drained, maps);
    if motion == Motion::Running {
        never.extend(maps.iter().filter(|mapping| mapping.is_stack()).map(|mapping| mapping.range));
    }
    if motion != Motion::Partly {
        // A thread that was not stopped is not listed, and no dead one. Where all run none is listed, and every stack is left out.
        never.extend(dead_stacks(maps, threads, memory, touched, blocks));
        never.extend(heap::free(maps, before, memory));
    }
    never.extend(
        young_arenas(maps, before, memory)
            .into_iter()
            .filter(|arena| drained.live.returned.runs(*arena).any(|run| run.returned)),
    );
    let mut registers = Vec::new();
    let mut stacks = Vec::new();
    for thread in threads {
        for &(register, value) in &thread.registers {
            // These two hold nothing but where the thread is.
            if register != STACK_POINTER && register != PROGRAM_COUNTER {
                registers
                    .push(Register { value, label: label(format!("register {register} of thread {}", thread.tid)) });
            }
        }
        if !thread.vector_words.is_empty() {
            let number = label(format!("vector registers of thread {}", thread.tid));
            registers.extend(thread.vector_words.iter().map(|&value| Register { value, label: number }));
        }
        // One that runs Go code has its own stack's live part elsewhere than at its stack pointer.
        let sp = go::own_stack_pointer(golang, thread.tid).unwrap_or(thread.stack_pointer);
        if let Some((low, high)) = stack_of(thread.fs_base, sp, maps, blocks, memory) {
            let number = label(format!("stack of thread {}", thread.tid));
            stacks.push(StackRange { low, sp, high, label: number });
        }
    }
    let go = go::Marks::new(golang, threads, memory, &mut label);
    never.extend(golang.runtimes.iter().flat_map(|runtime| runtime.heap.arenas()));
    let doubtful = if golang.unjudged.is_empty() {
        Vec::new()
    } else {
        let number = label(go::doubt(golang));
        let glibcs = glibc_arenas(maps, memory);
        let is_gos = |range: &TargetRange| {
            !glibcs.contains(range)
                && stacks.iter().all(|stack| !range.contains(stack.low))
                && golang.runtimes.iter().all(|runtime| runtime.heap.span_of(range.start).is_none())
        };
        go::may_be_heap(maps).into_iter().filter(is_gos).map(|range| (range, number)).collect()
    };
    never.extend(doubtful.iter().map(|(range, _)| *range));
    let mut roots = RootSources {
        writable: &writable,
        never: &never,
        stacks: &stacks,
        blocks,
        returned: &drained.live.returned,
        before,
    }
    .collect();
    roots.extend(&go.roots);
    roots.sort_unstable_by_key(|root| root.start);
    let touched_only = |roots: &[RootRange]| -> Vec<RootRange> {
        let parts = roots.iter().flat_map(|root: &RootRange| {
            let parts = touched.within(TargetRange { start: root.start, end: root.end });
            parts.map(|part| RootRange { start: part.start, end: part.end, label: root.label })
        });
        parts.collect()
    };
    let doubtful: Vec<RootRange> =
        doubtful.into_iter().map(|(range, label)| RootRange { start: range.start, end: range.end, label }).collect();
    let (roots, doubtful) = (touched_only(&roots), touched_only(&doubtful));
    Found { roots, registers, labels, loader_label, before_label, doubtful, go }
}

/// The parts of the threads' stacks that are in use, for a copy: ascending, red zones included.
pub fn stacks_in_use(
    threads: &[ThreadState],
    maps: &[Mapping],
    blocks: &[Block],
    memory: &dyn Memory,
) -> Vec<TargetRange> {
    let in_use = |thread: &ThreadState| {
        let sp = thread.stack_pointer;
        let (low, high) = stack_of(thread.fs_base, sp, maps, blocks, memory)?;
        Some(TargetRange { start: sp.saturating_sub(RED_ZONE).max(low), end: high })
    };
    let mut ranges: Vec<TargetRange> = threads.iter().filter_map(in_use).collect();
    ranges.sort_unstable();
    ranges
}

impl Found {
    /// Events were missed: a block that counts as alive may have been given back, and its memory may be another one's, of which nobody
    /// told. So what is in blocks that are no objects holds others, whether the block itself is held or not: possibly.
    pub fn doubt_blocks(&mut self, blocks: &[Block]) {
        let label = self.labels.len() as u32;
        self.labels.push(Label("a block that may have been given back: events were missed".into()));
        let doubted = blocks.iter().filter(|block| !block.kind.is_object());
        self.doubtful.extend(doubted.map(|block| RootRange {
            start: block.start,
            end: block.start.saturating_add(block.size),
            label,
        }));
    }
}

/// What is libavleak.so's own in the target: its segment, its memory, its variables.
pub fn own_memory(drained: &Drained, maps: &[Mapping]) -> Vec<TargetRange> {
    let mut own: Vec<TargetRange> = maps
        .iter()
        .filter(|mapping| mapping.is_memfd() && mapping.name == "/memfd:avleak")
        .map(|mapping| mapping.range)
        .collect();
    let header = drained.segment.header();
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    own.push(TargetRange::with_len(header.private_start.load(relaxed), header.private_bytes.load(relaxed)));
    for index in 0..drained.segment.module_count() {
        if let Some(module) = drained.types.symbolizer.module(index)
            && module.is_own()
        {
            own.push(TargetRange { start: module.range.start, end: module.range.end.next_multiple_of(wire::PAGE) });
        }
    }
    own
}

/// What glibc's thread arenas are mapped to.
fn glibc_arenas(maps: &[Mapping], memory: &dyn Memory) -> Vec<TargetRange> {
    let candidates = maps.iter().filter(|mapping| mapping.range.start % ARENA_ALIGN == 0 && mapping.writable);
    candidates
        .filter(|mapping| memory.word(mapping.range.start).is_some_and(|state| matches!(state % ARENA_ALIGN, 32 | 48)))
        .map(|mapping| mapping.range)
        .collect()
}

/// glibc's HEAP_MAX_SIZE: the memory of a thread arena begins at a multiple of it.
const ARENA_ALIGN: u64 = 64 << 20;

/// The thread arenas that glibc made since avleak armed: every block in them was seen, the rest is the allocator's own, whose links and
/// caches lead to what once were chunks.
///
/// An arena's memory begins with `heap_info`, whose first word leads to the arena's state: right behind it in the arena's first heap
/// (malloc/arena.c; `sizeof (heap_info)` is 32, or 48 since glibc 2.35), and to another such place in its later ones.
fn young_arenas(maps: &[Mapping], before: &[TargetRange], memory: &dyn Memory) -> Vec<TargetRange> {
    let state_of = |start: u64| {
        let state = memory.word(start)?;
        matches!(state % ARENA_ALIGN, 32 | 48).then_some(state)
    };
    let known = |start: u64| before.iter().any(|range| range.start <= start && start < range.end);
    maps.iter()
        .filter(|mapping| mapping.range.start % ARENA_ALIGN == 0 && mapping.writable && mapping.is_anonymous())
        .filter(|mapping| !known(mapping.range.start))
        .filter(|mapping| {
            let first = state_of(mapping.range.start).map(|state| state & !(ARENA_ALIGN - 1));
            first.is_some_and(|first| {
                first == mapping.range.start || state_of(first).is_some_and(|s| s & !(ARENA_ALIGN - 1) == first)
            })
        })
        .map(|mapping| TargetRange {
            start: mapping.range.start,
            end: mapping.range.end.min(mapping.range.start + ARENA_ALIGN),
        })
        .collect()
}

/// Larger mappings are no stacks.
#[cfg(target_arch = "x86_64")]
const LARGEST_STACK: u64 = 256 << 20;
/// A thread descriptor is aligned so.
#[cfg(target_arch = "x86_64")]
const DESCRIPTOR_ALIGN: usize = 64;

/// The stacks that glibc keeps of threads that have ended, for the next ones: what lies there holds nothing.
///
/// A stack has a guard below it, and at its top the thread's descriptor, whose first and third word are its own address
/// (`tcbhead_t.tcb` and `.self`, sysdeps/x86_64/nptl/tls.h). Where no thread that lives has it as its fs base, the thread is dead.
#[cfg(target_arch = "x86_64")]
fn dead_stacks(
    maps: &[Mapping],
    threads: &[ThreadState],
    memory: &dyn Memory,
    touched: &Touched,
    blocks: &[Block],
) -> Vec<TargetRange> {
    let outside_blocks = |range: TargetRange| touched.within(range).flat_map(|part| outside(part, blocks));
    let mut dead = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    for pair in maps.windows(2) {
        let (below, mapping) = (&pair[0], &pair[1]);
        let guard = below.range.end == mapping.range.start && !below.readable && !below.writable && !below.executable;
        let plain = mapping.writable && mapping.readable && !mapping.shared && mapping.name.is_empty();
        if !guard || !plain || mapping.range.len() > LARGEST_STACK {
            continue;
        }
        let descriptor = outside_blocks(mapping.range).find_map(|part| descriptor_in(part, memory, &mut bytes));
        if let Some(descriptor) = descriptor
            && threads.iter().all(|thread| thread.fs_base != descriptor)
            && let Some(stack) = stack_block(descriptor, memory)
            && below.range.contains(stack.start)
        {
            dead.push(TargetRange { start: mapping.range.start, end: stack.end.min(mapping.range.end) });
        }
    }
    // glibc 2.42 on Linux 6.13: the guard is a part of the mapping, and stacks side by side are one.
    for guard in touched.guards().iter().filter(|guard| guard.len() <= LARGEST_STACK) {
        let Some(mapping) = maps.iter().find(|mapping| mapping.range.contains(guard.start)) else { continue };
        let above =
            TargetRange { start: guard.end, end: mapping.range.end.min(guard.end.saturating_add(LARGEST_STACK)) };
        let descriptor = outside_blocks(above).find_map(|part| descriptor_in(part, memory, &mut bytes));
        if let Some(descriptor) = descriptor
            && threads.iter().all(|thread| thread.fs_base != descriptor)
            && let Some(stack) = stack_block(descriptor, memory).filter(|stack| stack.start == guard.start)
        {
            dead.push(TargetRange { start: guard.end, end: stack.end.min(mapping.range.end) });
        }
    }
    dead
}

/// What of a range lies in no large block: glibc maps a stack by itself, never as one, and pictures are most of what follows a guard.
#[cfg(target_arch = "x86_64")]
fn outside(range: TargetRange, blocks: &[Block]) -> Vec<TargetRange> {
    let mut parts = Vec::new();
    let first = blocks.partition_point(|block| block.start < range.start).saturating_sub(1);
    let large = blocks[first..].iter().take_while(|block| block.start < range.end).filter(|block| block.size >= LARGE);
    range.each_outside(large.map(|block| TargetRange::with_len(block.start, block.size)), |part| parts.push(part));
    parts
}

/// The first thread descriptor in a range.
#[cfg(target_arch = "x86_64")]
fn descriptor_in(range: TargetRange, memory: &dyn Memory, bytes: &mut [u8]) -> Option<u64> {
    let mut at = range.start.next_multiple_of(DESCRIPTOR_ALIGN as u64);
    while at < range.end {
        let wanted = (range.end - at).min(bytes.len() as u64) as usize;
        let got = memory.read(at, &mut bytes[..wanted]);
        let found = (0..got.saturating_sub(24)).step_by(DESCRIPTOR_ALIGN).find(|&offset| {
            let own = (at + offset as u64).to_le_bytes();
            bytes[offset..offset + 8] == own && bytes[offset + 16..offset + 24] == own
        });
        if let Some(offset) = found {
            return Some(at + offset as u64);
        }
        if got < wanted || wanted < bytes.len() {
            return None;
        }
        // Chunks overlap by a descriptor's start, so that none is cut in two.
        at += (wanted - DESCRIPTOR_ALIGN) as u64;
    }
    None
}

/// What glibc mapped for the thread with this descriptor (`struct pthread`: stackblock, stackblock_size, guardsize), guard included.
#[cfg(target_arch = "x86_64")]
fn stack_block(descriptor: u64, memory: &dyn Memory) -> Option<TargetRange> {
    let mut bytes = [0; DESCRIPTOR_BYTES as usize];
    let got = memory.read(descriptor, &mut bytes);
    let words: Vec<u64> = bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    words.windows(3).find_map(|three| {
        let end = three[0].checked_add(three[1])?;
        let fits = three[0] % 4096 == 0 && three[0] != 0 && three[0] < descriptor && three[2] < three[1];
        (fits && end > descriptor && end - descriptor <= DESCRIPTOR_BYTES)
            .then_some(TargetRange { start: three[0], end })
    })
}

/// From the lowest address of a thread's stack to its top.
fn stack_of(fs_base: u64, sp: u64, maps: &[Mapping], blocks: &[Block], memory: &dyn Memory) -> Option<(u64, u64)> {
    let at = maps.partition_point(|mapping| mapping.range.start <= sp).checked_sub(1)?;
    let mapping = maps.get(at).filter(|mapping| mapping.range.contains(sp) && mapping.writable)?;
    if mapping.is_stack() {
        return Some((mapping.range.start, mapping.range.end));
    }
    // Mappings merge with their neighbours: only glibc's descriptor, or a block, says where a stack ends.
    let own = stack_block(fs_base, memory).filter(|own| own.contains(sp));
    let inside = || {
        let block = &blocks[blocks.partition_point(|block| block.start <= sp).checked_sub(1)?];
        let end = block.start.saturating_add(block.size);
        (sp < end).then_some(TargetRange { start: sp.saturating_sub(RED_ZONE).max(block.start), end })
    };
    // Elsewhere it is a stack that the program made: its memory is root as it is.
    let TargetRange { start, end } = own.or_else(inside)?;
    let (low, high) = (start.max(mapping.range.start), end.min(mapping.range.end));
    Some((low, high))
}

/// `.data of server`, `heap`, `anonymous memory`, …
fn name(maps: &[Mapping], at: usize) -> String {
    let mapping = &maps[at];
    let file = |mapping: &Mapping| {
        mapping.path().and_then(|path| path.file_name()).map(|file| file.to_string_lossy().into_owned())
    };
    if let Some(file) = file(mapping) {
        return format!(".data of {file}");
    }
    if mapping.is_heap() {
        return "heap memory older than avleak".into();
    }
    // .bss lies in the anonymous mapping right behind its file's.
    if mapping.is_anonymous()
        && let Some(before) = at.checked_sub(1).map(|before| &maps[before])
        && before.range.end == mapping.range.start
        && let Some(file) = file(before)
    {
        return format!(".bss of {file}");
    }
    if mapping.name.is_empty() { "anonymous memory".into() } else { mapping.name.to_string_lossy().into_owned() }
}

/// A copy of libavutil that no stack ever went through.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Hidden {
    /// For the notes.
    pub text: String,
    /// Another copy of the same file was seen: this one lies in a namespace of its own (dlmopen), and what it allocates is not seen.
    pub out_of_reach: bool,
}

/// Finds such copies. One that simply was not used is only worth a note.
pub fn hidden_ffmpegs(drained: &Drained, maps: &[Mapping]) -> Vec<Hidden> {
    let modules: Vec<_> = (0..drained.segment.module_count())
        .filter_map(|index| drained.types.symbolizer.module(index))
        .filter(|module| module.flags & wire::MODULE_LIBAVUTIL != 0)
        .collect();
    let real = |path: &std::path::Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut hidden = Vec::new();
    for mapping in maps.iter().filter(|mapping| mapping.executable) {
        let Some(path) = mapping.path() else { continue };
        let is_libavutil = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with("libavutil"));
        if !is_libavutil || modules.iter().any(|module| module.range.contains(mapping.range.start)) {
            continue;
        }
        let out_of_reach = modules.iter().any(|module| real(module.clean_path()) == real(path));
        let why = if out_of_reach {
            "in a namespace of its own (dlmopen): its objects are out of reach"
        } else {
            "but no allocation through it was seen"
        };
        hidden.push(Hidden {
            text: format!("{} is loaded at {:#x}, {why}", path.display(), mapping.range.start),
            out_of_reach,
        });
    }
    hidden
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::reach::Scan;
    use crate::target::maps;
    use crate::target::memory::SavedMemory;

    fn block(start: u64, size: u64) -> Block {
        Block { start, size, kind: ObjectKind::Plain, scan: Scan::Words }
    }

    fn range(start: u64, end: u64) -> TargetRange {
        TargetRange { start, end }
    }

    #[test]
    fn descriptors_are_looked_for_outside_of_large_blocks() {
        let blocks = [block(0x1000, 0x3000), block(0x5000, 0x100), block(0x8000, 0x2000), block(0x9000, 0x4000)];
        assert_eq!(outside(range(0x2000, 0x20000), &blocks), [range(0x4000, 0x8000), range(0xd000, 0x20000)]);
        assert_eq!(outside(range(0x2000, 0x3000), &blocks), []);
        assert_eq!(outside(range(0x20000, 0x30000), &blocks), [range(0x20000, 0x30000)]);
        assert_eq!(outside(range(0, 0x10), &[]), [range(0, 0x10)]);
        assert_eq!(outside(range(0, u64::MAX), &[block(u64::MAX - 0x2000, u64::MAX)]), [range(0, u64::MAX - 0x2000)]);
    }

    #[test]
    fn a_dead_stack_is_told_by_its_descriptor_and_a_live_one_is_none() {
        let (low, top) = (0x7f00_0000_0000u64, 0x7f00_0001_0000u64);
        let descriptor = top - 0x900;
        let mut words = vec![0; ((top - descriptor) / 8) as usize];
        (words[0], words[2]) = (descriptor, descriptor);
        // stackblock, stackblock_size, guardsize
        words[100..103].copy_from_slice(&[low - 0x1000, top - low + 0x1000, 0x1000]);
        let mut memory = SavedMemory::default();
        memory.insert_words(low, &vec![0; ((descriptor - low) / 8) as usize]);
        memory.insert_words(descriptor, &words);
        let map = |start, end, permissions: &str| format!("{start:x}-{end:x} {permissions} 00000000 00:00 0 \n");
        let text = map(low - 0x1000, low, "---p") + &map(low, top, "rw-p");
        let maps = maps::parse(text.as_bytes());
        let touched = Touched::told(vec![range(low, top)]);
        let dead = |blocks: &[Block]| dead_stacks(&maps, &[], &memory, &touched, blocks);
        assert_eq!(dead(&[]), [range(low, top)]);
        // Behind the large block of somebody it is found all the same.
        assert_eq!(dead(&[block(low, 0x8000)]), [range(low, top)]);
    }
}
