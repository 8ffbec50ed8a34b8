//! Small pieces of the system: errno, clocks, thread ids, stamps, futexes.
//!
//! `libc::syscall` is variadic: a 32-bit literal leaves the upper half of a stack slot undefined. The sixth argument of a system call
//! lies there: write it as a 64-bit value.

#[cfg(target_arch = "x86_64")]
use core::arch::asm;
use core::sync::atomic::AtomicU32;
#[cfg(target_arch = "x86_64")]
use core::sync::atomic::Ordering;

#[cfg(target_arch = "aarch64")]
pub use crate::aarch64::clock::{stamp_after, stamp_before};
#[cfg(target_arch = "x86_64")]
use crate::hot::HOT;
use crate::sandbox::{self, Call};

/// Runs `work` and gives the host its errno back.
pub fn keep_errno<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: glibc's errno location of this thread, valid for the thread's life.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    let result = work();
    // SAFETY: as above.
    unsafe { *errno = saved };
    result
}

/// errno as it is.
pub fn errno() -> i32 {
    // SAFETY: glibc's errno location of this thread.
    unsafe { *libc::__errno_location() }
}

/// Names of the errors that avleak's own calls meet; others are shown by number.
pub fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EACCES => "EACCES",
        libc::ENOMEM => "ENOMEM",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::EAGAIN => "EAGAIN",
        libc::EFBIG => "EFBIG",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPIPE => "EPIPE",
        libc::ENOSYS => "ENOSYS",
        libc::EINVAL => "EINVAL",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        _ => "an error",
    }
}

/// Decides which clock stamps are from; true: the processor's counter, which every AArch64 has.
#[cfg(target_arch = "aarch64")]
pub fn choose_clock() -> bool {
    true
}

/// Decides which clock stamps are from; true: the TSC.
#[cfg(target_arch = "x86_64")]
pub fn choose_clock() -> bool {
    let highest = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    // Bit 8 of EDX: invariant TSC (Intel SDM vol. 3B, 18.17.1). RDTSCP is bit 27 of 0x8000_0001.
    let invariant = highest >= 0x8000_0007 && core::arch::x86_64::__cpuid(0x8000_0007).edx & (1 << 8) != 0;
    let rdtscp = highest >= 0x8000_0001 && core::arch::x86_64::__cpuid(0x8000_0001).edx & (1 << 27) != 0;
    HOT.counts_ticks.store(invariant && rdtscp, Ordering::Relaxed);
    invariant && rdtscp
}

/// Brings the line of `what` into the cache while other things are done: what the processor waits for most in a hook are lines of our tables.
#[inline(always)]
pub fn fetch<T>(what: &T) {
    let at: *const T = what;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; nothing is accessed.
    unsafe {
        asm!("prefetcht0 [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint; nothing is accessed.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

/// A stamp not older than anything this thread did before: for an allocation that has happened.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn stamp_after() -> u64 {
    if HOT.counts_ticks.load(Ordering::Relaxed) {
        let (low, high): (u32, u32);
        // SAFETY: checked by `choose_clock`. RDTSCP waits until all earlier instructions are executed.
        unsafe { asm!("rdtscp", out("eax") low, out("edx") high, out("ecx") _, options(nostack, preserves_flags)) };
        u64::from(high) << 32 | u64::from(low)
    } else {
        clock_ns(libc::CLOCK_MONOTONIC)
    }
}

/// A stamp for a free that is about to happen.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn stamp_before() -> u64 {
    if HOT.counts_ticks.load(Ordering::Relaxed) {
        let (low, high): (u32, u32);
        // SAFETY: RDTSC reads a counter. Not marked `nomem`, so that the real free is not moved before it.
        unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
        u64::from(high) << 32 | u64::from(low)
    } else {
        clock_ns(libc::CLOCK_MONOTONIC)
    }
}

/// Has the processor fetch what it will need.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, whatever the address; every processor of this kind has it.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(core::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Bytes of a page of memory.
#[cfg(target_arch = "x86_64")]
pub fn page_bytes() -> u64 {
    4096
}

/// Bytes of a page of memory: 4, 16 or 64 KiB, as the kernel was built.
#[cfg(target_arch = "aarch64")]
pub fn page_bytes() -> u64 {
    // SAFETY: looks into the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_PAGESZ) }
}

/// Nanoseconds of `clock`.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// This thread's kernel id.
pub fn tid() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Sleeps for `ns` nanoseconds or until a signal; where the host's sandbox does not allow that, turns round as long.
pub fn sleep_ns(ns: u64) {
    if sandbox::kills(Call::Nanosleep) {
        let until = clock_ns(libc::CLOCK_MONOTONIC) + ns;
        while clock_ns(libc::CLOCK_MONOTONIC) < until {
            core::hint::spin_loop();
        }
        return;
    }
    let time = libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
    // SAFETY: reads one timespec; the raw call sets no cancellation point as nanosleep would.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, core::ptr::null_mut::<libc::timespec>()) };
}

/// Wakes whoever waits on `word` in another process.
pub fn futex_wake(word: &AtomicU32) {
    if sandbox::kills(Call::Futex) {
        return;
    }
    // SAFETY: FUTEX_WAKE only uses the address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Gives the processor away.
pub fn yield_now() {
    if sandbox::kills(Call::Yield) {
        return core::hint::spin_loop();
    }
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_sched_yield) };
}

/// Closes a descriptor of ours; glibc's close is a cancellation point, this is none.
pub fn close(fd: i32) {
    // SAFETY: our own descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// Moves a descriptor above the standard three, which a host may have closed.
pub fn above_standard(fd: i32) -> i32 {
    if !(0..3).contains(&fd) {
        return fd;
    }
    // SAFETY: our own descriptor.
    let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if moved >= 0 {
        close(fd);
        moved
    } else {
        fd
    }
}

/// Copies from this process's own memory without ever faulting; the number of bytes copied.
///
/// Where the system call is forbidden (seccomp) the bytes are read directly: callers pass addresses of modules and stacks in use, and
/// only the race with a dlclose elsewhere is then unguarded.
pub fn read_self(address: u64, into: &mut [u8]) -> usize {
    if sandbox::kills(Call::Readv) {
        return read_directly(address, into);
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: into.len() };
    // SAFETY: the local range is `into`; the remote one is only named, the kernel checks it.
    let got = unsafe {
        libc::syscall(libc::SYS_process_vm_readv, own_id(), &raw const local, 1usize, &raw const remote, 1usize, 0usize)
    };
    if got < 0 && matches!(errno(), libc::EPERM | libc::ENOSYS) {
        return read_directly(address, into);
    }
    usize::try_from(got).unwrap_or(0)
}

fn read_directly(address: u64, into: &mut [u8]) -> usize {
    if address <= 4096 {
        return 0;
    }
    // SAFETY: see `read_self`.
    unsafe { core::ptr::copy_nonoverlapping(address as *const u8, into.as_mut_ptr(), into.len()) };
    into.len()
}

/// A number under which the kernel finds this process: the calling thread's, for the leader may be gone.
fn own_id() -> libc::c_long {
    // SAFETY: no arguments.
    unsafe { libc::syscall(if sandbox::kills(Call::Gettid) { libc::SYS_getpid } else { libc::SYS_gettid }) }
}

/// Writes one word of this process's own memory by way of the kernel: EFAULT where the page is not writable.
pub fn write_self(address: u64, word: u64) -> Result<(), i32> {
    if sandbox::kills(Call::Writev) {
        return Err(libc::EPERM);
    }
    let local = libc::iovec { iov_base: (&raw const word).cast_mut().cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: 8 };
    // SAFETY: reads `word`; the remote range is checked by the kernel against the page's protection.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_vm_writev,
            own_id(),
            &raw const local,
            1usize,
            &raw const remote,
            1usize,
            0usize,
        )
    };
    if done == 8 { Ok(()) } else { Err(errno()) }
}
