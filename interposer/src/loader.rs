//! dlopen and dlclose, followed without the loader's lock under one of ours.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::{control, modules, real};

/// Where the dlopen stub jumps: filled before main.
pub static REAL_DLOPEN: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
/// Where the dlmopen stub jumps.
pub static REAL_DLMOPEN: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// A dlopen or dlmopen is about to be made.
pub extern "C" fn loading() {
    if REAL_DLOPEN.load(Ordering::Relaxed).is_null() {
        // A constructor that runs before ours.
        real::resolve_all();
        prepare();
    }
    control::note_load();
}

/// Fills the two jump targets.
pub fn prepare() {
    REAL_DLOPEN.store(real::DLOPEN.address(), Ordering::Relaxed);
    REAL_DLMOPEN.store(real::DLMOPEN.address(), Ordering::Relaxed);
}

redhook::hook! {
    // dlclose neither looks at its caller nor is hot: redhook's plain hook serves.
    unsafe fn dlclose(handle: *mut c_void) -> c_int => avleak_dlclose {
        // SAFETY: the host's own argument, passed on unchanged.
        let result = unsafe { redhook::real!(dlclose)(handle) };
        if control::armed() != 0 {
            modules::note_unload();
        }
        control::note_load();
        result
    }
}
