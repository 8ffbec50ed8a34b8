//! Judges a program before it is started: can the interposer be preloaded into it?
//!
//! What ld.so does with a preload before any code of ours runs cannot be repaired from inside, so it is foreseen here. Only
//! the headers that are needed are read.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::read::ReadCache;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};

use crate::symbols::blocks::Blocks;

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preflight {
    /// Start this file.
    Ok {
        /// The command, found in PATH.
        path: PathBuf,
    },
    /// It can be started, but little or nothing of it will be seen.
    Warn {
        /// The command, found in PATH.
        path: PathBuf,
        /// What is the matter.
        problem: Problem,
        /// One line that names it and the remedy.
        message: String,
    },
    /// Do not start it: it would fail, or nothing of it can be seen.
    Refused {
        /// What is the matter.
        problem: Problem,
        /// One line that names it and the remedy.
        message: String,
        /// What a shell would exit with: 127 not found, 126 not executable; 2 for everything else.
        exit_code: i32,
    },
}

/// What is the matter with a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No such command.
    NotFound,
    /// A directory, or without the right to execute it.
    NotExecutable,
    /// No dynamic loader that could preload anything. Programs that it starts can be watched.
    Static,
    /// The same with FFmpeg inside: what it was to be watched for cannot be seen.
    StaticFfmpeg,
    /// A 32-bit program.
    ThirtyTwoBit,
    /// Made for another processor.
    OtherMachine,
    /// Linked to musl, whose loader ends with 127 over a library made for glibc.
    Musl,
    /// Runs with other rights than its caller's: the loader ignores the preload.
    Privileged,
    /// Linked to AddressSanitizer or its kin, which refuse to run behind a preloaded library.
    Sanitizer,
    /// Defines malloc itself: libraries bind to that before the preloaded one.
    OwnMalloc,
    /// Its loader or interpreter is missing.
    NoInterpreter,
}

/// Scripts that name scripts as interpreters: the kernel's own limit.
const DEPTH: usize = 5;
/// The kernel reads this much of a `#!` line.
const SHEBANG: usize = 256;

/// Judges the command `program`, looked up as execvp does in `path` (the value of PATH; the default is `/bin:/usr/bin`).
pub fn judge(program: &OsStr, path: Option<&OsStr>) -> Preflight {
    let found = match find(program, path) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    match judge_file(&found, path, DEPTH) {
        None => Preflight::Ok { path: found },
        Some((problem @ (Problem::Static | Problem::OwnMalloc), message)) => {
            Preflight::Warn { path: found, problem, message }
        }
        Some((problem, message)) => {
            let exit_code = match problem {
                Problem::NotFound | Problem::NoInterpreter => 127,
                Problem::NotExecutable => 126,
                _ => 2,
            };
            Preflight::Refused { problem, message, exit_code }
        }
    }
}

fn refused(problem: Problem, message: String, exit_code: i32) -> Preflight {
    Preflight::Refused { problem, message, exit_code }
}

fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Preflight> {
    let name = program.display();
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return match executable(&path) {
            Ok(_) => Ok(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let message = format!("cannot start {name}: no such file (check the path)");
                Err(refused(Problem::NotFound, message, 127))
            }
            Err(error) => Err(refused(Problem::NotExecutable, cannot_execute(&path, &error), 126)),
        };
    }
    let mut forbidden = None;
    // An empty name would be each folder itself.
    let search = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    for folder in std::env::split_paths(search).filter(|_| !program.is_empty()) {
        // An empty entry is the working directory; execvp needs a slash then.
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let candidate = folder.join(program);
        match executable(&candidate) {
            Ok(_) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                forbidden = forbidden.or(Some((candidate, error)));
            }
            _ => {}
        }
    }
    Err(match forbidden {
        Some((path, error)) => refused(Problem::NotExecutable, cannot_execute(&path, &error), 126),
        None => {
            let message = format!("cannot start {name}: command not found in PATH (install it or give its path)");
            refused(Problem::NotFound, message, 127)
        }
    })
}

fn cannot_execute(path: &Path, error: &io::Error) -> String {
    format!("cannot start {}: {error} (it must be a file with the right to execute: chmod +x)", path.display())
}

fn executable(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a regular file"));
    }
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?;
    Ok(metadata)
}

type Finding = (Problem, String);

/// The processor that avleak and its library are built for.
const MACHINE: elf::Machine = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
const PROCESSOR: &str = if cfg!(target_arch = "aarch64") { "AArch64" } else { "x86-64" };

fn judge_file(path: &Path, search: Option<&OsStr>, depth: usize) -> Option<Finding> {
    let name = path.display();
    let mut start = Vec::with_capacity(SHEBANG);
    // A program that may be executed but not read: the kernel will tell.
    let file = File::open(path).ok()?;
    (&file).take(SHEBANG as u64).read_to_end(&mut start).ok()?;
    if start.starts_with(b"#!") {
        return judge_script(path, &start, search, depth);
    }
    if let Some(finding) = privileges(path, &file.metadata().ok()?) {
        return Some(finding);
    }
    if !start.starts_with(&elf::ELFMAG) {
        // execvp hands it to the shell.
        return None;
    }
    match (start.get(4), start.get(18..20)) {
        (Some(1), _) => {
            let message = format!("{name} is a 32-bit program, avleak's library is 64-bit (use a 64-bit build of it)");
            return Some((Problem::ThirtyTwoBit, message));
        }
        (Some(2), Some(machine)) if machine != MACHINE.0.to_le_bytes() || start.get(5) != Some(&1) => {
            let message =
                format!("{name} is made for another processor than {PROCESSOR} (use an {PROCESSOR} build of it)");
            return Some((Problem::OtherMachine, message));
        }
        _ => {}
    }
    judge_elf(path, &file)
}

fn judge_elf(path: &Path, file: &File) -> Option<Finding> {
    let name = path.display();
    let cache = ReadCache::new(Blocks::new(file));
    let Ok(parsed) = ElfFile64::<Endianness, _>::parse(&cache) else {
        let message = format!("cannot start {name}: its ELF headers are damaged (build or install it again)");
        return Some((Problem::NotExecutable, message));
    };
    let (endian, data) = (parsed.endian(), parsed.data());
    let headers = parsed.elf_header().program_headers(endian, data).unwrap_or_default();
    let interpreter = headers.iter().find_map(|header| header.interpreter(endian, data).ok().flatten());
    let Some(interpreter) = interpreter else {
        if super::linked_in::holds_ffmpeg(path) {
            let message = format!(
                "{name} is statically linked and holds FFmpeg itself: nothing can be preloaded into it, so none of its frames can be \
                 seen (link it dynamically, at least to the C library)"
            );
            return Some((Problem::StaticFfmpeg, message));
        }
        let message = format!(
            "{name} is statically linked: nothing can be preloaded into it, only programs that it starts are watched \
             (link it dynamically to watch it itself)"
        );
        return Some((Problem::Static, message));
    };
    let loader = Path::new(OsStr::from_bytes(interpreter));
    if loader.file_name().is_some_and(|file| file.as_bytes().starts_with(b"ld-musl")) {
        let message = format!("{name} is linked to musl, avleak's library to glibc (use a build of it for glibc)");
        return Some((Problem::Musl, message));
    }
    if !loader.exists() {
        let message = format!("cannot start {name}: its loader {} is missing (install that libc)", loader.display());
        return Some((Problem::NoInterpreter, message));
    }
    let libraries: Vec<&[u8]> = match parsed.elf_dynamic_table() {
        Ok(table) => {
            let needed = table.iter().filter(|entry| entry.tag == elf::DT_NEEDED);
            needed.filter_map(|entry| table.string(entry).ok()).collect()
        }
        Err(_) => Vec::new(),
    };
    let sanitizer = |library: &[u8]| {
        ["libasan.", "liblsan.", "libtsan.", "libclang_rt.asan", "libclang_rt.lsan", "libclang_rt.tsan"]
            .iter()
            .any(|prefix| library.starts_with(prefix.as_bytes()))
    };
    let mut found =
        libraries.iter().find(|library| sanitizer(library)).map(|l| String::from_utf8_lossy(l).into_owned());
    let mut own_malloc = false;
    for symbol in parsed.dynamic_symbols() {
        match symbol.name_bytes() {
            Ok(b"__asan_init" | b"__lsan_init" | b"__tsan_init" | b"__msan_init" | b"__hwasan_init") => {
                found = found.or_else(|| symbol.name().ok().map(str::to_owned));
            }
            Ok(b"malloc") => own_malloc |= symbol.is_definition(),
            _ => {}
        }
    }
    if let Some(by) = found {
        let message = format!(
            "{name} is built with a sanitizer ({by}), which refuses preloaded libraries (build it without -fsanitize)"
        );
        return Some((Problem::Sanitizer, message));
    }
    own_malloc.then(|| {
        let message = format!(
            "{name} brings its own malloc, which FFmpeg's libraries use before a preloaded one: its allocations are not seen \
             (link that allocator as a library of its own)"
        );
        (Problem::OwnMalloc, message)
    })
}

/// A program of other rights: the loader runs it in secure mode, which ignores a preload with slashes in its path.
fn privileges(path: &Path, metadata: &Metadata) -> Option<Finding> {
    let mounted = rustix::fs::statvfs(path).ok()?;
    if mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID) {
        return None;
    }
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let set_user = metadata.mode() & 0o4000 != 0 && metadata.uid() != user;
    // Without the group's right to execute the bit means mandatory locking.
    let set_group = metadata.mode() & 0o2010 == 0o2010 && metadata.gid() != group;
    let capabilities = user != 0 && rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64][..]).is_ok();
    let how = match (set_user, set_group, capabilities) {
        (true, ..) => "is setuid",
        (_, true, _) => "is setgid",
        (.., true) => "has file capabilities",
        _ => return None,
    };
    let message = format!(
        "{} {how}: the loader ignores preloaded libraries for it (run avleak with those rights itself, or a copy of the \
         program without them)",
        path.display()
    );
    Some((Problem::Privileged, message))
}

/// Follows `#!interpreter argument`, and `env` to what it looks up.
fn judge_script(path: &Path, start: &[u8], search: Option<&OsStr>, depth: usize) -> Option<Finding> {
    let line = start[2..].split(|&b| b == b'\n').next().unwrap_or_default();
    let mut words = line.split(|b| b" \t".contains(b)).filter(|word| !word.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next()?));
    if let Err(error) = executable(interpreter) {
        let (name, interpreter) = (path.display(), interpreter.display());
        let message =
            format!("cannot start {name}: its interpreter {interpreter}: {error} (install it or mend the #! line)");
        return Some((Problem::NoInterpreter, message));
    }
    let depth = depth.checked_sub(1)?;
    if let finding @ Some(_) = judge_file(interpreter, search, depth) {
        return finding;
    }
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return None;
    }
    let command = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    match find(OsStr::from_bytes(command), search) {
        Ok(found) => judge_file(&found, search, depth),
        Err(_) => {
            let command = String::from_utf8_lossy(command);
            let message =
                format!("cannot start {}: `{command}` of its #! line is not in PATH (install it)", path.display());
            Some((Problem::NoInterpreter, message))
        }
    }
}

/// The value of LD_PRELOAD that loads `library` first and keeps what was preloaded already.
///
/// # Errors
/// A line with the remedy where the library's path cannot be written there: the loader splits at spaces and colons.
pub fn preload_value(library: &Path, existing: Option<&OsStr>) -> Result<OsString, String> {
    let bytes = library.as_os_str().as_bytes();
    if bytes.iter().any(|b| b" :\t\n".contains(b)) {
        let library = library.display();
        return Err(format!(
            "cannot preload {library}: its path holds a space or colon (install avleak elsewhere, or link it)"
        ));
    }
    let mut value = bytes.to_vec();
    if let Some(existing) = existing.filter(|value| !value.is_empty()) {
        value.push(b':');
        value.extend_from_slice(existing.as_bytes());
    }
    Ok(OsString::from_vec(value))
}

#[cfg(test)]
mod tests;
