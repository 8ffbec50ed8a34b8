//! FFmpeg linked into the program itself: with symbols all is seen, without them that is said, and a static program is refused.

use std::process::Command;

use avleak_tests::avleak::{LIMIT, Run};
use avleak_tests::truth::{functions, groups, number};
use avleak_tests::{avleak_binary, process, programs, truth};

#[test]
fn with_symbols_all_is_seen() {
    for name in ["leak_batch", "leak_buffer_ref", "pool_pinned"] {
        let program = programs::linked_in(name, &format!("{name}.linked"), &[]).into_os_string();
        truth::check(&Run::new([program.clone(), "clean".into()]).finish());
        truth::check(&Run::new([program, "leak".into()]).finish());
    }
}

#[test]
fn whose_a_function_is_is_told_by_symbols() {
    let program = programs::linked_in("leak_batch", "leak_batch.linked", &[]).into_os_string();
    let outcome = Run::new([program, "leak".into()]).finish();
    let leak = groups(outcome.report(), "AVFrame").find(|group| group["leak"] == true).expect("the leaked frames");
    assert_eq!((number(&leak["count"]), &leak["format"]), (9, &"yuv420p".into()), "{leak:#}");
    let stack = leak["stack"].as_array().expect("a stack");
    let whose: Vec<(&str, bool)> =
        stack.iter().map(|frame| (frame["function"].as_str().unwrap_or("?"), frame["libav"] == true)).collect();
    for (name, libav) in [("av_frame_alloc", true), ("frame_shell", false), ("one_batch", false), ("main", false)] {
        assert!(whose.contains(&(name, libav)), "{name} is not {libav} in {whose:?}");
    }
    // The pixels come by a static function of libavutil, get_video_buffer.
    let made: Vec<_> = groups(outcome.report(), "AVBufferRef").map(|group| functions(&group["stack"])).collect();
    assert!(!made.is_empty(), "{:#}", outcome.document);
}

#[test]
fn without_symbols_it_says_so() {
    let program = programs::linked_in("leak_batch", "leak_batch.stripped", &["-s"]);
    let outcome = Run::new([program.as_os_str(), "leak".as_ref()]).finish();
    assert_eq!(outcome.finished.code(), 3, "{}", outcome.finished.stderr);
    assert_eq!(truth::truths(&outcome.finished.text()).len(), 1, "the program was disturbed");
    let reason = outcome.document["reason"].as_str().unwrap_or("");
    assert!(reason.contains("leak_batch.stripped") && reason.contains("symbol"), "{reason}");
    assert_eq!(outcome.document["verdict"], "inconclusive");
}

#[test]
fn a_static_program_with_ffmpeg_is_refused() {
    // FFmpeg's own text stands for FFmpeg: with its libraries Debian's cannot be linked statically.
    let text = "-DFFMPEG_TEXT=\"src/libavutil/mem.c\"";
    let program = programs::special("no_ffmpeg", "with_ffmpeg_static", &["-static", text]);
    let mut command = Command::new(avleak_binary());
    let done = process::run(command.args(["run", "--"]).arg(&program), LIMIT);
    assert_eq!((done.code(), done.text().as_str()), (2, ""), "it was started: {}", done.stderr);
    assert!(
        done.stderr.starts_with("avleak: ") && done.stderr.contains("statically linked and holds FFmpeg"),
        "{}",
        done.stderr
    );
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
}
