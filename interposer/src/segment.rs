//! The shared segment from the producer's side: made at arming, written by the recorder.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout as wire;
use avleak_wire::ring::{Mapped, Producer};

use crate::{arena, control, elf, sys};

/// So many waiting events are worth waking the analyzer out of a nap.
const WAKE_AT: u64 = wire::RING_EVENTS / 4;

/// A mapped segment.
pub struct Segment {
    base: *mut u8,
    bytes: u64,
    ring_slots: u32,
}

// SAFETY: the segment consists of atomics behind a pointer that never changes.
unsafe impl Sync for Segment {}

static CURRENT: AtomicPtr<Segment> = AtomicPtr::new(core::ptr::null_mut());

/// The segment of the present arming.
#[inline(always)]
pub fn get() -> Option<&'static Segment> {
    // SAFETY: segments' records live in the arena for good.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Why no segment could be made: the call and its errno.
pub type Failure = (&'static str, i32);

/// Makes, maps and fills a segment; returns its file descriptor, to be handed over and closed.
///
/// In a forked child the module records of the parent's segment are taken over and the parent's mapping is dropped.
pub fn create(generation_flags: u32, tsc: bool) -> Result<i32, Failure> {
    if !arena::prepare() {
        return Err(("mmap", sys::errno()));
    }
    // SAFETY: plain system calls; the results are checked.
    let fd = unsafe {
        libc::syscall(libc::SYS_memfd_create, c"avleak".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    } as i32;
    if fd < 0 {
        return Err(("memfd_create", sys::errno()));
    }
    let fd = sys::above_standard(fd);
    let fail = |call, errno| {
        sys::close(fd);
        Err((call, errno))
    };
    if let Err((call, errno)) = extend(fd) {
        return fail(call, errno);
    }
    // The analyzer insists: a segment that could shrink would be a SIGBUS in it.
    // SAFETY: our own descriptor.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) } != 0 {
        return fail("fcntl(F_ADD_SEALS)", sys::errno());
    }
    let mut mapped = None;
    // Fewer rings where the host's address space is limited.
    let choices: &[u32] = if arena::address_space_is_limited() { &[32, 4] } else { &[wire::MAX_RINGS, 256, 32, 4] };
    for &rings in choices {
        let bytes = wire::RINGS_OFFSET + u64::from(rings) * wire::RING_STRIDE;
        if let Some(at) = arena::map(bytes, libc::MAP_SHARED, fd) {
            mapped = Some((at, bytes, rings));
            break;
        }
    }
    let Some((base, bytes, ring_slots)) = mapped else { return fail("mmap", sys::errno()) };
    let record = arena::take(size_of::<Segment>(), 16).cast::<Segment>();
    if record.is_null() {
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(base.cast(), bytes as usize) };
        return fail("arena", libc::ENOMEM);
    }
    // SAFETY: fresh memory of this type.
    unsafe { record.write(Segment { base, bytes, ring_slots }) };
    // SAFETY: just written.
    let segment = unsafe { &*record };
    segment.fill_header(generation_flags, tsc);
    if let Some(parent) = get() {
        segment.take_modules_from(parent);
        // SAFETY: the parent's mapping in this child: nobody uses it any more, every state belongs to another generation.
        unsafe { libc::munmap(parent.base.cast(), parent.bytes as usize) };
    }
    CURRENT.store(record, Ordering::Release);
    Ok(fd)
}

/// Gives the file its length. A soft limit on file sizes (RLIMIT_FSIZE) would be answered by SIGXFSZ: it is lifted for the moment.
fn extend(fd: i32) -> Result<(), Failure> {
    // SAFETY: plain system calls on our own descriptor and a value of ours.
    unsafe {
        let mut limit: libc::rlimit = core::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit);
        let lifted = limit.rlim_cur < wire::SEGMENT_BYTES;
        if lifted {
            if limit.rlim_max < wire::SEGMENT_BYTES {
                return Err(("the limit on file sizes (ulimit -f)", libc::EFBIG));
            }
            libc::setrlimit(libc::RLIMIT_FSIZE, &libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
        }
        let failed = libc::syscall(libc::SYS_ftruncate, fd, wire::SEGMENT_BYTES) != 0;
        let errno = sys::errno();
        if lifted {
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
        }
        if failed { Err(("ftruncate", errno)) } else { Ok(()) }
    }
}

impl Segment {
    /// The header.
    #[inline(always)]
    pub fn header(&self) -> &wire::Header {
        // SAFETY: mapped, page-aligned, atomics only.
        unsafe { &*self.base.cast::<wire::Header>() }
    }

    /// How many rings are mapped.
    pub fn ring_slots(&self) -> u32 {
        self.ring_slots
    }

    /// Node `id`; an id past the table is the null node.
    #[inline(always)]
    pub fn node(&self, id: u32) -> &wire::StackNode {
        let id = if id < wire::MAX_NODES { id } else { 0 };
        // SAFETY: inside the mapped table; atomics only.
        unsafe { &*self.base.add(wire::NODES_OFFSET as usize).cast::<wire::StackNode>().add(id as usize) }
    }

    /// Ring `index`, below `ring_slots`.
    pub fn ring(&self, index: u32) -> Producer {
        let offset = wire::RINGS_OFFSET + u64::from(index.min(self.ring_slots - 1)) * wire::RING_STRIDE;
        // SAFETY: inside the mapping, which lives until a child replaces it; one owner by the state's lock, and others only claim cells.
        Producer::over(unsafe { Mapped::new(self.base.add(offset as usize)) })
    }

    /// How many rings there are.
    #[inline(always)]
    pub fn ring_count(&self) -> u32 {
        self.header().ring_count.load(Ordering::Acquire).min(self.ring_slots)
    }

    fn record(&self, index: u32) -> &wire::ModuleRecord {
        let index = index.min(wire::MAX_MODULES - 1);
        // SAFETY: inside the mapped table; atomics only.
        unsafe { &*self.base.add(wire::MODULES_OFFSET as usize).cast::<wire::ModuleRecord>().add(index as usize) }
    }

    fn fill_header(&self, flags: u32, tsc: bool) {
        let header = self.header();
        let set = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        header.clock.store(if tsc { wire::CLOCK_TSC } else { wire::CLOCK_MONOTONIC }, Ordering::Relaxed);
        // SAFETY: no arguments.
        header.pid.store(unsafe { libc::getpid() } as u32, Ordering::Relaxed);
        let flags = flags | if control::follows_forks_by_atfork() { wire::FLAG_NO_WIPEONFORK } else { 0 };
        header.flags.store(flags, Ordering::Relaxed);
        set(&header.armed_stamp, sys::stamp_after());
        set(&header.armed_monotonic_ns, sys::clock_ns(libc::CLOCK_MONOTONIC));
        set(&header.armed_realtime_ns, sys::clock_ns(libc::CLOCK_REALTIME));
        set(&header.stamp_hz, if tsc { 0 } else { 1_000_000_000 });
        let (start, bytes) = arena::range();
        set(&header.private_start, start);
        set(&header.private_bytes, bytes);
        // Node 0 is "no stack".
        header.node_count.store(1, Ordering::Relaxed);
        // Text 0 is none.
        header.text_bytes.store(size_of::<wire::TextHead>() as u32, Ordering::Relaxed);
        header.ring_slots.store(self.ring_slots, Ordering::Relaxed);
        header.version.store(u32::from(wire::MAJOR) | u32::from(wire::MINOR) << 16, Ordering::Relaxed);
        header.magic.store(wire::MAGIC, Ordering::Release);
    }

    /// Writes a new record and publishes it.
    pub fn write_module(&self, index: u32, layout: &elf::Layout, flags: u32, build_id: &[u8], path: &[u8]) {
        let record = self.record(index);
        record.base.store(layout.base, Ordering::Relaxed);
        record.start.store(layout.start, Ordering::Relaxed);
        record.end.store(layout.end, Ordering::Relaxed);
        record.loaded_stamp.store(sys::stamp_after(), Ordering::Relaxed);
        record.flags.store(flags, Ordering::Relaxed);
        let id_len = build_id.len().min(wire::BUILD_ID_BYTES);
        for (to, &from) in record.build_id.iter().zip(build_id) {
            to.store(from, Ordering::Relaxed);
        }
        record.build_id_len.store(id_len as u32, Ordering::Relaxed);
        let path = path_kept(path);
        for (to, &from) in record.path.iter().zip(path) {
            to.store(from, Ordering::Relaxed);
        }
        record.path_len.store(path.len() as u32, Ordering::Relaxed);
        // Release pairs with the reader's acquire: the records below the count are complete.
        self.header().module_count.fetch_max(index + 1, Ordering::Release);
    }

    /// Record `index` has this build id and path.
    pub fn module_is(&self, index: u32, build_id: &[u8], path: &[u8]) -> bool {
        let record = self.record(index);
        let path = path_kept(path);
        let id_len = build_id.len().min(wire::BUILD_ID_BYTES);
        record.build_id_len.load(Ordering::Relaxed) as usize == id_len
            && record.path_len.load(Ordering::Relaxed) as usize == path.len()
            && record.build_id.iter().zip(build_id).all(|(a, &b)| a.load(Ordering::Relaxed) == b)
            && record.path.iter().zip(path).all(|(a, &b)| a.load(Ordering::Relaxed) == b)
    }

    /// The bytes behind the head of the text at `at`, and the head. `None` where they would not fit.
    fn text(&self, at: u32, bytes: usize) -> Option<(&wire::TextHead, &[AtomicU8])> {
        let end = u64::from(at) + size_of::<wire::TextHead>() as u64 + bytes as u64;
        if !at.is_multiple_of(8) || end > u64::from(wire::TEXT_BYTES) {
            return None;
        }
        // SAFETY: inside the mapped texts and aligned; atomics only.
        unsafe {
            let head = self.base.add((wire::TEXTS_OFFSET + u64::from(at)) as usize).cast::<wire::TextHead>();
            Some((&*head, core::slice::from_raw_parts(head.add(1).cast::<AtomicU8>(), bytes)))
        }
    }

    /// Writes a text that nobody reads yet.
    pub fn write_text(&self, at: u32, file: &[u8], name: &[u8]) {
        let Some((head, bytes)) = self.text(at, file.len() + name.len()) else { return };
        for (to, &from) in bytes.iter().zip(file.iter().chain(name)) {
            to.store(from, Ordering::Relaxed);
        }
        head.file_len.store(file.len() as u32, Ordering::Relaxed);
        head.name_len.store(name.len() as u32, Ordering::Relaxed);
    }

    /// The text at `at` is this.
    pub fn text_is(&self, at: u32, file: &[u8], name: &[u8]) -> bool {
        let Some((head, bytes)) = self.text(at, file.len() + name.len()) else { return false };
        head.file_len.load(Ordering::Relaxed) as usize == file.len()
            && head.name_len.load(Ordering::Relaxed) as usize == name.len()
            && bytes.iter().zip(file.iter().chain(name)).all(|(a, &b)| a.load(Ordering::Relaxed) == b)
    }

    /// The module is gone; stacks still refer to its record.
    pub fn module_unloaded(&self, index: u32) {
        self.record(index).unloaded_stamp.store(sys::stamp_after(), Ordering::Release);
    }

    /// It is back, at the same place.
    pub fn module_loaded_again(&self, index: u32) {
        self.record(index).unloaded_stamp.store(0, Ordering::Release);
    }

    fn take_modules_from(&self, parent: &Segment) {
        let count = parent.header().module_count.load(Ordering::Acquire).min(wire::MAX_MODULES);
        // SAFETY: both tables are mapped; only this thread exists in the child, so that nobody writes meanwhile.
        unsafe {
            core::ptr::copy_nonoverlapping(
                parent.base.add(wire::MODULES_OFFSET as usize),
                self.base.add(wire::MODULES_OFFSET as usize),
                count as usize * size_of::<wire::ModuleRecord>(),
            );
        }
        self.header().module_count.store(count, Ordering::Release);
    }

    /// After a publication: wakes the analyzer where it waits for one; where it only naps, if many events wait for it. `filled` is how many
    /// do as far as the producer knows, `look` looks.
    #[inline(always)]
    pub fn published(&self, filled: u64, look: impl FnOnce() -> u64) {
        let sleeping = self.header().consumer_sleeping.load(Ordering::Relaxed);
        if sleeping == wire::ASLEEP || sleeping != 0 && filled >= WAKE_AT && look() >= WAKE_AT {
            self.wake_consumer();
        }
    }

    /// Wakes the analyzer if it sleeps.
    #[cold]
    pub fn wake_consumer(&self) {
        let sleeping: &AtomicU32 = &self.header().consumer_sleeping;
        if sleeping.swap(0, Ordering::AcqRel) != 0 {
            sys::keep_errno(|| sys::futex_wake(sleeping));
        }
    }
}

/// The end of a path that is too long for its record.
fn path_kept(path: &[u8]) -> &[u8] {
    &path[path.len().saturating_sub(wire::MODULE_PATH_BYTES)..]
}
