//! Symbolizing real files: FFmpeg's stripped libraries, and programs compiled on the fly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::report::model::Frame;

/// Where the module is said to be loaded.
const BASE: u64 = 0x7f12_3456_7000;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// As the target would have loaded `file`, under the name `path`.
fn module(file: &Path, path: &Path) -> Module {
    let identity = elf::identify(&fs::File::open(file).expect("opens")).expect("is ELF");
    Module {
        index: 0,
        base: BASE,
        range: TargetRange::with_len(BASE, identity.span),
        path: path.to_owned(),
        build_id: identity.build_id,
        flags: 0,
    }
}

/// Return addresses of the calls inside function `name`.
fn calls_in(file: &Path, name: &str) -> Vec<u64> {
    let listing = run("objdump", &["-d", "--no-show-raw-insn", &format!("--disassemble={name}"), text(file)]);
    let lines: Vec<_> = listing.lines().filter(|l| l.starts_with(' ')).collect();
    let address = |line: &str| u64::from_str_radix(line.trim().split(':').next().expect("address"), 16).expect("hex");
    lines.windows(2).filter(|w| w[0].contains("call")).map(|w| address(w[1])).collect()
}

fn symbolizer(module: Module) -> Symbolizer {
    let mut symbolizer = Symbolizer::new(None);
    symbolizer.add_module(module);
    symbolizer
}

fn functions(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|f| f.function.as_deref().unwrap_or("?")).collect()
}

fn ends(frame: &Frame) -> (String, u32) {
    let file = frame.file.as_deref().and_then(|f| f.rsplit('/').next()).unwrap_or("?");
    (file.to_owned(), frame.line.unwrap_or(0))
}

const CPP: &str = "\
#include <cstdlib>
namespace server {
inline __attribute__((always_inline)) void *deep(int n) {
    return malloc(n);
}
struct Session {
    __attribute__((always_inline)) inline void *decode(int n) {
        void *p = deep(n + 1);
        return p;
    }
};
__attribute__((noinline)) void *serve(Session &s, int n) {
    void *p = s.decode(n);
    asm volatile(\"\" ::: \"memory\");
    return p;
}
}
int main(int c, char **) {
    server::Session s;
    return server::serve(s, c) == nullptr;
}
";

/// Compiles [`CPP`] into `folder`.
fn compile_cpp(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let (source, program) = (folder.join("server.cpp"), folder.join(name));
    fs::write(&source, CPP).expect("written");
    let mut args = vec!["-g", "-O1", "-Wl,--build-id", "-o", text(&program), text(&source)];
    args.extend(flags);
    run("g++", &args);
    program
}

/// The frames of `malloc`'s caller in the program that [`CPP`] makes: three functions at one address.
fn check_cpp(frames: &[Frame]) {
    assert_eq!(
        functions(frames),
        ["server::deep(int)", "server::Session::decode(int)", "server::serve(server::Session&, int)"]
    );
    let lines: Vec<_> = frames.iter().map(ends).collect();
    let at = |line| ("server.cpp".to_owned(), line);
    assert_eq!(lines, [at(4), at(8), at(13)]);
    assert_eq!(frames.iter().map(|f| f.inlined).collect::<Vec<_>>(), [true, true, false]);
}

const SERVE: &str = "_ZN6server5serveERNS_7SessionEi";

#[test]
fn inlined_cpp_functions_have_names_and_lines() {
    let folder = tempfile::tempdir().expect("folder");
    for flags in [&[][..], &["-gz=zlib"], &["-gdwarf-4"], &["-no-pie"]] {
        let program = compile_cpp(folder.path(), "server", flags);
        let call = calls_in(&program, SERVE)[0];
        let mut symbolizer = symbolizer(module(&program, &program));
        let frames = symbolizer.frames(Some(0), BASE + call);
        check_cpp(&frames);
        assert!(frames.iter().all(|f| f.offset == call - 1 && f.module.as_deref() == Some("server") && !f.libav));
        assert_eq!(symbolizer.symbol(Some(0), BASE + call).as_deref(), Some(SERVE));
        assert_eq!(symbolizer.is_complete(0), Some(true));
        assert_eq!(symbolizer.notes(), Vec::<String>::new());
    }
}

#[test]
fn inlined_rust_functions_have_names_and_lines() {
    let folder = tempfile::tempdir().expect("folder");
    let (source, program) = (folder.path().join("server.rs"), folder.path().join("server"));
    let code = "\
pub struct Session;
impl Session {
    #[inline(always)]
    fn decode(&self, n: i32) -> i32 {
        foreign(n + 1) + 1
    }
}
#[inline(never)]
fn foreign(n: i32) -> i32 { std::hint::black_box(n) }
#[inline(never)]
fn serve(s: &Session, n: i32) -> i32 {
    std::hint::black_box(s.decode(n)) + 1
}
fn main() { std::process::exit(serve(&Session, std::env::args().count() as i32) & 0) }
";
    fs::write(&source, code).expect("written");
    for mangling in ["legacy", "v0"] {
        // Stable rustc makes legacy names unless told otherwise.
        let mut args = vec!["-g", "-O", "-o", text(&program), text(&source)];
        if mangling == "v0" {
            args.push("-Csymbol-mangling-version=v0");
        }
        run("rustc", &args);
        let listing = run("nm", &["--defined-only", text(&program)]);
        let serve =
            listing.lines().filter_map(|l| l.split(' ').nth(2)).find(|n| n.contains("server") && n.contains("5serve"));
        let call = calls_in(&program, serve.expect("serve"))[0];
        let frames = symbolizer(module(&program, &program)).frames(Some(0), BASE + call);
        let names = functions(&frames);
        assert_eq!(names.last(), Some(&"server::serve"), "{mangling}: {frames:#?}");
        assert!(
            names[..names.len() - 1].iter().any(|n| n.ends_with("Session>::decode") || n.ends_with("Session::decode")),
            "{names:?}"
        );
        assert_eq!(ends(frames.last().expect("a frame")), ("server.rs".to_owned(), 12));
    }
}

#[test]
fn a_separate_debug_file_is_found_by_build_id_below_the_root() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().join("root");
    let full = compile_cpp(folder.path(), "full", &[]);
    let module = module(&full, Path::new("/opt/app/server"));
    let id = key::hex(&module.build_id);
    let debug = root.join(format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    fs::create_dir_all(debug.parent().expect("folder")).expect("made");
    fs::create_dir_all(root.join("opt/app")).expect("made");
    let call = BASE + calls_in(&full, SERVE)[0];
    run("objcopy", &["--strip-all", text(&full), text(&root.join("opt/app/server"))]);

    let frames_in = |root: &Path| {
        let mut symbolizer = Symbolizer::new(Some(root));
        symbolizer.add_module(module.clone());
        let complete = symbolizer.is_complete(0);
        (symbolizer.frames(Some(0), call), complete, symbolizer.notes())
    };
    let (bare, complete, _) = frames_in(&root);
    assert_eq!((functions(&bare), complete), (vec!["?"], Some(false)), "stripped: module and offset only");
    assert_eq!((bare[0].module.as_deref(), bare[0].offset), (Some("server"), call - 1 - BASE));

    run("objcopy", &["--only-keep-debug", "--compress-debug-sections", text(&full), text(&debug)]);
    let (frames, complete, notes) = frames_in(&root);
    check_cpp(&frames);
    assert_eq!((complete, notes), (Some(true), vec![]));

    // Somebody else's debug file under that name.
    let stranger = compile_cpp(folder.path(), "stranger", &["-DSTRANGER", "-O0"]);
    fs::copy(&stranger, &debug).expect("copied");
    assert_eq!(functions(&frames_in(&root).0), ["?"]);

    // A link that leads out of the root stays in it: what it names there does not exist.
    fs::remove_file(root.join("opt/app/server")).expect("removed");
    std::os::unix::fs::symlink(&full, root.join("opt/app/server")).expect("linked");
    let (frames, _, notes) = frames_in(&root);
    assert_eq!(functions(&frames), ["?"]);
    assert!(notes[0].contains("/opt/app/server was deleted after the process loaded it"), "{notes:?}");
}

#[test]
fn a_separate_debug_file_is_found_by_debuglink_and_its_crc() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().join("root");
    let app = root.join("opt/app");
    fs::create_dir_all(&app).expect("made");
    // Without build id: only the CRC can prove that the file fits.
    let full = compile_cpp(folder.path(), "full", &["-Wl,--build-id=none"]);
    let call = BASE + calls_in(&full, SERVE)[0];
    let debug = app.join("server.debug");
    run("objcopy", &["--only-keep-debug", text(&full), text(&debug)]);
    let link = format!("--add-gnu-debuglink={}", text(&debug));
    run("objcopy", &["--strip-all", &link, text(&full), text(&app.join("server"))]);
    let module = module(&full, Path::new("/opt/app/server"));
    assert!(module.build_id.is_empty());
    let frames = || {
        let mut symbolizer = Symbolizer::new(Some(&root));
        symbolizer.add_module(module.clone());
        symbolizer.frames(Some(0), call)
    };
    check_cpp(&frames());
    for place in ["opt/app/.debug/server.debug", "usr/lib/debug/opt/app/server.debug"] {
        let place = root.join(place);
        fs::create_dir_all(place.parent().expect("folder")).expect("made");
        fs::rename(&debug, &place).expect("moved");
        check_cpp(&frames());
        fs::rename(&place, &debug).expect("moved");
    }
    let mut bytes = fs::read(&debug).expect("read");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&debug, bytes).expect("written");
    assert_eq!(functions(&frames()), ["?"], "another CRC");
}

#[test]
fn a_replaced_file_gives_no_names_and_a_note() {
    let folder = tempfile::tempdir().expect("folder");
    let program = compile_cpp(folder.path(), "server", &[]);
    let call = BASE + calls_in(&program, SERVE)[0];
    let before = module(&program, &program);
    fs::remove_file(&program).expect("removed");
    compile_cpp(folder.path(), "server", &["-O0"]);

    let mut replaced = symbolizer(before.clone());
    assert_eq!(functions(&replaced.frames(Some(0), call)), ["?"]);
    assert_eq!(replaced.symbol(Some(0), call), None);
    let note = format!("{} was replaced after the process loaded it", program.display());
    assert!(replaced.notes()[0].starts_with(&note), "{:?}", replaced.notes());
    assert_eq!(replaced.notes().len(), 1, "said once");

    let deleted = Module { path: format!("{} (deleted)", program.display()).into(), ..before.clone() };
    let mut deleted = symbolizer(deleted);
    assert_eq!(deleted.frames(Some(0), call)[0].module.as_deref(), Some("server"));
    assert!(deleted.notes()[0].starts_with(&note), "{:?}", deleted.notes());

    fs::remove_file(&program).expect("removed");
    let mut gone = symbolizer(before);
    gone.frames(Some(0), call);
    assert!(gone.notes()[0].contains("was deleted after the process loaded it"), "{:?}", gone.notes());
}

#[test]
fn the_stripped_libavutil_names_what_it_exports_and_nothing_else() {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/libavutil.so.57");
    let listing = run("nm", &["-D", "-S", "--defined-only", text(library)]);
    let mut exported: Vec<(u64, u64, &str)> = listing
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(' ');
            let start = u64::from_str_radix(parts.next()?, 16).ok()?;
            let size = u64::from_str_radix(parts.next()?, 16).ok()?;
            (parts.next()? == "T").then_some((start, size, parts.next()?.split('@').next()?))
        })
        .collect();
    exported.sort_unstable();
    assert!(exported.len() > 400, "{}", exported.len());
    let flags = avleak_wire::layout::MODULE_LIBAVUTIL;
    let mut symbolizer = symbolizer(Module { flags, ..module(library, library) });
    let mut statics = 0;
    for pair in exported.windows(2) {
        let [(start, size, name), (next, ..)] = *pair else { unreachable!() };
        for svma in [start, start + size - 1] {
            assert_eq!(symbolizer.symbol(Some(0), BASE + svma + 1).as_deref(), Some(name));
        }
        if start + size < next {
            statics += 1;
            assert_eq!(symbolizer.symbol(Some(0), BASE + start + size + 1), None, "behind {name}");
        }
    }
    assert!(statics > 100, "{statics} gaps");
    assert_eq!(symbolizer.is_complete(0), Some(false));
    let alloc = exported.iter().find(|e| e.2 == "av_frame_alloc").expect("exported").0;
    let frames = symbolizer.frames(Some(0), BASE + alloc + 20);
    assert_eq!(functions(&frames), ["av_frame_alloc"]);
    assert!(frames[0].libav && frames[0].module.as_deref() == Some("libavutil.so.57"));
    assert_eq!(frames[0].offset, alloc + 19);
}

#[test]
fn an_address_outside_every_module_keeps_itself() {
    let mut symbolizer = Symbolizer::new(None);
    symbolizer.add_module(Module { index: 3, flags: avleak_wire::layout::MODULE_SELF, ..Module::default() });
    assert_eq!(symbolizer.frames(None, 0x1001)[0], Frame { offset: 0x1000, ..Frame::default() });
    assert_eq!(symbolizer.frames(Some(9), 0)[0].offset, u64::MAX);
    assert!(symbolizer.is_own_frame(Some(3)) && !symbolizer.is_own_frame(None) && !symbolizer.is_own_frame(Some(9)));
    let vdso = Module {
        index: 4,
        path: "linux-vdso.so.1".into(),
        flags: avleak_wire::layout::MODULE_VDSO,
        ..Module::default()
    };
    symbolizer.add_module(vdso);
    assert_eq!(symbolizer.frames(Some(4), 0x801)[0].module.as_deref(), Some("linux-vdso.so.1"));
    assert_eq!(symbolizer.notes(), Vec::<String>::new());
}

/// A small generator of numbers, the same in every run.
fn noise(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn garbage_costs_names_only() {
    let folder = tempfile::tempdir().expect("folder");
    let program = compile_cpp(folder.path(), "server", &[]);
    let good = fs::read(&program).expect("read");
    let call = calls_in(&program, SERVE)[0];
    let mut loaded = module(&program, &program);
    let bad = folder.path().join("bad");
    loaded.path = bad.clone();
    let mut named = 0;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for round in 0..300u64 {
        let mut bytes = good.clone();
        match round {
            0 => bytes.clear(),
            1..=40 => bytes.truncate((noise(&mut seed) % good.len() as u64) as usize),
            // The header, then the section headers, then anywhere.
            41..=100 => bytes[(noise(&mut seed) % 64) as usize] = noise(&mut seed) as u8,
            101..=200 => {
                let at = good.len() - 1 - (noise(&mut seed) % 2400) as usize;
                bytes[at] = noise(&mut seed) as u8;
            }
            _ => {
                for _ in 0..200 {
                    let at = (noise(&mut seed) % good.len() as u64) as usize;
                    bytes[at] = noise(&mut seed) as u8;
                }
            }
        }
        fs::write(&bad, bytes).expect("written");
        let mut symbolizer = symbolizer(loaded.clone());
        for address in [call, call + 1, 0, 1, u64::MAX.wrapping_sub(BASE)] {
            let frames = symbolizer.frames(Some(0), BASE.wrapping_add(address));
            named += usize::from(frames.iter().any(|f| f.function.is_some()));
        }
    }
    assert!(named > 0, "some damage is harmless, so names must come through");
    // What is no file at all.
    fs::remove_file(&bad).expect("removed");
    run("mkfifo", &[text(&bad)]);
    let mut fifo = symbolizer(loaded.clone());
    assert_eq!(functions(&fifo.frames(Some(0), BASE + call)), ["?"]);
    assert!(fifo.notes()[0].contains("not a regular file"), "{:?}", fifo.notes());
    let none = Symbolizer::new(Some(Path::new("/nonexistent/root")));
    assert!(none.notes()[0].contains("cannot open the target's root /nonexistent/root"), "{:?}", none.notes());
}

#[test]
fn a_symbolizer_can_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Symbolizer>();
}
