//! How a process ended that is nobody's child here and was not traced.
#![allow(unsafe_code, reason = "an ioctl of a pidfd that rustix does not have")]

use std::os::fd::{AsFd, AsRawFd};

use super::threads::Stat;
use crate::report::model::Ended;

/// How it ended, and whether the kernel wrote a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit status or signal.
    pub ended: Ended,
    /// A core was written, or handed to whoever takes them.
    pub dumped_core: bool,
}

impl ExitStatus {
    fn of_wait(status: i32) -> Self {
        let signal = status & 0x7f;
        let ended = if signal == 0 { Ended::Exit(status >> 8 & 0xff) } else { Ended::Signal(signal) };
        Self { ended, dumped_core: signal != 0 && status & 0x80 != 0 }
    }

    /// Of a process that has ended: as a zombie it tells whom the kernel lets look, after that its descriptor does (Linux 6.15).
    pub fn of(pid: i32, pidfd: Option<impl AsFd>) -> Option<Self> {
        let zombie = Stat::of(pid).filter(|stat| !stat.is_alive()).map(|stat| stat.exit_code);
        // 0 may also mean that we may not know.
        match zombie {
            Some(status) if status != 0 => Some(Self::of_wait(status)),
            _ => pidfd.and_then(reaped).or(zombie).filter(|_| may_know(pid)).map(Self::of_wait),
        }
    }
}

/// Of a zombie of somebody else the kernel shows an exit code of 0.
fn may_know(pid: i32) -> bool {
    let owner = rustix::fs::stat(format!("/proc/{pid}")).map(|stat| stat.st_uid);
    let own = rustix::process::geteuid().as_raw();
    own == 0 || owner.is_ok_and(|owner| owner == own) || owner.is_err()
}

/// The wait status of a process that was reaped; `None` where the kernel does not tell.
fn reaped(pidfd: impl AsFd) -> Option<i32> {
    /// `struct pidfd_info`, its first version (linux/pidfd.h).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const WITH_EXIT: u64 = 1 << 3;
    const GET_INFO: libc::c_ulong = 3 << 30 | (size_of::<Info>() as libc::c_ulong) << 16 | 0xff << 8 | 11;
    const _: () = assert!(size_of::<Info>() == 64);
    let mut info = Info { mask: WITH_EXIT, ..Info::default() };
    // SAFETY: the request carries the struct's size, and the kernel writes no more than that into the exclusively borrowed struct. A kernel
    // that does not know it changes nothing.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO as _, &raw mut info) };
    (done == 0 && info.mask & WITH_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ended(script: &str, reap: bool) -> Option<ExitStatus> {
        let mut child = Command::new("sh").args(["-c", script]).spawn().expect("a shell");
        let pid = child.id() as i32;
        let own = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).expect("a pidfd");
        let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, None).expect("its end");
        let before = (!reap).then(|| ExitStatus::of(pid, Some(&pidfd)));
        child.wait().expect("its status");
        before.unwrap_or_else(|| ExitStatus::of(pid, Some(&pidfd)))
    }

    #[test]
    fn a_zombie_says_how_it_ended() {
        let of = |script| ended(script, false).map(|status| status.ended);
        assert_eq!(of("exit 3"), Some(Ended::Exit(3)));
        assert_eq!(of("exit 0"), Some(Ended::Exit(0)));
        assert_eq!(of("kill -9 $$"), Some(Ended::Signal(9)));
    }

    #[test]
    fn one_that_was_reaped_says_so_where_the_kernel_does() {
        for (script, expected) in [("exit 3", Ended::Exit(3)), ("kill -9 $$", Ended::Signal(9))] {
            let status = ended(script, true);
            assert!(status.is_none_or(|status| status.ended == expected && !status.dumped_core), "{status:?}");
        }
    }

    #[test]
    fn a_core_is_told_by_the_wait_status() {
        assert_eq!(ExitStatus::of_wait(0x86), ExitStatus { ended: Ended::Signal(6), dumped_core: true });
        assert_eq!(ExitStatus::of_wait(0x300), ExitStatus { ended: Ended::Exit(3), dumped_core: false });
    }
}
