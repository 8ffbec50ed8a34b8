//! The process whose memory is checked: it only stands there.
#![allow(unsafe_code, reason = "fork")]

/// A child of this process with a copy of its memory as it was. It ends with this.
pub struct Target {
    pid: i32,
}

impl Target {
    /// Made at the start, while there is little memory to be searched.
    pub fn with_memory_of_this() -> Self {
        // SAFETY: the child makes system calls only, which need no lock that another thread may have held.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            loop {
                // SAFETY: as above.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::pause();
                }
            }
        }
        Self { pid }
    }

    /// Its id.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: a child of this process that nobody else waits for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}
