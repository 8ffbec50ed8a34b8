//! The kind of each block: a stack is typed once, when it is first seen; an event then costs a table look-up.

use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::segment::Segment;
use crate::graph::formats::PixelFormats;
use crate::kind::ObjectKind;
use crate::symbols::{PYTHON, Symbolizer};
use crate::typing::{self, Doubt, Typing};

/// Stacks of one session, typed as they come.
pub struct StackTypes {
    segment: Arc<Segment>,
    exe: PathBuf,
    /// Names of the session's modules.
    pub symbolizer: Symbolizer,
    /// What format numbers mean, by the index of the libavutil, once that was read.
    pub pixel_formats: FxHashMap<u32, PixelFormats>,
    modules: u32,
    /// By stack id: the size first seen with it, and the type.
    first: Vec<Option<Known>>,
    /// Other sizes of the same stack.
    others: HashMap<(u32, u32), Known, FxBuildHasher>,
}

/// What a stack makes in one size.
#[derive(Clone, Copy)]
struct Known {
    size: u32,
    kind: ObjectKind,
    doubt: Doubt,
}

const _: () = assert!(size_of::<Option<Known>>() == 8, "one for each of up to 4 Mi stack ids");

impl Known {
    const PLAIN: Self = Self { size: 0, kind: ObjectKind::Plain, doubt: Doubt::None };
}

/// What a stack makes in one size, as it is kept: stack, size, kind, doubt.
pub type ToldKind = (u32, u32, ObjectKind, Doubt);

/// Sizes that are told apart beside the first of each stack; beyond, all sizes of a stack are taken for its first.
const MOST_OTHERS: usize = 1 << 20;
/// Payload comes in many sizes; what differs by size is small. From here on all sizes of a stack are one.
const LARGE: u64 = 4096;

impl StackTypes {
    /// Nothing typed yet. `root`: the target's root folder where it is not ours.
    pub fn new(segment: Arc<Segment>, exe: PathBuf, root: Option<&std::path::Path>) -> Self {
        let mut symbolizer = Symbolizer::new(root);
        let texts = segment.clone();
        symbolizer.read_scripts_by(Box::new(move |pc| texts.script(pc)));
        Self {
            segment,
            exe,
            symbolizer,
            pixel_formats: FxHashMap::default(),
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

    /// The kind of a block of `size` bytes made on `stack`, as far as the stack tells.
    #[inline]
    pub fn kind_of(&mut self, stack: u32, size: u64) -> ObjectKind {
        self.known(stack, size).kind
    }

    /// The kind of the blocks made on `stack`, of which the sizes are not known any more: that of the first one seen.
    pub fn kind_by_stack(&mut self, stack: u32) -> ObjectKind {
        match self.first.get(stack as usize) {
            Some(&Some(known)) => known.kind,
            _ => self.type_new(stack, 0).kind,
        }
    }

    /// The same with what the stack cannot tell. Who made it is not kept.
    pub fn typing_of(&mut self, stack: u32, size: u64) -> Typing {
        let Known { kind, doubt, .. } = self.known(stack, size);
        Typing { kind, doubt, maker: None, caller: None }
    }

    /// What these stacks make in these sizes, each once.
    pub fn told(&mut self, blocks: impl Iterator<Item = (u32, u64)>) -> Vec<ToldKind> {
        let mut wanted: Vec<(u32, u32)> = blocks.map(|(stack, size)| (stack, size.min(LARGE) as u32)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let told = wanted.into_iter().map(|(stack, size)| {
            let Known { kind, doubt, .. } = self.known(stack, size.into());
            (stack, size, kind, doubt)
        });
        told.collect()
    }

    /// Takes over what was told: it may not be told again, for the files may be gone.
    pub fn recall(&mut self, told: &[ToldKind]) {
        for &(stack, size, kind, doubt) in told {
            let (at, known) = (stack as usize, Known { size, kind, doubt });
            if stack == 0 || stack >= avleak_wire::layout::MAX_NODES {
                continue;
            }
            if self.first.len() <= at {
                self.first.resize(at + 1, None);
            }
            match self.first[at] {
                None => self.first[at] = Some(known),
                Some(_) if self.others.len() < MOST_OTHERS => _ = self.others.insert((stack, size), known),
                Some(_) => (),
            }
        }
    }

    #[inline]
    fn known(&mut self, stack: u32, size: u64) -> Known {
        let size = size.min(LARGE) as u32;
        match self.first.get(stack as usize) {
            // Not FFmpeg's, whatever the size.
            Some(&Some(known)) if known.size == size || known.kind == ObjectKind::Plain => known,
            _ => self.type_new(stack, size),
        }
    }

    #[cold]
    fn type_new(&mut self, stack: u32, size: u32) -> Known {
        if stack == 0 || stack >= avleak_wire::layout::MAX_NODES {
            return Known::PLAIN;
        }
        let at = stack as usize;
        if let Some(first) = self.first.get(at).copied().flatten() {
            if let Some(&known) = self.others.get(&(stack, size)) {
                return known;
            }
            if self.others.len() >= MOST_OTHERS {
                return first;
            }
            let known = self.type_stack(stack, size);
            self.others.insert((stack, size), known);
            return known;
        }
        let known = self.type_stack(stack, size);
        if self.first.len() <= at {
            self.first.resize(at + 1, None);
        }
        self.first[at] = Some(known);
        known
    }

    fn type_stack(&mut self, stack: u32, size: u32) -> Known {
        let raw = self.segment.stack(stack);
        if raw.iter().any(|frame| frame.0.is_some_and(|module| module >= self.modules && module != PYTHON)) {
            self.learn_modules();
        }
        let Typing { kind, doubt, .. } = typing::type_addresses(&mut self.symbolizer, &raw, u64::from(size));
        Known { size, kind, doubt }
    }
}
