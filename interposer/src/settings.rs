//! What the environment says, copied before main: later the host may change it under our eyes.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use avleak_wire::options::{self, Problem, Values};
use avleak_wire::registration::{PATIENCE_MS, PATIENCE_VARIABLE};

use crate::hot::HOT;
use crate::say::{self, Cause};

const BYTES: usize = 4096;

/// A NUL-terminated copy; empty where there was nothing, or too much.
pub struct Text {
    bytes: UnsafeCell<[u8; BYTES]>,
    len: AtomicUsize,
}

// SAFETY: written once before main, by the one thread there is; only read afterwards.
unsafe impl Sync for Text {}

impl Text {
    const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; BYTES]), len: AtomicUsize::new(0) }
    }

    /// Copies; a text that does not fit is dropped.
    pub fn set(&self, text: &[u8]) {
        if text.len() < BYTES {
            // SAFETY: before main, one thread.
            unsafe { (&mut *self.bytes.get())[..text.len()].copy_from_slice(text) };
            self.len.store(text.len(), Ordering::Release);
        }
    }

    /// The bytes; empty where unset.
    pub fn get(&self) -> &[u8] {
        // SAFETY: not written any more.
        unsafe { &(&*self.bytes.get())[..self.len.load(Ordering::Acquire)] }
    }

    /// With its NUL.
    pub fn c_str(&self) -> &CStr {
        // SAFETY: as above; the buffer is longer than the text and zero behind it.
        CStr::from_bytes_until_nul(unsafe { &*self.bytes.get() }).unwrap_or_default()
    }
}

/// AVLEAK_SOCKET: where to register.
pub static SOCKET: Text = Text::new();
/// AVLEAK_OPTIONS.
pub static OPTIONS: Text = Text::new();
/// AVLEAK_ONLY: names or paths of the programs to watch, joined by colons; empty: all.
static ONLY: Text = Text::new();
/// Where this library was loaded from, as ld.so was told.
pub static LIBRARY: Text = Text::new();
/// The analyzer to start where no socket is set: AVLEAK_ANALYZER, or beside this library.
pub static ANALYZER: Text = Text::new();
/// What the analyzer needs of the environment, each a text `NAME=value`.
pub static PASSED_ON: [(&CStr, Text); 12] = [
    (c"PATH", Text::new()),
    (c"HOME", Text::new()),
    (c"TERM", Text::new()),
    (c"LANG", Text::new()),
    (c"LC_ALL", Text::new()),
    (c"TMPDIR", Text::new()),
    (c"XDG_RUNTIME_DIR", Text::new()),
    (c"NO_COLOR", Text::new()),
    (c"AVLEAK_OPTIONS", Text::new()),
    (c"AVLEAK_HTTP_TOKEN", Text::new()),
    (PATIENCE_VARIABLE, Text::new()),
    (WORKING_FOLDER, Text::new()),
];

/// Under this name the analyzer learns in which folder the program was started: a daemon leaves it.
const WORKING_FOLDER: &CStr = c"AVLEAK_CWD";

static MAIN_STACK_END: AtomicU64 = AtomicU64::new(0);
static REGISTRATION_MS: AtomicU64 = AtomicU64::new(PATIENCE_MS);
static PATIENCE_NS: AtomicU64 = AtomicU64::new(50_000_000);

fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: before main; the string is copied at once.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: as above.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// Copies what is needed. Before main.
pub fn remember_environment() {
    if let Some(value) = environment(c"AVLEAK_SOCKET") {
        SOCKET.set(value);
    }
    if let Some(value) = environment(c"AVLEAK_OPTIONS") {
        OPTIONS.set(value);
    }
    let patience = environment(PATIENCE_VARIABLE).and_then(|value| core::str::from_utf8(value).ok()?.parse().ok());
    if let Some(ms) = patience.filter(|ms| (PATIENCE_MS..=60_000).contains(ms)) {
        REGISTRATION_MS.store(ms, Ordering::Relaxed);
        // A wrapper rather has its command wait than its verdict in doubt.
        PATIENCE_NS.store(ms * 1_000_000, Ordering::Relaxed);
    }
    let mut folder = [0; BYTES];
    // SAFETY: the kernel writes at most the buffer's length, with a NUL.
    let got = unsafe { libc::syscall(libc::SYS_getcwd, folder.as_mut_ptr(), folder.len()) };
    let folder = &folder[..usize::try_from(got).unwrap_or(0).saturating_sub(1)];
    for (name, text) in &PASSED_ON {
        let value = if *name == WORKING_FOLDER { Some(folder) } else { environment(name) };
        if let Some(value) = value {
            let mut line = [0; BYTES];
            let (name, len) = (name.to_bytes(), name.to_bytes().len() + 1 + value.len());
            if len < BYTES {
                line[..name.len()].copy_from_slice(name);
                line[name.len()] = b'=';
                line[name.len() + 1..len].copy_from_slice(value);
                text.set(&line[..len]);
            }
        }
    }
    if let Some(value) = environment(c"AVLEAK_ONLY") {
        ONLY.set(value);
    }
    remember_library();
    match environment(c"AVLEAK_ANALYZER") {
        Some(value) => ANALYZER.set(value),
        None => remember_neighbour(),
    }
    let at = crate::loader::symbol(libc::RTLD_DEFAULT, c"__libc_stack_end").cast::<u64>();
    // SAFETY: glibc's own variable: the stack pointer at the program's entry. Absent elsewhere.
    unsafe {
        if !at.is_null() {
            MAIN_STACK_END.store(*at + 8, Ordering::Relaxed);
        }
    }
}

fn remember_library() {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut core::ffi::c_void) -> i32 {
        // SAFETY: dl_iterate_phdr passes a valid record with its own headers.
        let (layout, name) = unsafe {
            let info = &*info;
            let headers = core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize);
            (crate::elf::Layout::of(info.dlpi_addr, headers), info.dlpi_name)
        };
        let own = remember_library as *const () as u64;
        if name.is_null() || !(layout.start..layout.end).contains(&own) {
            return 0;
        }
        // SAFETY: the loader's string.
        LIBRARY.set(unsafe { CStr::from_ptr(name) }.to_bytes());
        1
    }
    // SAFETY: the callback has the required signature.
    unsafe { libc::dl_iterate_phdr(Some(visit), core::ptr::null_mut()) };
}

/// `avleak` in this library's own folder, or in `../bin`.
fn remember_neighbour() {
    let path = LIBRARY.get();
    let folder = path.iter().rposition(|&byte| byte == b'/').map_or(&b"."[..], |at| &path[..at]);
    for file in [&b"/avleak"[..], b"/../bin/avleak", b"/../../bin/avleak"] {
        let mut full = [0; BYTES];
        let len = folder.len() + file.len();
        if len >= BYTES {
            return;
        }
        full[..folder.len()].copy_from_slice(folder);
        full[folder.len()..len].copy_from_slice(file);
        // SAFETY: NUL-terminated: the buffer was zero.
        if unsafe { libc::access(full.as_ptr().cast(), libc::X_OK) } == 0 {
            ANALYZER.set(&full[..len]);
            return;
        }
    }
}

/// This program is one of those to watch: by the name it was started under, or that of its file.
pub fn is_wanted() -> bool {
    let only = ONLY.get();
    if only.is_empty() {
        return true;
    }
    let mut link = [0u8; BYTES];
    // SAFETY: writes at most the buffer's length, one byte less than there is.
    let got = unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), link.as_mut_ptr().cast(), link.len() - 1) };
    let file = &link[..usize::try_from(got).unwrap_or(0)];
    // SAFETY: the kernel's own string, or null.
    let started = unsafe { libc::getauxval(libc::AT_EXECFN) as *const core::ffi::c_char };
    // SAFETY: as above.
    let started = if started.is_null() { &b""[..] } else { unsafe { CStr::from_ptr(started) }.to_bytes() };
    only.split(|&byte| byte == b':').any(|wanted| is_named(wanted, file) || is_named(wanted, started))
}

/// `wanted` is a whole path, or a name without folders.
fn is_named(wanted: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    !wanted.is_empty() && wanted == if wanted.contains(&b'/') { path } else { name }
}

/// Reads AVLEAK_OPTIONS, with a line for the first bad item. At arming: a process without FFmpeg hears nothing.
pub fn read_options() {
    let text = OPTIONS.get();
    let Ok(text) = core::str::from_utf8(text) else {
        say::line(Cause::Options, format_args!("AVLEAK_OPTIONS is not UTF-8; ignored"));
        return;
    };
    options::parse(
        text,
        |key, value| match key {
            "patience_ms" => {
                let ms: u64 = value.parse().unwrap_or(50);
                PATIENCE_NS.store(ms * 1_000_000, Ordering::Relaxed);
            }
            "verify" => HOT.verify.store(value == "1", Ordering::Relaxed),
            // The analyzer's.
            _ => (),
        },
        |problem| match problem {
            Problem::UnknownKey(key) => say::line(
                Cause::Options,
                format_args!("AVLEAK_OPTIONS: unknown key '{key}' ignored; valid keys: {}", Keys),
            ),
            Problem::BadValue(key, value) => say::line(
                Cause::Options,
                format_args!(
                    "AVLEAK_OPTIONS: bad value '{value}' for {} ignored; valid: {}",
                    key.key,
                    Valid(key.values)
                ),
            ),
        },
    );
}

struct Keys;

impl core::fmt::Display for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (index, key) in options::KEYS.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, key.key)?;
        }
        Ok(())
    }
}

struct Valid(Values);

impl core::fmt::Display for Valid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Values::Words(words) => {
                for (index, word) in words.iter().enumerate() {
                    write!(f, "{}{word}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Values::Path => f.write_str("a path"),
            Values::Name => f.write_str("a name"),
            Values::Number(limit) => write!(f, "a number from 0 to {limit}"),
            Values::Count => f.write_str("a number, 1 or more"),
            Values::Bytes => f.write_str("bytes, such as 100M"),
            Values::Address => f.write_str("an address with a port, such as 127.0.0.1:9464"),
            Values::Time => f.write_str("a time from 100ms to 24h, such as 60s"),
        }
    }
}

/// Where the main thread's stack ends; 0 where that is unknown.
#[inline(always)]
pub fn main_stack_end() -> u64 {
    MAIN_STACK_END.load(Ordering::Relaxed)
}

/// Longest wait for a reader that does not move.
pub fn patience_ns() -> u64 {
    PATIENCE_NS.load(Ordering::Relaxed)
}

/// Longest wait to be answered at registration.
pub fn registration_patience_ns() -> u64 {
    REGISTRATION_MS.load(Ordering::Relaxed) * 1_000_000
}

/// Every stack is unwound twice.
#[inline(always)]
pub fn verify() -> bool {
    HOT.verify.load(Ordering::Relaxed)
}
