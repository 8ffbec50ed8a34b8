//! Settles by a block's content what its stack left open.

use super::{Doubt, Typing};
use crate::address::TargetRange;
use crate::kind::ObjectKind;
use crate::target::memory::Memory;

/// Offset of AVFrame.extended_data, all versions.
const EXTENDED_DATA: u64 = 96;
/// Longest class name that is looked at.
const LONGEST_NAME: usize = 32;

/// What the block is, at the check. Where memory cannot be read the stack's answer stands.
pub fn confirm(typing: Typing, block: TargetRange, memory: &dyn Memory) -> ObjectKind {
    let kind = match typing.doubt {
        Doubt::None => Some(typing.kind),
        Doubt::Class => by_class(typing.kind, block, memory),
        Doubt::Frame => memory
            .word(block.start.wrapping_add(EXTENDED_DATA))
            .map(|w| if w == block.start { ObjectKind::Frame } else { ObjectKind::LibavBlock }),
        Doubt::Parser => parser(block, memory),
        Doubt::EntryOrBuffer => words(block, memory)
            .map(|w| if looks_like_old_buffer(&w) { ObjectKind::Buffer } else { ObjectKind::PoolEntry }),
        Doubt::PayloadOrRef => words(block, memory).map(|w| payload_or_ref(&w, block, memory)),
        Doubt::DictionaryOrEntries => words(block, memory).map(|w| {
            // {int count; AVDictionaryEntry *elems}, or {char *key, *value}.
            if w[0] < 1 << 32 { ObjectKind::Dictionary } else { ObjectKind::DictionaryPart }
        }),
    };
    kind.unwrap_or(typing.kind)
}

/// The first words of the block, zero behind its end.
fn words(block: TargetRange, memory: &dyn Memory) -> Option<[u64; 6]> {
    let mut bytes = [0; 48];
    let want = block.len().min(48) as usize;
    if memory.read(block.start, &mut bytes[..want]) < want {
        return None;
    }
    let mut words = [0; 6];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    Some(words)
}

/// AVClass: `const char *class_name` comes first; a context's first word points to its class.
fn by_class(guess: ObjectKind, block: TargetRange, memory: &dyn Memory) -> Option<ObjectKind> {
    let class = memory.word(block.start)?;
    let name = memory.word(class).and_then(|at| memory.c_string(at, LONGEST_NAME));
    Some(match name.as_deref() {
        Some(b"AVCodecContext") => ObjectKind::CodecContext,
        Some(b"AVFormatContext") => ObjectKind::FormatContext,
        Some(b"AVFilterGraph") => ObjectKind::FilterGraph,
        Some(b"AVFilter") => ObjectKind::FilterContext,
        Some(b"AVIOContext") => ObjectKind::IoContext,
        Some(b"AVBSFContext") => ObjectKind::BsfContext,
        Some(b"SWScaler" | b"SwsContext") => ObjectKind::SwsContext,
        Some(b"SWResampler") => ObjectKind::SwrContext,
        Some(b"AVHWDeviceContext" | b"AVHWFramesContext") => ObjectKind::HwContext,
        // Not yet initialised: nothing speaks against the stack's answer.
        None if class == 0 && guess == ObjectKind::IoContext => guess,
        _ => ObjectKind::LibavBlock,
    })
}

/// AVCodecParserContext {void *priv_data; const AVCodecParser *parser; …}, AVCodecParser {int codec_ids[5 or 7]; int
/// priv_data_size; …}.
fn parser(block: TargetRange, memory: &dyn Memory) -> Option<ObjectKind> {
    const MOST_CODECS: i32 = 0x40000;
    let parser = memory.word(block.start.wrapping_add(8))?;
    // The context has about 340 bytes in every version; the parser lies in the library's data.
    if parser == 0 || !parser.is_multiple_of(8) || !(256..=512).contains(&block.len()) {
        return Some(ObjectKind::LibavBlock);
    }
    let ids: Vec<i32> = (0..5).filter_map(|i| memory.int(parser.wrapping_add(i * 4))).collect();
    let known =
        ids.len() == 5 && (1..MOST_CODECS).contains(&ids[0]) && ids.iter().all(|id| (0..MOST_CODECS).contains(id));
    Some(if known { ObjectKind::ParserContext } else { ObjectKind::LibavBlock })
}

/// avutil 56: AVBuffer {data; int size; atomic uint refcount; free; opaque; int flags}, against BufferPoolEntry {data; opaque;
/// free; pool; next}. Size and count read as a pointer would lie where no pointer does: a count is small.
fn looks_like_old_buffer(words: &[u64; 6]) -> bool {
    let (size, count) = (words[1] as u32, words[1] >> 32);
    (1..0x1000).contains(&count) && size != 0 && words[2] != 0
}

fn payload_or_ref(words: &[u64; 6], block: TargetRange, memory: &dyn Memory) -> ObjectKind {
    const REF: u64 = 24;
    if block.len() == REF {
        // AVBufferRef {buffer; data; size}: data lies in what the buffer has, whose first word is its data.
        let start = memory.word(words[0]);
        let within = |start: u64| words[1] >= start && words[1] - start <= u32::MAX.into();
        return if words[0].is_multiple_of(8) && words[1] != 0 && start.is_some_and(within) {
            ObjectKind::BufferRef
        } else {
            ObjectKind::Payload
        };
    }
    // avutil ≥ 57: AVBuffer {data; size_t size; atomic uint refcount; free; opaque; flags}.
    let new = block.len() == 48 && words[2] as u32 != 0 && (words[2] as u32) < 0x10_0000 && words[3] != 0;
    let old = block.len() == 40 && looks_like_old_buffer(words);
    let data_is_there = memory.read(words[0], &mut [0]) == 1;
    if words[0] != 0 && data_is_there && (new || old) { ObjectKind::Buffer } else { ObjectKind::Payload }
}
