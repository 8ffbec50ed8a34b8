//! What lies where in a process: `/proc/TID/maps`, and which of it may be read.
//!
//! Parsed here and not by the crate procfs, whose reader gives up on the first path that is not UTF-8: a target chooses the
//! names of its files and memfds.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::address::TargetRange;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where.
    pub range: TargetRange,
    /// PROT_READ.
    pub readable: bool,
    /// PROT_WRITE.
    pub writable: bool,
    /// PROT_EXEC.
    pub executable: bool,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Major and minor number of the file's device; 0, 0 for anonymous memory.
    pub device: (u32, u32),
    /// Inode; 0 for anonymous memory.
    pub inode: u64,
    /// The file's path without ` (deleted)`, or a name in the kernel's brackets; empty for anonymous memory.
    pub name: OsString,
    /// The file was removed or replaced after it was mapped.
    pub deleted: bool,
}

impl Mapping {
    /// The program break's heap (`[heap]`).
    pub fn is_heap(&self) -> bool {
        self.name == "[heap]"
    }

    /// The main thread's stack (`[stack]`). Other threads' stacks are anonymous memory: find them by stack pointer.
    pub fn is_stack(&self) -> bool {
        self.name == "[stack]"
    }

    /// Private memory of no file: heap, stacks, mmap, named or not.
    pub fn is_anonymous(&self) -> bool {
        self.name.is_empty() || self.is_heap() || self.is_stack() || self.starts_with("[anon:")
    }

    /// A file with a path in the file system, which includes programs and libraries; no memfd, no device.
    pub fn is_file(&self) -> bool {
        self.starts_with("/") && !self.is_memfd() && !self.is_shared_memory() && !self.is_device()
    }

    /// A file that exists only as a descriptor (memfd_create).
    pub fn is_memfd(&self) -> bool {
        self.starts_with("/memfd:")
    }

    /// Memory shared between processes: shm_open, System V, shared anonymous mappings.
    pub fn is_shared_memory(&self) -> bool {
        self.starts_with("/dev/shm/")
            || self.starts_with("/SYSV")
            || self.starts_with("/dev/zero")
            || self.starts_with("/dev/hugepages/")
            || self.starts_with("[anon_shmem:")
    }

    /// What the kernel maps itself: `[vdso]`, `[vvar]`, `[vsyscall]` and their like.
    pub fn is_kernel(&self) -> bool {
        self.starts_with("[") && !self.is_anonymous() && !self.is_shared_memory()
    }

    /// Memory that a driver provides: `/dev/dri/…`, `/dev/nvidia…`, dma-bufs, perf and packet rings. Reading it can have
    /// effects on the device, or hang.
    pub fn is_device(&self) -> bool {
        if self.starts_with("/dev/") {
            return !self.is_shared_memory();
        }
        self.starts_with("/dmabuf")
            || self.starts_with("/drm mm object")
            || !(self.name.is_empty() || self.starts_with("/") || self.starts_with("[") || self.is_io_uring())
    }

    /// May be read as memory: readable, and neither a device's nor the kernel's.
    ///
    /// The kernel itself refuses I/O memory to process_vm_readv, but not to `/proc/TID/mem`.
    pub fn is_scannable(&self) -> bool {
        self.readable && !self.is_device() && !self.is_kernel()
    }

    /// The path of a mapped file ([`Self::is_file`]).
    pub fn path(&self) -> Option<&Path> {
        self.is_file().then(|| Path::new(&self.name))
    }

    fn is_io_uring(&self) -> bool {
        self.name == "anon_inode:[io_uring]"
    }

    fn starts_with(&self, prefix: &str) -> bool {
        self.name.as_bytes().starts_with(prefix.as_bytes())
    }
}

/// The mappings of a thread's process, by address. A line that is no mapping is skipped.
///
/// `tid` must be a live thread: the list of a process whose leader has ended is empty through the leader's id.
///
/// # Errors
/// What opening or reading `/proc/TID/maps` gave: ENOENT or ESRCH (gone), EACCES (not allowed to trace it).
pub fn read_maps(tid: i32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&std::fs::read(format!("/proc/{tid}/maps"))?))
}

/// The mapping that holds `address`, in a list sorted as [`read_maps`] gives it.
pub fn find(maps: &[Mapping], address: u64) -> Option<&Mapping> {
    let after = maps.partition_point(|m| m.range.start <= address);
    maps[..after].last().filter(|m| m.range.contains(address))
}

/// As the kernel lists them.
pub(crate) fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
        let end = rest[start..].iter().position(|&b| b == b' ').map_or(rest.len(), |n| start + n);
        let word = std::str::from_utf8(&rest[start..end]).ok();
        rest = &rest[end..];
        word
    };
    let (start, end) = field()?.split_once('-')?;
    let range = TargetRange { start: hex(start)?, end: hex(end)? };
    let rights = field()?.as_bytes();
    let offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let device = (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
    let inode = field()?.parse().ok()?;
    if rights.len() < 4 || range.is_empty() {
        return None;
    }
    let name = rest.trim_ascii_start();
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    Some(Mapping {
        range,
        readable: rights[0] == b'r',
        writable: rights[1] == b'w',
        executable: rights[2] == b'x',
        shared: rights[3] == b's',
        offset,
        device,
        inode,
        name: unescape(name),
        deleted,
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel writes a newline in a name as `\012`.
fn unescape(name: &[u8]) -> OsString {
    if !name.windows(4).any(|w| w == b"\\012") {
        return OsStr::from_bytes(name).to_owned();
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                out.push(b'\n');
                rest = after;
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Mapping {
        parse_line(line.as_bytes()).expect(line)
    }

    #[test]
    fn lines_are_read_field_by_field() {
        let m = one("7f1200000000-7f1200021000 rw-s 0001f000 fd:01 1234  /usr/lib/a b (deleted)");
        assert_eq!((m.range.start, m.range.end), (0x7f12_0000_0000, 0x7f12_0002_1000));
        assert!(m.readable && m.writable && !m.executable && m.shared && m.deleted && m.is_file());
        assert_eq!((m.offset, m.device, m.inode), (0x1f000, (0xfd, 1), 1234));
        assert_eq!(m.path(), Some(Path::new("/usr/lib/a b")));
        let odd =
            parse(b"nonsense\n1000-2000 r--p 0 0:0 0 /memfd:\xff\xfe\\012x (deleted)\n\n3000-2000 rw-p 0 0:0 0\n");
        assert_eq!(odd.len(), 1);
        assert_eq!(odd[0].name.as_bytes(), b"/memfd:\xff\xfe\nx");
    }

    #[test]
    fn devices_and_the_kernels_own_pages_are_never_scanned() {
        let scannable = |name: &str| one(&format!("1000-2000 rw-p 0 00:05 7 {name}")).is_scannable();
        for name in [
            "",
            "[heap]",
            "[stack]",
            "[anon:arena]",
            "/usr/lib/x.so",
            "/memfd:x (deleted)",
            "/dev/shm/x",
            "/dev/zero (deleted)",
            "/SYSV00000000 (deleted)",
            "[anon_shmem:x]",
            "anon_inode:[io_uring]",
        ] {
            assert!(scannable(name), "{name}");
        }
        for name in [
            "/dev/dri/renderD128",
            "/dev/nvidia0",
            "/dev/mem",
            "/dmabuf:",
            "anon_inode:[perf_event]",
            "socket:[123]",
            "[vvar]",
            "[vdso]",
            "[vsyscall]",
            "[vvar_vclock]",
            "anon_inode:dmabuf",
        ] {
            assert!(!scannable(name), "{name}");
        }
        assert!(!one("1000-2000 ---p 0 0:0 0").is_scannable());
    }

    #[test]
    fn the_own_maps_hold_stack_heap_code_and_are_searchable() {
        let maps = read_maps(std::process::id() as i32).unwrap();
        let local = 0u8;
        let code = find(&maps, parse as *const () as u64).unwrap();
        assert!(code.executable && code.is_file());
        assert!(find(&maps, &raw const local as u64).unwrap().writable);
        assert!(maps.iter().any(Mapping::is_stack) && maps.iter().any(|m| m.is_kernel()));
        assert!(find(&maps, 0).is_none());
        assert!(maps.is_sorted_by_key(|m| m.range.start));
        assert_eq!(read_maps(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
