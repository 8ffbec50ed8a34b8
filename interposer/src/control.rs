//! The word that every hook reads first: dormant or armed, in a page that a fork wipes.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The largest page that a kernel of this processor may have: less would share its page with other variables.
const PAGE_BYTES: usize = if cfg!(target_arch = "aarch64") { 65536 } else { 4096 };

/// A page of its own, zeroed by the kernel in every forked child (MADV_WIPEONFORK), however the fork was made. A vfork or
/// posix_spawn child shares the parent's memory and sees the parent's values, as it should.
#[cfg_attr(target_arch = "aarch64", repr(C, align(65536)))]
#[cfg_attr(not(target_arch = "aarch64"), repr(C, align(4096)))]
pub struct Page {
    /// The present arming's generation; 0 while dormant.
    armed: AtomicU32,
    /// Set by dlopen: loaded modules have to be looked at again.
    loaded_something: AtomicU32,
    /// `STAGE_*`.
    stage: AtomicU32,
    /// Set by dlopen too, cleared by dlsym only: an allocation elsewhere may look too early.
    loaded_for_lookup: AtomicU32,
    rest: [u32; PAGE_BYTES / 4 - 4],
}

// The stubs read both as one: where it is 0 a hook has nothing to do.
const _: () = assert!(core::mem::offset_of!(Page, armed) == 0 && core::mem::offset_of!(Page, loaded_something) == 4);

/// The page. Its first word is read by the thunks' assembly too, its first two by the stubs'.
pub static ARMED_PAGE: Page = Page {
    armed: AtomicU32::new(0),
    loaded_something: AtomicU32::new(0),
    stage: AtomicU32::new(0),
    loaded_for_lookup: AtomicU32::new(0),
    rest: [0; PAGE_BYTES / 4 - 4],
};

const STAGE_DORMANT: u32 = 0;
const STAGE_ARMING: u32 = 1;
const STAGE_ARMED: u32 = 2;
const STAGE_DISABLED: u32 = 3;

/// Never reused, not even across forks: a thread's state belongs to one generation.
static NEXT_GENERATION: AtomicU32 = AtomicU32::new(1);
/// Survives a fork: where the parent could not register, its children do not try again.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);
static NO_WIPE: AtomicBool = AtomicBool::new(false);

/// The generation of the present arming; 0 while dormant. The one load of a dormant hook.
#[inline(always)]
pub fn armed() -> u32 {
    // Acquire pairs with the release in `finish_arming`: who sees a generation sees its segment.
    ARMED_PAGE.armed.load(Ordering::Acquire)
}

/// Makes the page wiped on fork.
pub fn prepare() {
    let page = &raw const ARMED_PAGE;
    // SAFETY: the range is exactly this page, which is page-aligned, page-sized and in .bss (private anonymous memory).
    let refused = unsafe { libc::madvise(page.cast_mut().cast(), size_of::<Page>(), libc::MADV_WIPEONFORK) } != 0;
    if refused {
        NO_WIPE.store(true, Ordering::Relaxed);
        // SAFETY: the handler only stores to atomics, which is allowed in a forked child.
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    }
}

unsafe extern "C" fn forget_in_child() {
    ARMED_PAGE.armed.store(0, Ordering::Relaxed);
    ARMED_PAGE.stage.store(STAGE_DORMANT, Ordering::Relaxed);
}

/// MADV_WIPEONFORK was refused.
pub fn follows_forks_by_atfork() -> bool {
    NO_WIPE.load(Ordering::Relaxed)
}

/// Takes the right to arm; `None` where another thread does or did.
pub fn begin_arming() -> Option<u32> {
    if GIVEN_UP.load(Ordering::Relaxed) {
        return None;
    }
    ARMED_PAGE.stage.compare_exchange(STAGE_DORMANT, STAGE_ARMING, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(NEXT_GENERATION.fetch_add(1, Ordering::Relaxed))
}

/// Opens the hooks.
pub fn finish_arming(generation: u32) {
    ARMED_PAGE.stage.store(STAGE_ARMED, Ordering::Relaxed);
    ARMED_PAGE.armed.store(generation, Ordering::Release);
}

/// Arming failed, or the interposer cannot go on: dormant for good, here and in children forked from here.
pub fn disable() {
    ARMED_PAGE.armed.store(0, Ordering::Release);
    ARMED_PAGE.stage.store(STAGE_DISABLED, Ordering::Relaxed);
    GIVEN_UP.store(true, Ordering::Relaxed);
}

/// Dormant with a chance to arm, or on the way there.
#[inline(always)]
pub fn can_arm() -> bool {
    matches!(ARMED_PAGE.stage.load(Ordering::Relaxed), STAGE_DORMANT | STAGE_ARMING)
}

/// Another thread is arming.
pub fn is_arming() -> bool {
    ARMED_PAGE.stage.load(Ordering::Relaxed) == STAGE_ARMING
}

/// dlopen was called.
pub fn note_load() {
    ARMED_PAGE.loaded_something.store(1, Ordering::Relaxed);
    ARMED_PAGE.loaded_for_lookup.store(1, Ordering::Relaxed);
}

/// A module that was passed over has to be looked at again.
pub fn note_unready() {
    ARMED_PAGE.loaded_something.store(1, Ordering::Relaxed);
}

/// Something was loaded since the last dlsym; asked once.
pub fn take_load_for_lookup() -> bool {
    ARMED_PAGE.loaded_for_lookup.load(Ordering::Relaxed) != 0
        && ARMED_PAGE.loaded_for_lookup.swap(0, Ordering::Relaxed) != 0
}

/// Something may have been loaded that nobody looked at yet.
#[inline(always)]
pub fn load_pending() -> bool {
    ARMED_PAGE.loaded_something.load(Ordering::Relaxed) != 0
}

/// The modules are being looked at now.
pub fn clear_load() {
    ARMED_PAGE.loaded_something.store(0, Ordering::Relaxed);
}
