//! The one prefixed line a cause that the interposer may print.

use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sandbox::{self, Call};

/// What a line is about; each is printed once a process.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Cause {
    /// A bad item of AVLEAK_OPTIONS.
    Options = 1,
    /// No segment could be made.
    Segment = 2,
    /// Nobody took the segment.
    Registration = 4,
    /// No analyzer could be started.
    Spawn = 8,
}

/// Device and inode of stderr before main: a host that closed it may have opened a file of its own under the number 2.
static STDERR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn stderr_now() -> Option<[u64; 2]> {
    // SAFETY: zero is a valid value; the kernel fills it.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        (libc::fstat(2, &raw mut stat) == 0).then_some([stat.st_dev, stat.st_ino])
    }
}

/// Before main.
pub fn remember_stderr() {
    for (to, from) in STDERR.iter().zip(stderr_now().unwrap_or_default()) {
        to.store(from, Ordering::Relaxed);
    }
}

static SAID: AtomicU32 = AtomicU32::new(0);

/// Writes `avleak: …` and a newline to stderr in one write; a second line for the same cause is dropped.
pub fn line(cause: Cause, text: fmt::Arguments<'_>) {
    if SAID.fetch_or(cause as u32, Ordering::Relaxed) & cause as u32 != 0 {
        return;
    }
    if sandbox::kills(Call::Fstat) || sandbox::kills(Call::Write) {
        return;
    }
    if stderr_now() != Some([STDERR[0].load(Ordering::Relaxed), STDERR[1].load(Ordering::Relaxed)]) {
        return;
    }
    let mut line = Line { bytes: [0; 512], len: 0 };
    // A longer text is cut; writing into the buffer cannot fail otherwise.
    let _ = write!(line, "avleak: {text}");
    let end = line.len.min(line.bytes.len() - 1);
    line.bytes[end] = b'\n';
    unsignalled(|| {
        // SAFETY: writes `end + 1` bytes of the buffer.
        unsafe { libc::syscall(libc::SYS_write, 2, line.bytes.as_ptr(), end + 1) };
    });
}

/// A write to a pipe that nobody reads (SIGPIPE), or to a file beyond RLIMIT_FSIZE (SIGXFSZ), would end a host that never writes there:
/// such a signal, which goes to the thread that writes, is taken back before anybody sees it.
fn unsignalled(work: impl FnOnce()) {
    if [Call::Mask, Call::Pending, Call::TimedWait].into_iter().any(sandbox::kills) {
        return;
    }
    // SAFETY: plain calls on values of ours; the thread's mask is put back as it was.
    unsafe {
        let mut ours = MaybeUninit::<libc::sigset_t>::zeroed();
        let (mut before, mut pending) = (ours, ours);
        libc::sigemptyset(ours.as_mut_ptr());
        libc::sigaddset(ours.as_mut_ptr(), libc::SIGPIPE);
        libc::sigaddset(ours.as_mut_ptr(), libc::SIGXFSZ);
        if libc::pthread_sigmask(libc::SIG_BLOCK, ours.as_ptr(), before.as_mut_ptr()) != 0 {
            return;
        }
        libc::sigpending(pending.as_mut_ptr());
        work();
        // What was pending before is the host's.
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            if libc::sigismember(pending.as_ptr(), signal) == 1 {
                libc::sigdelset(ours.as_mut_ptr(), signal);
            }
        }
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // Raw: glibc's is a cancellation point. Eight bytes is the kernel's set.
        while libc::syscall(libc::SYS_rt_sigtimedwait, ours.as_ptr(), 0usize, &raw const now, 8usize) > 0 {}
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut());
    }
}

struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let n = text.len().min(room);
        self.bytes[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        if n < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
