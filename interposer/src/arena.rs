//! The interposer's own memory: one private range, handed out upwards, never given back, never a root.
//!
//! It is reserved as a whole and opened piece by piece: what is open counts against the host's RLIMIT_DATA, which it may set later.
//!
//! It is also this library's Rust allocator, so that nothing of ours lies in the host's heap. Little is ever allocated: module
//! tables when a module is first met, a thread's state when more threads run at once than ever before.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sandbox::{self, Call};
use crate::sys;

/// Virtual bytes; pages are used as they are touched.
const BYTES: u64 = 1 << 30;
const SMALLER: u64 = 32 << 20;

static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);
/// What is opened at once.
const STEP: u64 = 4 << 20;
/// Up to here the range is readable and writable.
static OPEN: AtomicU64 = AtomicU64::new(0);
/// Up to here memory was handed out at some time; above it is as the kernel gave it.
static TOUCHED: AtomicU64 = AtomicU64::new(0);

struct Arena;

#[global_allocator]
static ARENA: Arena = Arena;

/// Maps the range, once. False where the kernel refuses.
pub fn prepare() -> bool {
    if START.load(Ordering::Acquire) != 0 {
        return true;
    }
    let choices: &[u64] = if address_space_is_limited() { &[SMALLER] } else { &[BYTES, SMALLER] };
    for &bytes in choices {
        if let Some(at) = reserve(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1) {
            let start = at as u64;
            if START.compare_exchange(0, start, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: the mapping made above, not yet known to anybody.
                unsafe { libc::munmap(at.cast(), bytes as usize) };
                return true;
            }
            OPEN.store(start, Ordering::Relaxed);
            NEXT.store(start, Ordering::Relaxed);
            END.store(start + bytes, Ordering::Release);
            return true;
        }
    }
    false
}

/// The host set a limit on its address space: ours is taken from it, so that little is taken.
pub fn address_space_is_limited() -> bool {
    [libc::RLIMIT_AS, libc::RLIMIT_DATA].into_iter().any(|which| {
        // SAFETY: the kernel fills a value of ours.
        unsafe {
            let mut limit: libc::rlimit = core::mem::zeroed();
            libc::getrlimit(which, &raw mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY
        }
    })
}

/// Maps memory that is used page by page as it is touched: a host's mlockall(MCL_FUTURE) would fill all of it, a core dump would write
/// all of it.
pub fn map(bytes: u64, flags: i32, fd: i32) -> Option<*mut u8> {
    let at = reserve(bytes, flags, fd)?;
    // SAFETY: exactly the mapping just made, which nobody else knows.
    unsafe {
        if libc::mprotect(at.cast(), bytes as usize, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            libc::munmap(at.cast(), bytes as usize);
            return None;
        }
    }
    Some(at)
}

/// As [`map`], but neither readable nor writable yet.
fn reserve(bytes: u64, flags: i32, fd: i32) -> Option<*mut u8> {
    let bytes = bytes as usize;
    // SAFETY: a new mapping wherever the kernel likes; the later calls are about exactly this mapping.
    unsafe {
        let at = libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags | libc::MAP_NORESERVE, fd, 0);
        if at == libc::MAP_FAILED {
            return None;
        }
        if !sandbox::kills(Call::Munlock) {
            libc::munlock(at, bytes);
        }
        libc::madvise(at, bytes, libc::MADV_DONTDUMP);
        Some(at.cast())
    }
}

/// Gives back the end of the newest piece: of `taken` bytes at `at` only `used` are needed.
pub fn shrink(at: *mut u8, taken: usize, used: usize) {
    let _ =
        NEXT.compare_exchange(at as u64 + taken as u64, at as u64 + used as u64, Ordering::AcqRel, Ordering::Relaxed);
}

/// The range: start and bytes.
pub fn range() -> (u64, u64) {
    let start = START.load(Ordering::Acquire);
    (start, END.load(Ordering::Acquire) - start)
}

/// So many bytes can still be handed out. Callers ask before they start what cannot fail half-way.
pub fn has_room(bytes: u64) -> bool {
    let next = NEXT.load(Ordering::Relaxed);
    next != 0 && next.checked_add(bytes).is_some_and(|end| end <= END.load(Ordering::Acquire) && is_open(end))
}

/// The range is open up to `end`, or can be opened.
#[inline(always)]
fn is_open(end: u64) -> bool {
    end <= OPEN.load(Ordering::Acquire) || open(end)
}

#[cold]
fn open(end: u64) -> bool {
    if sandbox::kills(Call::Mprotect) {
        return false;
    }
    let from = OPEN.load(Ordering::Acquire);
    let to = end.next_multiple_of(STEP).min(END.load(Ordering::Acquire));
    if to <= from {
        return true;
    }
    // SAFETY: a part of this range. Two threads may open the same part; nobody closes any.
    let opened = sys::keep_errno(|| unsafe {
        libc::mprotect(from as *mut _, (to - from) as usize, libc::PROT_READ | libc::PROT_WRITE) == 0
    });
    if opened {
        OPEN.fetch_max(to, Ordering::AcqRel);
    }
    opened
}

/// Zeroed bytes, or null.
pub fn take(bytes: usize, align: usize) -> *mut u8 {
    let mut next = NEXT.load(Ordering::Relaxed);
    loop {
        let start = (next + align as u64 - 1) & !(align as u64 - 1);
        let end = start + bytes as u64;
        if next == 0 || end > END.load(Ordering::Acquire) || !is_open(end) {
            return core::ptr::null_mut();
        }
        match NEXT.compare_exchange_weak(next, end, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => {
                let touched = TOUCHED.fetch_max(end, Ordering::AcqRel);
                if touched > start {
                    // A piece that was taken back before.
                    // SAFETY: inside the piece that was just handed out.
                    unsafe { (start as *mut u8).write_bytes(0, (touched.min(end) - start) as usize) };
                }
                return start as *mut u8;
            }
            Err(now) => next = now,
        }
    }
}

// SAFETY: `take` hands out disjoint, aligned, zeroed ranges or null.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if START.load(Ordering::Acquire) == 0 && !prepare() {
            return core::ptr::null_mut();
        }
        take(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // The newest piece can be taken back; anything else stays.
        let end = at as u64 + layout.size() as u64;
        let _ = NEXT.compare_exchange(end, at as u64, Ordering::AcqRel, Ordering::Relaxed);
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout; `take` zeroes.
        unsafe { self.alloc(layout) }
    }
}
