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

/// Of the frames of a stack, innermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StackHash(u64, u64);

impl StackHash {
    /// Of no frame.
    pub const fn new() -> Self {
        Self(0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344)
    }

    /// One word of it.
    #[inline(always)]
    pub fn value(self) -> u64 {
        self.0 ^ self.1.rotate_left(32)
    }

    /// One frame further out, or whatever else tells stacks apart.
    #[inline(always)]
    pub fn with(self, value: u64) -> Self {
        // Two products that do not wait for each other.
        Self(
            (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29),
            (self.1.rotate_left(17) ^ value).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32),
        )
    }
}

/// A stack that was interned before: the first half of its hash (0: empty), and of the second half what node and mark leave room for.
/// 105 bits tell stacks apart: of a million stacks two look alike once in 10^20 runs.
#[repr(C, align(16))]
struct KnownStack {
    first: AtomicU64,
    /// 0 until all is there. Bits 0 to 21: the node; bit 22: FFmpeg's code is among the innermost frames.
    second: AtomicU64,
}

const NODE_BITS: u32 = 22;
const LIBAV: u64 = 1 << NODE_BITS;
const HASHED: u64 = !(2 * LIBAV - 1);
const _: () = assert!(MAX_NODES as u64 <= LIBAV, "a node's id fits");

struct Stacks {
    mask: u64,
    slots: *const KnownStack,
}

static STACKS: AtomicPtr<Stacks> = AtomicPtr::new(core::ptr::null_mut());
static STACK_COUNT: AtomicU64 = AtomicU64::new(0);
const FIRST_STACKS: u64 = 1 << 11;
/// 4 MiB; what does not find room is looked up frame by frame.
const MOST_STACKS: u64 = 1 << 18;
const PROBES: u64 = 16;

fn new_stacks(slots: u64) -> *mut Stacks {
    let bytes = slots as usize * size_of::<KnownStack>();
    if !arena::has_room(bytes as u64 + (1 << 20)) {
        return core::ptr::null_mut();
    }
    let at = arena::take(bytes, 64);
    let table = arena::take(size_of::<Stacks>(), align_of::<Stacks>()).cast::<Stacks>();
    if at.is_null() || table.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: fresh, zeroed memory for good.
    unsafe { table.write(Stacks { mask: slots - 1, slots: at.cast() }) };
    table
}

impl Stacks {
    #[inline(always)]
    fn slot(&self, index: u64) -> &KnownStack {
        // SAFETY: masked into the table, which lives for good.
        unsafe { &*self.slots.add((index & self.mask) as usize) }
    }

    fn put(&self, hash: StackHash, node: u32, libav: bool) {
        let mark = if libav { LIBAV } else { 0 };
        self.put_words(hash.0 | 1, hash.1 & HASHED | u64::from(node) | mark);
    }

    fn put_words(&self, first: u64, second: u64) {
        for step in 0..PROBES {
            let slot = self.slot((first >> 20).wrapping_add(step));
            if slot.first.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Pairs with the acquire in `stack`.
                slot.second.store(second, Ordering::Release);
                return;
            }
        }
    }

    /// Puts all that is complete into `larger`, which nobody else knows yet; returns how many that were. What others put in here meanwhile is
    /// noted again when it comes again.
    #[cold]
    fn copy_into(&self, larger: &Self) -> u64 {
        let mut count = 0;
        for index in 0..=self.mask {
            let slot = self.slot(index);
            // Pairs with the release in `put_words`.
            let second = slot.second.load(Ordering::Acquire);
            if second != 0 {
                larger.put_words(slot.first.load(Ordering::Relaxed), second);
                count += 1;
            }
        }
        count
    }
}

/// The node of a whole stack, and whether FFmpeg's code is among its innermost frames, if it was noted.
#[inline(always)]
pub fn stack(hash: StackHash) -> Option<(u32, bool)> {
    // SAFETY: tables live for good.
    let table = unsafe { STACKS.load(Ordering::Acquire).as_ref()? };
    for step in 0..PROBES {
        let slot = table.slot((hash.0 >> 20).wrapping_add(step));
        match slot.first.load(Ordering::Relaxed) {
            0 => return None,
            first if first == hash.0 | 1 => {
                let second = slot.second.load(Ordering::Acquire);
                if second != 0 && (second ^ hash.1) & HASHED == 0 {
                    return Some(((second & (LIBAV - 1)) as u32, second & LIBAV != 0));
                }
            }
            _ => (),
        }
    }
    None
}

/// Notes a whole stack.
pub fn note_stack(hash: StackHash, node: u32, libav: bool) {
    // SAFETY: tables live for good.
    let Some(table) = (unsafe { STACKS.load(Ordering::Acquire).as_ref() }) else { return };
    let count = STACK_COUNT.fetch_add(1, Ordering::Relaxed);
    if count * 2 > table.mask {
        if table.mask + 1 == MOST_STACKS {
            STACK_COUNT.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if !GROWING.swap(true, Ordering::Acquire) {
            if core::ptr::eq(table, STACKS.load(Ordering::Acquire)) {
                // SAFETY: null or just made, and for good.
                if let Some(larger) = unsafe { new_stacks((table.mask + 1) * 2).as_ref() } {
                    STACK_COUNT.store(table.copy_into(larger), Ordering::Relaxed);
                    STACKS.store(core::ptr::from_ref(larger).cast_mut(), Ordering::Release);
                }
            }
            GROWING.store(false, Ordering::Release);
        }
    }
    table.put(hash, node, libav);
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
    STACK_COUNT.store(0, Ordering::Relaxed);
    STACKS.store(new_stacks(FIRST_STACKS), Ordering::Release);
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

/// The id of `frame` below the node `parent`; `None` where the nodes are used up.
pub fn node(segment: &Segment, parent: u32, frame: StackFrame) -> Option<u32> {
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
                    return Some(made);
                }
                Err(other) => id = other,
            }
        }
        if is(segment.node(id), parent, frame) {
            return Some(id);
        }
    }
    // The table is full and could not grow.
    if made == 0 { make(segment, parent, frame) } else { Some(made) }
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
