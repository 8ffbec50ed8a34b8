//! The object graph of FFmpeg: which frame holds which refs, which ref leads to which buffer, what is payload.
//!
//! Edges need no struct layouts: an object's words are searched for the addresses of known refs. Read by offset are only what
//! has the same place in every libavutil from 56 to 61: AVFrame's `data` 0, `linesize` 64, `width` 104, `height` 108, `nb_samples`
//! 112, `format` 116, `pts` 136; AVPacket's `buf` 0, `pts` 8, `data` 24; AVBufferRef's `buffer` 0, `data` 8; AVBuffer's `data` 0.

pub mod formats;

use rustc_hash::FxHashMap;

use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::Scan;
use crate::target::memory::Memory;
use formats::Format;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrameFacts {
    /// Pixels; 0 for sound.
    pub width: i32,
    /// Pixels; 0 for sound.
    pub height: i32,
    /// Samples per channel; 0 for pictures.
    pub nb_samples: i32,
    /// AVPixelFormat or AVSampleFormat; −1 where unset.
    pub format: i32,
    /// `None` for AV_NOPTS_VALUE.
    pub pts: Option<i64>,
    /// It has content at all: a shell after av_frame_unref has none.
    pub has_data: bool,
}

/// AV_NOPTS_VALUE.
const NO_PTS: i64 = i64::MIN;

/// One AVBuffer and what leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Buffer {
    /// Address of the AVBuffer.
    pub address: u64,
    /// Block of its payload, by index.
    pub payload: Option<u32>,
    /// Bytes pinned while it lives: of the payload's block, or what the refs say where that is not known.
    pub bytes: u64,
    /// Blocks of its live refs, by index.
    pub refs: Vec<u32>,
}

/// The graph over the live blocks, which are addressed by their index.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Graph {
    /// Every buffer to which a live ref leads.
    pub buffers: Vec<Buffer>,
    /// The buffer of each ref: index into `buffers`, by block index.
    pub buffer_of_ref: FxHashMap<u32, u32>,
    /// Refs that an object's words hold, by the object's block index.
    pub refs_of: FxHashMap<u32, Vec<u32>>,
    /// What frames and packets say, by block index.
    pub frames: FxHashMap<u32, FrameFacts>,
    /// pts of packets.
    pub packet_pts: FxHashMap<u32, i64>,
    /// Whether each block is searched for pointers.
    pub scan: Vec<Scan>,
    /// How many bytes of a block of the program's own the largest buffer over it takes up.
    wrapped: FxHashMap<u32, u64>,
}

/// Objects are searched for refs up to here; the largest AVFrame has well under 1 KiB, contexts a few.
const SEARCHED_BYTES: usize = 4096;
/// Alignment and padding that a block may have beside its buffer.
const SLACK: u64 = 128;
/// A guard against a nonsense image: larger than any codec's limit.
const MAX_SIDE: i32 = 1 << 16;

impl Graph {
    /// Reads every object. `blocks` is sorted by address; `format_of` says what a format number means for a block's library.
    pub fn read(
        blocks: &[LiveBlock],
        memory: &dyn Memory,
        format_of: &dyn Fn(&LiveBlock, i32) -> Option<Format>,
    ) -> Self {
        let mut graph = Self { scan: vec![Scan::Words; blocks.len()], ..Self::default() };
        graph.read_refs(blocks, memory);
        let mut bytes = vec![0; SEARCHED_BYTES];
        for (index, block) in blocks.iter().enumerate() {
            let index = index as u32;
            if !block.kind.is_object() || block.kind == ObjectKind::BufferRef {
                continue;
            }
            let wanted = (block.size as usize).min(SEARCHED_BYTES);
            let got = memory.read(block.address, &mut bytes[..wanted]) & !7;
            let words = || bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            let refs: Vec<u32> = words()
                .filter_map(|word| find_start(blocks, word))
                .filter(|&at| blocks[at as usize].kind == ObjectKind::BufferRef)
                .collect();
            let mut refs = refs;
            if block.kind == ObjectKind::Frame {
                // More than eight planes, and side data, hang on arrays of their own.
                refs_beside(blocks, memory, &bytes[..got], 2, &mut refs);
                refs.sort_unstable();
                refs.dedup();
            }
            if !refs.is_empty() {
                graph.refs_of.insert(index, refs);
            }
            match block.kind {
                ObjectKind::Frame if got >= 144 => graph.read_frame(blocks, index, &bytes[..got], format_of),
                ObjectKind::Packet if got >= 32 => {
                    let pts = word_at(&bytes, 8) as i64;
                    if pts != NO_PTS {
                        graph.packet_pts.insert(index, pts);
                    }
                    graph.mark_payload(blocks, word_at(&bytes, 24));
                }
                _ => (),
            }
        }
        graph
    }

    /// The part of it that is about some blocks, for their indices elsewhere; `None`: not there.
    pub fn only(&self, place: &dyn Fn(u32) -> Option<u32>) -> Self {
        let places = |all: &[u32]| all.iter().filter_map(|&at| place(at)).collect::<Vec<u32>>();
        let mut only = Self::default();
        for buffer in &self.buffers {
            let refs = places(&buffer.refs);
            if refs.is_empty() {
                continue;
            }
            only.buffer_of_ref.extend(refs.iter().map(|&at| (at, only.buffers.len() as u32)));
            only.buffers.push(Buffer { refs, payload: buffer.payload.and_then(place), ..buffer.clone() });
        }
        for (&index, refs) in &self.refs_of {
            only.refs_of.extend(place(index).map(|index| (index, places(refs))));
        }
        only.frames.extend(self.frames.iter().filter_map(|(&index, facts)| Some((place(index)?, *facts))));
        only.packet_pts.extend(self.packet_pts.iter().filter_map(|(&index, pts)| Some((place(index)?, *pts))));
        only
    }

    fn read_refs(&mut self, blocks: &[LiveBlock], memory: &dyn Memory) {
        let mut known: FxHashMap<u64, u32> = FxHashMap::default();
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.kind == ObjectKind::BufferRef) {
            let mut bytes = [0; 24];
            if memory.read(block.address, &mut bytes) != 24 {
                continue;
            }
            let (address, data) = (word_at(&bytes, 0), word_at(&bytes, 8));
            // AVBufferRef.size is an int before avutil 57, with padding behind it.
            let size = u64::from(word_at(&bytes, 16) as u32);
            if address == 0 {
                continue;
            }
            let number = *known.entry(address).or_insert_with(|| {
                let start = memory.word(address).unwrap_or(0);
                let payload = find(blocks, start).or_else(|| find(blocks, data));
                // A custom buffer may wrap memory that is no block of its own.
                let whole = memory.word(address + 8).unwrap_or(0) as u32;
                // Part of a larger block of the program's: only that part is pinned.
                let bytes = payload.map_or(size, |at| match blocks[at as usize].kind {
                    ObjectKind::Payload => blocks[at as usize].size,
                    _ => blocks[at as usize].size.min(u64::from(whole).max(size)),
                });
                if let Some(at) = payload {
                    let most = self.wrapped.entry(at).or_default();
                    *most = bytes.max(*most);
                }
                self.buffers.push(Buffer { address, payload, bytes, refs: Vec::new() });
                self.buffers.len() as u32 - 1
            });
            self.buffers[number as usize].refs.push(index as u32);
            self.buffer_of_ref.insert(index as u32, number);
        }
    }

    fn read_frame(
        &mut self,
        blocks: &[LiveBlock],
        index: u32,
        bytes: &[u8],
        format_of: &dyn Fn(&LiveBlock, i32) -> Option<Format>,
    ) {
        let int =
            |at: usize| word_at(bytes, at & !7).to_le_bytes()[at & 4..][..4].try_into().map_or(0, i32::from_le_bytes);
        let pts = word_at(bytes, 136) as i64;
        let facts = FrameFacts {
            width: int(104),
            height: int(108),
            nb_samples: int(112),
            format: int(116),
            pts: (pts != NO_PTS).then_some(pts),
            has_data: word_at(bytes, 0) != 0,
        };
        self.frames.insert(index, facts);
        let picture = (1..MAX_SIDE).contains(&facts.width) && (1..MAX_SIDE).contains(&facts.height);
        let sound = !picture && facts.nb_samples > 0;
        let format = format_of(&blocks[index as usize], facts.format);
        let software = match format {
            Some(format) if picture => !format.hardware,
            // A format that nobody can name holds pointers for all we know.
            None if picture => false,
            _ => sound && facts.format >= 0,
        };
        if !software {
            return;
        }
        for plane in 0..8 {
            let data = word_at(bytes, plane * 8);
            if data == 0 {
                continue;
            }
            // A plane without a line size is a palette or a handle; sound has a size for the first plane only.
            if picture && int(64 + plane * 4) == 0 {
                continue;
            }
            self.mark_payload(blocks, data);
        }
    }

    fn mark_payload(&mut self, blocks: &[LiveBlock], data: u64) {
        if let Some(at) = find(blocks, data)
            && match blocks[at as usize].kind {
                ObjectKind::Payload => true,
                // A program's own block is payload where a buffer takes up all of it; else it may hold anything beside.
                ObjectKind::Plain | ObjectKind::LibavBlock => {
                    self.wrapped.get(&at).is_some_and(|bytes| bytes + SLACK >= blocks[at as usize].size)
                }
                _ => false,
            }
        {
            self.scan[at as usize] = Scan::Payload;
        }
    }
}

/// Refs that are held by the small blocks to whose start these bytes lead: `extended_buf`, `side_data` and what that leads to.
fn refs_beside(blocks: &[LiveBlock], memory: &dyn Memory, bytes: &[u8], depth: u32, refs: &mut Vec<u32>) {
    for word in bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)) {
        let Some(at) = find_start(blocks, word) else { continue };
        let beside = blocks[at as usize];
        if !matches!(beside.kind, ObjectKind::LibavBlock | ObjectKind::SideData) || beside.size > SEARCHED_BYTES as u64
        {
            continue;
        }
        let mut inner = vec![0; beside.size as usize];
        let got = memory.read(beside.address, &mut inner) & !7;
        let words = inner[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        refs.extend(
            words
                .filter_map(|word| find_start(blocks, word))
                .filter(|&at| blocks[at as usize].kind == ObjectKind::BufferRef),
        );
        if depth > 1 {
            refs_beside(blocks, memory, &inner[..got], depth - 1, refs);
        }
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The block that holds `address`, by index.
pub fn find(blocks: &[LiveBlock], address: u64) -> Option<u32> {
    let at = blocks.partition_point(|block| block.address <= address).checked_sub(1)?;
    (address - blocks[at].address < blocks[at].size.max(1)).then_some(at as u32)
}

fn find_start(blocks: &[LiveBlock], address: u64) -> Option<u32> {
    blocks.binary_search_by_key(&address, |block| block.address).ok().map(|at| at as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    fn block(address: u64, size: u64, kind: ObjectKind) -> LiveBlock {
        LiveBlock { address, size, stamp: 0, stack: 1, kind, by_call_only: false }
    }

    fn frame_words(data: u64, width: u64, height: u64, format: u64, buf: u64) -> Vec<u64> {
        let mut words = vec![0; 32];
        words[0] = data;
        words[8] = width; // linesize[0]
        words[13] = width | height << 32;
        words[14] = format << 32;
        words[17] = 77;
        words[20] = buf;
        words
    }

    #[test]
    fn a_frame_leads_to_its_ref_and_buffer_and_its_pixels_are_not_searched() {
        let blocks = [
            block(0x1000, 256, ObjectKind::Frame),
            block(0x2000, 24, ObjectKind::BufferRef),
            block(0x2100, 24, ObjectKind::BufferRef),
            block(0x3000, 48, ObjectKind::Buffer),
            block(0x10000, 5000, ObjectKind::Payload),
        ];
        let mut memory = SavedMemory::default();
        memory.insert_words(0x1000, &frame_words(0x10040, 64, 48, 0, 0x2000));
        memory.insert_words(0x2000, &[0x3000, 0x10040, 4900]);
        memory.insert_words(0x2100, &[0x3000, 0x10040, 4900]);
        memory.insert_words(0x3000, &[0x10040, 4900, 2, 0, 0, 0]);
        let hardware = std::cell::Cell::new(false);
        let read =
            || Graph::read(&blocks, &memory, &|_, _| Some(Format { name: "yuv420p".into(), hardware: hardware.get() }));
        let graph = read();
        let facts = graph.frames[&0];
        assert_eq!((facts.width, facts.height, facts.format, facts.pts), (64, 48, 0, Some(77)));
        assert_eq!(graph.refs_of[&0], [1]);
        assert_eq!(graph.buffers, [Buffer { address: 0x3000, payload: Some(4), bytes: 5000, refs: vec![1, 2] }]);
        assert_eq!(graph.scan[4], Scan::Payload);
        hardware.set(true);
        assert_eq!(read().scan[4], Scan::Words, "hardware frames hold pointers");
    }

    #[test]
    fn hostile_numbers_are_harmless() {
        let blocks = [block(0x1000, 256, ObjectKind::Frame), block(0x2000, 24, ObjectKind::BufferRef)];
        let mut memory = SavedMemory::default();
        memory.insert_words(0x1000, &[u64::MAX; 32]);
        memory.insert_words(0x2000, &[u64::MAX, u64::MAX, u64::MAX]);
        let graph = Graph::read(&blocks, &memory, &|_, _| None);
        assert_eq!(graph.buffers.len(), 1);
        assert_eq!(graph.buffers[0].payload, None);
    }
}
