//! Stacks to ids: each frame is a node (its caller's node, its return address), shared by all stacks that begin alike.
//!
//! Nodes lie in the segment, where the analyzer reads them; the index from (parent, module, pc) to the node lies in our own
//! memory, grows with the need, and is read and written without a lock. Two threads that meet the same new frame at once may
//! make two nodes; the analyzer merges stacks by content.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout::{MAX_NODES, StackNode};

use crate::{arena, known, segment::Segment, sys};

/// One frame: return address, and the index of its module's record + 1 (0: none).
#[derive(Clone, Copy, Default)]
pub struct StackFrame {
    /// Return address.
    pub pc: u64,
    /// Index of the module's record + 1.
    pub module: u32,
}

struct Table {
    mask: u64,
    slots: *const AtomicU32,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());
static GROWING: AtomicBool = AtomicBool::new(false);
static NODES: AtomicU64 = AtomicU64::new(0);
const FIRST_SLOTS: u64 = 1 << 14;
/// So many nodes ahead places in a new table are fetched.
const FETCHED_AHEAD: u32 = 16;

/// Starts over with an empty index: for a new segment.
pub fn reset() -> bool {
    GROWING.store(false, Ordering::Relaxed);
    NODES.store(0, Ordering::Relaxed);
    TABLE.store(new_table(FIRST_SLOTS), Ordering::Release);
    known::reset();
    !TABLE.load(Ordering::Relaxed).is_null()
}

fn new_table(slots: u64) -> *mut Table {
    let bytes = slots as usize * 4;
    if !arena::has_room(bytes as u64 + (1 << 20)) {
        return core::ptr::null_mut();
    }
    let at = arena::take(bytes, 4096);
    let table = arena::take(size_of::<Table>(), align_of::<Table>()).cast::<Table>();
    if at.is_null() || table.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: fresh memory for good; the slots start at zero, which means empty.
    unsafe {
        at.write_bytes(0, bytes);
        table.write(Table { mask: slots - 1, slots: at.cast() });
    }
    table
}

impl Table {
    fn slot(&self, index: u64) -> &AtomicU32 {
        // SAFETY: masked into the table, which lives for good.
        unsafe { &*self.slots.add((index & self.mask) as usize) }
    }
}

fn hash(parent: u32, frame: StackFrame) -> u64 {
    let mixed = (frame.pc ^ (u64::from(parent) << 40) ^ (u64::from(parent) >> 3) ^ (u64::from(frame.module) << 52))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

fn is(node: &StackNode, parent: u32, frame: StackFrame) -> bool {
    node.pc.load(Ordering::Relaxed) == frame.pc
        && node.parent.load(Ordering::Relaxed) == parent
        && node.module.load(Ordering::Relaxed) == frame.module
}

/// The id of the last of `frames`, which lie one below the other under the node `parent`, outermost first; `None` where the nodes are used up.
pub fn nodes(segment: &Segment, parent: u32, frames: impl ExactSizeIterator<Item = StackFrame> + Clone) -> Option<u32> {
    // SAFETY: tables live for good.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref()? };
    let (mut parent, mut rest) = (parent, frames);
    loop {
        let unknown = rest.clone();
        let Some(frame) = rest.next() else { return Some(parent) };
        match table.find(segment, parent, frame) {
            Some(id) => parent = id,
            None => return make(segment, table, parent, unknown),
        }
    }
}

impl Table {
    fn find(&self, segment: &Segment, parent: u32, frame: StackFrame) -> Option<u32> {
        let hashed = hash(parent, frame);
        for step in 0..=self.mask {
            // Acquire pairs with the release in `enter`: the node behind an id is complete.
            let id = self.slot(hashed.wrapping_add(step)).load(Ordering::Acquire);
            if id == 0 {
                return None;
            }
            if is(segment.node(id), parent, frame) {
                return Some(id);
            }
        }
        None
    }

    /// Puts a node in, unless the table is full and could not grow.
    fn enter(&self, hashed: u64, id: u32) {
        let free = |step: &u64| {
            let slot = self.slot(hashed.wrapping_add(*step));
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, id, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        (0..=self.mask).find(free);
    }
}

/// Makes the nodes of `frames`. Under a node that is new all are new: nothing is looked up, and the places of all of them in the table, each
/// a cache miss, are fetched at once.
fn make(
    segment: &Segment,
    table: &Table,
    parent: u32,
    frames: impl ExactSizeIterator<Item = StackFrame> + Clone,
) -> Option<u32> {
    let count = frames.len() as u32;
    let first = segment.header().node_count.fetch_add(count, Ordering::Relaxed);
    if first.checked_add(count).is_none_or(|end| end > MAX_NODES) {
        segment.header().node_count.store(MAX_NODES, Ordering::Relaxed);
        return None;
    }
    let with_parents = || (first..).zip(core::iter::once(parent).chain(first..)).zip(frames.clone());
    for ((_, parent), frame) in with_parents() {
        sys::prefetch(table.slot(hash(parent, frame)));
    }
    for ((id, parent), frame) in with_parents() {
        let node = segment.node(id);
        node.parent.store(parent, Ordering::Relaxed);
        node.module.store(frame.module, Ordering::Relaxed);
        node.pc.store(frame.pc, Ordering::Release);
        table.enter(hash(parent, frame), id);
    }
    if NODES.fetch_add(u64::from(count), Ordering::Relaxed) * 2 > table.mask {
        grow(segment, table);
    }
    Some(first + count - 1)
}

/// Puts all nodes into a table of twice the size. Others go on with the old one; what they add to it meanwhile is made again.
#[cold]
fn grow(segment: &Segment, old: &Table) {
    if GROWING.swap(true, Ordering::Acquire) {
        return;
    }
    if core::ptr::eq(old, TABLE.load(Ordering::Acquire)) {
        let slots = (old.mask + 1) * 2;
        let new = new_table(slots);
        // SAFETY: null or just made, not yet shared.
        if let Some(table) = unsafe { new.as_ref() } {
            // In the order in which they lie, and the places of the next ones are fetched meanwhile.
            let hash_of = |id: u32| {
                let node = segment.node(id);
                // Pairs with the release in `make`. 0: it is being made, and will be made again when it comes again.
                let pc = node.pc.load(Ordering::Acquire);
                let frame = StackFrame { pc, module: node.module.load(Ordering::Relaxed) };
                (pc != 0).then(|| hash(node.parent.load(Ordering::Relaxed), frame))
            };
            let end = segment.header().node_count.load(Ordering::Relaxed).min(MAX_NODES);
            let mut count = 0u32;
            for id in 1..end {
                if u64::from(count) * 4 > slots * 3 {
                    // Where threads made the same at once there are more than were counted.
                    break;
                }
                if let Some(soon) = hash_of((id + FETCHED_AHEAD).min(end - 1)) {
                    sys::prefetch(table.slot(soon));
                }
                let Some(mut at) = hash_of(id) else { continue };
                while table.slot(at).load(Ordering::Relaxed) != 0 {
                    at = at.wrapping_add(1);
                }
                table.slot(at).store(id, Ordering::Relaxed);
                count += 1;
            }
            NODES.store(count.into(), Ordering::Relaxed);
            TABLE.store(new, Ordering::Release);
        }
    }
    GROWING.store(false, Ordering::Release);
}
