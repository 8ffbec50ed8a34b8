//! A bare LD_PRELOAD: this process starts its own analyzer, so that the host's wait() and SIGCHLD never see it.
//!
//! clone(CLONE_VM | CLONE_VFORK) without an exit signal, twice: the child starts the grandchild and ends; the grandchild belongs to
//! init. No memory is copied (fork from a 1 GiB host takes 38 ms).

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use crate::say::{self, Cause};
use crate::{settings, sys};

/// How many variables the analyzer gets at most.
const PASSED_ON: usize = settings::PASSED_ON.len();
const STACK_BYTES: usize = 64 << 10;
/// The descriptor under which the analyzer finds its socket.
const CONNECTION: i32 = 3;

struct Plan {
    connection: i32,
    mask: libc::sigset_t,
    analyzer: *const c_char,
    arguments: [*const c_char; 5],
    environment: [*const c_char; PASSED_ON + 1],
    stack: *mut u8,
    failed: AtomicI32,
}

/// Starts the analyzer; returns our end of its socket. Says why not, once.
pub fn analyzer() -> Option<i32> {
    let path = settings::ANALYZER.c_str();
    let say = |text: core::fmt::Arguments<'_>| {
        say::line(Cause::Spawn, format_args!("{text}; this process is not watched"));
        None
    };
    if path.is_empty() {
        return say(format_args!("no analyzer found beside libavleak.so; set AVLEAK_ANALYZER to the program avleak"));
    }
    let shown = path.to_str().unwrap_or("AVLEAK_ANALYZER");
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::access(path.as_ptr(), libc::X_OK) } != 0 {
        return say(format_args!(
            "cannot run the analyzer {shown}: {}; set AVLEAK_ANALYZER",
            sys::errno_name(sys::errno())
        ));
    }
    let mut subreaper: c_int = 0;
    // SAFETY: the kernel writes one int.
    unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut subreaper, 0, 0, 0) };
    // SAFETY: no arguments.
    if unsafe { libc::getpid() } == 1 || subreaper != 0 {
        return say(format_args!(
            "a process that adopts orphans (PID 1, or a subreaper) would see the analyzer as its child; start it as `avleak run -- CMD`"
        ));
    }
    start(path)
        .map_or_else(|errno| say(format_args!("cannot start the analyzer {shown}: {}", sys::errno_name(errno))), Some)
}

fn start(path: &CStr) -> Result<i32, i32> {
    let mut pair = [0; 2];
    // SAFETY: two descriptors are written.
    if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) } != 0 {
        return Err(sys::errno());
    }
    let [ours, theirs] = pair.map(sys::above_standard);
    let mut plan = Plan {
        connection: theirs,
        // SAFETY: an empty set is all zero.
        mask: unsafe { core::mem::zeroed() },
        analyzer: path.as_ptr(),
        arguments: [path.as_ptr(), c"serve".as_ptr(), c"--descriptor".as_ptr(), c"3".as_ptr(), core::ptr::null()],
        environment: [core::ptr::null(); PASSED_ON + 1],
        stack: core::ptr::null_mut(),
        failed: AtomicI32::new(0),
    };
    let mut passed = 0;
    for (_, text) in &settings::PASSED_ON {
        if !text.get().is_empty() {
            plan.environment[passed] = text.c_str().as_ptr();
            passed += 1;
        }
    }
    let result = run(&mut plan);
    sys::close(theirs);
    if result.is_err() {
        sys::close(ours);
    }
    result.map(|()| ours)
}

fn run(plan: &mut Plan) -> Result<(), i32> {
    // SAFETY: a new mapping, unmapped below; every pointer in `plan` outlives both children (CLONE_VFORK waits for them).
    unsafe {
        let stack = libc::mmap(
            core::ptr::null_mut(),
            2 * STACK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if stack == libc::MAP_FAILED {
            return Err(sys::errno());
        }
        plan.stack = stack.cast();
        // A handler of the host must not run in a child that shares its memory.
        let mut all: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut plan.mask);
        let top = plan.stack.add(2 * STACK_BYTES);
        let child =
            libc::clone(child, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK, core::ptr::from_mut(plan).cast());
        let errno = sys::errno();
        if child > 0 {
            let mut status = 0;
            // Only a child without an exit signal is waited for; the host's own children are not touched.
            while libc::syscall(libc::SYS_wait4, child, &raw mut status, libc::__WCLONE, 0) < 0
                && sys::errno() == libc::EINTR
            {}
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const plan.mask, core::ptr::null_mut());
        libc::munmap(stack, 2 * STACK_BYTES);
        if child < 0 {
            return Err(errno);
        }
    }
    match plan.failed.load(Ordering::Acquire) {
        0 => Ok(()),
        errno => Err(errno),
    }
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the plan outlives this child; its second stack is the lower half of the mapping.
    unsafe {
        let top = (*plan.cast::<Plan>()).stack.add(STACK_BYTES);
        if libc::clone(grandchild, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK, plan) < 0 {
            (*plan.cast::<Plan>()).failed.store(sys::errno(), Ordering::Release);
        }
        libc::_exit(0)
    }
}

extern "C" fn grandchild(plan: *mut c_void) -> c_int {
    // SAFETY: the plan outlives this child up to its execve; the descriptor table is a copy of its own.
    unsafe {
        let plan = &*plan.cast::<Plan>();
        // Not the terminal's Ctrl-C, and none of the host's descriptors: a port must not stay open because of us.
        libc::setsid();
        libc::dup2(plan.connection, CONNECTION);
        if plan.connection == CONNECTION {
            libc::fcntl(CONNECTION, libc::F_SETFD, 0);
        }
        if libc::syscall(libc::SYS_close_range, CONNECTION + 1, u32::MAX, 0) != 0 {
            // Before Linux 5.9.
            for fd in CONNECTION + 1..4096 {
                sys::close(fd);
            }
        }
        // Raw: this child shares the host's TLS, and a cancellation point would cancel the host's thread.
        let null = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDWR) as i32;
        if null >= 0 {
            for fd in [0, 1].into_iter().filter(|&fd| fd != null) {
                libc::dup2(null, fd);
            }
            if null > 2 {
                sys::close(null);
            }
        }
        let none: libc::sigset_t = core::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, core::ptr::null_mut());
        libc::execve(plan.analyzer, plan.arguments.as_ptr(), plan.environment.as_ptr());
        plan.failed.store(sys::errno(), Ordering::Release);
        libc::_exit(127)
    }
}
