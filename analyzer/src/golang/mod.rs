//! Go's runtime in a stopped process: its heap, its goroutines, and which of its objects the program can still get at.
//!
//! As a plain root, Go's heap hides every leak until a garbage collection has run *and* the memory was used again: what was freed, or never
//! will be, still holds its pointers. So avleak marks Go's objects itself, from Go's own roots, as Go's collector would at this moment:
//!
//! | file | job |
//! |---|---|
//! | [`files`] | which of the files that are mapped have Go in them |
//! | [`layout`] | where the fields of the runtime's structs lie, by version |
//! | [`runtime`] | the lists of spans and goroutines, found by what they look like: stripped programs have no symbols |
//! | [`heap`] | from an address to the object that holds it |
//! | [`goroutine`] | stacks, where they are live, what runs on them |
//! | [`mark`] | what the roots reach |
//!
//! Objects that are reached are roots for the search for lost blocks; the rest of Go's heap is none. Marking is conservative: a word that
//! could be a pointer is one. That can hide a leak, and never invents one.
//!
//! Everything read is the target's: checked, bounded, and where it does not fit together the runtime is *not judged*, with the reason
//! ([`Unjudged`]): its memory then only makes what it holds possibly lost.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::address::TargetRange;
use crate::symbols::go_image::{GoImage, Version};
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::threads::ThreadState;

pub mod files;
pub mod goroutine;
pub mod heap;
pub mod layout;
pub mod mark;
pub mod runtime;

use files::Files;
use goroutine::{Goroutine, Place};
use heap::Heap;
use layout::Layout;

/// One Go runtime in the process: a program has one, and each Go library that it loads another.
pub struct GoRuntime {
    /// The file's name.
    pub module: String,
    /// Of the file.
    pub image: Arc<GoImage>,
    /// Runtime address minus address in the file.
    pub bias: u64,
    /// Its heap.
    pub heap: Heap,
    /// All that are not dead.
    pub goroutines: Vec<Goroutine>,
    /// Where its threads' stacks go on, by thread id, where they are on one of Go's now.
    pub places: Vec<(i32, Place)>,
    /// Its variables that may hold pointers.
    pub pointers: [TargetRange; 2],
}

/// A runtime that cannot be judged.
pub struct Unjudged {
    /// The file's name.
    pub module: String,
    /// Its version, where it says.
    pub version: Option<Version>,
    /// Why: a clause.
    pub reason: String,
}

/// What Go there is in a process.
#[derive(Default)]
pub struct GoProcess {
    /// Those that can be judged.
    pub runtimes: Vec<GoRuntime>,
    /// Those that cannot.
    pub unjudged: Vec<Unjudged>,
}

impl GoProcess {
    /// Looks for Go in every file that is mapped as code in the process of thread `tid`.
    pub fn discover(tid: i32, maps: &[Mapping], threads: &[ThreadState], memory: &dyn Memory) -> Self {
        let files = Files::of(tid);
        Self::discover_in(&|mapping| files.go_behind(mapping), maps, threads, memory)
    }

    /// Looks for Go in every file that is mapped as code; `go_behind` finds what there is in the file behind a mapping.
    pub fn discover_in(
        go_behind: &dyn Fn(&Mapping) -> Option<(File, GoImage)>,
        maps: &[Mapping],
        threads: &[ThreadState],
        memory: &dyn Memory,
    ) -> Self {
        let mut found = Self::default();
        for mapping in files::each_file(maps) {
            let Some((file, image)) = go_behind(mapping) else { continue };
            let Some(bias) = image.bias(mapping.offset, mapping.range.start) else { continue };
            let name = mapping.path().and_then(Path::file_name);
            let module = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let version = image.version;
            match Self::runtime(module.clone(), &file, image, bias, threads, memory) {
                Ok(Some(runtime)) => found.runtimes.push(runtime),
                // Not started yet, or a program that merely carries Go's tables.
                Ok(None) => {}
                Err(reason) => found.unjudged.push(Unjudged { module, version, reason }),
            }
        }
        found
    }

    fn runtime(
        module: String,
        file: &File,
        image: GoImage,
        bias: u64,
        threads: &[ThreadState],
        memory: &dyn Memory,
    ) -> Result<Option<GoRuntime>, String> {
        let layout = match image.version.and_then(Layout::of) {
            Some(layout) => layout,
            None => Layout::from_dwarf(file).ok_or_else(|| {
                let version = image.version.map_or("of an unknown version".into(), |version| version.to_string());
                format!("the layout of its runtime ({version}) is not known, and the file has no debug information")
            })?,
        };
        let moved = |range: TargetRange| TargetRange {
            start: range.start.wrapping_add(bias),
            end: range.end.wrapping_add(bias),
        };
        let variables = moved(image.variables);
        let (spans, goroutines) = match runtime::find(memory, variables, &layout) {
            runtime::Lists::Found { spans, goroutines } => (spans, goroutines),
            runtime::Lists::Empty => return Ok(None),
            runtime::Lists::Missing(what) => return Err(format!("{what} was not found in its variables")),
        };
        if cfg!(target_arch = "aarch64") {
            return Err("how it keeps its goroutines was never tried on AArch64".into());
        }
        let heap = Heap::read(memory, &spans, &layout)?;
        let text = moved(image.text);
        let (goroutines, places) = goroutine::read(memory, &goroutines, &layout, &heap, threads, text);
        let pointers = image.pointers.map(moved);
        Ok(Some(GoRuntime { module, image: Arc::new(image), bias, heap, goroutines, places, pointers }))
    }
}
