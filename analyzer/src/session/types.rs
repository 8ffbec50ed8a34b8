//! The kind of each block: a stack is typed once, when it is first seen; an event then costs a table look-up.

use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::segment::Segment;
use crate::kind::ObjectKind;
use crate::symbols::Symbolizer;
use crate::typing::{self, TypingFrame};

/// Stacks of one session, typed as they come.
pub struct StackTypes {
    segment: Arc<Segment>,
    exe: PathBuf,
    /// Names of the session's modules.
    pub symbolizer: Symbolizer,
    modules: u32,
    /// By stack id: the size first seen with it, and the kind.
    first: Vec<Option<(u64, ObjectKind)>>,
    /// Other sizes of the same stack.
    others: HashMap<(u32, u64), ObjectKind, FxBuildHasher>,
}

/// More frames than this do not change what a block is.
const FRAMES: usize = 24;

impl StackTypes {
    /// Nothing typed yet. `root`: the target's root folder where it is not ours.
    pub fn new(segment: Arc<Segment>, exe: PathBuf, root: Option<&std::path::Path>) -> Self {
        Self {
            segment,
            exe,
            symbolizer: Symbolizer::new(root),
            modules: 0,
            first: Vec::new(),
            others: HashMap::default(),
        }
    }

    /// Makes modules known that were recorded since.
    pub fn learn_modules(&mut self) {
        let count = self.segment.module_count();
        for index in self.modules..count {
            if let Some(module) = self.segment.module(index, &self.exe) {
                self.symbolizer.add_module(module);
            }
        }
        self.modules = count;
    }

    /// The kind of a block of `size` bytes made on `stack`.
    #[inline]
    pub fn kind_of(&mut self, stack: u32, size: u64) -> ObjectKind {
        match self.first.get(stack as usize) {
            Some(&Some((known, kind))) if known == size => kind,
            _ => self.kind_of_new(stack, size),
        }
    }

    #[cold]
    fn kind_of_new(&mut self, stack: u32, size: u64) -> ObjectKind {
        if stack == 0 || stack >= avleak_wire::layout::MAX_NODES {
            return ObjectKind::Plain;
        }
        let at = stack as usize;
        if let Some(Some((_, first_kind))) = self.first.get(at) {
            if *first_kind == ObjectKind::Plain {
                // Not FFmpeg's, whatever the size.
                return ObjectKind::Plain;
            }
            if let Some(&kind) = self.others.get(&(stack, size)) {
                return kind;
            }
            let kind = self.type_stack(stack, size);
            // Payload comes in many sizes; what differs by size is small.
            if size < 4096 {
                self.others.insert((stack, size), kind);
            }
            return kind;
        }
        let kind = self.type_stack(stack, size);
        if self.first.len() <= at {
            self.first.resize(at + 1, None);
        }
        self.first[at] = Some((size, kind));
        kind
    }

    fn type_stack(&mut self, stack: u32, size: u64) -> ObjectKind {
        let raw = self.segment.stack(stack);
        if raw.iter().take(FRAMES).any(|frame| frame.1.is_some_and(|module| module >= self.modules)) {
            self.learn_modules();
        }
        let mut names = Vec::with_capacity(FRAMES);
        for &(pc, module) in raw.iter().filter(|frame| !self.symbolizer.is_own_frame(frame.1)).take(FRAMES) {
            let flags = module.and_then(|module| self.symbolizer.module(module)).map_or(0, |module| module.flags);
            // Only libav's names matter, and the first frame outside ends the search.
            let libav = crate::symbols::is_libav(flags);
            names.push((flags, if libav { self.symbolizer.symbol(module, pc) } else { None }));
            if !libav && names.len() > 2 {
                break;
            }
        }
        let frames: Vec<TypingFrame<'_>> = names
            .iter()
            .map(|(module_flags, symbol)| TypingFrame { module_flags: *module_flags, symbol: symbol.as_deref() })
            .collect();
        typing::kind_of(&frames, size)
    }
}
