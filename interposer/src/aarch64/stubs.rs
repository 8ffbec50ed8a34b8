//! The exported symbols on AArch64: one table of every hooked function, with a naked stub for each.
//!
//! A stub puts the caller's stack pointer, the return address and the frame pointer into the three argument registers behind the C
//! arguments and tail-jumps: x30 stays what it was, so that there is no frame of ours. Each begins with a landing pad (BTI c, a no-op to
//! processors without): it is reached by BLR, and by BR from PLT entries.
//! `scripts/check-exports.sh` compares `nm -D` with these tables.

use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

use crate::{hooks, loader, sandbox};

macro_rules! stubs {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)? : $sp:literal $pc:literal $fp:literal;)*) => {
        $(
            #[doc = concat!(stringify!($name), ": see [`hooks::", stringify!($name), "`].")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($(_: $argument),*) $(-> $result)? {
                naked_asm!(
                    "hint #34",
                    concat!("mov ", $sp, ", sp"),
                    concat!("mov ", $pc, ", x30"),
                    concat!("mov ", $fp, ", x29"),
                    "b {hook}",
                    hook = sym hooks::$name,
                )
            }
        )*
        /// Every hooked function of the malloc family: name and the stub's address.
        pub fn malloc_family() -> [(&'static core::ffi::CStr, u64); [$(stringify!($name)),*].len()] {
            [$((
                match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                },
                $name as *const () as u64,
            )),*]
        }
    };
}

stubs! {
    malloc(usize) -> *mut c_void: "x1" "x2" "x3";
    calloc(usize, usize) -> *mut c_void: "x2" "x3" "x4";
    realloc(*mut c_void, usize) -> *mut c_void: "x2" "x3" "x4";
    reallocarray(*mut c_void, usize, usize) -> *mut c_void: "x3" "x4" "x5";
    free(*mut c_void): "x1" "x2" "x3";
    free_sized(*mut c_void, usize): "x2" "x3" "x4";
    free_aligned_sized(*mut c_void, usize, usize): "x3" "x4" "x5";
    posix_memalign(*mut *mut c_void, usize, usize) -> c_int: "x3" "x4" "x5";
    memalign(usize, usize) -> *mut c_void: "x2" "x3" "x4";
    aligned_alloc(usize, usize) -> *mut c_void: "x2" "x3" "x4";
    valloc(usize) -> *mut c_void: "x1" "x2" "x3";
    pvalloc(usize) -> *mut c_void: "x1" "x2" "x3";
}

/// dlopen and dlsym look at their caller's address (RUNPATH, namespace, RTLD_NEXT): it must not see ours. The stub leaves word with us
/// and tail-jumps, with x30 and every argument as they were.
macro_rules! loader_stubs {
    ($($name:ident $note:path, $real:path;)*) => {
        $(
            #[doc = concat!(stringify!($name), "(3): leaves word and jumps on.")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    "hint #34",
                    "stp x29, x30, [sp, #-48]!",
                    "mov x29, sp",
                    "stp x0, x1, [sp, #16]",
                    "str x2, [sp, #32]",
                    "bl {note}",
                    "ldr x2, [sp, #32]",
                    "ldp x0, x1, [sp, #16]",
                    "ldp x29, x30, [sp], #48",
                    "adrp x16, {real}",
                    "ldr x16, [x16, :lo12:{real}]",
                    "br x16",
                    note = sym $note,
                    real = sym $real,
                )
            }
        )*
    };
}

loader_stubs! {
    dlopen loader::loading, loader::REAL_DLOPEN;
    dlmopen loader::loading, loader::REAL_DLMOPEN;
    dlsym loader::looking_up, loader::REAL_DLSYM;
}

/// prctl(2) and syscall(2) install seccomp filters. The stub shows us that call, and that one only, and tail-jumps: a system call that
/// returns twice, or on another stack, must not find a frame of ours. Both are variadic: on Linux such arguments go in x0 to x7 as any.
macro_rules! sandbox_stubs {
    ($($name:ident $operation:literal $note:path, $real:path;)*) => {
        $(
            #[doc = concat!(stringify!($name), "(2): looks at the operation and jumps on.")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    "hint #34",
                    concat!("cmp ", $operation),
                    "b.eq 3f",
                    "2:",
                    "adrp x16, {real}",
                    "ldr x16, [x16, :lo12:{real}]",
                    "cbz x16, 4f",
                    "br x16",
                    "3:",
                    "adrp x16, {note}",
                    "add x16, x16, :lo12:{note}",
                    "b 5f",
                    "4:",
                    "adrp x16, {prepare}",
                    "add x16, x16, :lo12:{prepare}",
                    "5:",
                    "stp x29, x30, [sp, #-80]!",
                    "mov x29, sp",
                    "stp x0, x1, [sp, #16]",
                    "stp x2, x3, [sp, #32]",
                    "stp x4, x5, [sp, #48]",
                    "stp x6, x7, [sp, #64]",
                    "blr x16",
                    "ldp x6, x7, [sp, #64]",
                    "ldp x4, x5, [sp, #48]",
                    "ldp x2, x3, [sp, #32]",
                    "ldp x0, x1, [sp, #16]",
                    "ldp x29, x30, [sp], #80",
                    "b 2b",
                    note = sym $note,
                    real = sym $real,
                    prepare = sym sandbox::prepare,
                )
            }
        )*
    };
}

// PR_SET_SECCOMP; SYS_seccomp.
sandbox_stubs! {
    prctl "w0, #22" sandbox::by_prctl, sandbox::REAL_PRCTL;
    syscall "x0, #277" sandbox::by_syscall, sandbox::REAL_SYSCALL;
}

const _: () = assert!(libc::PR_SET_SECCOMP == 22 && libc::SYS_seccomp == 277);
