//! The system calls of the tracer process, each as one safe function.
//!
//! Every request concerns a thread that the *calling thread* traces; for any other the kernel answers ESRCH. None writes to
//! the target.
#![allow(unsafe_code, reason = "ptrace is reached through libc")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::target::child;

#[cfg(target_arch = "aarch64")]
pub use crate::target::aarch64::system_call;

#[cfg(target_arch = "x86_64")]
const NT_X86_XSTATE: usize = 0x202;

/// PTRACE_O_*: stop at clone, exit, exec. Not EXITKILL (the target must outlive the tracer), not FORK (children go free).
const OPTIONS: libc::c_int = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEEXEC;

fn request(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests passed here take their arguments by value; the others have functions of their own below.
    match unsafe { libc::ptrace(request, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Begins to trace a thread without stopping it.
pub fn seize(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, OPTIONS as usize)
}

/// Lets a stopped thread go on, with `signal` (0: none).
pub fn go_on(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize)
}

/// Lets a group-stopped thread stay stopped, and wakes it by SIGCONT as if it were not traced.
pub fn listen(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0, 0)
}

/// Stops tracing a stopped thread, which goes on with `signal` (0: none).
pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize)
}

/// Makes a running thread stop soon.
pub fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// PTRACE_GETEVENTMSG: at an exit stop the wait status that the thread ends with.
pub fn event_message(tid: i32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the request stores one unsigned long at the pointer, which is a local one.
    match unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(message),
    }
}

/// The system call that a stopped thread is in; -1: none.
#[cfg(target_arch = "x86_64")]
pub fn system_call(tid: i32) -> io::Result<i64> {
    Ok(registers(tid)?.orig_rax as i64)
}

/// The general registers of a stopped thread.
#[cfg(target_arch = "x86_64")]
pub fn registers(tid: i32) -> io::Result<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    // SAFETY: the request fills one user_regs_struct at the pointer, which is a local one.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, registers.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: plain integers, zeroed before and filled by the kernel.
        _ => Ok(unsafe { registers.assume_init() }),
    }
}

/// The XSAVE area of a stopped thread; returns how many bytes of `area` the kernel filled.
#[cfg(target_arch = "x86_64")]
pub fn extended_state(tid: i32, area: &mut [u8]) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
    // SAFETY: the request fills at most iov_len bytes of the exclusively borrowed area and stores their number.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut part) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(part.iov_len.min(area.len())),
    }
}

/// Runs what could wait inside the kernel for a thread that this process holds (a PTRACE_SEIZE or a read in `/proc` of a
/// process in execve): after [`PATIENCE_S`] seconds this process dies, whereupon the kernel lets every thread go on.
pub fn guarded<T>(what: impl FnOnce() -> T) -> T {
    set_alarm(PATIENCE_S);
    let result = what();
    set_alarm(0);
    result
}

const PATIENCE_S: libc::time_t = 3;

fn set_alarm(seconds: libc::time_t) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: none, it_value: libc::timeval { tv_sec: seconds, tv_usec: 0 } };
    // SAFETY: the timer is a local value; the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Makes this process fit for tracing: every signal does by default what it does (an inherited SIGALRM or SIGCHLD that is
/// ignored would break it), SIGPIPE and requests to end nothing, and SIGCHLD is read from the returned descriptor.
pub fn prepare() -> io::Result<OwnedFd> {
    // SAFETY: plain calls on local values; this process has one thread, so nobody else sees half-set dispositions.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        child::outlive_requests_to_end();
        libc::prctl(libc::PR_SET_NAME, c"avleak-tracer".as_ptr());
        // Every stop of a target waits for this process. Where it is not allowed all stays as it is.
        libc::setpriority(libc::PRIO_PROCESS, 0, -10);
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Takes over a descriptor that this process inherited under a known number.
pub fn adopt_fd(fd: i32) -> Option<OwnedFd> {
    // SAFETY: the number is only asked about; it becomes owned only if it is open, and the tracer opened nothing else before.
    (unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What waitpid reported of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It is about to receive this signal.
    Signal(i32),
    /// The process stops for job control, by this signal.
    GroupStop(i32),
    /// A new thread's first stop, a stop asked for, or the end of a group-stop.
    Trap,
    /// It made a thread or process.
    Cloned,
    /// It executed another program; its id is now the process's.
    Executed,
    /// It is about to end; its memory and registers are still whole.
    Exiting,
    /// Some other event.
    Other,
    /// It is gone, with this wait status.
    Gone(i32),
}

impl Report {
    fn from_status(status: i32) -> Self {
        if !libc::WIFSTOPPED(status) {
            return Self::Gone(status);
        }
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            0 => Self::Signal(signal),
            libc::PTRACE_EVENT_STOP => match signal {
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Self::GroupStop(signal),
                _ => Self::Trap,
            },
            libc::PTRACE_EVENT_CLONE => Self::Cloned,
            libc::PTRACE_EVENT_EXEC => Self::Executed,
            libc::PTRACE_EVENT_EXIT => Self::Exiting,
            _ => Self::Other,
        }
    }
}

/// The next report of any traced thread, or `None` where none waits.
pub fn next_report() -> Option<(i32, Report)> {
    let mut status = 0;
    // SAFETY: the kernel stores the status in the local variable.
    let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
    (tid > 0).then(|| (tid, Report::from_status(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        let stop = |event: i32, signal: i32| Report::from_status((event << 16) | (signal << 8) | 0x7f);
        assert_eq!(stop(0, libc::SIGTRAP), Report::Signal(libc::SIGTRAP));
        assert_eq!(stop(0, libc::SIGSTOP), Report::Signal(libc::SIGSTOP));
        assert_eq!(stop(128, libc::SIGTSTP), Report::GroupStop(libc::SIGTSTP));
        assert_eq!(stop(128, libc::SIGTRAP), Report::Trap);
        assert_eq!(stop(128, libc::SIGCONT), Report::Trap);
        assert_eq!(stop(libc::PTRACE_EVENT_EXIT, libc::SIGTRAP), Report::Exiting);
        assert_eq!(Report::from_status(256), Report::Gone(256));
        assert_eq!(Report::from_status(9), Report::Gone(9));
    }
}
