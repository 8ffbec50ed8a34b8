//! Builds the C programs of `tests/programs`, once, and again only where a source changed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{process, profile_folder, repository};

/// Without builtins the compiler leaves out no pair of malloc and free.
const FLAGS: [&str; 7] = ["-D_GNU_SOURCE", "-g", "-O1", "-fno-builtin", "-foptimize-sibling-calls", "-Wall", "-Wextra"];
/// Each program keeps only those that it needs.
const LIBRARIES: [&str; 8] =
    ["-Wl,--as-needed", "-lavfilter", "-lavformat", "-lavcodec", "-lswscale", "-lavutil", "-lpthread", "-ldl"];
const LIMIT: Duration = Duration::from_secs(120);

/// The folder of the sources.
pub fn sources() -> PathBuf {
    repository().join("tests/programs")
}

/// Where the programs go: `target/fixtures`.
pub fn folder() -> PathBuf {
    profile_folder().parent().expect("target").join("fixtures")
}

/// The program made of `tests/programs/NAME.c`.
pub fn program(name: &str) -> PathBuf {
    let source = sources().join(format!("{name}.c"));
    build(&folder().join(name), |part| vec![cc(&[&source], part, &LIBRARIES)])
}

/// The program made of `tests/programs/NAME.c` with libavutil linked into it, and what that needs as shared libraries. `extra`: more
/// flags, such as `-s` for one without symbols.
pub fn linked_in(name: &str, output: &str, extra: &[&str]) -> PathBuf {
    let mut flags: Vec<String> = extra.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push("-l:libavutil.a".into());
    flags.extend(libraries_of("libavutil.so").iter().map(|library| format!("-l:{library}")));
    flags.push("-lpthread".into());
    special(name, output, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What a shared library that the compiler finds is linked to.
fn libraries_of(library: &str) -> Vec<String> {
    let path =
        process::run(Command::new("cc").arg(format!("-print-file-name={library}")), LIMIT).expect_success().text();
    let read = process::run(Command::new("readelf").args(["--dynamic", "--wide", path.trim()]), LIMIT).expect_success();
    let needed = |line: &str| Some(line.split_once("(NEEDED)")?.1.split_once('[')?.1.split_once(']')?.0.to_owned());
    let needed: Vec<String> = read.text().lines().filter_map(needed).collect();
    assert!(!needed.is_empty(), "{library} at {path} needs nothing");
    needed
}

/// The program made of `tests/programs/NAME.cc`, with the C half of the C++ fixtures.
pub fn cpp_program(name: &str) -> PathBuf {
    let (source, half) = (sources().join(format!("{name}.cc")), sources().join("cpp_truth.inc"));
    let object = folder().join(format!("{name}.half.o"));
    build(&folder().join(name), |part| {
        let mut c = Command::new("cc");
        c.args(FLAGS).args(["-c", "-x", "c"]).arg(&half).arg("-o").arg(&object);
        let mut cpp = Command::new("c++");
        cpp.args(FLAGS).args([&source, &object]).arg("-o").arg(part).args(LIBRARIES);
        vec![c, cpp]
    })
}

/// The program made of `tests/programs/NAME.c` with other flags and no libraries of FFmpeg.
pub fn special(name: &str, output: &str, flags: &[&str]) -> PathBuf {
    let source = sources().join(format!("{name}.c"));
    build(&folder().join(output), |part| vec![cc(&[&source], part, flags)])
}

/// A shared library of `tests/programs/SOURCE.c` at `output` under the folder of the programs.
pub fn library(source: &str, output: &str, arguments: &[&str]) -> PathBuf {
    let source = sources().join(format!("{source}.c"));
    let mut all = vec!["-shared", "-fPIC"];
    all.extend(arguments);
    build(&folder().join(output), |part| vec![cc(&[&source], part, &all)])
}

/// The plug-in that uses the system's libavutil.
pub fn plugin() -> PathBuf {
    library("lib_caller", "plugin/libplugin.so", &["-lavutil", "-ldl"])
}

/// Two small libavutils of one name, each with a caller of its own: (caller, libavutil) twice.
pub fn two_avutils() -> [(PathBuf, PathBuf); 2] {
    ["1", "2"].map(|variant| {
        let define = format!("-DVARIANT={variant}");
        let avutil = library("lib_mini_avutil", &format!("variant{variant}/libavutil.so.57"), &[&define]);
        // Without a SONAME the path itself is what the caller needs.
        let path = avutil.to_str().expect("a path in UTF-8").to_owned();
        (library("lib_caller", &format!("variant{variant}/libcaller.so"), &[&path, "-ldl"]), avutil)
    })
}

/// A folder of 200 libraries with thread-local storage, 000.so to 199.so.
pub fn tls_libraries() -> PathBuf {
    let first = library("lib_tls", "tls/000.so", &[]);
    let lock = lock_of(&first);
    let folder = first.parent().expect("the folder of the libraries").to_path_buf();
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    for number in 1..200 {
        let copy = folder.join(format!("{number:03}.so"));
        if age(&copy) < age(&first) {
            std::fs::copy(&first, &copy).unwrap_or_else(|error| panic!("cannot write {}: {error}", copy.display()));
        }
    }
    drop(lock);
    folder
}

fn cc(inputs: &[&PathBuf], output: &Path, rest: &[&str]) -> Command {
    let mut command = Command::new("cc");
    command.args(FLAGS).args(inputs).arg("-o").arg(output).args(rest);
    command
}

fn lock_of(output: &Path) -> File {
    let mut name = output.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::create(&name).unwrap_or_else(|error| panic!("cannot make {}: {error}", name.display()));
    lock.lock().expect("the lock of a fixture");
    lock
}

/// Runs the commands that make `output`, unless it was made by the same ones from the same sources.
fn build(output: &Path, commands: impl Fn(&Path) -> Vec<Command>) -> PathBuf {
    std::fs::create_dir_all(output.parent().expect("a folder")).expect("the folder of the fixtures");
    let _lock = lock_of(output);
    let stamp_file = output.with_file_name(format!("{}.stamp", output.file_name().expect("a name").display()));
    let part = output.with_file_name(format!(".part.{}", output.file_name().expect("a name").display()));
    let stamp = format!("{:?}\n{:016x}", commands(output), hash_of_sources());
    if output.is_file() && std::fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return output.to_path_buf();
    }
    for mut command in commands(&part) {
        let done = process::run(&mut command, LIMIT).expect_success();
        assert!(done.stderr.is_empty(), "{command:?} is not free of warnings:\n{}", done.stderr);
    }
    // In this order: a build that is cut short is done again.
    std::fs::rename(&part, output).expect("the finished fixture in its place");
    std::fs::write(&stamp_file, stamp).expect("the stamp of a fixture");
    output.to_path_buf()
}

/// Of everything in `tests/programs`, for they share headers: FNV-1a.
fn hash_of_sources() -> u64 {
    static HASH: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *HASH.get_or_init(|| {
        let listing = std::fs::read_dir(sources()).expect("tests/programs");
        let mut files: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let bytes = files.iter().flat_map(|file| std::fs::read(file).expect("a source of a fixture"));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    })
}
