//! Says what a block is by the stack that allocated it, once for each distinct stack and size.
//!
//! A block is FFmpeg's where malloc's caller lies in libav. From there outward, allocation helpers (`av_mallocz` …) and
//! static functions are passed over until a function is met whose products are known (`rules`); reaching a function that
//! is exported but makes nothing by name, or code outside libav, ends the search. Where one function makes several things of
//! one shape, the answer carries a [`Doubt`], and [`confirm`] settles it by the block's content at the check.
//!
//! Not for: blocks that the program itself gets by av_malloc (they are the program's), packets and frames embedded in other
//! structs (no allocation makes them).

use crate::kind::ObjectKind;
use crate::symbols::{Symbolizer, is_libav};

mod confirm;
mod rules;
#[cfg(test)]
mod tests;

pub use confirm::confirm;

/// One frame of an allocation stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypingFrame<'a> {
    /// `avleak_wire::layout::MODULE_*` of its module; 0 for code in no module.
    pub module_flags: u32,
    /// The function whose range holds return address − 1. `None`: a static function of a stripped library, or unknown.
    pub symbol: Option<&'a str>,
}

/// What a block is, and who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Typing {
    /// The type, as far as the stack tells.
    pub kind: ObjectKind,
    /// What the stack cannot tell.
    pub doubt: Doubt,
    /// The frame of the libav function that decided, such as av_frame_alloc's.
    pub maker: Option<usize>,
    /// The first frame outside libav: who called it.
    pub caller: Option<usize>,
}

/// What only the block's content can tell; until then [`Typing::kind`] is the likelier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Doubt {
    /// Nothing: the stack says it all.
    None,
    /// A context where its first word leads to an AVClass of one; else a block of FFmpeg's.
    Class,
    /// An AVFrame where its extended_data points to its own data; else a block of FFmpeg's.
    Frame,
    /// An AVCodecParserContext, or its private data.
    Parser,
    /// avutil 56, where AVBuffer and pool entry are both 40 bytes.
    EntryOrBuffer,
    /// Payload of the size of an AVBufferRef or AVBuffer, where av_buffer_create may be inlined.
    PayloadOrRef,
    /// An AVDictionary, or its array of one entry: both 16 bytes.
    DictionaryOrEntries,
}

impl Typing {
    fn plain() -> Self {
        Self { kind: ObjectKind::Plain, doubt: Doubt::None, maker: None, caller: None }
    }
}

/// How far out a stack is searched, frames.
const DEEPEST: usize = 64;

/// Types a block of `size` bytes by its stack, innermost frame (malloc's caller) first.
pub fn type_stack(frames: &[TypingFrame<'_>], size: u64) -> Typing {
    type_lazily(frames.len(), size, |i| frames[i])
}

/// Types a block by the modules and return addresses of its stack, innermost first. Looks at no more symbols than the
/// answer needs: none for a program's own block.
pub fn type_addresses(symbolizer: &mut Symbolizer, stack: &[(Option<u32>, u64)], size: u64) -> Typing {
    // Own frames lie innermost, if anywhere.
    let own = stack.iter().take_while(|(module, _)| symbolizer.is_own_frame(*module)).count();
    let mut symbols: Vec<Option<std::sync::Arc<str>>> = Vec::new();
    // Of a module that holds other code than FFmpeg's only FFmpeg's functions count as its.
    let mut flags: Vec<u32> = Vec::new();
    for &(module, address) in stack[own..].iter().take(DEEPEST) {
        if !symbolizer.is_libav_code(module, address) {
            flags.push(0);
            break;
        }
        flags.push(module.and_then(|m| symbolizer.module(m)).map_or(0, |m| m.flags));
        symbols.push(symbolizer.symbol(module, address));
    }
    let symbol = |i: usize| symbols.get(i).and_then(|s| s.as_deref());
    let mut typing = type_lazily(flags.len(), size, |i| TypingFrame { module_flags: flags[i], symbol: symbol(i) });
    typing.maker = typing.maker.map(|i| i + own);
    typing.caller = typing.caller.map(|i| i + own);
    typing
}

fn type_lazily<'a>(depth: usize, size: u64, frame: impl Fn(usize) -> TypingFrame<'a>) -> Typing {
    let depth = depth.min(DEEPEST);
    let inside = (0..depth).take_while(|&i| is_libav(frame(i).module_flags)).count();
    if inside == 0 {
        return Typing::plain();
    }
    let caller = (inside < depth).then_some(inside);
    let mut path = rules::Path { size, helper: None, statics: 0 };
    for i in 0..inside {
        let function = match frame(i).symbol {
            Some(name) => rules::function(name),
            None => rules::Function::Static,
        };
        match function {
            // Called from a helper, a helper is only its means: what the outer one is for counts.
            rules::Function::Helper(helper) if path.statics == 0 => path.helper = Some(helper),
            rules::Function::Helper(_) | rules::Function::Static => path.statics += 1,
            rules::Function::Maker(maker) => {
                let (kind, doubt) = maker.product(&path);
                return Typing { kind, doubt, maker: Some(i), caller };
            }
            rules::Function::Other => {
                let (kind, doubt) = path.unnamed();
                return Typing { kind, doubt, maker: Some(i), caller };
            }
        }
    }
    if path.statics == 0 {
        // Helpers only: the program's own av_malloc.
        return Typing { caller, ..Typing::plain() };
    }
    let (kind, doubt) = path.unnamed();
    Typing { kind, doubt, maker: None, caller }
}
