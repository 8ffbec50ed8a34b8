//! Whether a program that is about to be executed bears a preloaded library: what ld.so does there cannot be repaired from inside.
//!
//! musl's loader ends the program, a 32-bit one complains on stderr, a sanitizer's runtime refuses to run behind anybody or dies of being
//! traced. The analyzer judges its command more thoroughly; this runs in forked children, without allocation or lock.

use core::ffi::CStr;

use crate::file::File;

/// Scripts that name scripts as interpreters: the kernel's own limit.
const DEPTH: usize = 5;
/// The kernel reads this much of a `#!` line.
const START: usize = 256;
/// Names that a sanitizer's runtime exports are looked for in so many bytes of a program's dynamic strings.
const STRINGS: u64 = 1 << 20;

/// Runtimes that a program may need …
const RUNTIMES: [&[u8]; 6] =
    [b"libasan.", b"liblsan.", b"libtsan.", b"libclang_rt.asan", b"libclang_rt.lsan", b"libclang_rt.tsan"];
/// … or bring along: what they export, and, where nothing is exported, the hook that those with an allocator of their own ask for.
const INITIALISERS: [&[u8]; 6] = [
    b"\0__asan_init\0",
    b"\0__lsan_init\0",
    b"\0__tsan_init\0",
    b"\0__msan_init\0",
    b"\0__hwasan_init\0",
    b"\0__sanitizer_free_hook\0",
];
/// The longest of them.
const LONGEST: usize = 23;

/// True also where nothing is known of it: the kernel and ld.so will tell.
pub fn bears_preload(path: &CStr) -> bool {
    let mut start = [0u8; START];
    let mut interpreter = [0u8; START];
    for depth in 0..DEPTH {
        let path = if depth == 0 { path } else { CStr::from_bytes_until_nul(&interpreter).unwrap_or_default() };
        let Some(file) = File::open(path) else { return true };
        start.fill(0);
        file.read(0, &mut start);
        if !start.starts_with(b"#!") {
            return elf_bears_preload(&file, &start);
        }
        let line = start[2..START - 1].split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
        let word = words.next().unwrap_or_default();
        interpreter.fill(0);
        interpreter[..word.len()].copy_from_slice(word);
    }
    true
}

fn word_at(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn elf_bears_preload(file: &File, start: &[u8; START]) -> bool {
    let half = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
    if !start.starts_with(b"\x7fELF") {
        return true;
    }
    // EI_CLASS, e_machine: 32-bit x86, whose loader refuses our class with a word on stderr.
    if start[4] == 1 {
        return half(18) != libc::EM_386;
    }
    if half(18) != libc::EM_X86_64 {
        return true;
    }
    let word = |at: usize| u64::from_le_bytes(start[at..at + 8].try_into().unwrap_or_default());
    let (headers, size, count) = (word(32), u64::from(half(54)), u64::from(half(56)).min(64));
    let header = |index: u64| headers.saturating_add(index * size);
    let kind = |index: u64| word_at(file, header(index)) as u32;
    let part =
        |index: u64| (word_at(file, header(index).saturating_add(8)), word_at(file, header(index).saturating_add(32)));
    let Some(interpreter) = (0..count).find(|&index| kind(index) == libc::PT_INTERP) else { return true };
    let (at, bytes) = part(interpreter);
    let mut name = [0u8; START];
    let got = file.read(at, &mut name[..(bytes as usize).min(START)]);
    let base = name[..got].rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if base.starts_with(b"ld-musl") {
        return false;
    }
    let Some(dynamic) = (0..count).find(|&index| kind(index) == libc::PT_DYNAMIC) else { return true };
    let (at, bytes) = part(dynamic);
    let entries = || {
        (0..(bytes / 16).min(1024))
            .map(move |index| {
                (word_at(file, at.saturating_add(16 * index)), word_at(file, at.saturating_add(16 * index + 8)))
            })
            .take_while(|&(tag, _)| tag != 0)
    };
    // DT_STRTAB, DT_STRSZ, DT_NEEDED (elf.h).
    let of = |wanted: u64| entries().find(|&(tag, _)| tag == wanted).map(|(_, value)| value);
    let (Some(address), Some(length)) = (of(5), of(10)) else { return true };
    let offset_of = |index: u64| {
        let (from, start, bytes) = (part(index).0, word_at(file, header(index).saturating_add(16)), part(index).1);
        (kind(index) == libc::PT_LOAD && (start..start.saturating_add(bytes)).contains(&address))
            .then(|| from.saturating_add(address - start))
    };
    let Some(strings) = (0..count).find_map(offset_of) else { return true };
    let needs_runtime = entries().filter(|&(tag, _)| tag == 1).any(|(_, name)| {
        let mut bytes = [0u8; 24];
        file.read(strings.saturating_add(name), &mut bytes);
        RUNTIMES.iter().any(|runtime| bytes.starts_with(runtime))
    });
    !needs_runtime && !brings_runtime(file, strings, length.min(STRINGS))
}

fn brings_runtime(file: &File, strings: u64, length: u64) -> bool {
    let mut window = [0u8; 1024];
    let mut at = 0;
    while at < length {
        let wanted = ((length - at) as usize).min(window.len());
        let got = file.read(strings.saturating_add(at), &mut window[..wanted]);
        let found = |name: &&[u8]| window[..got].windows(name.len()).any(|part| part == *name);
        if INITIALISERS.iter().any(found) {
            return true;
        }
        if got <= LONGEST {
            return false;
        }
        // A name may lie across.
        at += (got - LONGEST) as u64;
        if got < window.len() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("avleak-judge-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn bears(path: &Path) -> bool {
        bears_preload(&CString::new(path.as_os_str().as_bytes()).expect("a path"))
    }

    fn built(name: &str, flags: &[&str]) -> PathBuf {
        let (source, output) = (folder().join(format!("{name}.c")), folder().join(name));
        std::fs::write(&source, "int main(void) { return 0; }").expect("a source");
        let done = Command::new("cc").args(flags).arg(&source).arg("-o").arg(&output).status().expect("cc");
        assert!(done.success(), "{name}");
        output
    }

    #[test]
    fn programs_that_bear_no_preload_are_told_by_their_headers() {
        assert!(bears(&built("plain", &[])));
        assert!(bears(&built("static", &["-static"])));
        assert!(bears(Path::new("/bin/sh")) && bears(Path::new("/nonexistent")) && bears(Path::new("/etc/passwd")));
        assert!(!bears(&built("musl", &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"])));
        assert!(!bears(&built("asan", &["-fsanitize=address"])));
        assert!(!bears(&built("lsan", &["-fsanitize=leak"])));
        assert!(!bears(&built("asan_inside", &["-fsanitize=address", "-static-libasan", "-rdynamic"])));
        // As gcc 10 and 12 leave it with -static-libasan; by gcc 14 nothing of it shows, and it bears a preload.
        assert!(!bears(&built("hidden", &["-rdynamic", "-Wl,--defsym=__sanitizer_free_hook=main"])));
        assert!(bears(&built("undefined", &["-fsanitize=undefined", "-static-libubsan"])));
        let mut narrow = std::fs::read(folder().join("plain")).expect("the program");
        (narrow[4], narrow[18]) = (1, 3);
        std::fs::write(folder().join("narrow"), narrow).expect("a program");
        assert!(!bears(&folder().join("narrow")));
        let script = folder().join("script");
        std::fs::write(&script, format!("#! {} -x\n", folder().join("asan").display())).expect("a script");
        assert!(!bears(&script));
        std::fs::write(&script, "#!/bin/sh\nexit 0\n").expect("a script");
        assert!(bears(&script));
        std::fs::write(&script, format!("#!{}\n", script.display())).expect("a script that names itself");
        assert!(bears(&script));
        let _ = std::fs::remove_dir_all(folder());
    }
}
