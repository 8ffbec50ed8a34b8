//! The kind of each block: a stack is typed once, when it is first seen; an event then costs a table look-up.

use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::segment::Segment;
use crate::kind::ObjectKind;
use crate::symbols::{PYTHON, Symbolizer};
use crate::typing::{self, Doubt, Typing};

/// Stacks of one session, typed as they come.
pub struct StackTypes {
    segment: Arc<Segment>,
    exe: PathBuf,
    /// Names of the session's modules.
    pub symbolizer: Symbolizer,
    modules: u32,
    /// By stack id: the size first seen with it, and the type.
    first: Vec<Option<(u64, Typing)>>,
    /// Other sizes of the same stack.
    others: HashMap<(u32, u64), Typing, FxBuildHasher>,
}

const PLAIN: Typing = Typing { kind: ObjectKind::Plain, doubt: Doubt::None, maker: None, caller: None };

impl StackTypes {
    /// Nothing typed yet. `root`: the target's root folder where it is not ours.
    pub fn new(segment: Arc<Segment>, exe: PathBuf, root: Option<&std::path::Path>) -> Self {
        let mut symbolizer = Symbolizer::new(root);
        let texts = segment.clone();
        symbolizer.read_scripts_by(Box::new(move |pc| texts.script(pc)));
        Self { segment, exe, symbolizer, modules: 0, first: Vec::new(), others: HashMap::default() }
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
        self.typing_of(stack, size).kind
    }

    /// The kind of the blocks made on `stack`, of which the sizes are not known any more: that of the first one seen.
    pub fn kind_by_stack(&mut self, stack: u32) -> ObjectKind {
        match self.first.get(stack as usize) {
            Some(&Some((_, typing))) => typing.kind,
            _ => self.typing_of_new(stack, 0).kind,
        }
    }

    /// The same with what the stack cannot tell.
    #[inline]
    pub fn typing_of(&mut self, stack: u32, size: u64) -> Typing {
        match self.first.get(stack as usize) {
            Some(&Some((known, typing))) if known == size => typing,
            _ => self.typing_of_new(stack, size),
        }
    }

    #[cold]
    fn typing_of_new(&mut self, stack: u32, size: u64) -> Typing {
        if stack == 0 || stack >= avleak_wire::layout::MAX_NODES {
            return PLAIN;
        }
        let at = stack as usize;
        if let Some(Some((_, first))) = self.first.get(at) {
            if first.kind == ObjectKind::Plain {
                // Not FFmpeg's, whatever the size.
                return *first;
            }
            if let Some(&typing) = self.others.get(&(stack, size)) {
                return typing;
            }
            let typing = self.type_stack(stack, size);
            // Payload comes in many sizes; what differs by size is small.
            if size < 4096 {
                self.others.insert((stack, size), typing);
            }
            return typing;
        }
        let typing = self.type_stack(stack, size);
        if self.first.len() <= at {
            self.first.resize(at + 1, None);
        }
        self.first[at] = Some((size, typing));
        typing
    }

    fn type_stack(&mut self, stack: u32, size: u64) -> Typing {
        let raw = self.segment.stack(stack);
        if raw.iter().any(|frame| frame.0.is_some_and(|module| module >= self.modules && module != PYTHON)) {
            self.learn_modules();
        }
        typing::type_addresses(&mut self.symbolizer, &raw, size)
    }
}
