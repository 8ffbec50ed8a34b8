//! A process as its core file has it: memory, mappings, threads, as of one that stands still.
//!
//! | file | job |
//! |---|---|
//! | `headers` | what parts the file has |
//! | `notes` | threads, mapped files, auxiliary vector, signal |
//! | `registers` | what a thread's notes say of its registers |
//! | `mapped` | the files that were mapped: what a core leaves out is read from them |
//! | `layout` | which bytes lie where, and what the kernel's list of mappings would have said |
//!
//! A core is anybody's file. It is read in pieces as they are needed (it may be larger than memory), every number in it is checked before
//! it is used, and what does not fit is an error or unreadable memory, never a reason to panic. What is *not* in a core:
//!
//! * memory that was never written: zero where it is anonymous, and what the file says where it is a file's;
//! * memory that the program kept out (MADV_DONTDUMP), which looks the same, and whatever `/proc/PID/coredump_filter` leaves out;
//! * whether a mapping was shared, and the names `[heap]` and `[stack]`: these come from the session's file and the auxiliary vector.

mod headers;
mod layout;
mod mapped;
mod notes;
mod registers;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub use layout::CoreMemory;
pub use mapped::Sources;

use super::maps::Mapping;
use super::threads::ThreadState;
use crate::address::TargetRange;
use crate::render::errno;

/// Why a core cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum CoreError {
    /// The operating system refused.
    #[error("cannot read the core {}: {} ({})", .path.display(), errno::name(.source), remedy(.source))]
    Io { path: PathBuf, source: io::Error },
    /// Packed by whoever stored it.
    #[error("the core {} is compressed ({with}): unpack it first, with {by}", .path.display())]
    Compressed { path: PathBuf, with: &'static str, by: &'static str },
    /// Something else.
    #[error("{} is no core file: {why} (name the file that the kernel or gcore wrote)", .path.display())]
    NotACore { path: PathBuf, why: String },
    /// Another processor's.
    #[error("the core {} is of a process on another kind of processor ({theirs}; this avleak is for {ours}): use avleak there", .path.display())]
    Machine { path: PathBuf, theirs: String, ours: &'static str },
    /// It was not written to its end.
    #[error(
        "the core {} is cut off: {missing} of {whole} bytes are missing, and pointers in them would make what they hold look lost \
         (raise the limit, `ulimit -c unlimited`, or free space, and let it be written whole)", .path.display()
    )]
    CutOff { path: PathBuf, missing: u64, whole: u64 },
    /// coredump_filter left out what matters.
    #[error(
        "the core {} does not hold the process's private memory: bit 0 of /proc/PID/coredump_filter was off (set it to 0x33 before the \
         program starts)", .path.display()
    )]
    Filtered { path: PathBuf },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "a core belongs to the user that the process ran as: read it as that user or as root"
        }
        Some(libc::ENOENT) => "see /proc/sys/kernel/core_pattern for where the kernel puts cores",
        Some(libc::EISDIR) => "name the core itself, not its folder",
        _ => "see the kernel's log",
    }
}

/// Bytes of a page: the kernel's for mapped files come with the core.
pub(super) const PAGE: u64 = 4096;

/// A part of memory that the core speaks of (PT_LOAD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    range: TargetRange,
    readable: bool,
    writable: bool,
    executable: bool,
    /// Where its bytes begin in the core, and how many of them are there.
    offset: u64,
    in_core: u64,
}

/// A file that was mapped (NT_FILE).
#[derive(Debug, Clone, PartialEq, Eq)]
struct MappedPart {
    range: TargetRange,
    /// In the file, bytes.
    offset: u64,
    /// As the kernel names it.
    name: std::ffi::OsString,
}

/// What stands in a core's notes.
#[derive(Debug, Default)]
struct Notes {
    threads: Vec<ThreadState>,
    files: Vec<MappedPart>,
    auxv: Vec<(u64, u64)>,
    pid: Option<i32>,
    name: Option<String>,
    signal: Option<i32>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    file: File,
    segments: Vec<Segment>,
    notes: Notes,
}

/// What a core itself does not say, and its process's session does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// Where the heap of brk begins.
    pub heap: Option<u64>,
}

impl Core {
    /// Opens a core and reads what stands in its headers and notes.
    ///
    /// # Errors
    /// [`CoreError`]: it is no core, of another processor, or not whole.
    pub fn open(path: &Path) -> Result<Self, CoreError> {
        let io = |source| CoreError::Io { path: path.to_path_buf(), source };
        let file = open_regular(path).map_err(io)?;
        let headers = headers::read(&file, path)?;
        let notes = notes::read(&file, path, &headers.notes)?;
        let core = Self { file, segments: headers.segments, notes };
        // Every process has a stack that was written to; without it in the core, all other private memory is missing too.
        let stack = core.random().and_then(|at| core.segments.iter().find(|segment| segment.range.contains(at)));
        if stack.is_some_and(|stack| stack.in_core == 0) {
            return Err(CoreError::Filtered { path: path.to_path_buf() });
        }
        Ok(core)
    }

    /// Process id, as whoever wrote the core saw it.
    pub fn pid(&self) -> Option<i32> {
        self.notes.pid
    }

    /// What the program is called, at most 15 bytes.
    pub fn name(&self) -> Option<&str> {
        self.notes.name.as_deref()
    }

    /// What ended it; `None` where it lived on (gcore).
    pub fn signal(&self) -> Option<i32> {
        self.notes.signal
    }

    /// Its threads.
    pub fn threads(&self) -> &[ThreadState] {
        &self.notes.threads
    }

    /// The auxiliary vector: what the kernel told the program at its start.
    pub fn auxv(&self) -> &[(u64, u64)] {
        &self.notes.auxv
    }

    fn auxiliary(&self, kind: u64) -> Option<u64> {
        self.notes.auxv.iter().find(|(key, _)| *key == kind).map(|&(_, value)| value)
    }

    /// Where the kernel put 16 random bytes, on the main thread's stack.
    pub fn random(&self) -> Option<u64> {
        self.auxiliary(libc::AT_RANDOM)
    }

    /// Seconds since 1970 at which the core was finished.
    pub fn written_s(&self) -> Option<f64> {
        let modified = self.file.metadata().ok()?.modified().ok()?;
        modified.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
    }

    /// Its memory and mappings; `sources` are where files are looked for that were mapped.
    pub fn lay_out(self, sources: Sources, hints: Hints) -> (CoreMemory, Vec<Mapping>, Vec<ThreadState>) {
        layout::lay_out(self, sources, hints)
    }
}

/// Opens a file that is one, without waiting for anybody.
fn open_regular(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    match (data.is_dir(), data.is_file()) {
        (true, _) => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        (_, false) => Err(io::Error::other("not a regular file")),
        _ => Ok(file),
    }
}
