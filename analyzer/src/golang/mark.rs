//! Which of Go's objects the program can still get at: a mark from Go's own roots, breadth first, each object read once.
//!
//! Roots are those of Go's collector (runtime/mgcmark.go): variables that may hold pointers, the live parts of goroutines' stacks, objects
//! with finalizers and cleanups and what their functions lead to; and the registers and signal stacks of threads that were stopped while
//! they ran Go code. C's memory is none: Go's rules forbid C to keep pointers into Go's heap. Every word is taken for what it could be.

use super::heap::{Heap, Use};
use super::{GoRuntime, goroutine};
use crate::address::TargetRange;
use crate::reach::RootRange;
use crate::target::memory::Memory;
use crate::target::threads::ThreadState;

/// Most bytes of a read.
const WINDOW: u64 = 1 << 20;
/// Objects closer than this are read together.
const GAP: u64 = 4096;

/// The caller's numbers for what holds an object.
pub struct Labels<'a> {
    /// Reached from a variable.
    pub variables: u32,
    /// Kept for a finalizer or cleanup.
    pub kept: u32,
    /// Reached from the stack of goroutine `index` only.
    pub goroutine: &'a dyn Fn(usize) -> u32,
    /// Reached from a thread's registers or signal stack only.
    pub thread: u32,
}

/// What was found.
pub struct Marked {
    /// Every object that was reached, neighbours of one label as one, ascending.
    pub roots: Vec<RootRange>,
    /// Objects that were reached.
    pub objects: u64,
}

struct Marker<'a> {
    memory: &'a dyn Memory,
    heap: &'a Heap,
    /// Label + 1 of each object, by span; empty until one of the span is reached.
    owners: Vec<Box<[u32]>>,
    next: Vec<(u32, u32)>,
    objects: u64,
    buffer: Vec<u8>,
}

/// Marks.
pub fn mark(memory: &dyn Memory, runtime: &GoRuntime, threads: &[ThreadState], labels: &Labels<'_>) -> Marked {
    let heap = &runtime.heap;
    let mut marker = Marker {
        memory,
        heap,
        owners: vec![Box::default(); heap.spans.len()],
        next: Vec::new(),
        objects: 0,
        buffer: vec![0; WINDOW as usize],
    };
    for range in runtime.pointers {
        marker.range(range, labels.variables);
    }
    marker.follow();
    for &address in &heap.kept {
        marker.word(address, labels.kept);
    }
    marker.follow();
    for (index, goroutine) in runtime.goroutines.iter().enumerate() {
        let label = (labels.goroutine)(index);
        marker.range(goroutine.stack, label);
        marker.word(goroutine.context, label);
        marker.follow();
    }
    for thread in threads {
        let place = runtime.places.iter().find(|place| place.0 == thread.tid).map(|place| &place.1);
        if let Some(goroutine::Place { handler, .. }) = place {
            for &(_, value) in &thread.registers {
                marker.word(value, labels.thread);
            }
            for &value in &thread.vector_words {
                marker.word(value, labels.thread);
            }
            if let Some(handler) = handler {
                marker.range(*handler, labels.thread);
            }
        }
    }
    marker.follow();
    Marked { roots: marker.roots(), objects: marker.objects }
}

impl Marker<'_> {
    #[inline]
    fn word(&mut self, word: u64, label: u32) {
        let Some((span, index)) = self.heap.find(word) else { return };
        let found = &self.heap.spans[span as usize];
        let owners = &mut self.owners[span as usize];
        if owners.is_empty() {
            *owners = vec![0; found.count as usize].into_boxed_slice();
        }
        let owner = &mut owners[index as usize];
        if *owner != 0 {
            return;
        }
        *owner = label + 1;
        self.objects += 1;
        if !found.no_pointers {
            self.next.push((span, index));
        }
    }

    /// Every word of `range`.
    fn range(&mut self, range: TargetRange, label: u32) {
        let mut at = range.start & !7;
        while at < range.end {
            let wanted = (range.end - at).min(WINDOW) as usize;
            let got = self.fill(at, wanted);
            self.words(0, got, label);
            // A page that cannot be read is passed over.
            at = if got < wanted { (at + got as u64 + 4096) & !4095 } else { at + wanted as u64 };
        }
    }

    fn fill(&mut self, at: u64, wanted: usize) -> usize {
        self.memory.read(at, &mut self.buffer[..wanted])
    }

    /// The words of the buffer from byte `from` to byte `to`.
    fn words(&mut self, from: usize, to: usize, label: u32) {
        let mut at = from;
        while at + 8 <= to {
            let word = self.buffer[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            self.word(word, label);
            at += 8;
        }
    }

    /// Follows what was reached, a level at a time, in order of address.
    fn follow(&mut self) {
        let mut level = Vec::new();
        while !self.next.is_empty() {
            std::mem::swap(&mut level, &mut self.next);
            level.sort_unstable();
            let mut first = 0;
            while first < level.len() {
                first += self.group(&level[first..]);
            }
            level.clear();
        }
    }

    /// Reads the first of `objects` and those right behind it; returns how many.
    fn group(&mut self, objects: &[(u32, u32)]) -> usize {
        let heap = self.heap;
        let range = |object: &(u32, u32)| heap.spans[object.0 as usize].object(object.1);
        let first = range(&objects[0]);
        if first.len() > WINDOW {
            self.range(first, self.label(objects[0]));
            return 1;
        }
        let (mut end, mut taken) = (first.end, 1);
        while let Some(next) = objects.get(taken).map(range) {
            if next.start - end > GAP || next.end - first.start > WINDOW {
                break;
            }
            end = next.end;
            taken += 1;
        }
        let got = self.fill(first.start, (end - first.start) as usize);
        for object in &objects[..taken] {
            let range = range(object);
            let (from, to) = ((range.start - first.start) as usize, (range.end - first.start) as usize);
            self.words(from, to.min(got), self.label(*object));
        }
        taken
    }

    fn label(&self, object: (u32, u32)) -> u32 {
        self.owners[object.0 as usize][object.1 as usize].saturating_sub(1)
    }

    fn roots(&self) -> Vec<RootRange> {
        let mut roots: Vec<RootRange> = Vec::new();
        for (span, owners) in self.heap.spans.iter().zip(&self.owners).filter(|(span, _)| span.used_for == Use::Objects)
        {
            for (index, owner) in (0..).zip(owners) {
                let Some(label) = owner.checked_sub(1) else { continue };
                let TargetRange { start, end } = span.object(index);
                match roots.last_mut() {
                    Some(last) if last.end == start && last.label == label => last.end = end,
                    _ => roots.push(RootRange { start, end, label }),
                }
            }
        }
        roots
    }
}
