//! Stacks to ids: each frame is a node (its caller's node, its return address), shared by all stacks that begin alike.
//!
//! Nodes lie in the segment, where the analyzer reads them; the index from (parent, module, pc) to the node lies in our own
//! memory, grows with the need, and is read and written without a lock. Two threads that meet the same new frame at once may
//! make two nodes; the analyzer merges stacks by content.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout::{MAX_NODES, StackNode};

use crate::{arena, segment::Segment};

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

/// Starts over with an empty index: for a new segment.
pub fn reset() -> bool {
    GROWING.store(false, Ordering::Relaxed);
    NODES.store(0, Ordering::Relaxed);
    TABLE.store(new_table(FIRST_SLOTS), Ordering::Release);
    !TABLE.load(Ordering::Relaxed).is_null()
}

fn new_table(slots: u64) -> *mut Table {
    let bytes = slots as usize * 4;
    if arena::room() < bytes as u64 + (1 << 20) {
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

/// The id of `frame` below the node `parent`, and whether it was there before; `None` where the nodes are used up.
pub fn node(segment: &Segment, parent: u32, frame: StackFrame) -> Option<(u32, bool)> {
    let hashed = hash(parent, frame);
    // SAFETY: tables live for good.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref()? };
    let mut made = 0;
    for step in 0..=table.mask {
        let slot = table.slot(hashed.wrapping_add(step));
        // Acquire pairs with the release below: the node behind an id is complete.
        let mut id = slot.load(Ordering::Acquire);
        if id == 0 {
            if made == 0 {
                made = make(segment, parent, frame)?;
            }
            match slot.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    if NODES.fetch_add(1, Ordering::Relaxed) * 2 > table.mask {
                        grow(segment, table);
                    }
                    return Some((made, false));
                }
                Err(other) => id = other,
            }
        }
        if is(segment.node(id), parent, frame) {
            return Some((id, true));
        }
    }
    // The table is full and could not grow.
    if made == 0 {
        made = make(segment, parent, frame)?;
    }
    Some((made, false))
}

fn make(segment: &Segment, parent: u32, frame: StackFrame) -> Option<u32> {
    let id = segment.header().node_count.fetch_add(1, Ordering::Relaxed);
    if id >= MAX_NODES {
        segment.header().node_count.store(MAX_NODES, Ordering::Relaxed);
        return None;
    }
    let node = segment.node(id);
    node.parent.store(parent, Ordering::Relaxed);
    node.module.store(frame.module, Ordering::Relaxed);
    node.pc.store(frame.pc, Ordering::Release);
    Some(id)
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
            let mut count = 0;
            for index in 0..=old.mask {
                let id = old.slot(index).load(Ordering::Acquire);
                if id == 0 {
                    continue;
                }
                let node = segment.node(id);
                let frame =
                    StackFrame { pc: node.pc.load(Ordering::Relaxed), module: node.module.load(Ordering::Relaxed) };
                let mut at = hash(node.parent.load(Ordering::Relaxed), frame);
                while table.slot(at).load(Ordering::Relaxed) != 0 {
                    at = at.wrapping_add(1);
                }
                table.slot(at).store(id, Ordering::Relaxed);
                count += 1;
            }
            NODES.store(count, Ordering::Relaxed);
            TABLE.store(new, Ordering::Release);
        }
    }
    GROWING.store(false, Ordering::Release);
}
