//! execve and its kin: a program that bears no preload ([`crate::judge`]) is started without ours.
//!
//! It is then as if avleak were not there, for it and what it starts. Everything else of the environment, and of LD_PRELOAD, stays.
//! Not seen: execl and its kin, system and popen (which call inside the C library, a shell mostly), and raw system calls as Go makes them.

use core::ffi::{CStr, c_char, c_int, c_void};

use crate::{judge, real, settings, sys};

type Strings = *const *const c_char;
type Execve = unsafe extern "C" fn(*const c_char, Strings, Strings) -> c_int;
type Spawn =
    unsafe extern "C" fn(*mut libc::pid_t, *const c_char, *const c_void, *const c_void, Strings, Strings) -> c_int;

const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// A longer environment is passed on as it is: this lies on the stack.
const VARIABLES: usize = 512;
/// A longer path or value too.
const BYTES: usize = 1024;

unsafe extern "C" {
    static environ: Strings;
}

/// Calls `start` with `environment`, less our library where the program `file` does not bear it.
///
/// # Safety
/// As execve's arguments: `file` NUL-terminated, `environment` null or a null-terminated array of such.
unsafe fn begin(
    file: *const c_char,
    searched: bool,
    environment: Strings,
    start: impl FnOnce(Strings) -> c_int,
) -> c_int {
    let unwanted = sys::keep_errno(|| {
        if file.is_null() || environment.is_null() {
            return false;
        }
        // SAFETY: as the caller promises.
        let file = unsafe { CStr::from_ptr(file) };
        // SAFETY: as above.
        let holds_us = unsafe { place_of_preload(environment) }.is_some();
        holds_us && !bears(file, searched)
    });
    if unwanted {
        // SAFETY: as above.
        unsafe { without_us(environment, start) }
    } else {
        start(environment)
    }
}

/// Index of LD_PRELOAD where it names this library.
unsafe fn place_of_preload(environment: Strings) -> Option<usize> {
    for index in 0.. {
        // SAFETY: a null-terminated array, not passed its end.
        let entry = unsafe { *environment.add(index) };
        if entry.is_null() {
            break;
        }
        // SAFETY: an environment's entry is a string.
        let entry = unsafe { CStr::from_ptr(entry) }.to_bytes();
        if let Some(value) = entry.strip_prefix(PRELOAD) {
            return items(value).any(is_us).then_some(index);
        }
    }
    None
}

/// ld.so splits at spaces and colons.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| b" :".contains(byte)).filter(|item| !item.is_empty())
}

fn is_us(item: &[u8]) -> bool {
    item == settings::LIBRARY.get()
}

#[inline(never)]
fn bears(file: &CStr, searched: bool) -> bool {
    if !searched || file.to_bytes().contains(&b'/') {
        return judge::bears_preload(file);
    }
    // SAFETY: the host's own search reads the same variable at the same time.
    let path = unsafe { libc::getenv(c"PATH".as_ptr()) };
    // SAFETY: a string, where there is one.
    let path = if path.is_null() { &b"/bin:/usr/bin"[..] } else { unsafe { CStr::from_ptr(path) }.to_bytes() };
    let mut candidate = [0u8; BYTES];
    for folder in path.split(|&byte| byte == b':') {
        let folder = if folder.is_empty() { &b"."[..] } else { folder };
        let end = folder.len() + 1 + file.to_bytes().len();
        if end >= BYTES {
            continue;
        }
        candidate.fill(0);
        candidate[..folder.len()].copy_from_slice(folder);
        candidate[folder.len()] = b'/';
        candidate[folder.len() + 1..end].copy_from_slice(file.to_bytes());
        // SAFETY: NUL-terminated: the buffer was zero.
        if unsafe { libc::access(candidate.as_ptr().cast(), libc::X_OK) } == 0 {
            return judge::bears_preload(CStr::from_bytes_until_nul(&candidate).unwrap_or_default());
        }
    }
    true
}

#[inline(never)]
unsafe fn without_us(environment: Strings, start: impl FnOnce(Strings) -> c_int) -> c_int {
    let mut entries: [*const c_char; VARIABLES] = [core::ptr::null(); VARIABLES];
    let mut line = [0u8; BYTES];
    // SAFETY: as the caller of `begin` promises.
    let Some(place) = (unsafe { place_of_preload(environment) }) else { return start(environment) };
    // SAFETY: `place` is inside the array, and its entry starts with the name.
    let value = &unsafe { CStr::from_ptr(*environment.add(place)) }.to_bytes()[PRELOAD.len()..];
    if value.len() + PRELOAD.len() >= BYTES {
        return start(environment);
    }
    line[..PRELOAD.len()].copy_from_slice(PRELOAD);
    let mut end = PRELOAD.len();
    for item in items(value).filter(|item| !is_us(item)) {
        if end > PRELOAD.len() {
            line[end] = b':';
            end += 1;
        }
        line[end..end + item.len()].copy_from_slice(item);
        end += item.len();
    }
    let mut kept = 0;
    for index in 0.. {
        // SAFETY: a null-terminated array, not passed its end.
        let entry = unsafe { *environment.add(index) };
        if entry.is_null() {
            break;
        }
        if kept + 1 == VARIABLES {
            return start(environment);
        }
        if index != place {
            entries[kept] = entry;
            kept += 1;
        } else if end > PRELOAD.len() {
            entries[kept] = line.as_ptr().cast();
            kept += 1;
        }
    }
    start(entries.as_ptr())
}

fn missing() -> c_int {
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

macro_rules! through {
    ($real:ident, $type:ty, ($($argument:expr),*)) => {{
        let real = real::$real.known();
        if real.is_null() {
            missing()
        } else {
            // RTLD_NEXT's definition of this C function, with its signature; called where unsafe is vouched for.
            core::mem::transmute::<*mut c_void, $type>(real)($($argument),*)
        }
    }};
}

/// execve(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the host's own arguments.
    unsafe { begin(path, false, envp, |envp| through!(EXECVE, Execve, (path, argv, envp))) }
}

/// execv(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the host's own arguments; execv takes the environment as it is now.
    unsafe { begin(path, false, environ, |envp| through!(EXECVE, Execve, (path, argv, envp))) }
}

/// execvp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the host's own arguments; execvp takes the environment as it is now.
    unsafe { begin(file, true, environ, |envp| through!(EXECVPE, Execve, (file, argv, envp))) }
}

/// execvpe(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the host's own arguments.
    unsafe { begin(file, true, envp, |envp| through!(EXECVPE, Execve, (file, argv, envp))) }
}

/// posix_spawn(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawn(
    pid: *mut libc::pid_t,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    // SAFETY: the host's own arguments.
    unsafe {
        begin(path, false, envp, |envp| through!(POSIX_SPAWN, Spawn, (pid, path, actions, attributes, argv, envp)))
    }
}

/// posix_spawnp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawnp(
    pid: *mut libc::pid_t,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    // SAFETY: the host's own arguments.
    unsafe {
        begin(file, true, envp, |envp| through!(POSIX_SPAWNP, Spawn, (pid, file, actions, attributes, argv, envp)))
    }
}
