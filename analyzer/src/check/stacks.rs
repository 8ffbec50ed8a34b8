//! Stacks as reports show them: named once, and keyed by content, so that two nodes of the same frames are one stack.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::report::model::Frame;
use crate::session::drain::Drained;
use crate::session::segment::Segment;
use crate::session::types::StackTypes;
use crate::symbols::StableHasher;

/// Deepest stack in a report; frames beyond are cut at the outer end.
const SHOWN: usize = 64;

/// Names and keys of one session's stacks.
pub struct Stacks<'a> {
    drained: &'a mut Drained,
    keys: FxHashMap<u32, Arc<StackKey>>,
    named: FxHashMap<u64, Arc<[Frame]>>,
}

/// What makes two stacks the same, in every run and on every machine.
#[derive(Debug, PartialEq, Eq)]
pub struct StackKey {
    /// Of the whole stack.
    pub hash: u64,
    /// Of each frame, innermost first, libavleak.so's own left out.
    pub frames: Vec<u64>,
}

/// The frames of stack `id` with their names, innermost first.
pub fn named(segment: &Segment, types: &mut StackTypes, id: u32) -> Vec<Frame> {
    let symbolizer = &mut types.symbolizer;
    let mut frames: Vec<Frame> = Vec::new();
    for (module, pc) in segment.stack(id) {
        if !symbolizer.is_own_frame(module) {
            frames.extend(symbolizer.frames(module, pc).iter().cloned());
        }
        if frames.len() >= SHOWN {
            break;
        }
    }
    frames
}

impl<'a> Stacks<'a> {
    /// Of this session.
    pub fn new(drained: &'a mut Drained) -> Self {
        Self { drained, keys: FxHashMap::default(), named: FxHashMap::default() }
    }

    /// The session.
    pub fn drained(&self) -> &Drained {
        self.drained
    }

    /// The key of stack `id`.
    pub fn key(&mut self, id: u32) -> Arc<StackKey> {
        if let Some(known) = self.keys.get(&id) {
            return known.clone();
        }
        let symbolizer = &self.drained.types.symbolizer;
        let mut whole = StableHasher::default();
        let mut frames = Vec::new();
        for (module, pc) in self.drained.segment.stack(id) {
            if symbolizer.is_own_frame(module) {
                continue;
            }
            let key = symbolizer.key(module, pc);
            let mut one = StableHasher::default();
            key.hash_into(&mut one);
            key.hash_into(&mut whole);
            frames.push(one.finish());
        }
        let key = Arc::new(StackKey { hash: whole.finish(), frames });
        self.keys.insert(id, key.clone());
        key
    }

    /// The frames of stack `id` with their names, innermost first.
    pub fn named(&mut self, id: u32) -> Arc<[Frame]> {
        let hash = self.key(id).hash;
        if let Some(known) = self.named.get(&hash) {
            return known.clone();
        }
        let frames: Arc<[Frame]> = named(&self.drained.segment, &mut self.drained.types, id).into();
        self.named.insert(hash, frames.clone());
        frames
    }

    /// The innermost frames outside FFmpeg and the C library: who asked for it.
    pub fn callers(&mut self, id: u32, most: usize) -> Vec<Frame> {
        let named = self.named(id);
        let outside = |frame: &&Frame| {
            !frame.libav && !frame.module.as_deref().is_some_and(|module| module.starts_with("libc.so"))
        };
        named.iter().filter(outside).take(most).cloned().collect()
    }
}
