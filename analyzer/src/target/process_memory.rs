//! The memory of a live process, read through one of its threads.
#![allow(unsafe_code, reason = "process_vm_readv is reached through libc")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::memory::Memory;

const PAGE: u64 = 4096;
/// No user address of x86-64 lies above (57-bit tables); the vsyscall page does, and is nobody's data.
const USER_END: u64 = 1 << 56;
/// The kernel moves at most this much at a time.
const MAX_PART: usize = 1 << 30;

/// The memory of the process that a thread belongs to.
///
/// The thread must be *alive*: memory of a process whose leader has ended (`pthread_exit` in main) is out of reach through
/// the leader's id. Read by process_vm_readv; where that is forbidden or missing (seccomp), by `/proc/TID/mem`, which reads
/// device mappings too, so never point it at one ([`super::maps::Mapping::is_scannable`]).
#[derive(Debug)]
pub struct ProcessMemory {
    tid: i32,
    file: OnceLock<Option<File>>,
    errno: AtomicI32,
}

impl ProcessMemory {
    /// Through the thread `tid`.
    pub fn new(tid: i32) -> Self {
        Self { tid, file: OnceLock::new(), errno: AtomicI32::new(0) }
    }

    /// The thread through which memory is read.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The last failure other than "no such page": EPERM where reading is forbidden, ESRCH where the thread is gone.
    pub fn failure(&self) -> Option<std::io::Error> {
        match self.errno.load(Ordering::Relaxed) {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno)),
        }
    }

    /// The thread, or the whole process, has ended: since when is not known, so that what was read is no picture of anything.
    pub fn is_gone(&self) -> bool {
        self.errno.load(Ordering::Relaxed) == libc::ESRCH
    }

    fn read_part(&self, address: u64, buffer: &mut [u8]) -> usize {
        if let Some(opened) = self.file.get() {
            return self.read_file(opened.as_ref(), address, buffer);
        }
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
        // SAFETY: the kernel writes only to `local`, which is the exclusively borrowed buffer; the remote address is checked
        // by the kernel.
        let got = unsafe { libc::process_vm_readv(self.tid, &local, 1, &remote, 1, 0) };
        if got >= 0 {
            return got as usize;
        }
        match std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
            libc::EFAULT => 0,
            errno @ (libc::EPERM | libc::ENOSYS) => {
                self.errno.store(errno, Ordering::Relaxed);
                let opened = self.file.get_or_init(|| File::open(format!("/proc/{}/mem", self.tid)).ok());
                self.read_file(opened.as_ref(), address, buffer)
            }
            errno => {
                self.errno.store(errno, Ordering::Relaxed);
                0
            }
        }
    }

    fn read_file(&self, file: Option<&File>, address: u64, buffer: &mut [u8]) -> usize {
        match file.map(|file| file.read_at(buffer, address)) {
            // It is as if it were empty, once the memory is gone.
            Some(Ok(0)) if !buffer.is_empty() => {
                self.errno.store(libc::ESRCH, Ordering::Relaxed);
                0
            }
            Some(Ok(got)) => {
                if !self.is_gone() {
                    self.errno.store(0, Ordering::Relaxed);
                }
                got
            }
            // EIO: no such page.
            Some(Err(error)) if error.raw_os_error() == Some(libc::EIO) => 0,
            Some(Err(error)) => {
                self.errno.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Relaxed);
                0
            }
            None => 0,
        }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let readable = USER_END.saturating_sub(address).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < readable {
            let end = readable.min(done.saturating_add(MAX_PART));
            match self.read_part(address + done as u64, &mut buffer[done..end]) {
                0 => break,
                // The kernel stops at the first page it cannot have; only another try tells why it stopped.
                got => done += got,
            }
        }
        done
    }
}

/// Slots of the cache: pages kept, 4 MiB in all.
const SLOTS: usize = 1024;
/// Larger reads pass by the cache.
const DIRECT: usize = 16 * PAGE as usize;

/// Memory behind a cache of whole pages, for many small reads of a *stopped* target: a cached page is never read again
/// until [`CachedMemory::clear`].
#[derive(Debug)]
pub struct CachedMemory<M> {
    inner: M,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// Page number + 1; 0: empty.
    tag: u64,
    /// Empty: the page is unreadable.
    bytes: Vec<u8>,
}

impl<M: Memory> CachedMemory<M> {
    /// Caches what `inner` reads.
    pub fn new(inner: M) -> Self {
        Self { inner, slots: Mutex::new(vec![Slot::default(); SLOTS]) }
    }

    /// The memory behind the cache.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Forgets every page: the target has run.
    pub fn clear(&self) {
        for slot in self.slots.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            slot.tag = 0;
        }
    }
}

impl<M: Memory> Memory for CachedMemory<M> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        if buffer.len() > DIRECT {
            return self.inner.read(address, buffer);
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let (page, skip) = (at / PAGE, (at % PAGE) as usize);
            let slot = &mut slots[(page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % SLOTS];
            if slot.tag != page + 1 {
                slot.bytes.resize(PAGE as usize, 0);
                let got = self.inner.read(page * PAGE, &mut slot.bytes);
                slot.bytes.truncate(got);
                slot.tag = page + 1;
            }
            if skip >= slot.bytes.len() {
                // A memory that does not end at page borders (a saved one) may still hold these bytes.
                done += self.inner.read(at, &mut buffer[done..]);
                break;
            }
            let n = (slot.bytes.len() - skip).min(buffer.len() - done);
            buffer[done..done + n].copy_from_slice(&slot.bytes[skip..skip + n]);
            done += n;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::SavedMemory;
    use super::*;

    /// Three pages of which the last is unreadable.
    struct Guarded(*mut u8);
    impl Guarded {
        fn new() -> Self {
            // SAFETY: a fresh anonymous mapping of three pages, of which the last loses its rights.
            unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let base = libc::mmap(std::ptr::null_mut(), 3 * 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                assert_ne!(base, libc::MAP_FAILED);
                libc::mprotect(base.add(2 * 4096), 4096, libc::PROT_NONE);
                std::ptr::write_bytes(base.cast::<u8>(), 0x5a, 2 * 4096);
                Self(base.cast())
            }
        }
    }
    impl Drop for Guarded {
        fn drop(&mut self) {
            // SAFETY: mapped by `new` with this length.
            unsafe { libc::munmap(self.0.cast(), 3 * 4096) };
        }
    }

    #[test]
    fn a_read_ends_exactly_at_the_unreadable_page() {
        let pages = Guarded::new();
        let base = pages.0 as u64;
        let memory = ProcessMemory::new(std::process::id() as i32);
        let cached = CachedMemory::new(ProcessMemory::new(std::process::id() as i32));
        let through_file = ProcessMemory::new(std::process::id() as i32);
        through_file.file.get_or_init(|| File::open("/proc/self/mem").ok());
        // /proc/PID/mem reads a PROT_NONE page by force: only what both can tell is compared for it.
        assert_eq!(through_file.read(base + 100, &mut [0; 64]), 64);
        assert_eq!(through_file.read(16, &mut [0; 64]), 0);
        for (memory, name) in [(&memory as &dyn Memory, "direct"), (&cached, "cached")] {
            let mut buffer = vec![0; 3 * 4096];
            assert_eq!(memory.read(base, &mut buffer), 2 * 4096, "{name}");
            assert!(buffer[..2 * 4096].iter().all(|&b| b == 0x5a));
            assert_eq!(memory.read(base + 2 * 4096 - 3, &mut [0; 8]), 3, "{name}");
            assert_eq!(memory.read(base + 2 * 4096, &mut [0; 8]), 0, "{name}");
            assert_eq!(memory.word(base + 4092), Some(0x5a5a_5a5a_5a5a_5a5a), "{name}");
            for address in [0, 1, u64::MAX, u64::MAX - 7, 1 << 47, 1 << 56, 0xffff_ffff_ff60_0000] {
                assert_eq!(memory.read(address, &mut [0; 16]), 0, "{name} {address:#x}");
            }
        }
        assert!(memory.failure().is_none());
    }

    #[test]
    fn a_missing_process_is_a_failure_and_not_a_hole() {
        let memory = ProcessMemory::new(i32::MAX);
        assert_eq!(memory.read(4096, &mut [0; 8]), 0);
        assert_eq!(memory.failure().and_then(|e| e.raw_os_error()), Some(libc::ESRCH));
    }

    /// What the memory behind it comes to is the same to `process_vm_readv`, and to the file that stands in for it.
    #[test]
    fn a_process_that_ends_is_gone_by_either_way() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tid = child.id() as i32;
        let stack = || {
            let maps = std::fs::read_to_string(format!("/proc/{tid}/maps")).unwrap();
            let line = maps.lines().find(|line| line.ends_with("[stack]"))?;
            u64::from_str_radix(line.split_once('-')?.1.split_once(' ')?.0, 16).ok()
        };
        // The program's own, not what it had before exec.
        let is_sleep = || std::fs::read(format!("/proc/{tid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"));
        let top = std::iter::repeat_with(|| stack().filter(|_| is_sleep())).flatten().next().unwrap();
        let (direct, by_file) = (ProcessMemory::new(tid), ProcessMemory::new(tid));
        by_file.file.get_or_init(|| File::open(format!("/proc/{tid}/mem")).ok());
        for memory in [&direct, &by_file] {
            assert_eq!((memory.read(top - 64, &mut [0; 64]), memory.is_gone()), (64, false));
            assert_eq!((memory.read(16, &mut [0; 8]), memory.is_gone()), (0, false));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for memory in [&direct, &by_file] {
            assert_eq!((memory.read(top - 64, &mut [0; 64]), memory.is_gone()), (0, true));
        }
    }

    #[test]
    fn the_cache_keeps_pages_until_it_is_cleared() {
        let mut saved = SavedMemory::default();
        saved.insert_words(0x1000, &[7; 512]);
        saved.insert_words(0x5010, &[1, 2, 3]);
        let cached = CachedMemory::new(saved);
        assert_eq!(cached.word(0x1ff0), Some(7));
        assert_eq!(cached.word(0x2000), None);
        // Not at page borders, but readable all the same.
        assert_eq!(cached.word(0x5018), Some(2));
        let mut cached = cached;
        cached.inner.insert_words(0x1000, &[8; 512]);
        assert_eq!(cached.word(0x1000), Some(7));
        cached.clear();
        assert_eq!(cached.word(0x1000), Some(8));
    }
}
