//! Files that are written whole or not at all.

use super::errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A report that could not be written. Nothing half-written was left behind.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {} ({})", .path.display(), errno::name(.source), remedy(.source))]
pub struct WriteError {
    /// Where it was to go.
    pub path: PathBuf,
    /// Why it did not.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            "free some space or name a file on another disk; no partial report was left"
        }
        Some(libc::EACCES | libc::EPERM) => "name a file in a folder that this user may write to",
        Some(libc::EROFS) => "the file system is read-only: name a file elsewhere",
        Some(libc::ENOENT) => "create the folder first",
        Some(libc::ENOTDIR) => "a part of the path is a file, not a folder",
        Some(libc::EISDIR) => "name a file, not a folder",
        Some(libc::ENAMETOOLONG) => "choose a shorter name",
        Some(libc::EPIPE) => "the reader has gone",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        Some(libc::EIO) => "the disk has an error, see the kernel's log",
        _ => "name another file",
    }
}

/// Names of this process's standard output.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// The path means this process's standard output.
pub fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// Writes `bytes` to `path`; `-` is stdout.
///
/// A plain file is replaced atomically: written beside it, synced, renamed over it. It gets the old one's permissions, or a new
/// file's, less the umask. A FIFO, a device or `/dev/stdout` is written to directly.
///
/// # Errors
/// Names path, errno and remedy; the old file, if any, is then as it was, and no other file is left.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_bytes(path, bytes).map_err(|source| WriteError { path: path.to_path_buf(), source })
}

fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // These by the open file itself: opened anew, a redirected file has an offset of its own, and a socket refuses.
    if is_stdout(path) {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        return out.flush();
    }
    if ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"].iter().any(|name| path == Path::new(name)) {
        return io::stderr().lock().write_all(bytes);
    }
    if goes_through(path)? {
        let mut file = OpenOptions::new().append(true).open(path)?;
        return file.write_all(bytes);
    }
    // A symbolic link stays one: what it leads to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    replace(path, bytes)
}

/// It exists and is no plain file, or it names an open file of this process.
fn goes_through(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(data) => {
            let kind = data.file_type();
            let special = kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket();
            Ok(special || path.starts_with("/dev/fd") || path.starts_with("/proc"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o666, |data| data.permissions().mode() & 0o777);
    let file = beside(path, bytes, mode)?;
    file.persist(path).map_err(|failed| failed.error)?;
    sync_folder(path);
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// In the same folder, on the disk. The umask applies to the mode, as to any file that a program creates.
fn beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let file = tempfile::Builder::new().prefix(".avleak.").suffix(".tmp").make_in(folder_of(path), create)?;
    let (mut file, path) = file.into_parts();
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(NamedTempFile::from_parts(file, path))
}

/// The report is whole either way; this only makes the rename outlive a power cut, which not every file system offers.
fn sync_folder(path: &Path) {
    let _ = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
}

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As with any file, less the umask.
    Usual,
    /// Its owner.
    Private,
}

/// A file that is on the disk and has no name yet. It goes where it is dropped.
#[derive(Debug)]
pub struct Prepared(NamedTempFile);

/// Writes `bytes` where they can become `path` at once.
///
/// # Errors
/// As [`write`].
pub fn prepare(path: &Path, bytes: &[u8], mode: Mode) -> Result<Prepared, WriteError> {
    let mode = if mode == Mode::Private { 0o600 } else { 0o666 };
    beside(path, bytes, mode).map(Prepared).map_err(|source| WriteError { path: path.to_path_buf(), source })
}

impl Prepared {
    /// Gives it its name, unless that is taken: then it comes back.
    ///
    /// # Errors
    /// As [`write`].
    pub fn put_if_free(self, path: &Path) -> Result<Option<Self>, WriteError> {
        match self.0.persist_noclobber(path) {
            Ok(_) => {
                sync_folder(path);
                Ok(None)
            }
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(Self(failed.file))),
            Err(failed) => Err(WriteError { path: path.to_path_buf(), source: failed.error }),
        }
    }
}
