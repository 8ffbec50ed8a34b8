//! What each hooked function of the malloc family does: the real call, and one call of the recorder, in the right order.
//!
//! Every function here is entered by a tail jump from its stub ([`crate::stubs`]) with the caller's stack pointer and frame pointer
//! behind the C arguments. The guard is entered by the recorder, not around the real call: another allocator's own calls count.

use core::ffi::{c_int, c_void};

use crate::entry::{Entry, stack_pointer};
use crate::unwind::Registers;
use crate::{arm, control, real, recorder};

type Pointer = *mut c_void;

/// Only called from hooks, with the registers that their stub passed on.
#[inline(always)]
fn caller(sp: Entry, bp: u64) -> Registers {
    // SAFETY: the stub passes its own stack pointer at entry, and its frame is the hook's own (tail jump).
    unsafe { Registers::at_entry(sp, bp) }
}

#[inline(always)]
fn record_allocation(at: Pointer, size: usize, sp: Entry, bp: u64) {
    let generation = control::armed();
    if generation != 0 {
        if !at.is_null() {
            recorder::allocated(generation, caller(sp, bp), at as u64, size as u64);
        }
    } else if control::load_pending() {
        arm::look_at_loaded(caller(sp, bp));
    }
}

/// malloc(3).
pub unsafe extern "C" fn malloc(size: usize, sp: Entry, bp: u64) -> Pointer {
    let at = real::malloc(size);
    record_allocation(at, size, sp, bp);
    at
}

/// calloc(3).
pub unsafe extern "C" fn calloc(count: usize, size: usize, sp: Entry, bp: u64) -> Pointer {
    let at = real::calloc(count, size);
    record_allocation(at, count.wrapping_mul(size), sp, bp);
    at
}

/// realloc(3). `realloc(p, 0)` frees and returns NULL (glibc).
pub unsafe extern "C" fn realloc(old: Pointer, size: usize, sp: Entry, bp: u64) -> Pointer {
    let generation = control::armed();
    if generation == 0 {
        return real::realloc(old, size);
    }
    if old.is_null() {
        let at = real::realloc(old, size);
        record_allocation(at, size, sp, bp);
        return at;
    }
    if size == 0 {
        // Whether NULL means "freed" or "failed" shows only afterwards, and then the address may be somebody else's; glibc frees.
        let before = recorder::realloc_begins(generation, stack_pointer(sp), old as u64);
        let at = real::realloc(old, size);
        if at.is_null() {
            recorder::freed_by_realloc(generation, caller(sp, bp), before);
        } else {
            recorder::reallocated(generation, caller(sp, bp), before, at as u64, 0);
        }
        return at;
    }
    let before = recorder::realloc_begins(generation, stack_pointer(sp), old as u64);
    let at = real::realloc(old, size);
    if at.is_null() {
        recorder::realloc_failed(generation, stack_pointer(sp));
    } else {
        recorder::reallocated(generation, caller(sp, bp), before, at as u64, size as u64);
    }
    at
}

/// reallocarray(3): realloc with a checked product. The real one would call the realloc hook and be counted there once more.
pub unsafe extern "C" fn reallocarray(old: Pointer, count: usize, size: usize, sp: Entry, bp: u64) -> Pointer {
    let Some(bytes) = count.checked_mul(size) else {
        // SAFETY: this thread's errno, as the function is documented to set it.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
        return core::ptr::null_mut();
    };
    // SAFETY: as this function's own caller promises.
    unsafe { realloc(old, bytes, sp, bp) }
}

/// free(3).
pub unsafe extern "C" fn free(at: Pointer, sp: Entry, bp: u64) {
    record_free(at, sp, bp);
    real::free(at);
}

#[inline(always)]
fn record_free(at: Pointer, sp: Entry, bp: u64) {
    let generation = control::armed();
    if generation != 0 && !at.is_null() {
        recorder::freeing(generation, caller(sp, bp), at as u64);
    }
}

/// free_sized (C23).
pub unsafe extern "C" fn free_sized(at: Pointer, size: usize, sp: Entry, bp: u64) {
    record_free(at, sp, bp);
    real::free_sized(at, size);
}

/// free_aligned_sized (C23).
pub unsafe extern "C" fn free_aligned_sized(at: Pointer, align: usize, size: usize, sp: Entry, bp: u64) {
    record_free(at, sp, bp);
    real::free_aligned_sized(at, align, size);
}

/// posix_memalign(3): libavutil's allocator, and what arms the interposer.
pub unsafe extern "C" fn posix_memalign(into: *mut Pointer, align: usize, size: usize, sp: Entry, bp: u64) -> c_int {
    if control::armed() == 0 && control::can_arm() {
        arm::consider(caller(sp, bp));
    }
    let result = real::posix_memalign(into, align, size);
    if result == 0 {
        // SAFETY: the real function succeeded and wrote the pointer.
        record_allocation(unsafe { *into }, size, sp, bp);
    }
    result
}

/// memalign(3).
pub unsafe extern "C" fn memalign(align: usize, size: usize, sp: Entry, bp: u64) -> Pointer {
    if control::armed() == 0 && control::can_arm() {
        arm::consider(caller(sp, bp));
    }
    let at = real::memalign(align, size);
    record_allocation(at, size, sp, bp);
    at
}

/// aligned_alloc(3).
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize, sp: Entry, bp: u64) -> Pointer {
    if control::armed() == 0 && control::can_arm() {
        arm::consider(caller(sp, bp));
    }
    let at = real::aligned_alloc(align, size);
    record_allocation(at, size, sp, bp);
    at
}

/// valloc(3).
pub unsafe extern "C" fn valloc(size: usize, sp: Entry, bp: u64) -> Pointer {
    let at = real::valloc(size);
    record_allocation(at, size, sp, bp);
    at
}

/// pvalloc(3).
pub unsafe extern "C" fn pvalloc(size: usize, sp: Entry, bp: u64) -> Pointer {
    let at = real::pvalloc(size);
    record_allocation(at, size.checked_add(4095).map_or(size, |size| size & !4095), sp, bp);
    at
}
