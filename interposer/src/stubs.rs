//! The exported symbols: one table of every hooked function, with a naked stub for each.
//!
//! A stub puts the caller's stack pointer and frame pointer into the two argument registers behind the C arguments and tail-jumps,
//! so that the return address stays where it was: unwinding starts at the caller, with no frame of ours. Those that every process calls all
//! the time jump straight to the real function while there is nothing to do: dormant, and nothing was loaded.
//! `scripts/check-exports.sh` compares `nm -D` with this table.

use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

use crate::hot::{HOT, Hot};
use crate::{control, hooks, loader, real, sandbox};

/// The code of a stub. With a real function behind it: jumps there where the control page says so ([`control::Page`]) and the function is
/// known; with `early` too, where the block is none of those that were handed out before that ([`real::is_early`]).
///
/// What is begun here and is under way while another thread arms counts as older than the arming.
macro_rules! stub {
    ($hook:path, $sp:literal $bp:literal) => {
        naked_asm!(
            concat!("mov ", $sp, ", rsp"),
            concat!("mov ", $bp, ", rbp"),
            "jmp {hook}",
            hook = sym $hook,
        )
    };
    ($hook:path, $sp:literal $bp:literal $real:ident) => {
        naked_asm!(
            "mov rax, qword ptr [rip + {real} + {address}]",
            "cmp qword ptr [rip + {page}], 0",
            "jne 2f",
            "test rax, rax",
            "jz 2f",
            "jmp rax",
            "2:",
            concat!("mov ", $sp, ", rsp"),
            concat!("mov ", $bp, ", rbp"),
            "jmp {hook}",
            hook = sym $hook,
            real = sym HOT,
            address = const core::mem::offset_of!(Hot, $real),
            page = sym control::ARMED_PAGE,
        )
    };
    ($hook:path, $sp:literal $bp:literal $real:ident, early) => {
        naked_asm!(
            "mov rax, qword ptr [rip + {real} + {address}]",
            "cmp qword ptr [rip + {page}], 0",
            "jne 2f",
            "test rax, rax",
            "jz 2f",
            "lea r11, [rip + {early}]",
            "neg r11",
            "add r11, rdi",
            "cmp r11, {early_bytes}",
            "jb 2f",
            "jmp rax",
            "2:",
            concat!("mov ", $sp, ", rsp"),
            concat!("mov ", $bp, ", rbp"),
            "jmp {hook}",
            hook = sym $hook,
            real = sym HOT,
            address = const core::mem::offset_of!(Hot, $real),
            page = sym control::ARMED_PAGE,
            early = sym real::EARLY,
            early_bytes = const real::EARLY_BYTES,
        )
    };
}

macro_rules! stubs {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)? : $sp:literal $bp:literal $($real:ident $(, $early:ident)?)?;)*) => {
        $(
            #[doc = concat!(stringify!($name), ": see [`hooks::", stringify!($name), "`].")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($(_: $argument),*) $(-> $result)? {
                stub!(hooks::$name, $sp $bp $($real $(, $early)?)?)
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
    malloc(usize) -> *mut c_void: "rsi" "rdx" malloc;
    calloc(usize, usize) -> *mut c_void: "rdx" "rcx" calloc;
    realloc(*mut c_void, usize) -> *mut c_void: "rdx" "rcx" realloc, early;
    reallocarray(*mut c_void, usize, usize) -> *mut c_void: "rcx" "r8";
    free(*mut c_void): "rsi" "rdx" free, early;
    free_sized(*mut c_void, usize): "rdx" "rcx";
    free_aligned_sized(*mut c_void, usize, usize): "rcx" "r8";
    posix_memalign(*mut *mut c_void, usize, usize) -> c_int: "rcx" "r8";
    memalign(usize, usize) -> *mut c_void: "rdx" "rcx";
    aligned_alloc(usize, usize) -> *mut c_void: "rdx" "rcx";
    valloc(usize) -> *mut c_void: "rsi" "rdx";
    pvalloc(usize) -> *mut c_void: "rsi" "rdx";
}

/// dlopen and dlsym look at their caller's address (RUNPATH, namespace, RTLD_NEXT): it must not see ours. The stub leaves word with us
/// and tail-jumps.
macro_rules! loader_stubs {
    ($($name:ident $note:path, $real:path;)*) => {
        $(
            #[doc = concat!(stringify!($name), "(3): leaves word and jumps on.")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    "push rdi",
                    "push rsi",
                    "push rdx",
                    "call {note}",
                    "pop rdx",
                    "pop rsi",
                    "pop rdi",
                    "mov rax, qword ptr [rip + {real}]",
                    "jmp rax",
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
/// returns twice, or on another stack, must not find a frame of ours.
macro_rules! sandbox_stubs {
    ($($name:ident $operation:literal $note:path, $real:path;)*) => {
        $(
            #[doc = concat!(stringify!($name), "(2): looks at the operation and jumps on.")]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    concat!("cmp ", $operation),
                    "je 3f",
                    "2:",
                    "mov rax, qword ptr [rip + {real}]",
                    "test rax, rax",
                    "jz 4f",
                    "jmp rax",
                    "3:",
                    "lea rax, [rip + {note}]",
                    "jmp 5f",
                    "4:",
                    "lea rax, [rip + {prepare}]",
                    "5:",
                    "push rdi",
                    "push rsi",
                    "push rdx",
                    "push rcx",
                    "push r8",
                    "push r9",
                    "push rax",
                    "call rax",
                    "pop rax",
                    "pop r9",
                    "pop r8",
                    "pop rcx",
                    "pop rdx",
                    "pop rsi",
                    "pop rdi",
                    "mov rax, qword ptr [rip + {real}]",
                    "test rax, rax",
                    "jz 4b",
                    "jmp rax",
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
    prctl "edi, 22" sandbox::by_prctl, sandbox::REAL_PRCTL;
    syscall "rdi, 317" sandbox::by_syscall, sandbox::REAL_SYSCALL;
}
