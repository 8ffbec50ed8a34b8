//! Stacks as a person reads them: the program's own frames stand out, FFmpeg's and the system's are folded.

use super::flow::{Line, Page, shorten, width};
use super::style::Role;
use crate::report::model::Frame;

/// Frames of the program itself that are shown at most; of a deeper stack the middle is left out.
const OWN_FRAMES: usize = 12;
/// Of these, how many at the outer end.
const OUTER_FRAMES: usize = 3;
const ARROW: &str = " ← ";

/// Whose code a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// The program under test, or a library that is neither FFmpeg's nor the system's.
    Own,
    /// FFmpeg's.
    Libav,
    /// The C library, the start-up code, a language's runtime.
    Runtime,
    /// The interposer.
    Avleak,
}

/// Told by the names of module and function.
pub(super) fn whose(frame: &Frame) -> Whose {
    let module = frame.module.as_deref().unwrap_or("");
    let function = frame.function.as_deref().unwrap_or("");
    let module_is = |names: &[&str]| names.iter().any(|name| module.starts_with(name));
    let function_is = |names: &[&str]| names.iter().any(|name| function.starts_with(name));
    if frame.libav {
        Whose::Libav
    } else if frame.python {
        if is_pythons_own(frame.file.as_deref().unwrap_or("")) { Whose::Runtime } else { Whose::Own }
    } else if module_is(&["libavleak.so"]) {
        Whose::Avleak
    } else if module_is(&[
        "libc.so",
        "libc-",
        "libpthread",
        "ld-",
        "libstdc++",
        "libc++",
        "libgcc_s",
        "libdl",
        "linux-vdso",
    ]) || is_interpreter(module)
        || matches!(function, "_start" | "__libc_start_main" | "crosscall1" | "crosscall2")
        || function_is(&["std::", "core::", "alloc::", "<std::", "<core::", "<alloc::", "__gnu_cxx::", "__rust_"])
        || is_gos_way_to_c(function, frame.file.as_deref().unwrap_or(""))
    {
        Whose::Runtime
    } else {
        Whose::Own
    }
}

/// Go's runtime, what cgo wrote, and purego, which does without cgo by means of reflection.
fn is_gos_way_to_c(function: &str, file: &str) -> bool {
    ["runtime.", "runtime/cgo", "_cgo_", "_cgoexp_", "reflect."].iter().any(|prefix| function.starts_with(prefix))
        || function.contains("._Cfunc_")
        || function.contains("/ebitengine/purego")
        || file.contains("/ebitengine/purego") && file.ends_with(".s")
}

/// `libpython3.12.so.1.0`, `python3.11`, `python`: the interpreter's C code.
fn is_interpreter(module: &str) -> bool {
    let digits = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b't');
    module.starts_with("libpython3") || module.strip_prefix("python").is_some_and(digits)
}

/// A file of Python's standard library, or code that is built into the interpreter.
fn is_pythons_own(file: &str) -> bool {
    let library = file.rfind("/lib/python3.").map(|at| &file[at + "/lib/python3.".len()..]);
    let packages = |rest: &str| rest.contains("/site-packages/") || rest.contains("/dist-packages/");
    file.starts_with("<frozen ") || library.is_some_and(|rest| !packages(rest))
}

/// The innermost frame of the program's own: whom the line in question belongs to. Of a program in Python that is its own innermost
/// line, not the C code of the package that it called.
pub(crate) fn own_frame(stack: &[Frame]) -> Option<&Frame> {
    let own = |frame: &&Frame| whose(frame) == Whose::Own;
    stack.iter().filter(own).find(|frame| frame.python).or_else(|| stack.iter().find(own))
}

/// All frames of the program's own, innermost first.
pub(super) fn own_frames(stack: &[Frame]) -> impl Iterator<Item = &Frame> {
    stack.iter().filter(|frame| whose(frame) == Whose::Own)
}

/// The function's name, or where it lies for want of one.
pub(crate) fn name(frame: &Frame) -> String {
    match &frame.function {
        Some(function) => function.clone(),
        None => module_offset(frame),
    }
}

/// `server.c:230`; `server+0x12a4` where no line is known; `None` where [`name`] says that already.
pub(super) fn place(frame: &Frame) -> Option<String> {
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => Some(format!("{file}:{line}")),
        (Some(file), None) => Some(file.clone()),
        (None, _) => frame.function.is_some().then(|| module_offset(frame)),
    }
}

fn module_offset(frame: &Frame) -> String {
    match &frame.module {
        Some(module) => format!("{module}+{:#x}", frame.offset),
        None => format!("{:#x}", frame.offset),
    }
}

/// `libavutil` of `libavutil.so.57.28.100`.
fn library(module: &str) -> &str {
    module.split_once(".so").map_or(module, |(stem, _)| stem)
}

/// One place in a stack said in a line: function and position of the own frame, else FFmpeg's outermost function.
pub(super) fn site(stack: &[Frame], limit: Option<usize>) -> Line {
    let cut = |text: &str, part: usize| limit.map_or_else(|| text.to_string(), |limit| shorten(text, limit / part));
    if let Some(frame) = own_frame(stack) {
        let mut line = Line::of(Role::Own, cut(&name(frame), 3));
        if let Some(place) = place(frame) {
            line.push(Role::Plain, " at ");
            line.push(Role::Place, cut(&place, 2));
        }
        return line;
    }
    let outermost = stack.iter().rev().find(|frame| whose(frame) == Whose::Libav).or(stack.last());
    match outermost {
        Some(frame) => {
            let line = Line::of(Role::Own, cut(&name(frame), 3));
            match &frame.module {
                Some(module) if frame.function.is_some() => line.and(Role::Plain, format!(" ({})", library(module))),
                _ => line,
            }
        }
        None => Line::of(Role::Dim, "a stack that was not recorded"),
    }
}

/// The functions from innermost to outermost in one line, `a ← b ← main`, the start-up code left out; what does not fit is
/// cut at the outer end, for the inner one tells why something was freed there.
pub(super) fn chain(stack: &[Frame], limit: usize) -> String {
    let names: Vec<String> = trimmed(stack, false).iter().map(name).collect();
    (1..=names.len())
        .rev()
        .map(|kept| match names.len() - kept {
            0 => names.join(ARROW),
            left_out => format!("{}{ARROW}({left_out} more)", names[..kept].join(ARROW)),
        })
        .find(|text| width(text) <= limit)
        .unwrap_or_else(|| fold(&names, limit))
}

/// Joins names by arrows; leaves out as many in the middle as it takes to fit.
fn fold(names: &[String], limit: usize) -> String {
    let whole = names.join(ARROW);
    if width(&whole) <= limit {
        return whole;
    }
    for left_out in 1..names.len().saturating_sub(1) {
        let inner = (names.len() - left_out).div_ceil(2);
        let outer = names.len() - left_out - inner;
        let text =
            [&names[..inner].join(ARROW), &format!("({left_out} more)"), &names[names.len() - outer..].join(ARROW)]
                .map(String::as_str)
                .join(ARROW);
        if width(&text) <= limit {
            return text;
        }
    }
    match names {
        [first, .., last] if names.len() > 2 => {
            let text = format!("{first}{ARROW}({} more){ARROW}{last}", names.len() - 2);
            shorten(&text, limit)
        }
        _ => shorten(&whole, limit),
    }
}

/// Without the interposer's frames and, unless `all`, without the start-up code at the outer end.
fn trimmed(stack: &[Frame], all: bool) -> Vec<Frame> {
    let mut frames: Vec<Frame> = stack.iter().filter(|f| whose(f) != Whose::Avleak).cloned().collect();
    if !all && frames.iter().any(|f| whose(f) == Whose::Own) {
        while frames.last().is_some_and(|f| whose(f) == Whose::Runtime) {
            frames.pop();
        }
    }
    frames
}

enum Row {
    Frame { own: bool, blamed: bool, name: String, place: String, inlined: bool },
    Fold { names: Vec<String>, libraries: String },
    LeftOut(usize),
}

/// Writes a stack, one own frame a line; the innermost of them is marked. `all`: every frame has its own line.
pub(super) fn write(page: &mut Page, indent: usize, stack: &[Frame], all: bool) {
    let rows = rows(stack, all);
    let marked = rows.iter().position(|row| matches!(row, Row::Frame { blamed: true, .. }));
    let (names, places) = columns(page, indent, &rows);
    for (i, row) in rows.iter().enumerate() {
        let line = match row {
            Row::Frame { own, name, place, inlined, .. } => {
                let mark = if marked == Some(i) { Line::of(Role::Bad, "▸ ") } else { Line::of(Role::Plain, "  ") };
                let name = shorten(name, names);
                let gap = " ".repeat(names.saturating_sub(width(&name)) + 2);
                let looks = if *own { (Role::Own, Role::Place) } else { (Role::Dim, Role::Dim) };
                let mut line = mark.and(looks.0, name);
                if !place.is_empty() {
                    line = line.and(Role::Plain, gap).and(looks.1, shorten(place, places));
                }
                if *inlined { line.and(Role::Dim, " (inlined)") } else { line }
            }
            Row::Fold { names, libraries } => {
                let limit = page.wrap().saturating_sub(indent + 2 + width(libraries)).max(16);
                Line::of(Role::Dim, format!("  {}{libraries}", fold(names, limit)))
            }
            Row::LeftOut(number) => Line::of(Role::Dim, format!("  … {number} more frames (--all shows them)")),
        };
        page.line(indent, &line);
    }
    if rows.is_empty() {
        page.line(indent, &Line::of(Role::Dim, "  the stack was not recorded"));
    }
}

/// Widths of the name and place columns: what they need, cut to what there is.
fn columns(page: &Page, indent: usize, rows: &[Row]) -> (usize, usize) {
    let widest = |part: fn(&Row) -> usize| rows.iter().map(part).max().unwrap_or(0);
    let names = widest(|row| if let Row::Frame { name, .. } = row { width(name) } else { 0 });
    let places = widest(|row| match row {
        Row::Frame { place, inlined, .. } => width(place) + if *inlined { width(" (inlined)") } else { 0 },
        _ => 0,
    });
    let Some(limit) = page.limit() else {
        return (names.min(60).max(names.min(1)), usize::MAX);
    };
    let room = limit.saturating_sub(indent + 4);
    if names + places <= room {
        return (names, places);
    }
    let places = places.min((room / 2).max(room.saturating_sub(names)));
    (names.min(room.saturating_sub(places)), places)
}

fn rows(stack: &[Frame], all: bool) -> Vec<Row> {
    let frames = trimmed(stack, all);
    // A stack without a frame of the program's own, as in a codec's thread: FFmpeg's frames are all that there is to read.
    let own = own_frame(&frames);
    let nobodys = own.is_none();
    let mut rows = Vec::new();
    let mut rest = frames.as_slice();
    while let Some(frame) = rest.first() {
        let kind = whose(frame);
        if all || kind == Whose::Own || (nobodys && kind == Whose::Libav) {
            rows.push(Row::Frame {
                own: kind == Whose::Own,
                blamed: own.is_some_and(|own| std::ptr::eq(own, frame)),
                name: name(frame),
                place: place(frame).unwrap_or_default(),
                inlined: frame.inlined,
            });
            rest = &rest[1..];
        } else {
            let run = rest.iter().take_while(|f| whose(f) == kind).count();
            let (folded, after) = rest.split_at(run);
            let mut libraries: Vec<&str> = Vec::new();
            for library in folded.iter().filter_map(|f| f.module.as_deref()).map(library) {
                if !libraries.contains(&library) {
                    libraries.push(library);
                }
            }
            let libraries = if libraries.is_empty() { String::new() } else { format!(" ({})", libraries.join(", ")) };
            rows.push(Row::Fold { names: folded.iter().map(name).collect(), libraries });
            rest = after;
        }
    }
    if !all && rows.len() > OWN_FRAMES + 1 {
        let left_out = rows.len() - OWN_FRAMES;
        let from = OWN_FRAMES - OUTER_FRAMES;
        rows.splice(from..from + left_out, [Row::LeftOut(left_out)]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::style::Style;
    use super::*;
    use crate::report::sample::{ffmpeg, own, system};

    fn text(stack: &[Frame], width: Option<usize>, all: bool) -> String {
        let mut page = Page::new(Style::PLAIN, width);
        write(&mut page, 2, stack, all);
        page.finish()
    }

    #[test]
    fn own_frames_stand_alone_and_the_rest_is_folded() {
        let stack = [
            ffmpeg("av_frame_alloc", "libavutil.so.57"),
            own("decode_one", "src/decode.c", 88),
            own("main", "src/server.c", 402),
            system("__libc_start_call_main"),
            system("_start"),
        ];
        assert_eq!(
            text(&stack, None, false),
            "    av_frame_alloc (libavutil)\n  ▸ decode_one  src/decode.c:88\n    main        src/server.c:402\n"
        );
        assert_eq!(text(&stack, None, true).lines().count(), 5);
        assert_eq!(chain(&stack, 80), "av_frame_alloc ← decode_one ← main");
    }

    #[test]
    fn folds_fit_and_say_how_many_are_left_out() {
        let names: Vec<String> = (0..20).map(|i| format!("function_{i}")).collect();
        for limit in 20..300 {
            assert!(width(&fold(&names, limit)) <= limit, "{limit}");
        }
        assert_eq!(fold(&names, 50), "function_0 ← function_1 ← (17 more) ← function_19");
        assert_eq!(fold(&[], 10), "");
    }

    #[test]
    fn chains_lose_their_outer_end() {
        let stack: Vec<Frame> = ["av_frame_free", "evict", "pump", "main"].map(|f| own(f, "a.c", 1)).to_vec();
        assert_eq!(chain(&stack, 40), "av_frame_free ← evict ← pump ← main");
        assert_eq!(chain(&stack, 33), "av_frame_free ← evict ← (2 more)");
        assert_eq!(chain(&stack, 24), "av_frame_free ← (3 more)");
        assert!(width(&chain(&stack, 10)) <= 10);
    }

    #[test]
    fn a_codec_thread_shows_what_there_is() {
        let stack = [
            ffmpeg("av_frame_alloc", "libavutil.so.57"),
            ffmpeg("frame_worker_thread", "libavcodec.so.59"),
            system("start_thread"),
        ];
        let text = text(&stack, None, false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains('▸'), "{text}");
    }

    #[test]
    fn deep_stacks_keep_both_ends() {
        let stack: Vec<Frame> = (0..40).map(|i| own(&format!("f{i}"), "deep.c", i + 1)).collect();
        let text = text(&stack, None, false);
        assert!(text.contains("… 28 more frames"), "{text}");
        assert!(
            text.contains("f0 ") && text.contains("f8 ") && text.contains("f37 ") && text.contains("f39 "),
            "{text}"
        );
        assert!(!text.contains("f9 ") && !text.contains("f36 "), "{text}");
    }

    #[test]
    fn monsters_fit_the_terminal() {
        let path = format!("/very/{}/deep.cpp", "long/".repeat(60));
        let stack = [own(&format!("Session<{}>::take", "int, ".repeat(80)), &path, 7), own("main", "main.cpp", 3)];
        for columns in [40, 60, 80, 120, 200] {
            assert!(text(&stack, Some(columns), false).lines().all(|l| width(l) <= columns), "{columns}");
        }
        assert!(text(&stack, None, false).contains(&path), "a file keeps the whole path");
    }

    #[test]
    fn code_without_symbols_is_named_by_its_offset() {
        let bare = Frame { module: Some("server".into()), offset: 0x12a4, ..Frame::default() };
        assert_eq!(text(std::slice::from_ref(&bare), None, false), "  ▸ server+0x12a4\n");
        let nothing = Frame { offset: 0x7f00_0000_1000, ..Frame::default() };
        assert_eq!(name(&nothing), "0x7f0000001000");
        assert_eq!(text(&[], None, false), "    the stack was not recorded\n");
    }

    #[test]
    fn a_language_runtime_is_not_to_blame() {
        let go = ["runtime.cgocall", "main._Cfunc_av_frame_alloc", "main.decode", "runtime.main"];
        let stack: Vec<Frame> = go.iter().map(|name| own(name, "main.go", 9)).collect();
        assert_eq!(own_frame(&stack).map(name).as_deref(), Some("main.decode"));
        let at = "/src/github.com/ebitengine/purego@v0.9.0/sys_amd64.s";
        let through =
            ["syscallX", "runtime.cgocall", "github.com/ebitengine/purego.RegisterFunc.func4", "reflect.callReflect"];
        let mut stack: Vec<Frame> = through.iter().map(|name| own(name, at, 9)).collect();
        stack.push(own("main.decode", "main.go", 9));
        assert_eq!(own_frame(&stack).map(name).as_deref(), Some("main.decode"));
        let rust = [own("core::ops::function::FnOnce::call_once", "f.rs", 1), own("app::take", "app.rs", 2)];
        assert_eq!(own_frame(&rust).map(name).as_deref(), Some("app::take"));
    }
}
