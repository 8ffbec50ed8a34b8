//! The one prefixed line a cause that the interposer may print.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    if stderr_now() != Some([STDERR[0].load(Ordering::Relaxed), STDERR[1].load(Ordering::Relaxed)]) {
        return;
    }
    let mut line = Line { bytes: [0; 512], len: 0 };
    // A longer text is cut; writing into the buffer cannot fail otherwise.
    let _ = write!(line, "avleak: {text}");
    let end = line.len.min(line.bytes.len() - 1);
    line.bytes[end] = b'\n';
    // SAFETY: writes `end + 1` bytes of the buffer.
    unsafe { libc::syscall(libc::SYS_write, 2, line.bytes.as_ptr(), end + 1) };
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
