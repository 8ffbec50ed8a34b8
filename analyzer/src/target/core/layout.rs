//! Which bytes of a core's process lie where, and its mappings as the kernel would have listed them.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use super::mapped::{self, Image, Sources};
use super::{Core, Hints, PAGE, Segment};
use crate::address::TargetRange;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::threads::ThreadState;

/// Below a mapping, so much that is mapped by nobody may be the guard of a stack: gcore leaves out what has no rights.
const LARGEST_GUARD: u64 = 64 << 20;
/// Parts with data that are told apart in a sparse core, at most.
const MOST_EXTENTS: usize = 1 << 20;
/// For [`Mapping::device`] of files: only that it is not 0.
const SOME_DEVICE: (u32, u32) = (0, 1);

/// Where the bytes of a part of memory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In the core, from this offset on.
    Core(u64),
    /// In a mapped file, from this offset on.
    File(usize, u64),
    /// Nowhere: nobody ever wrote there.
    Zero,
    /// Nowhere, and what was there is not known.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    range: TargetRange,
    source: Source,
    writable: bool,
    executable: bool,
    /// The file that is mapped there.
    image: Option<usize>,
}

/// The memory of a process, from its core and the files that it had mapped.
#[derive(Debug)]
pub struct CoreMemory {
    core: File,
    images: Vec<Image>,
    /// By address, disjoint.
    pieces: Vec<Piece>,
}

/// See [`Core::lay_out`].
pub(super) fn lay_out(core: Core, sources: Sources, hints: Hints) -> (CoreMemory, Vec<Mapping>, Vec<ThreadState>) {
    let stack = core.random();
    let vdso = core.auxiliary(libc::AT_SYSINFO_EHDR);
    let Core { file, segments, notes } = core;
    let read_core = |address: u64, buffer: &mut [u8]| {
        let at = segments.partition_point(|segment| segment.range.end <= address);
        let Some(segment) = segments.get(at).filter(|segment| segment.range.contains(address)) else { return 0 };
        let skip = address - segment.range.start;
        let there = segment.in_core.saturating_sub(skip).min(buffer.len() as u64) as usize;
        file.read_at(&mut buffer[..there], segment.offset.saturating_add(skip)).unwrap_or(0)
    };
    let (images, image_of) = mapped::open(&notes.files, &sources, &read_core);
    let mut memory = CoreMemory { core: file, images, pieces: Vec::new() };
    let mut maps: Vec<Mapping> = Vec::new();
    let mut files = notes.files.iter().zip(&image_of).peekable();
    for segment in &segments {
        // Mapped files that the core does not speak of otherwise (gcore).
        while let Some((part, image)) = files.next_if(|(part, _)| part.range.end <= segment.range.start) {
            memory.add_file_only(part, *image, &mut maps);
        }
        let of_file = files.peek().filter(|(part, _)| part.range.contains(segment.range.start));
        let of_file =
            of_file.map(|(part, image)| (**image, part.offset.saturating_add(segment.range.start - part.range.start)));
        memory.add_segment(segment, of_file);
        maps.push(memory.mapping(segment, of_file));
        while files.next_if(|(part, _)| part.range.start < segment.range.end).is_some() {}
    }
    for (part, image) in files {
        memory.add_file_only(part, *image, &mut maps);
    }
    let mut maps = with_guards(maps);
    name(&mut maps, stack, vdso, hints.heap);
    (memory, maps, notes.threads)
}

impl CoreMemory {
    fn add_segment(&mut self, segment: &Segment, of_file: Option<(usize, u64)>) {
        let Segment { range, writable, executable, .. } = *segment;
        let image = of_file.map(|(image, _)| image);
        let middle = range.start + segment.in_core;
        if segment.in_core > 0 {
            let range = TargetRange { start: range.start, end: middle };
            self.pieces.push(Piece { range, source: Source::Core(segment.offset), writable, executable, image });
        }
        if middle < range.end {
            let source = match of_file {
                Some((image, offset)) if self.images[image].file.is_some() => {
                    Source::File(image, offset.saturating_add(segment.in_core))
                }
                Some(_) => Source::Unknown,
                None if segment.readable || segment.writable => Source::Zero,
                None => Source::Unknown,
            };
            let range = TargetRange { start: middle, end: range.end };
            self.pieces.push(Piece { range, source, writable, executable, image });
        }
    }

    fn add_file_only(&mut self, part: &super::MappedPart, image: usize, maps: &mut Vec<Mapping>) {
        let executable = self.images[image].is_code(part.offset);
        let range = part.range;
        let segment = Segment { range, readable: true, writable: false, executable, offset: 0, in_core: 0 };
        self.add_segment(&segment, Some((image, part.offset)));
        maps.push(self.mapping(&segment, Some((image, part.offset))));
    }

    fn mapping(&self, segment: &Segment, of_file: Option<(usize, u64)>) -> Mapping {
        let image = of_file.map(|(image, _)| &self.images[image]);
        Mapping {
            range: segment.range,
            // gcore writes guards, which have no rights, as zeroes that may be read. Nobody searches memory that is not written to.
            readable: segment.readable && (segment.writable || segment.executable || image.is_some()),
            writable: segment.writable,
            executable: segment.executable,
            // A core does not say.
            shared: false,
            offset: of_file.map_or(0, |(_, offset)| offset),
            device: if image.is_some() { SOME_DEVICE } else { (0, 0) },
            // Enough to tell files apart.
            inode: of_file.map_or(0, |(image, _)| image as u64 + 1),
            name: image.map_or_else(OsString::new, |image| image.name.clone()),
            deleted: image.is_some_and(|image| image.deleted),
        }
    }

    /// The file behind a mapping, where it is still the one that was mapped.
    pub fn file_of(&self, mapping: &Mapping) -> Option<File> {
        let image = usize::try_from(mapping.inode.checked_sub(1)?).ok()?;
        self.images.get(image)?.file.as_ref()?.try_clone().ok()
    }

    /// Names of the files that were mapped as code and are not here any more, or are others by now.
    pub fn missing_code(&self) -> Vec<String> {
        let missing = self.pieces.iter().filter(|piece| piece.executable && piece.source == Source::Unknown);
        let of = |piece: &Piece| Some(self.images[piece.image?].name.to_string_lossy().into_owned());
        let mut names: Vec<String> = missing.filter_map(of).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What of writable memory may hold something, by address. The holes of a sparse core do not.
    pub fn written(&self) -> Vec<TargetRange> {
        let mut parts = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.writable) {
            match piece.source {
                Source::Core(offset) if parts.len() < MOST_EXTENTS => self.add_data(piece.range, offset, &mut parts),
                Source::Zero => (),
                _ => parts.push(piece.range),
            }
        }
        parts
    }

    /// Adds the parts of a piece that are no holes in the core.
    fn add_data(&self, range: TargetRange, offset: u64, parts: &mut Vec<TargetRange>) {
        let end = offset.saturating_add(range.len());
        let mut at = offset;
        while at < end {
            // A file system without holes, or one that does not say: all of it.
            let data = match rustix::fs::seek(&self.core, SeekFrom::Data(at)) {
                Ok(data) => data.max(at),
                Err(rustix::io::Errno::NXIO) => return,
                Err(_) => at,
            };
            if data >= end {
                return;
            }
            let hole = rustix::fs::seek(&self.core, SeekFrom::Hole(data)).unwrap_or(end).clamp(data + 1, end);
            // Words are not cut in two.
            let start = range.start + ((data - offset) & !(PAGE - 1));
            let stop = range.start + (hole - offset).next_multiple_of(PAGE).min(range.len());
            parts.push(TargetRange { start, end: stop });
            at = hole.max(stop - range.start + offset);
        }
    }

    /// Bytes of writable memory that are not in the core though no file has them: nobody ever wrote there, or it was kept out. Variables
    /// that are zero at first (.bss) lie right behind their file's, and nobody keeps those out.
    /// `never`: what is not counted.
    pub fn left_out(&self, never: &[TargetRange]) -> u64 {
        let is_in =
            |piece: &&Piece| never.iter().any(|range| range.start < piece.range.end && piece.range.start < range.end);
        let is_bss = |at: usize| {
            let before = at.checked_sub(1).map(|before| &self.pieces[before]);
            before.is_some_and(|before| before.image.is_some() && before.range.end == self.pieces[at].range.start)
        };
        let zero = self.pieces.iter().enumerate().filter(|(_, piece)| piece.writable && piece.source == Source::Zero);
        let zero = zero.filter(|(at, _)| !is_bss(*at)).map(|(_, piece)| piece);
        zero.filter(|piece| !is_in(piece)).map(|piece| piece.range.len()).fold(0, u64::saturating_add)
    }
}

impl Memory for CoreMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        let mut next = self.pieces.partition_point(|piece| piece.range.end <= address);
        while done < buffer.len()
            && let Some(piece) = self.pieces.get(next)
            && let Some(skip) = address.checked_add(done as u64).and_then(|at| at.checked_sub(piece.range.start))
        {
            let wanted = ((buffer.len() - done) as u64).min(piece.range.len() - skip) as usize;
            let part = &mut buffer[done..done + wanted];
            let got = match piece.source {
                Source::Core(offset) => read_whole(&self.core, offset.saturating_add(skip), part),
                Source::File(image, offset) => {
                    let (image, at) = (&self.images[image], offset.saturating_add(skip));
                    // Behind the file's end its last page is zero, and pages behind that are none.
                    let there = image.shown.saturating_sub(at).min(wanted as u64) as usize;
                    let got = image.file.as_ref().map_or(0, |file| read_whole(file, at, &mut part[..there]));
                    part[got..there].fill(0);
                    there
                }
                Source::Zero => {
                    part.fill(0);
                    wanted
                }
                Source::Unknown => 0,
            };
            done += got;
            if got < wanted {
                break;
            }
            next += 1;
        }
        done
    }
}

fn read_whole(file: &File, offset: u64, buffer: &mut [u8]) -> usize {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

/// With what lies unmapped right below writable memory as mappings without rights: some writers of cores leave guards out, and those below
/// stacks tell which memory is one.
fn with_guards(maps: Vec<Mapping>) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::with_capacity(maps.len());
    for mapping in maps {
        let below = all.last().map_or(0, |last| last.range.end);
        let start = below.max(mapping.range.start.saturating_sub(LARGEST_GUARD));
        if mapping.writable && mapping.name.is_empty() && start < mapping.range.start {
            all.push(Mapping {
                range: TargetRange { start, end: mapping.range.start },
                readable: false,
                writable: false,
                executable: false,
                name: "[gap]".into(),
                ..mapping.clone()
            });
        }
        all.push(mapping);
    }
    all
}

/// Gives mappings the names that a core does not have.
fn name(maps: &mut [Mapping], stack: Option<u64>, vdso: Option<u64>, heap: Option<u64>) {
    let mut heap_goes_on = heap;
    for mapping in maps.iter_mut() {
        let holds = |address: Option<u64>| address.is_some_and(|address| mapping.range.contains(address));
        if holds(vdso) {
            mapping.name = "[vdso]".into();
        } else if mapping.range.start >= 1 << 63 {
            mapping.name = "[vsyscall]".into();
        } else if !mapping.name.is_empty() || !mapping.writable {
            continue;
        } else if holds(stack) {
            mapping.name = "[stack]".into();
        } else if holds(heap_goes_on) {
            mapping.name = "[heap]".into();
            heap_goes_on = Some(mapping.range.end);
        }
    }
}
