//! Totals of what was made and what has gone since arming.

use crate::kind::ObjectKind;

/// Totals since arming, each event counted once ([`super::LiveSet`] says how far an event that comes twice is known).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks returned.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
    /// AVFrames made.
    pub frames_allocated: u64,
    /// AVFrames given back.
    pub frames_freed: u64,
    /// AVPackets made.
    pub packets_allocated: u64,
    /// AVPackets given back.
    pub packets_freed: u64,
    /// Most blocks alive at once.
    pub peak_blocks: u64,
    /// Events applied.
    pub events: u64,
    /// Events that came twice: they were left out.
    pub repeated: u64,
    /// Events of blocks beyond the greatest number that is kept.
    pub left_out: u64,
    /// AVFrames that av_frame_alloc returned and no allocation was seen for.
    pub frames_by_call_only: u64,
    /// AVPackets likewise.
    pub packets_by_call_only: u64,
    /// Objects that av_frame_alloc or av_packet_alloc returned where the malloc view has a block of another kind.
    pub called_but_typed_otherwise: u64,
}

impl Counts {
    /// `count` blocks of `kind` were made. Saturating: what comes as a sum was written by the target.
    #[inline(always)]
    pub(super) fn made(&mut self, kind: ObjectKind, count: u64) {
        match kind {
            ObjectKind::Frame => self.frames_allocated = self.frames_allocated.saturating_add(count),
            ObjectKind::Packet => self.packets_allocated = self.packets_allocated.saturating_add(count),
            _ => (),
        }
    }

    /// `count` blocks of `kind` have gone.
    #[inline(always)]
    pub(super) fn gone(&mut self, kind: ObjectKind, count: u64) {
        match kind {
            ObjectKind::Frame => self.frames_freed = self.frames_freed.saturating_add(count),
            ObjectKind::Packet => self.packets_freed = self.packets_freed.saturating_add(count),
            _ => (),
        }
    }
}
