//! What a pixel format's number means in the target's own libavutil: read from its memory, right for every version.
//!
//! libavutil holds an array of AVPixFmtDescriptor {name, nb_components, log2_chroma_w, log2_chroma_h, flags, …}; it is static, but
//! its first names are known, and so it is found: a pointer to "yuv420p", and one stride further a pointer to "yuyv422", and one
//! further to "rgb24".

use crate::address::TargetRange;
use crate::target::memory::Memory;

/// A format.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Format {
    /// As FFmpeg names it.
    pub name: String,
    /// Its planes are handles, not pixels (AV_PIX_FMT_FLAG_HWACCEL).
    pub hardware: bool,
}

/// Pixel formats by number.
pub type PixelFormats = Vec<Option<Format>>;

/// Sample formats by number (AVSampleFormat, the same in every version).
pub const SAMPLE_FORMATS: [&str; 12] =
    ["u8", "s16", "s32", "flt", "dbl", "u8p", "s16p", "s32p", "fltp", "dblp", "s64", "s64p"];

/// Bit 3 of AVPixFmtDescriptor.flags (libavutil/pixdesc.h).
const FLAG_HWACCEL: u64 = 1 << 3;
/// AVPixFmtDescriptor.flags.
const FLAGS_OFFSET: u64 = 16;
/// More formats than any version has.
const MOST: u64 = 1024;
/// A libavutil is a few MiB; a static build's program may be larger, and is searched up to here.
const MOST_BYTES: u64 = 256 << 20;

/// Finds the array in the module's mapped `ranges`. Empty where there is none.
pub fn pixel_formats(memory: &dyn Memory, ranges: &[TargetRange]) -> PixelFormats {
    let parts: Vec<(u64, Vec<u8>)> = ranges
        .iter()
        .filter(|range| range.len() <= MOST_BYTES)
        .map(|range| {
            let mut bytes = vec![0; range.len() as usize];
            let got = memory.read(range.start, &mut bytes);
            bytes.truncate(got);
            (range.start, bytes)
        })
        .collect();
    let is = |address: u64, text: &str| {
        memory.c_string(address, text.len() + 1).is_some_and(|found| found == text.as_bytes())
    };
    let names: Vec<u64> =
        parts.iter().flat_map(|(start, bytes)| occurrences(bytes, b"yuv420p\0").map(move |at| start + at)).collect();
    for (start, bytes) in &parts {
        for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            if !names.contains(&word) {
                continue;
            }
            let table = start + index as u64 * 8;
            let pointer = |at: u64| memory.word(at).unwrap_or(0);
            let stride = (32..=256)
                .step_by(8)
                .find(|stride| is(pointer(table + stride), "yuyv422") && is(pointer(table + 2 * stride), "rgb24"));
            if let Some(stride) = stride {
                return read_table(memory, table, stride);
            }
        }
    }
    Vec::new()
}

fn read_table(memory: &dyn Memory, table: u64, stride: u64) -> PixelFormats {
    let mut formats = Vec::new();
    for number in 0..MOST {
        let at = table + number * stride;
        let (Some(name), Some(flags)) = (memory.word(at), memory.word(at + FLAGS_OFFSET)) else { break };
        if name == 0 {
            // A gap in the numbers; the array's end looks different.
            formats.push(None);
            continue;
        }
        let name = memory
            .c_string(name, 32)
            .filter(|name| !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'));
        let Some(name) = name else { break };
        formats.push(Some(Format {
            name: String::from_utf8_lossy(&name).into_owned(),
            hardware: flags & FLAG_HWACCEL != 0,
        }));
    }
    while formats.last() == Some(&None) {
        formats.pop();
    }
    formats
}

fn occurrences<'a>(bytes: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    let first = text[0];
    bytes
        .iter()
        .enumerate()
        .filter(move |&(at, &byte)| byte == first && bytes[at..].starts_with(text))
        .map(|(at, _)| at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    #[test]
    fn the_table_is_found_by_its_first_names_whatever_its_stride() {
        for stride_words in [5, 12, 13] {
            let mut memory = SavedMemory::default();
            let mut strings = b"grayscale\0".to_vec();
            let mut at = Vec::new();
            for name in ["yuv420p", "yuyv422", "rgb24", "vaapi"] {
                at.push(0x1000 + strings.len() as u64);
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
            }
            strings.resize(64, 0);
            memory.insert(0x1000, strings);
            let mut table = vec![7, 0];
            for (index, &name) in at.iter().enumerate() {
                let mut entry = vec![0; stride_words];
                entry[0] = name;
                entry[2] = if index == 3 { FLAG_HWACCEL } else { 0 };
                table.extend(entry);
            }
            memory.insert_words(0x2000, &table);
            let ranges =
                [TargetRange { start: 0x1000, end: 0x1040 }, TargetRange::with_len(0x2000, table.len() as u64 * 8)];
            let formats = pixel_formats(&memory, &ranges);
            let names: Vec<_> = formats.iter().flatten().map(|format| format.name.as_str()).collect();
            assert_eq!(names, ["yuv420p", "yuyv422", "rgb24", "vaapi"]);
            assert!(formats[3].as_ref().is_some_and(|format| format.hardware));
        }
    }
}
