//! Strings, frames and stacks of a page, each once: groups refer to them by number.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;

use crate::render::stack::{Whose, whose};
use crate::report::model::Frame;

/// Bits of a frame's last number; page.js reads them.
const INLINED: u8 = 1;
const LIBAV: u8 = 2;
const OWN: u8 = 4;

/// Function, module, file (numbers of strings, −1 for none), line (0 for none), offset, whose it is.
pub(super) type FrameRow = (i64, i64, i64, u32, u64, u8);

/// See the module. Serialized it is what page.js reads.
#[derive(Default, Serialize)]
pub(super) struct Tables<'a> {
    strings: Vec<Cow<'a, str>>,
    frames: Vec<FrameRow>,
    stacks: Vec<Vec<u32>>,
    #[serde(skip)]
    string_of: HashMap<Cow<'a, str>, u32>,
    #[serde(skip)]
    frame_of: HashMap<&'a Frame, u32>,
    #[serde(skip)]
    stack_of: HashMap<Vec<u32>, u32>,
    /// Roughly what the tables take in the page, bytes.
    #[serde(skip)]
    pub(super) size: usize,
}

impl<'a> Tables<'a> {
    /// The number of a string.
    pub(super) fn string(&mut self, text: impl Into<Cow<'a, str>>) -> u32 {
        let (strings, size) = (&mut self.strings, &mut self.size);
        *self.string_of.entry(text.into()).or_insert_with_key(|text| {
            *size += text.len() + 3;
            strings.push(text.clone());
            strings.len() as u32 - 1
        })
    }

    /// The number of a frame.
    pub(super) fn frame(&mut self, frame: &'a Frame) -> u32 {
        if let Some(&known) = self.frame_of.get(frame) {
            return known;
        }
        let mut number = |text: &'a Option<String>| text.as_deref().map_or(-1, |text| i64::from(self.string(text)));
        let (function, module, file) = (number(&frame.function), number(&frame.module), number(&frame.file));
        let whose = match whose(frame) {
            Whose::Libav => LIBAV,
            Whose::Own => OWN,
            Whose::Runtime | Whose::Avleak => 0,
        };
        let flags = whose | if frame.inlined { INLINED } else { 0 };
        self.frames.push((function, module, file, frame.line.unwrap_or(0), frame.offset, flags));
        self.size += 32;
        let at = self.frames.len() as u32 - 1;
        self.frame_of.insert(frame, at);
        at
    }

    /// The number of a stack; frames of avleak's own are left out.
    pub(super) fn stack(&mut self, stack: &'a [Frame]) -> u32 {
        let frames: Vec<u32> =
            stack.iter().filter(|frame| whose(frame) != Whose::Avleak).map(|frame| self.frame(frame)).collect();
        let (stacks, size) = (&mut self.stacks, &mut self.size);
        *self.stack_of.entry(frames).or_insert_with_key(|frames| {
            *size += frames.len() * 5 + 3;
            stacks.push(frames.clone());
            stacks.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn what_is_equal_is_kept_once() {
        let (own, ffmpeg) = (sample::own("main", "a.c", 7), sample::ffmpeg("av_frame_alloc", "libavutil.so.57"));
        let one = [ffmpeg.clone(), own.clone()];
        let other = [sample::system("_start"), own];
        let mut tables = Tables::default();
        assert_eq!([tables.stack(&one), tables.stack(&other), tables.stack(&one)], [0, 1, 0]);
        assert_eq!(tables.stacks, [vec![0, 1], vec![2, 1]]);
        assert_eq!(tables.frames.iter().map(|row| row.5).collect::<Vec<_>>(), [LIBAV, OWN, 0]);
        assert_eq!(tables.frames[1].0, i64::from(tables.string_of["main"]));
        assert_eq!(tables.frames[0].2, -1, "no file is known");
    }
}
