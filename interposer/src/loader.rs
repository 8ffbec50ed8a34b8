//! dlopen, dlsym and dlclose, followed without the loader's lock under one of ours.
//!
//! After a dlopen the new modules' call slots are to be patched before they are used. Its end cannot be seen (dlopen must not be
//! wrapped), but before anything in a plug-in is called, it is looked up: dlsym is where slots are patched.

use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::{arm, control, modules, real};

/// Where the dlopen stub jumps: filled before main.
pub static REAL_DLOPEN: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
/// Where the dlmopen stub jumps.
pub static REAL_DLMOPEN: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Where the dlsym stub jumps.
pub static REAL_DLSYM: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// A dlopen or dlmopen is about to be made.
pub extern "C" fn loading() {
    if REAL_DLOPEN.load(Ordering::Relaxed).is_null() {
        // A constructor that runs before ours.
        real::resolve_all();
        prepare();
    }
    control::note_load();
}

/// A dlsym is about to be made.
pub extern "C" fn looking_up() {
    if REAL_DLSYM.load(Ordering::Relaxed).is_null() {
        find_dlsym();
    }
    if control::take_load_for_lookup() {
        arm::look_at_loaded_now();
    }
}

extern "C" fn no_symbol(_handle: *mut c_void, _name: *const core::ffi::c_char) -> *mut c_void {
    core::ptr::null_mut()
}

/// The real dlsym cannot be asked for by dlsym: by version, the newest first.
fn find_dlsym() {
    let oldest = if cfg!(target_arch = "aarch64") { c"GLIBC_2.17" } else { c"GLIBC_2.2.5" };
    let by_version = |version: &CStr| {
        // SAFETY: NUL-terminated names.
        unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) }
    };
    let found = [c"GLIBC_2.34", oldest].map(by_version).into_iter().find(|found| !found.is_null());
    let nothing = no_symbol as *mut c_void;
    REAL_DLSYM.store(found.unwrap_or(nothing), Ordering::Relaxed);
}

/// Our own question, past our own stub. RTLD_NEXT is from this library on.
pub fn symbol(handle: *mut c_void, name: &CStr) -> *mut c_void {
    if REAL_DLSYM.load(Ordering::Relaxed).is_null() {
        find_dlsym();
    }
    type DlSym = unsafe extern "C" fn(*mut c_void, *const core::ffi::c_char) -> *mut c_void;
    // SAFETY: dlsym or its stand-in, with their signature.
    unsafe { core::mem::transmute::<*mut c_void, DlSym>(REAL_DLSYM.load(Ordering::Relaxed))(handle, name.as_ptr()) }
}

/// Fills the two other jump targets.
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
