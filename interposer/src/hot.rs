//! The words that each hook reads and hardly anybody writes, in one cache line: a server that does something else between two calls has
//! them come from far away, and five lines on five pages cost what five of its own do. The word that a fork wipes has a page of its
//! own ([`crate::control`]).

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use crate::python::Interpreter;

/// See the module.
#[repr(C, align(64))]
pub struct Hot {
    /// Where the real functions are; null where they were not found yet ([`crate::real`]).
    pub malloc: AtomicPtr<c_void>,
    /// See `malloc`.
    pub calloc: AtomicPtr<c_void>,
    /// See `malloc`.
    pub realloc: AtomicPtr<c_void>,
    /// See `malloc`.
    pub free: AtomicPtr<c_void>,
    /// See `malloc`.
    pub posix_memalign: AtomicPtr<c_void>,
    /// See [`crate::modules::table_generation`].
    pub table_generation: AtomicU64,
    /// The Python in the process; null: none was met.
    pub interpreter: AtomicPtr<Interpreter>,
    /// See [`crate::settings::verify`].
    pub verify: AtomicBool,
    /// Stamps are from the processor's counter ([`crate::sys::choose_clock`]).
    #[cfg(target_arch = "x86_64")]
    pub counts_ticks: AtomicBool,
}

const _: () = assert!(size_of::<Hot>() == 64, "one cache line");

/// The one there is.
pub static HOT: Hot = Hot {
    malloc: AtomicPtr::new(null_mut()),
    calloc: AtomicPtr::new(null_mut()),
    realloc: AtomicPtr::new(null_mut()),
    free: AtomicPtr::new(null_mut()),
    posix_memalign: AtomicPtr::new(null_mut()),
    table_generation: AtomicU64::new(1),
    interpreter: AtomicPtr::new(null_mut()),
    verify: AtomicBool::new(false),
    #[cfg(target_arch = "x86_64")]
    counts_ticks: AtomicBool::new(false),
};
