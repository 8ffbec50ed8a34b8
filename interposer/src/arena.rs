//! The interposer's own memory: one private range, handed out upwards, never given back, never a root.
//!
//! It is also this library's Rust allocator, so that nothing of ours lies in the host's heap. Little is ever allocated: module
//! tables when a module is first met, a thread's state when more threads run at once than ever before.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering};

/// Virtual bytes; pages are used as they are touched.
const BYTES: u64 = 256 << 20;
const SMALLER: u64 = 32 << 20;

static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Arena;

#[global_allocator]
static ARENA: Arena = Arena;

/// Maps the range, once. False where the kernel refuses.
pub fn prepare() -> bool {
    if START.load(Ordering::Acquire) != 0 {
        return true;
    }
    for bytes in [BYTES, SMALLER] {
        // SAFETY: a new anonymous mapping wherever the kernel likes.
        let at = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at != libc::MAP_FAILED {
            let start = at as u64;
            if START.compare_exchange(0, start, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: the mapping made above, not yet known to anybody.
                unsafe { libc::munmap(at, bytes as usize) };
                return true;
            }
            NEXT.store(start, Ordering::Relaxed);
            END.store(start + bytes, Ordering::Release);
            return true;
        }
    }
    false
}

/// The range: start and bytes.
pub fn range() -> (u64, u64) {
    let start = START.load(Ordering::Acquire);
    (start, END.load(Ordering::Acquire) - start)
}

/// Bytes that can still be handed out. Callers ask before they start what cannot fail half-way.
pub fn room() -> u64 {
    END.load(Ordering::Acquire).saturating_sub(NEXT.load(Ordering::Relaxed))
}

/// Zeroed bytes, or null.
pub fn take(bytes: usize, align: usize) -> *mut u8 {
    let mut next = NEXT.load(Ordering::Relaxed);
    loop {
        let start = (next + align as u64 - 1) & !(align as u64 - 1);
        let end = start + bytes as u64;
        if next == 0 || end > END.load(Ordering::Acquire) {
            return core::ptr::null_mut();
        }
        match NEXT.compare_exchange_weak(next, end, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return start as *mut u8,
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
        // A piece that was taken back may be dirty.
        // SAFETY: the caller's layout.
        let at = unsafe { self.alloc(layout) };
        if !at.is_null() {
            // SAFETY: just handed out, `size` bytes.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }
}
