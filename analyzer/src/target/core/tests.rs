//! Cores that are made here byte by byte, whole and broken.

use std::path::PathBuf;

use super::*;
use crate::target::memory::Memory;

const STACK: u64 = 0x7ffd_0000_0000;
const HEAP: u64 = 0x5555_0000_0000;
const LIB: u64 = 0x7f00_0000_0000;
const RANDOM: u64 = STACK + 0x1800;

struct Part {
    at: u64,
    flags: u32,
    bytes: Vec<u8>,
    /// Of memory; more than there are bytes.
    length: u64,
}

fn part(at: u64, flags: u32, bytes: Vec<u8>, length: u64) -> Part {
    Part { at, flags, bytes, length }
}

fn note(kind: u32, name: &[u8], desc: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [name.len() as u32 + 1, desc.len() as u32, kind] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(name);
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(desc);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A thread whose every general register is its number plus `first`; on x86-64 in no system call.
fn status(tid: i32, signal: i16, first: u64) -> Vec<u8> {
    let mut desc = vec![0; 112];
    desc[12..14].copy_from_slice(&signal.to_le_bytes());
    desc[32..36].copy_from_slice(&tid.to_le_bytes());
    let mut registers: Vec<u64> = (0..34).map(|number| first + number).collect();
    registers[15] = u64::MAX;
    desc.extend(words(&registers));
    note(1, b"CORE", &desc)
}

fn info(pid: i32, name: &[u8]) -> Vec<u8> {
    let mut desc = vec![0; 136];
    desc[24..28].copy_from_slice(&pid.to_le_bytes());
    desc[40..40 + name.len()].copy_from_slice(name);
    note(3, b"CORE", &desc)
}

fn files(entries: &[(u64, u64, u64, &str)]) -> Vec<u8> {
    let mut desc = words(&[entries.len() as u64, 4096]);
    entries.iter().for_each(|&(start, end, page, _)| desc.extend(words(&[start, end, page])));
    entries.iter().for_each(|(.., name)| desc.extend(name.bytes().chain([0])));
    note(0x4649_4c45, b"CORE", &desc)
}

fn core_of(parts: &[Part], notes: &[u8]) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let count = parts.len() as u64 + 1;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([4u16.to_le_bytes(), machine.to_le_bytes()].concat());
    file.extend(1u32.to_le_bytes());
    file.extend(words(&[0, 64, 0]));
    file.extend(0u32.to_le_bytes());
    [64u16, 56, count as u16, 0, 0, 0].iter().for_each(|half| file.extend(half.to_le_bytes()));
    let mut at = 64 + 56 * count;
    let header = |file: &mut Vec<u8>, kind: u32, flags: u32, numbers: [u64; 6]| {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        file.extend(words(&numbers));
    };
    header(&mut file, 4, 0, [at, 0, 0, notes.len() as u64, 0, 4]);
    at += notes.len() as u64;
    for part in parts {
        let bytes = part.bytes.len() as u64;
        header(&mut file, 1, part.flags, [at, part.at, 0, bytes, part.length, 1]);
        at += bytes;
    }
    file.extend(notes);
    parts.iter().for_each(|part| file.extend(&part.bytes));
    file
}

/// Two threads, a heap, a stack, a library of which only the variables are there, memory that nobody wrote to.
fn whole(library: &str) -> Vec<u8> {
    let parts = [
        part(HEAP, 6, words(&[7; 512]), 4096),
        part(HEAP + 0x1000, 6, words(&[8; 512]), 4096),
        part(HEAP + 0x10_0000, 6, Vec::new(), 0x2000),
        part(LIB, 5, Vec::new(), 0x2000),
        part(LIB + 0x2000, 6, words(&[9; 512]), 4096),
        part(STACK - 0x1000, 0, Vec::new(), 4096),
        part(STACK, 6, words(&[5; 1024]), 0x2000),
    ];
    let auxv = words(&[libc::AT_RANDOM, RANDOM, 0, 0]);
    let notes = [
        status(100, 6, 0x1000),
        info(100, b"server"),
        note(6, b"CORE", &auxv),
        files(&[(LIB, LIB + 0x2000, 0, library), (LIB + 0x2000, LIB + 0x3000, 2, library)]),
        status(101, 0, 0x2000),
    ];
    core_of(&parts, &notes.concat())
}

struct Stored {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn stored(bytes: &[u8]) -> Stored {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    std::fs::write(&path, bytes).expect("a file");
    Stored { _folder: folder, path }
}

fn opened(bytes: &[u8]) -> Result<Core, CoreError> {
    Core::open(&stored(bytes).path)
}

fn error(bytes: &[u8]) -> String {
    opened(bytes).err().map_or_else(|| "it was taken".into(), |error| error.to_string())
}

#[test]
fn a_core_says_who_it_was_and_what_its_threads_had() {
    let core = opened(&whole("/nowhere/lib.so")).expect("a core");
    assert_eq!((core.pid(), core.name(), core.signal()), (Some(100), Some("server"), Some(6)));
    assert_eq!((core.random(), core.threads().len()), (Some(RANDOM), 2));
    let register = |thread: &ThreadState, name: &str| thread.registers.iter().find(|r| r.0 == name).map(|r| r.1);
    let [first, second] = core.threads() else { panic!("two threads") };
    assert_eq!((first.tid, second.tid), (100, 101));
    if cfg!(target_arch = "x86_64") {
        assert_eq!((first.stack_pointer, first.fs_base), (0x1000 + 19, 0x1000 + 21));
        assert_eq!((register(second, "rbx"), register(second, "r15")), (Some(0x2005), Some(0x2000)));
    } else {
        assert_eq!((first.stack_pointer, register(second, "x29")), (0x1000 + 31, Some(0x2000 + 29)));
    }
}

#[test]
fn memory_comes_from_the_core_from_the_file_or_was_never_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("data.bin");
    std::fs::write(&library, words(&[3; 600])).expect("a file");
    let core = opened(&whole(library.to_str().expect("a path"))).expect("a core");
    let (memory, maps, _) = core.lay_out(Sources::default(), Hints { heap: Some(HEAP) });
    let word = |address: u64| memory.word(address);
    assert_eq!((word(HEAP), word(HEAP + 0x1ff8), word(HEAP + 0x2000)), (Some(7), Some(8), None));
    let mut across = [0; 16];
    assert_eq!(memory.read(HEAP + 0xff8, &mut across), 16, "two parts side by side");
    assert_eq!(across.as_slice(), words(&[7, 8]));
    assert_eq!(word(HEAP + 0x10_0000), Some(0), "never written");
    // The file has 4,800 bytes: the rest of its last page is zero.
    assert_eq!((word(LIB), word(LIB + 4792), word(LIB + 4800)), (Some(3), Some(3), Some(0)));
    assert_eq!((word(LIB + 0x2000), word(STACK - 0x1000), word(STACK + 0x2000)), (Some(9), None, None));
    for address in [0, 1, u64::MAX, u64::MAX - 7] {
        assert_eq!(memory.read(address, &mut [0; 16]), 0, "{address:#x}");
    }
    let named = |name: &str| -> Vec<u64> {
        maps.iter().filter(|mapping| mapping.name == name).map(|mapping| mapping.range.start).collect()
    };
    assert_eq!((named("[heap]"), named("[stack]")), (vec![HEAP, HEAP + 0x1000], vec![STACK]));
    assert!(maps.is_sorted_by_key(|mapping| mapping.range.start));
    assert_eq!(memory.left_out(&[]), 0x2000);
    assert!(memory.written().iter().all(|part| part.start != HEAP + 0x10_0000));
    assert!(memory.written().iter().any(|part| part.contains(HEAP)));
}

#[test]
fn a_library_that_is_another_one_by_now_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("lib.so");
    std::fs::copy(std::env::current_exe().expect("this program"), &library).expect("a copy");
    let name = library.to_str().expect("a path");
    // Its first page is not in this core, and nobody saw its build id.
    let (memory, ..) = opened(&whole(name)).expect("a core").lay_out(Sources::default(), Hints::default());
    assert_eq!(memory.word(LIB), None);
    let own = std::fs::File::open(&library).ok().and_then(|file| crate::symbols::build_id(&file));
    let Some(own) = own else { return };
    let bytes: Vec<u8> =
        (0..own.len() / 2).map(|at| u8::from_str_radix(&own[2 * at..][..2], 16).expect("hex")).collect();
    for (build_id, is_read) in [(bytes, true), (vec![1; 20], false)] {
        let sources = Sources { root: None, loaded: vec![(LIB, build_id)] };
        let (memory, ..) = opened(&whole(name)).expect("a core").lay_out(sources, Hints::default());
        assert_eq!(memory.word(LIB).is_some(), is_read);
    }
}

#[test]
fn what_is_no_core_is_refused_with_what_it_is() {
    let whole = whole("/nowhere");
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        error(&file)
    };
    assert!(error(b"").contains("no core file") && error(b"hello, world, this is text").contains("no core file"));
    assert!(error(b"\x28\xb5\x2f\xfdxxxxxxxxxxxxxxxxxxxx").contains("zstd"));
    assert!(with(16, &2u16.to_le_bytes()).contains("a program or a library"));
    assert!(with(18, &243u16.to_le_bytes()).contains("number 243"));
    assert!(with(4, &[1]).contains("no core file"), "32 bits");
    assert!(with(56, &0xfff0u16.to_le_bytes()).contains("cut off"));
    assert!(error(&core_of(&[], &info(3, b"x"))).contains("no threads"));
    assert!(
        Core::open(std::path::Path::new("/nonexistent/core")).is_err_and(|error| error.to_string().contains("ENOENT"))
    );
    assert!(Core::open(std::path::Path::new("/tmp")).is_err_and(|error| error.to_string().contains("EISDIR")));
    let unfiltered = [part(STACK, 6, Vec::new(), 0x2000)];
    let notes = [status(1, 6, 0), note(6, b"CORE", &words(&[libc::AT_RANDOM, RANDOM]))].concat();
    assert!(error(&core_of(&unfiltered, &notes)).contains("coredump_filter"));
}

#[test]
fn one_that_is_cut_off_anywhere_is_refused() {
    let whole = whole("/nowhere");
    for length in (0..whole.len()).step_by(7) {
        let message = error(&whole[..length]);
        assert!(message.contains("cut off") || message.contains("no core file"), "{length}: {message}");
    }
    assert!(opened(&whole).is_ok());
}

#[test]
fn whatever_stands_in_it_nothing_breaks() {
    let whole = whole("/nowhere");
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut taken = 0;
    for _ in 0..600 {
        let mut file = whole.clone();
        for _ in 0..=next(6) {
            // Headers and notes, mostly.
            let at = next(1800_u64.min(file.len() as u64 - 8)) as usize;
            let value = [0, u64::MAX, 1 << 63, next(1 << 16), next(u64::MAX)][next(5) as usize];
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let Ok(core) = opened(&file) else { continue };
        taken += 1;
        let (memory, maps, threads) = core.lay_out(Sources::default(), Hints { heap: Some(next(u64::MAX)) });
        assert!(maps.len() < 100 && threads.len() < 100);
        let written = memory.written();
        assert!(written.iter().all(|part| part.start <= part.end));
        for address in written.iter().map(|part| part.start).chain([0, HEAP, STACK, u64::MAX - 3]) {
            memory.read(address, &mut [0; 64]);
        }
        memory.left_out(&[]);
    }
    assert!(taken > 50, "most were refused: {taken}");
}
