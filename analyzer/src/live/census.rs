//! How many frames and payload bytes are alive, in all and by allocation stack: what the timeline samples.

use avleak_wire::layout::MAX_NODES;

use crate::kind::ObjectKind;

/// What is alive of one allocation stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The stack; 0 for those that no node has.
    pub stack: u32,
    /// AVFrames.
    pub frames: u32,
    /// Bytes of their structs.
    pub frame_bytes: u64,
    /// Payload buffers.
    pub payloads: u32,
    /// Bytes of these.
    pub payload_bytes: u64,
}

/// Sums that are kept up to date block by block. Other kinds than frames and payload cost one branch.
///
/// A block may be told gone before it is told made: the sums wrap meanwhile, and are right again when both are told.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Live AVFrames.
    pub frames: u64,
    /// Bytes of live payload buffers.
    pub payload_bytes: u64,
    /// Stack id → index in `made` plus one: few stacks make frames, and their ids lie far apart.
    slot_of: Vec<u32>,
    made: Vec<Made>,
}

impl Census {
    /// A block came to life.
    #[inline]
    pub fn made(&mut self, kind: ObjectKind, stack: u32, size: u64) {
        match kind {
            ObjectKind::Frame => {
                self.frames = self.frames.wrapping_add(1);
                let made = self.slot(stack);
                made.frames = made.frames.wrapping_add(1);
                made.frame_bytes = made.frame_bytes.wrapping_add(size);
            }
            ObjectKind::Payload => {
                self.payload_bytes = self.payload_bytes.wrapping_add(size);
                let made = self.slot(stack);
                made.payloads = made.payloads.wrapping_add(1);
                made.payload_bytes = made.payload_bytes.wrapping_add(size);
            }
            _ => (),
        }
    }

    /// A block that came to life as told to [`Census::made`] is gone.
    #[inline]
    pub fn gone(&mut self, kind: ObjectKind, stack: u32, size: u64) {
        match kind {
            ObjectKind::Frame => {
                self.frames = self.frames.wrapping_sub(1);
                let made = self.slot(stack);
                made.frames = made.frames.wrapping_sub(1);
                made.frame_bytes = made.frame_bytes.wrapping_sub(size);
            }
            ObjectKind::Payload => {
                self.payload_bytes = self.payload_bytes.wrapping_sub(size);
                let made = self.slot(stack);
                made.payloads = made.payloads.wrapping_sub(1);
                made.payload_bytes = made.payload_bytes.wrapping_sub(size);
            }
            _ => (),
        }
    }

    /// Every stack that frames or payload were made on; of some nothing may be alive.
    pub fn by_stack(&self) -> &[Made] {
        &self.made
    }

    fn slot(&mut self, stack: u32) -> &mut Made {
        // A frame that is known by its call only carries whatever id the event had.
        let stack = if stack < MAX_NODES { stack } else { 0 };
        let at = stack as usize;
        if self.slot_of.len() <= at {
            self.slot_of.resize(at + 1, 0);
        }
        let slot = &mut self.slot_of[at];
        if *slot == 0 {
            self.made.push(Made { stack, ..Made::default() });
            *slot = self.made.len() as u32;
        }
        &mut self.made[*slot as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{LiveSet, Rings};
    use avleak_wire::event::{Event, KIND_ALLOC, KIND_FREE};

    /// Whatever the order in which the rings are drained, the census is what a count of the live blocks gives.
    #[test]
    fn it_equals_a_count_of_what_is_alive() {
        let kind_of = |stack: u32, _: u64| match stack % 3 {
            0 => ObjectKind::Frame,
            1 => ObjectKind::Payload,
            _ => ObjectKind::Plain,
        };
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..50 {
            let mut live = LiveSet::new();
            let mut events: Vec<Event> = (1..400)
                .map(|stamp| {
                    let kind = if next(2) == 0 { KIND_ALLOC } else { KIND_FREE };
                    let size = if kind == KIND_ALLOC { 100 + next(9) } else { 0 };
                    Event { kind, stamp, address: 0x1000 + next(12) * 64, size, stack: 1 + next(9) as u32 }
                })
                .collect();
            // Neighbours change places as two rings would let them.
            for at in 1..events.len() {
                if next(3) == 0 {
                    events.swap(at - 1, at);
                }
            }
            for event in events {
                live.apply(event, Rings::Many, kind_of);
            }
            let blocks = live.blocks();
            let of = |kind| blocks.iter().filter(move |block| block.kind == kind);
            assert_eq!(live.census.frames, of(ObjectKind::Frame).count() as u64);
            assert_eq!(live.census.payload_bytes, of(ObjectKind::Payload).map(|block| block.size).sum::<u64>());
            for made in live.census.by_stack() {
                let mine = |kind| of(kind).filter(|block| block.stack == made.stack);
                assert_eq!(u64::from(made.frames), mine(ObjectKind::Frame).count() as u64);
                assert_eq!(made.frame_bytes, mine(ObjectKind::Frame).map(|block| block.size).sum::<u64>());
                assert_eq!(u64::from(made.payloads), mine(ObjectKind::Payload).count() as u64);
                assert_eq!(made.payload_bytes, mine(ObjectKind::Payload).map(|block| block.size).sum::<u64>());
            }
        }
    }

    #[test]
    fn an_id_that_no_node_has_is_kept_apart_without_memory_for_it() {
        let mut census = Census::default();
        census.made(ObjectKind::Frame, u32::MAX, 416);
        assert_eq!((census.frames, census.by_stack()[0].stack, census.slot_of.len()), (1, 0, 1));
        census.gone(ObjectKind::Frame, u32::MAX, 416);
        assert_eq!((census.frames, census.by_stack()[0].frames), (0, 0));
    }

    #[test]
    fn gone_may_be_told_before_made() {
        let mut census = Census::default();
        census.gone(ObjectKind::Payload, 3, 100);
        census.made(ObjectKind::Payload, 3, 100);
        census.made(ObjectKind::Payload, 3, 7);
        assert_eq!((census.payload_bytes, census.by_stack()[0].payload_bytes), (7, 7));
    }
}
