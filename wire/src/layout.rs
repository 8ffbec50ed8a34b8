//! The segment's layout: header, module records, stack nodes, rings. All offsets in bytes from the segment's start.

use crate::sync::{AtomicU8, AtomicU32, AtomicU64};

/// The first eight bytes of a segment.
pub const MAGIC: u64 = u64::from_le_bytes(*b"avleak\0\x01");
/// A reader refuses another major version.
pub const MAJOR: u16 = 5;
/// Minor versions only add fields where zero meant "absent".
pub const MINOR: u16 = 0;

/// Bytes of a page; every part of the segment starts on one.
pub const PAGE: u64 = 4096;

/// How many module records a segment holds (a dlclose'd module keeps its record: stack nodes refer to it).
pub const MAX_MODULES: u32 = 4096;
/// How many stack nodes a segment holds: 4 Mi × 16 bytes, sparse.
pub const MAX_NODES: u32 = 1 << 22;
/// Bytes for what the functions of scripts are called: [`TextHead`] and two texts each.
pub const TEXT_BYTES: u32 = 4 << 20;
/// How many threads can record at once.
pub const MAX_RINGS: u32 = 4096;
/// Events in one ring; a power of two. 2048 × 32 bytes = 64 KiB a thread.
pub const RING_EVENTS: u64 = 2048;
/// Young allocations that a thread keeps to itself: [`crate::young`]. 512 × 32 bytes = 16 KiB a thread.
pub const YOUNG_SLOTS: u32 = 512;
/// Pairs of stacks whose cancelled objects a thread counts: [`crate::young::DeathCell`]. 1024 × 16 bytes = 16 KiB a thread.
pub const DEATH_SLOTS: u32 = 1024;

/// Where the module records start.
pub const MODULES_OFFSET: u64 = PAGE;
/// Where the stack nodes start.
pub const NODES_OFFSET: u64 = MODULES_OFFSET + MAX_MODULES as u64 * size_of::<ModuleRecord>() as u64;
/// Where the texts start.
pub const TEXTS_OFFSET: u64 = NODES_OFFSET + MAX_NODES as u64 * size_of::<StackNode>() as u64;
/// Where the rings start: everything before is mapped as a whole by the producer.
pub const RINGS_OFFSET: u64 = TEXTS_OFFSET + TEXT_BYTES as u64;
/// Where the events start in a ring.
pub const EVENTS_IN_RING: u64 = PAGE;
/// Where the young allocations start in a ring.
pub const YOUNG_IN_RING: u64 = EVENTS_IN_RING + RING_EVENTS * size_of::<crate::event::EventCell>() as u64;
/// Where the counts of cancelled objects start in a ring.
pub const DEATHS_IN_RING: u64 = YOUNG_IN_RING + YOUNG_SLOTS as u64 * size_of::<crate::event::EventCell>() as u64;
/// Bytes from one ring to the next: a page of header, the events, the young allocations, the counts.
pub const RING_STRIDE: u64 = DEATHS_IN_RING + DEATH_SLOTS as u64 * size_of::<crate::young::DeathCell>() as u64;
/// Bytes of the whole (sparse) segment.
pub const SEGMENT_BYTES: u64 = RINGS_OFFSET + MAX_RINGS as u64 * RING_STRIDE;

/// Which clock the stamps are from: [`Header::clock`]. This: the processor's counter; on AArch64 CNTVCT_EL0, see [`AARCH64_TICK_BITS`].
pub const CLOCK_TSC: u32 = 1;
/// Units of a stamp in a tick of AArch64's counter, as a power of two. With as many a second has about as many as one of a TSC, and both
/// ends have to count alike: what is older than every ring's position is forgotten by it.
pub const AARCH64_TICK_BITS: u32 = 4;
/// The stamps are nanoseconds of CLOCK_MONOTONIC, because the TSC is not invariant here.
pub const CLOCK_MONOTONIC: u32 = 2;

/// The API functions that the second witness counts; the index is that of [`RingHeader::calls`].
pub const API_NAMES: [&str; 10] = [
    "av_frame_alloc",
    "av_frame_free",
    "av_frame_clone",
    "av_frame_ref",
    "av_frame_unref",
    "av_frame_move_ref",
    "av_buffer_ref",
    "av_buffer_unref",
    "av_packet_alloc",
    "av_packet_free",
];

/// The first page of the segment. The producer writes it once before registration, except for the fields that say otherwise.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`MAJOR`] in the low 16 bits, [`MINOR`] in the next 16.
    pub version: AtomicU32,
    /// [`CLOCK_TSC`] or [`CLOCK_MONOTONIC`].
    pub clock: AtomicU32,
    /// Process id as the process itself sees it (its own pid namespace).
    pub pid: AtomicU32,
    /// See `FLAG_*`.
    pub flags: AtomicU32,
    /// A stamp taken at arming, with the two clocks below read beside it.
    pub armed_stamp: AtomicU64,
    /// CLOCK_MONOTONIC at arming, nanoseconds.
    pub armed_monotonic_ns: AtomicU64,
    /// CLOCK_REALTIME at arming, nanoseconds since 1970.
    pub armed_realtime_ns: AtomicU64,
    /// Stamp units a second as measured by the producer; 0: the reader measures.
    pub stamp_hz: AtomicU64,
    /// Start of the interposer's own private memory: never a root.
    pub private_start: AtomicU64,
    /// Bytes of the interposer's own private memory.
    pub private_bytes: AtomicU64,
    /// Producer, growing: module records written (release after the record).
    pub module_count: AtomicU32,
    /// Producer, growing: stack nodes reserved; node 0 means "no stack".
    pub node_count: AtomicU32,
    /// Producer, growing: rings ever used.
    pub ring_count: AtomicU32,
    /// Consumer stores [`NAPPING`] or [`ASLEEP`] before it waits on this word as a futex; a producer that swaps it to 0 wakes it.
    pub consumer_sleeping: AtomicU32,
    /// Producer: events lost because no ring was to be had, or because a hook was interrupted by a signal handler's.
    pub dropped_without_ring: AtomicU64,
    /// Producer: stacks that could not be stored because the node table was full.
    pub nodes_exhausted: AtomicU64,
    /// Producer: modules that could not be recorded.
    pub modules_exhausted: AtomicU64,
    /// Producer: stacks cut at the depth limit.
    pub stacks_truncated: AtomicU64,
    /// Producer: call slots patched for the second witness.
    pub slots_patched: AtomicU64,
    /// Producer: call slots that could not be patched.
    pub slots_refused: AtomicU64,
    /// Producer: unwinds that ended early because something could not be read or followed.
    pub unwind_failures: AtomicU64,
    /// Producer: threads that recorded something.
    pub threads_seen: AtomicU64,
    /// Producer: stacks of which only the caller is known, because the thread's stack had no room to unwind.
    pub stacks_without_room: AtomicU32,
    /// Producer: with `verify`, stacks unwound twice (framehop, then the `backtrace` crate).
    pub verified_stacks: AtomicU32,
    /// Producer: with `verify`, those that differed.
    pub verify_differences: AtomicU32,
    /// How many rings the producer could map: at most [`MAX_RINGS`].
    pub ring_slots: AtomicU32,
    /// Producer, growing: bytes of the texts in use; the first 8 are never used.
    pub text_bytes: AtomicU32,
    /// Producer: texts that found no room.
    pub texts_exhausted: AtomicU32,
    /// Producer: PY_VERSION_HEX of the Python in the process; 0: none was met.
    pub python_version: AtomicU32,
    /// Producer: 1 where its frames can be read.
    pub python_readable: AtomicU32,
    /// Producer: address of its `PyType_Type`, the type of types; 0: not known.
    pub python_type: AtomicU64,
}

/// [`Header::consumer_sleeping`]: it comes back by itself soon; only a ring that fills wakes it.
pub const NAPPING: u32 = 1;
/// [`Header::consumer_sleeping`]: it waits for the next event, however long that takes.
pub const ASLEEP: u32 = 2;

/// [`Header::flags`]: armed from a thunk, not from posix_memalign.
pub const FLAG_ARMED_BY_CALL: u32 = 1;
/// [`Header::flags`]: this process is a forked child of an armed one.
pub const FLAG_FORKED_CHILD: u32 = 2;
/// [`Header::flags`]: MADV_WIPEONFORK was refused; forks are followed by pthread_atfork only.
pub const FLAG_NO_WIPEONFORK: u32 = 4;

/// Longest path kept in a module record, bytes; a longer one keeps its end.
pub const MODULE_PATH_BYTES: usize = 424;
/// Longest build id kept.
pub const BUILD_ID_BYTES: usize = 32;

/// [`ModuleRecord::flags`]: its dynamic symbols define av_frame_alloc.
pub const MODULE_LIBAVUTIL: u32 = 1;
/// [`ModuleRecord::flags`]: a member of FFmpeg (it is libavutil or its call slots lead to one and its name starts with
/// libav/libsw/libpostproc).
pub const MODULE_FFMPEG: u32 = 2;
/// [`ModuleRecord::flags`]: libavleak.so itself.
pub const MODULE_SELF: u32 = 4;
/// [`ModuleRecord::flags`]: the dynamic loader.
pub const MODULE_LOADER: u32 = 8;
/// [`ModuleRecord::flags`]: the vDSO (no file).
pub const MODULE_VDSO: u32 = 16;

/// One loaded ELF object, as the producer met it. 512 bytes.
#[repr(C)]
pub struct ModuleRecord {
    /// Load bias: runtime address minus the address in the file.
    pub base: AtomicU64,
    /// First byte of the lowest mapped segment.
    pub start: AtomicU64,
    /// One past the last byte of the highest mapped segment.
    pub end: AtomicU64,
    /// Stamp when the producer first met it.
    pub loaded_stamp: AtomicU64,
    /// Stamp when the producer found it gone; 0 while loaded.
    pub unloaded_stamp: AtomicU64,
    /// `MODULE_*`.
    pub flags: AtomicU32,
    /// Bytes of `build_id` used.
    pub build_id_len: AtomicU32,
    /// Bytes of `path` used.
    pub path_len: AtomicU32,
    /// Zero.
    pub reserved: AtomicU32,
    /// The GNU build id.
    pub build_id: [AtomicU8; BUILD_ID_BYTES],
    /// The path as the loader names it; empty for the main program (the reader takes /proc/PID/exe).
    pub path: [AtomicU8; MODULE_PATH_BYTES],
}

/// One frame of a stack: the caller chain is followed by `parent` until 0. 16 bytes.
#[repr(C)]
pub struct StackNode {
    /// Return address, absolute; of a [`NODE_PYTHON`] the line in the low 32 bits, where its [`TextHead`] lies above. Stored last (release).
    pub pc: AtomicU64,
    /// Node of the caller; always smaller than the node's own index.
    pub parent: AtomicU32,
    /// Index of the module record + 1; 0: no module known; or [`NODE_PYTHON`].
    pub module: AtomicU32,
}

/// [`StackNode::module`]: a function of Python's, not of a module.
pub const NODE_PYTHON: u32 = u32::MAX;

/// What a script's function is called: this, the file's bytes, the function's, in UTF-8. Begins at a multiple of 8.
#[repr(C)]
pub struct TextHead {
    /// Bytes of the file's path; of a longer one the end is kept.
    pub file_len: AtomicU32,
    /// Bytes of the function's name.
    pub name_len: AtomicU32,
}
/// Longest path of a script kept.
pub const TEXT_FILE_BYTES: usize = 512;
/// Longest name of a script's function kept.
pub const TEXT_NAME_BYTES: usize = 256;

/// The first page of a ring.
#[repr(C)]
pub struct RingHeader {
    /// Producer: events published so far (release after the event).
    pub head: AtomicU64,
    /// Producer: odd from before a stamp is taken until its event can be seen; every end makes it another even number.
    pub busy: AtomicU32,
    /// Producer: kernel thread id of the present owner, in its own pid namespace.
    pub owner_tid: AtomicU32,
    /// Producer: how many threads owned this ring so far.
    pub owners: AtomicU32,
    /// Zero.
    pub reserved: AtomicU32,
    /// Producer: allocations that were given back young, so that neither event was published. In one line with the other words that are written
    /// at each call.
    pub cancelled: AtomicU64,
    /// Producer: events lost because the ring stayed full.
    pub dropped: AtomicU64,
    /// Producer: nanoseconds spent waiting for a full ring.
    pub waited_ns: AtomicU64,
    /// Producer: calls seen by the second witness, by [`API_NAMES`].
    pub calls: [AtomicU64; 16],
    /// Keeps the consumer's word on a cache line of its own.
    pub padding: [AtomicU64; 10],
    /// Consumer: events consumed so far (release after they were copied).
    pub tail: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<ModuleRecord>() == 512, "the reader indexes records by 512");
#[cfg(not(loom))]
const _: () = assert!(size_of::<StackNode>() == 16, "the reader indexes nodes by 16");
#[cfg(not(loom))]
const _: () = assert!(size_of::<Header>() <= PAGE as usize);
#[cfg(not(loom))]
const _: () = assert!(size_of::<RingHeader>() <= PAGE as usize);
#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(RingHeader, tail) % 64 == 0, "producer and consumer words share no line");
#[cfg(not(loom))]
const _: () = assert!(size_of::<TextHead>() == 8, "texts begin right behind their head");
#[cfg(not(loom))]
const _: () = assert!(
    NODES_OFFSET.is_multiple_of(PAGE)
        && TEXTS_OFFSET.is_multiple_of(PAGE)
        && RINGS_OFFSET.is_multiple_of(PAGE)
        && RING_STRIDE.is_multiple_of(PAGE)
);
const _: () = assert!(RING_EVENTS.is_power_of_two() && YOUNG_SLOTS.is_power_of_two() && DEATH_SLOTS.is_power_of_two());
