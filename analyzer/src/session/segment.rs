//! Reading a segment without trusting it: every count is bounded, every field copied once before it is used.
#![allow(unsafe_code, reason = "shared memory of another process: raw mapping, atomics only")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use avleak_wire::layout as wire;
use avleak_wire::ring::{Consumer, Mapped};
use memmap2::{MmapOptions, MmapRaw};

use crate::address::TargetRange;
use crate::symbols::{Module, PYTHON, ScriptCall};

/// Why a segment was refused.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A call failed.
    #[error("cannot {0} the event segment: {1}")]
    System(&'static str, #[source] std::io::Error),
    /// It could shrink under the reader.
    #[error("the event segment is not sealed against shrinking: it was not made by libavleak.so")]
    NotSealed,
    /// Too short, or no magic.
    #[error("this is no event segment ({0})")]
    NotASegment(String),
    /// Another major version.
    #[error(
        "the process speaks segment version {theirs}, this analyzer {ours}: use libavleak.so and avleak from one build",
        ours = wire::MAJOR
    )]
    Version {
        /// Major version of the producer.
        theirs: u16,
    },
}

/// A mapped segment.
pub struct Segment {
    map: MmapRaw,
    ring_slots: u32,
}

/// One stack, innermost first: module number and return address; of [`PYTHON`] what [`Segment::script`] takes.
pub type RawStack = Vec<(Option<u32>, u64)>;

/// Deeper stacks are cut: a producer writes 192 frames at most.
const MAX_DEPTH: usize = 256;

impl Segment {
    /// Maps what a process handed over.
    ///
    /// # Errors
    /// [`SegmentError`]: nothing of the segment was used.
    pub fn map(descriptor: OwnedFd) -> Result<Arc<Self>, SegmentError> {
        let system = |what| move |error: rustix::io::Errno| SegmentError::System(what, error.into());
        let seals = rustix::fs::fcntl_get_seals(descriptor.as_fd()).map_err(system("read the seals of"))?;
        if !seals.contains(rustix::fs::SealFlags::SHRINK) {
            return Err(SegmentError::NotSealed);
        }
        let length = rustix::fs::fstat(descriptor.as_fd()).map_err(system("stat"))?.st_size as u64;
        if length < wire::SEGMENT_BYTES {
            return Err(SegmentError::NotASegment(format!(
                "{length} bytes, at least {} expected",
                wire::SEGMENT_BYTES
            )));
        }
        let file = File::from(descriptor);
        let map = MmapOptions::new()
            .len(wire::SEGMENT_BYTES as usize)
            .map_raw(&file)
            .map_err(|error| SegmentError::System("map", error))?;
        let mut segment = Self { map, ring_slots: 0 };
        let header = segment.header();
        if header.magic.load(Ordering::Acquire) != wire::MAGIC {
            return Err(SegmentError::NotASegment("no magic".into()));
        }
        let theirs = header.version.load(Ordering::Relaxed) as u16;
        if theirs != wire::MAJOR {
            return Err(SegmentError::Version { theirs });
        }
        segment.ring_slots = header.ring_slots.load(Ordering::Relaxed).min(wire::MAX_RINGS);
        Ok(Arc::new(segment))
    }

    /// What of it is in use beside the rings, with the place of each part: header, modules, stacks, texts.
    pub fn parts_in_use(&self) -> Vec<(u64, Vec<u8>)> {
        let nodes = self.header().node_count.load(Ordering::Acquire).min(wire::MAX_NODES);
        let texts = self.header().text_bytes.load(Ordering::Acquire).min(wire::TEXT_BYTES);
        let parts = [
            (0, wire::PAGE),
            (wire::MODULES_OFFSET, u64::from(self.module_count()) * size_of::<wire::ModuleRecord>() as u64),
            (wire::NODES_OFFSET, u64::from(nodes) * size_of::<wire::StackNode>() as u64),
            (wire::TEXTS_OFFSET, u64::from(texts)),
        ];
        let copied = parts.into_iter().map(|(start, bytes)| {
            // SAFETY: all four parts lie inside the mapping, by the bounds above; atomics only.
            let part = unsafe {
                std::slice::from_raw_parts(self.map.as_ptr().add(start as usize).cast::<AtomicU8>(), bytes as usize)
            };
            (start, part.iter().map(|byte| byte.load(Ordering::Relaxed)).collect())
        });
        copied.collect()
    }

    /// One made of the parts of another, without rings.
    ///
    /// # Errors
    /// [`SegmentError`]: a part does not fit, or it is refused as any other.
    pub fn restore(parts: &[(u64, &[u8])]) -> Result<Arc<Self>, SegmentError> {
        let system = |what| move |error: rustix::io::Errno| SegmentError::System(what, error.into());
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING | rustix::fs::MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create("avleak-restored", flags).map_err(system("make"))?;
        rustix::fs::ftruncate(&fd, wire::SEGMENT_BYTES).map_err(system("make room for"))?;
        for &(start, mut bytes) in parts {
            let mut at = start;
            if start.checked_add(bytes.len() as u64).is_none_or(|end| end > wire::RINGS_OFFSET) {
                return Err(SegmentError::NotASegment("a part lies outside".into()));
            }
            while !bytes.is_empty() {
                let written = rustix::io::pwrite(&fd, bytes, at).map_err(system("write"))?;
                (bytes, at) = (&bytes[written..], at + written as u64);
            }
        }
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK).map_err(system("seal"))?;
        Self::map(fd)
    }

    /// The header: atomics, each to be read once and checked.
    pub fn header(&self) -> &wire::Header {
        // SAFETY: the mapping is page-aligned, longer than the header, sealed against shrinking; atomics only.
        unsafe { &*self.map.as_ptr().cast::<wire::Header>() }
    }

    /// How many rings were ever used.
    pub fn ring_count(&self) -> u32 {
        self.header().ring_count.load(Ordering::Acquire).min(self.ring_slots)
    }

    /// Ring `index`. The segment must outlive it: the drain keeps both.
    pub(super) fn ring(&self, index: u32) -> Option<Consumer> {
        let offset = wire::RINGS_OFFSET + u64::from(index) * wire::RING_STRIDE;
        // SAFETY: below `ring_slots`, hence inside the mapping; its owner (the drain) holds the segment as long as the ring.
        (index < self.ring_slots)
            .then(|| Consumer::over(unsafe { Mapped::new(self.map.as_mut_ptr().add(offset as usize)) }))
    }

    /// How many modules were recorded.
    pub fn module_count(&self) -> u32 {
        self.header().module_count.load(Ordering::Acquire).min(wire::MAX_MODULES)
    }

    /// Module `index`; an empty path is the main program, `exe`.
    pub fn module(&self, index: u32, exe: &std::path::Path) -> Option<Module> {
        if index >= self.module_count() {
            return None;
        }
        let offset = wire::MODULES_OFFSET as usize + index as usize * size_of::<wire::ModuleRecord>();
        // SAFETY: below the count, hence inside the mapping; atomics only.
        let record = unsafe { &*self.map.as_ptr().add(offset).cast::<wire::ModuleRecord>() };
        let path = bytes(&record.path, record.path_len.load(Ordering::Relaxed));
        let start = record.start.load(Ordering::Relaxed);
        Some(Module {
            index,
            base: record.base.load(Ordering::Relaxed),
            range: TargetRange { start, end: record.end.load(Ordering::Relaxed).max(start) },
            path: if path.is_empty() { exe.to_owned() } else { PathBuf::from(std::ffi::OsStr::from_bytes(&path)) },
            build_id: bytes(&record.build_id, record.build_id_len.load(Ordering::Relaxed)),
            flags: record.flags.load(Ordering::Relaxed),
        })
    }

    /// The frames of stack `id`, innermost first; empty for 0 and for an id that no node has.
    pub fn stack(&self, id: u32) -> RawStack {
        let count = self.header().node_count.load(Ordering::Acquire).min(wire::MAX_NODES);
        let mut stack = Vec::new();
        let mut id = id;
        while id != 0 && id < count && stack.len() < MAX_DEPTH {
            let offset = wire::NODES_OFFSET as usize + id as usize * size_of::<wire::StackNode>();
            // SAFETY: below the count, hence inside the mapping; atomics only.
            let node = unsafe { &*self.map.as_ptr().add(offset).cast::<wire::StackNode>() };
            let pc = node.pc.load(Ordering::Acquire);
            let module = match node.module.load(Ordering::Relaxed) {
                wire::NODE_PYTHON => Some(PYTHON),
                number => number.checked_sub(1),
            };
            stack.push((module, pc));
            let parent = node.parent.load(Ordering::Relaxed);
            // A parent is older than its child: anything else would be a circle.
            id = if parent < id { parent } else { 0 };
        }
        stack
    }

    /// The function and line that a node of Python's stands for; `None` where its text is none.
    pub fn script(&self, pc: u64) -> Option<ScriptCall> {
        let used = self.header().text_bytes.load(Ordering::Acquire).min(wire::TEXT_BYTES);
        let (at, line) = ((pc >> 32) as u32, pc as u32);
        let head = size_of::<wire::TextHead>() as u32;
        let room = used.checked_sub(at)?.checked_sub(head)? as usize;
        if at == 0 || !at.is_multiple_of(8) {
            return None;
        }
        let start = wire::TEXTS_OFFSET as usize + at as usize;
        // SAFETY: `head` bytes from here on lie inside the texts, and the mapping is page-aligned; atomics only.
        let lengths = unsafe { &*self.map.as_ptr().add(start).cast::<wire::TextHead>() };
        let file = lengths.file_len.load(Ordering::Relaxed) as usize;
        let name = lengths.name_len.load(Ordering::Relaxed) as usize;
        if file > wire::TEXT_FILE_BYTES || name > wire::TEXT_NAME_BYTES || file + name > room {
            return None;
        }
        let from = start + head as usize;
        // SAFETY: `room` bytes behind the head lie inside the texts; atomics only.
        let texts = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from).cast::<AtomicU8>(), file + name) };
        let text = |from: &[AtomicU8]| String::from_utf8_lossy(&bytes(from, from.len() as u32)).into_owned();
        Some(ScriptCall { file: text(&texts[..file]), function: text(&texts[file..]), line })
    }

    /// Bytes of the mapping, for tests.
    #[cfg(test)]
    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

fn bytes(from: &[AtomicU8], len: u32) -> Vec<u8> {
    from.iter().take(len as usize).map(|byte| byte.load(Ordering::Relaxed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags};

    fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("avleak-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    fn with_header() -> OwnedFd {
        let fd = memfd(wire::SEGMENT_BYTES, SealFlags::SHRINK | SealFlags::GROW);
        rustix::io::pwrite(&fd, &wire::MAGIC.to_le_bytes(), 0).unwrap();
        let version = (u32::from(wire::MAJOR)).to_le_bytes();
        rustix::io::pwrite(&fd, &version, std::mem::offset_of!(wire::Header, version) as u64).unwrap();
        fd
    }

    #[test]
    fn what_is_no_segment_is_refused_with_the_reason() {
        assert!(matches!(Segment::map(memfd(4096, SealFlags::SHRINK)), Err(SegmentError::NotASegment(_))));
        assert!(matches!(Segment::map(memfd(wire::SEGMENT_BYTES, SealFlags::GROW)), Err(SegmentError::NotSealed)));
        assert!(matches!(
            Segment::map(memfd(wire::SEGMENT_BYTES, SealFlags::SHRINK)),
            Err(SegmentError::NotASegment(_))
        ));
        let other = with_header();
        let at = std::mem::offset_of!(wire::Header, version) as u64;
        rustix::io::pwrite(&other, &99u32.to_le_bytes(), at).unwrap();
        let error = Segment::map(other).err().unwrap();
        assert!(
            error.to_string().contains("version 99")
                && error.to_string().contains(&format!("analyzer {}", wire::MAJOR))
        );
    }

    /// A process that scribbles over its own segment: whatever it writes, reading ends, in bounds.
    #[test]
    fn a_scribbled_segment_is_read_without_harm() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for round in 0..200 {
            let segment = Segment::map(with_header()).unwrap();
            let base = segment.as_mut_ptr();
            let mut scribble = |start: u64, words: u64| {
                for word in 0..words {
                    let value = match next() % 4 {
                        0 => u64::MAX,
                        1 => next() % 64,
                        _ => next(),
                    };
                    // SAFETY: inside the mapping; nobody else uses it yet.
                    unsafe { base.add((start + word * 8) as usize).cast::<u64>().write(value) };
                }
            };
            scribble(64, 20);
            scribble(wire::MODULES_OFFSET, 512);
            scribble(wire::NODES_OFFSET, 4096);
            scribble(wire::TEXTS_OFFSET, 4096);
            for ring in 0..4 {
                scribble(wire::RINGS_OFFSET + ring * wire::RING_STRIDE, if round % 2 == 0 { 1 } else { 2000 });
                scribble(wire::RINGS_OFFSET + ring * wire::RING_STRIDE + wire::PAGE, 64);
                scribble(wire::RINGS_OFFSET + ring * wire::RING_STRIDE + wire::YOUNG_IN_RING, 512);
                scribble(wire::RINGS_OFFSET + ring * wire::RING_STRIDE + wire::DEATHS_IN_RING, 512);
            }
            let exe = std::path::Path::new("/bin/true");
            for index in 0..segment.module_count().min(100) {
                let module = segment.module(index, exe).unwrap();
                assert!(module.range.start <= module.range.end && module.build_id.len() <= wire::BUILD_ID_BYTES);
            }
            assert!(segment.module(u32::MAX, exe).is_none());
            for id in (0..2000).chain([u32::MAX]) {
                assert!(segment.stack(id).len() <= MAX_DEPTH);
            }
            for pc in
                (0..4096u64).map(|at| at << 35 | 7).chain([u64::MAX, 1 << 32, u64::from(wire::TEXT_BYTES - 8) << 32])
            {
                if let Some(call) = segment.script(pc) {
                    assert!(call.file.len() <= 3 * wire::TEXT_FILE_BYTES && call.line == pc as u32);
                }
            }
            assert!(segment.ring_count() <= wire::MAX_RINGS);
            for index in 0..segment.ring_count().min(8) {
                let mut ring = segment.ring(index).unwrap();
                let mut taken = 0;
                ring.drain(|_| taken += 1);
                assert!(taken <= wire::RING_EVENTS);
                let (mut young, mut deaths) = (0, 0);
                ring.young(|_| young += 1);
                ring.deaths(|_, _, _| deaths += 1);
                assert!(young <= wire::YOUNG_SLOTS && deaths <= wire::DEATH_SLOTS);
            }
        }
    }
}
