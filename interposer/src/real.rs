//! The real malloc family, by RTLD_NEXT (never `__libc_*`: another preloaded allocator must keep working).

use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::hot::HOT;

type Pointer = *mut c_void;

/// One real function, found once.
#[derive(Clone, Copy)]
pub struct Real {
    name: &'static CStr,
    address: &'static AtomicPtr<c_void>,
}

impl Real {
    /// Its address; null where the next libraries do not have it.
    #[inline(always)]
    pub fn address(self) -> Pointer {
        self.address.load(Ordering::Relaxed)
    }

    /// The same, looked for where it was asked before our constructor ran.
    pub fn known(self) -> Pointer {
        self.resolve();
        self.address()
    }

    fn resolve(self) {
        if self.address().is_null() {
            // RTLD_NEXT finds the definition after this library in load order.
            let found = crate::loader::symbol(libc::RTLD_NEXT, self.name);
            self.address.store(found, Ordering::Relaxed);
        }
    }
}

macro_rules! reals {
    ($($constant:ident $name:literal $($hot:ident)?,)*) => {
        $(#[doc = concat!("The real ", $name, ".")] pub const $constant: Real = Real {
            name: match CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) { Ok(name) => name, Err(_) => panic!() },
            address: reals!(@ $($hot)?),
        };)*
        /// Finds all of them. Called before main, and by the first hook that finds itself without.
        pub fn resolve_all() {
            $($constant.resolve();)*
        }
    };
    (@ $hot:ident) => { &HOT.$hot };
    (@) => {{
        static ADDRESS: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
        &ADDRESS
    }};
}

reals! {
    MALLOC "malloc" malloc,
    CALLOC "calloc" calloc,
    REALLOC "realloc" realloc,
    FREE "free" free,
    POSIX_MEMALIGN "posix_memalign" posix_memalign,
    MEMALIGN "memalign",
    ALIGNED_ALLOC "aligned_alloc",
    VALLOC "valloc",
    PVALLOC "pvalloc",
    FREE_SIZED "free_sized",
    FREE_ALIGNED_SIZED "free_aligned_sized",
    DLOPEN "dlopen",
    DLMOPEN "dlmopen",
    PTHREAD_GETATTR_NP "pthread_getattr_np",
    EXECVE "execve",
    EXECVPE "execvpe",
    POSIX_SPAWN "posix_spawn",
    POSIX_SPAWNP "posix_spawnp",
}

/// What ld.so and dlsym allocate before the real functions are known: a few hundred bytes, never given back.
#[repr(C, align(16))]
pub struct Early(core::cell::UnsafeCell<[u8; EARLY_BYTES]>);
/// How many bytes of it there are.
pub const EARLY_BYTES: usize = 16 << 10;
// SAFETY: pieces are handed out by an atomic counter and belong to the caller alone.
unsafe impl Sync for Early {}
/// The pieces.
pub static EARLY: Early = Early(core::cell::UnsafeCell::new([0; EARLY_BYTES]));
static EARLY_USED: AtomicUsize = AtomicUsize::new(0);

fn early(size: usize, align: usize) -> Pointer {
    let align = align.max(16);
    let Some(bytes) = size.checked_add(align) else { return core::ptr::null_mut() };
    let used = EARLY_USED.fetch_add(bytes, Ordering::Relaxed);
    if used + bytes > EARLY_BYTES {
        return core::ptr::null_mut();
    }
    let start = (EARLY.0.get() as usize + used + align - 1) & !(align - 1);
    start as Pointer
}

/// `at` is one of those early pieces.
#[inline(always)]
pub fn is_early(at: Pointer) -> bool {
    let start = EARLY.0.get() as usize;
    (start..start + EARLY_BYTES).contains(&(at as usize))
}

/// pthread_getattr_np(3); ENOSYS where the C library has none.
pub fn pthread_getattr(thread: libc::pthread_t, attributes: *mut libc::pthread_attr_t) -> c_int {
    if PTHREAD_GETATTR_NP.address().is_null() {
        PTHREAD_GETATTR_NP.resolve();
    }
    let real = PTHREAD_GETATTR_NP.address();
    if real.is_null() {
        return libc::ENOSYS;
    }
    type Function = extern "C" fn(libc::pthread_t, *mut libc::pthread_attr_t) -> c_int;
    // SAFETY: RTLD_NEXT's definition of this function, with its signature; the arguments are the caller's own.
    unsafe { core::mem::transmute::<Pointer, Function>(real)(thread, attributes) }
}

macro_rules! call {
    ($real:ident, $type:ty, $($argument:expr),*) => {{
        // SAFETY: RTLD_NEXT's definition of this C function, with its C signature; the arguments are the host's own.
        unsafe { core::mem::transmute::<Pointer, $type>($real.address())($($argument),*) }
    }};
}

/// malloc(3).
#[inline(always)]
pub fn malloc(size: usize) -> Pointer {
    if MALLOC.address().is_null() {
        return without_real(|| malloc(size), || early(size, 16));
    }
    call!(MALLOC, extern "C" fn(usize) -> Pointer, size)
}

/// calloc(3).
#[inline(always)]
pub fn calloc(count: usize, size: usize) -> Pointer {
    if CALLOC.address().is_null() {
        return without_real(
            || calloc(count, size),
            || count.checked_mul(size).map_or(core::ptr::null_mut(), |size| early(size, 16)),
        );
    }
    call!(CALLOC, extern "C" fn(usize, usize) -> Pointer, count, size)
}

/// realloc(3).
#[inline(always)]
pub fn realloc(old: Pointer, size: usize) -> Pointer {
    if is_early(old) {
        let new = malloc(size);
        if !new.is_null() {
            let room = EARLY.0.get() as usize + EARLY_BYTES - old as usize;
            // SAFETY: both are at least that long; an early piece lies in EARLY.
            unsafe { core::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), size.min(room)) };
        }
        return new;
    }
    if REALLOC.address().is_null() {
        return without_real(|| realloc(old, size), || early(size, 16));
    }
    call!(REALLOC, extern "C" fn(Pointer, usize) -> Pointer, old, size)
}

/// free(3).
#[inline(always)]
pub fn free(at: Pointer) {
    if at.is_null() || is_early(at) || FREE.address().is_null() {
        return;
    }
    call!(FREE, extern "C" fn(Pointer), at);
}

/// posix_memalign(3).
#[inline(always)]
pub fn posix_memalign(into: *mut Pointer, align: usize, size: usize) -> c_int {
    if POSIX_MEMALIGN.address().is_null() {
        resolve_all();
        if POSIX_MEMALIGN.address().is_null() {
            return libc::ENOMEM;
        }
    }
    call!(POSIX_MEMALIGN, extern "C" fn(*mut Pointer, usize, usize) -> c_int, into, align, size)
}

macro_rules! two_words {
    ($($function:ident $constant:ident $page:literal,)*) => {
        $(#[doc = concat!(stringify!($function), "(3).")]
        #[inline(always)]
        pub fn $function(align: usize, size: usize) -> Pointer {
            if $constant.address().is_null() {
                return without_real(|| $function(align, size), || early(size, align.max(16)));
            }
            call!($constant, extern "C" fn(usize, usize) -> Pointer, align, size)
        })*
    };
}
two_words! { memalign MEMALIGN 0, aligned_alloc ALIGNED_ALLOC 0, }

/// valloc(3).
pub fn valloc(size: usize) -> Pointer {
    if VALLOC.address().is_null() {
        return memalign(4096, size);
    }
    call!(VALLOC, extern "C" fn(usize) -> Pointer, size)
}

/// pvalloc(3).
pub fn pvalloc(size: usize) -> Pointer {
    if PVALLOC.address().is_null() {
        return memalign(4096, size.checked_add(4095).map_or(usize::MAX, |size| size & !4095));
    }
    call!(PVALLOC, extern "C" fn(usize) -> Pointer, size)
}

/// free_sized (C23), or free where the C library has none.
pub fn free_sized(at: Pointer, size: usize) {
    if FREE_SIZED.address().is_null() || is_early(at) {
        return free(at);
    }
    call!(FREE_SIZED, extern "C" fn(Pointer, usize), at, size);
}

/// free_aligned_sized (C23), or free where the C library has none.
pub fn free_aligned_sized(at: Pointer, align: usize, size: usize) {
    if FREE_ALIGNED_SIZED.address().is_null() || is_early(at) {
        return free(at);
    }
    call!(FREE_ALIGNED_SIZED, extern "C" fn(Pointer, usize, usize), at, align, size);
}

/// The first call of all, and what dlsym itself allocates meanwhile (the process has one thread then).
#[cold]
fn without_real(again: impl Fn() -> Pointer, early: impl Fn() -> Pointer) -> Pointer {
    static RESOLVING: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);
    if RESOLVING.swap(true, Ordering::Acquire) {
        return early();
    }
    resolve_all();
    if MALLOC.address().is_null() || CALLOC.address().is_null() || REALLOC.address().is_null() {
        return early();
    }
    RESOLVING.store(false, Ordering::Release);
    again()
}
