//! Reads memory in pieces of up to a MiB and hands out the words that lead into blocks.
//!
//! Spans that lie close together are read at once, and reads that follow each other take more and more along, so that
//! neither a million small blocks nor a long list in order of address cost a read each. A page that cannot be read is passed over and
//! counted; after 256 such pages in a row the steps double, so that an unreadable terabyte costs some dozens of reads.

use std::sync::atomic::Ordering;

use super::blocks::BlockIndex;
use super::{Control, PAGE, ReachError};
use crate::address::untagged;
use crate::target::memory::Memory;

/// Most bytes of a read.
const WINDOW: u64 = 1 << 20;
/// Spans closer than this are read together.
const GAP: u64 = 4096;
/// Most bytes that are read ahead.
const MOST_AHEAD: u64 = 64 << 10;
/// Unreadable pages in a row that are tried one by one.
const PATIENCE: u32 = 256;
/// Bytes between two calls of the progress function.
const PROGRESS: u64 = 1 << 20;

/// A range to search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub start: u64,
    pub end: u64,
    /// Handed back with every word found in it.
    pub tag: u32,
}

/// A word that leads into a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    /// Of the span.
    pub tag: u32,
    /// Where the word lies.
    pub at: u64,
    /// The word.
    pub word: u64,
    /// The block into which it leads.
    pub block: u32,
    /// Behind its start.
    pub interior: bool,
}

pub(super) struct Scanner<'a> {
    memory: &'a dyn Memory,
    index: &'a BlockIndex,
    control: &'a Control<'a>,
    buffer: Vec<u8>,
    /// What the buffer holds: `len` bytes from `base` on.
    base: u64,
    len: u64,
    /// Bytes that the last read took at least.
    ahead: u64,
    total: u64,
    scanned: u64,
    unreadable: u64,
    reported: u64,
}

impl<'a> Scanner<'a> {
    pub fn new(memory: &'a dyn Memory, index: &'a BlockIndex, control: &'a Control<'a>, total: u64) -> Self {
        let buffer = vec![0; WINDOW as usize];
        Self {
            memory,
            index,
            control,
            buffer,
            base: 0,
            len: 0,
            ahead: 0,
            total,
            scanned: 0,
            unreadable: 0,
            reported: 0,
        }
    }

    pub fn scanned_bytes(&self) -> u64 {
        self.scanned
    }

    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable
    }

    /// Reports that all is done.
    pub fn finish(&self) {
        (self.control.progress)(self.total, self.total);
    }

    /// Searches spans, which should ascend (a span out of order costs a read, nothing else).
    pub fn scan(&mut self, spans: &[Span], mut visit: impl FnMut(Hit)) -> Result<(), ReachError> {
        self.heed_cancel()?;
        let (mut grouped, mut group_end) = (0, 0);
        for (i, span) in spans.iter().enumerate() {
            if i >= grouped {
                group_end = span.end;
                grouped = i + 1;
                while let Some(next) = spans.get(grouped) {
                    let near = next.start >= group_end && next.start - group_end <= GAP && next.end >= next.start;
                    if !near || next.end - span.start > WINDOW {
                        break;
                    }
                    group_end = next.end;
                    grouped += 1;
                }
            }
            self.scan_span(span, group_end, &mut visit)?;
        }
        Ok(())
    }

    fn scan_span(&mut self, span: &Span, group_end: u64, visit: &mut impl FnMut(Hit)) -> Result<(), ReachError> {
        let Some(mut at) = span.start.checked_next_multiple_of(8) else { return Ok(()) };
        let end = span.end & !7;
        let (mut failures, mut step) = (0, PAGE);
        while at < end {
            if !(at >= self.base && at - self.base + 8 <= self.len) {
                self.fill(at, group_end);
                if self.len < 8 {
                    failures += 1;
                    if failures > PATIENCE {
                        step = step.saturating_mul(2);
                    }
                    let next = (at & !(PAGE - 1)).saturating_add(step).min(end);
                    self.unreadable = self.unreadable.saturating_add(next - at);
                    at = next;
                    self.follow()?;
                    continue;
                }
                (failures, step) = (0, PAGE);
            }
            let from = (at - self.base) as usize;
            let words = ((self.len - from as u64).min(end - at) / 8) as usize;
            let bytes = &self.buffer[from..from + 8 * words];
            for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let word = untagged(u64::from_le_bytes(*eight));
                if let Some((block, interior)) = self.index.find(word) {
                    visit(Hit { tag: span.tag, at: at + 8 * i as u64, word, block, interior });
                }
            }
            at += 8 * words as u64;
            self.scanned = self.scanned.saturating_add(8 * words as u64);
            self.follow()?;
        }
        Ok(())
    }

    fn fill(&mut self, at: u64, group_end: u64) {
        let behind = self.base.saturating_add(self.len);
        let sequential = at >= self.base && at <= behind.saturating_add(GAP);
        self.ahead = if sequential { (self.ahead * 2).clamp(PAGE, MOST_AHEAD) } else { 0 };
        let want = group_end.saturating_sub(at).max(self.ahead).clamp(8, WINDOW) as usize;
        self.base = at;
        self.len = self.memory.read(at, &mut self.buffer[..want]).min(want) as u64;
    }

    fn follow(&mut self) -> Result<(), ReachError> {
        let done = self.scanned.saturating_add(self.unreadable);
        if done - self.reported >= PROGRESS {
            self.reported = done;
            (self.control.progress)(done.min(self.total), self.total);
            self.heed_cancel()?;
        }
        Ok(())
    }

    fn heed_cancel(&self) -> Result<(), ReachError> {
        // Relaxed: a flag of its own, nothing is published by it.
        if self.control.cancel.load(Ordering::Relaxed) { Err(ReachError::Cancelled) } else { Ok(()) }
    }
}
