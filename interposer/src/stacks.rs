//! Where stacks begin and end: what a thread may read while it unwinds.

use core::ffi::c_int;

use crate::sandbox::{self, Call};
use crate::{real, settings, sys};

/// A range of addresses that was mapped, readable stack when it was looked up.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct StackRange {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// The thread's own stack: there as long as the thread. Any other (a coroutine's) can be unmapped, whole or in part, behind our back.
    pub own: bool,
}

impl StackRange {
    /// What of it lies above a stack pointer's red zone.
    #[inline(always)]
    pub fn above(&self, sp: u64) -> Self {
        Self { start: sp.saturating_sub(128).max(self.start) & !7, ..*self }
    }

    /// A whole, aligned word at `address` lies in it.
    #[inline(always)]
    pub fn holds(&self, address: u64) -> bool {
        self.start <= address && address.wrapping_add(8) <= self.end && address & 7 == 0
    }
}

/// Bytes below the main thread's first frame that certainly belong to the same stack.
const NEAR: u64 = 64 << 10;

/// What is known of the thread's own stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// This.
    Range(StackRange),
    /// Nothing: the main thread, another stack, a C library that does not say.
    Unknown,
    /// The host is inside pthread_getattr_np, which holds a lock of this thread's and allocates: to be asked again.
    Later,
}

/// The host's pthread_getattr_np, and Rust's at the start of each thread: the first allocation of a thread may come from in there.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_getattr_np(thread: libc::pthread_t, attributes: *mut libc::pthread_attr_t) -> c_int {
    crate::thread::inside_getattr(|| real::pthread_getattr(thread, attributes))
}

/// The stack of this thread where glibc made it: exact. Not of the main thread, for which glibc would read /proc/self/maps by stdio.
pub fn own() -> Own {
    if crate::thread::is_inside_getattr() {
        return Own::Later;
    }
    // glibc asks for the thread's processors as well.
    if [Call::Gettid, Call::Getpid, Call::Affinity].into_iter().any(sandbox::kills) {
        return Own::Unknown;
    }
    // SAFETY: plain calls on values of ours. The attribute's own allocations pass through the guarded hooks.
    unsafe {
        if sys::tid() == libc::getpid() as u32 {
            return Own::Unknown;
        }
        let (mut start, mut bytes) = (core::ptr::null_mut(), 0);
        let found = crate::thread::quietly(|| {
            let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
            if real::pthread_getattr(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
                return false;
            }
            let found = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut bytes) == 0;
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            found
        });
        let here = (&raw const start) as u64;
        let range = StackRange { start: start as u64, end: start as u64 + bytes as u64, own: true };
        // On a coroutine's or signal's stack the thread's own is still the thread's own.
        if found && (range.start..range.end).contains(&here) { Own::Range(range) } else { Own::Unknown }
    }
}

/// Bytes left on this thread's own stack below the caller; `None` where that is unknown.
pub fn stack_left() -> Option<u64> {
    let here = 0u8;
    match own() {
        Own::Range(own) => Some(((&raw const here) as u64).saturating_sub(own.start)),
        Own::Unknown | Own::Later => None,
    }
}

/// The main thread's stack near its end.
pub fn near_range(sp: u64) -> Option<StackRange> {
    let end = settings::main_stack_end();
    // Reads only go up from the present stack pointer, so that the lower end matters to nobody.
    (sp < end && end - sp < NEAR).then_some(StackRange { start: end - NEAR, end, own: true })
}

/// Asks /proc/self/maps. No allocation, no stdio, no lock.
pub fn mapping_of(sp: u64) -> Option<StackRange> {
    if [Call::Openat, Call::Read, Call::Close].into_iter().any(sandbox::kills) {
        return None;
    }
    // SAFETY: plain system calls on a path and a buffer of ours.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/proc/self/maps".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        ) as i32;
        if fd < 0 {
            return None;
        }
        let mut buffer = [0u8; 1024];
        let mut kept = 0;
        let mut found = None;
        'reading: loop {
            let got = libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr().add(kept), buffer.len() - kept);
            if got <= 0 {
                break;
            }
            let have = kept + got as usize;
            let mut line_start = 0;
            while let Some(len) = buffer[line_start..have].iter().position(|&byte| byte == b'\n') {
                if let Some((start, end, readable)) = parse_line(&buffer[line_start..line_start + len])
                    && (start..end).contains(&sp)
                {
                    if readable {
                        // The main thread's stack grows downwards and never goes.
                        let own = (start..end).contains(&(settings::main_stack_end().wrapping_sub(8)));
                        found = Some(StackRange { start, end, own });
                    }
                    break 'reading;
                }
                line_start += len + 1;
            }
            buffer.copy_within(line_start..have, 0);
            kept = have - line_start;
            if kept == buffer.len() {
                break;
            }
        }
        libc::syscall(libc::SYS_close, fd);
        found
    }
}

/// `start-end perms …`
fn parse_line(line: &[u8]) -> Option<(u64, u64, bool)> {
    let dash = line.iter().position(|&byte| byte == b'-')?;
    let space = line.iter().position(|&byte| byte == b' ')?;
    let number = |digits: &[u8]| u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok();
    Some((number(&line[..dash])?, number(line.get(dash + 1..space)?)?, line.get(space + 1) == Some(&b'r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        assert_eq!(
            parse_line(b"7ffd1c5e2000-7ffd1c603000 rw-p 00000000 00:00 0   [stack]"),
            Some((0x7ffd_1c5e_2000, 0x7ffd_1c60_3000, true))
        );
        assert_eq!(parse_line(b"1000-2000 ---p 0 00:00 0"), Some((0x1000, 0x2000, false)));
        assert_eq!(parse_line(b"nonsense"), None);
    }
}
