//! A file that we read, open for a moment.
//!
//! By system calls alone: no allocation, no lock, and no cancellation point, as glibc's functions are. A file that is cut meanwhile gives a
//! short read, not SIGBUS.

use core::ffi::CStr;

use crate::sandbox::{self, Call};
use crate::sys;

/// Closed with this.
pub struct File(i32);

impl File {
    /// `None` too where the host's sandbox would kill for it.
    pub fn open(path: &CStr) -> Option<Self> {
        if [Call::Openat, Call::Pread, Call::Close].into_iter().any(sandbox::kills) {
            return None;
        }
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        // SAFETY: a NUL-terminated path.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) } as i32;
        (fd >= 0).then_some(Self(fd))
    }

    /// Fills `into` from byte `at` of the file on, as far as the file goes: how many bytes were there.
    pub fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = at.saturating_add(done as u64);
            // SAFETY: writes at most the slice's length.
            let got = unsafe { libc::syscall(libc::SYS_pread64, self.0, rest.as_mut_ptr(), rest.len(), at) };
            if got <= 0 {
                break;
            }
            done += got as usize;
        }
        done
    }
}

impl Drop for File {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}
