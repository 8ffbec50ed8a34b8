//! Programs that others wrote: mpv, VLC, GStreamer, ffmpegthumbnailer and a Rust program with ffmpeg-next do under avleak what they do
//! without, and are judged as Valgrind judges them.
//!
//! Valgrind takes minutes for that: it is asked, and the Rust program built, where `AVLEAK_AT_LARGE` is set (`make test-all`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use avleak_tests::avleak::{Outcome, Run};
use avleak_tests::oracle::{CLASSES, census_of_memcheck, memcheck_behind};
use avleak_tests::truth::{functions, groups, number};
use avleak_tests::{media, process, profile_folder, repository, scratch};

fn at_large() -> bool {
    std::env::var_os("AVLEAK_AT_LARGE").is_some()
}

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn with_video(line: &str) -> Vec<OsString> {
    let video = media("short.mp4");
    words(line).into_iter().map(|word| if word == "VIDEO" { video.clone().into() } else { word }).collect()
}

/// Runs a command alone and under avleak: the same output and status. Returns the latter.
fn the_same(command: &[OsString], made: Option<&Path>) -> Outcome {
    let read = || made.map(|path| std::fs::read(path).expect("the file that it makes"));
    let mut alone = Command::new(&command[0]);
    let alone = process::run(alone.args(&command[1..]), Duration::from_secs(120)).expect_success();
    let before = read();
    if let Some(path) = made {
        std::fs::remove_file(path).expect("the file that it makes");
    }
    let outcome = Run::new(command).finish();
    assert_eq!(outcome.finished.text(), alone.text(), "{command:?}");
    assert!(read() == before, "{command:?} makes another file under avleak");
    outcome
}

/// How many AVFrames Valgrind finds, by class, and how many avleak; only where Valgrind is asked.
fn agrees_with_valgrind(prefix: &[OsString], command: &[OsString], outcome: &Outcome) {
    if !at_large() {
        return;
    }
    let (run, records) = memcheck_behind(prefix, command);
    assert!(!records.is_empty(), "valgrind saw nothing of {command:?}: {}", run.stderr);
    let theirs = census_of_memcheck(&records, &[]);
    let totals = &outcome.report()["totals"];
    for (class, _) in CLASSES {
        let (ours, theirs) =
            (number(&totals[class]["frames"]), theirs.get(&("AVFrame".to_owned(), class)).copied().unwrap_or(0));
        assert_eq!(ours, theirs, "{command:?}: AVFrames {class}");
    }
    println!("{command:?}: as many frames in each class as valgrind sees");
}

/// `prefix` starts the command.
fn clean(prefix: &[OsString], command: &[OsString], made: Option<&Path>) {
    let whole = [prefix, command].concat();
    let outcome = the_same(&whole, made);
    assert_eq!(outcome.finished.code(), 0, "{command:?}: {:#}\n{}", outcome.document, outcome.finished.stderr);
    assert_eq!(outcome.report()["verdict"], "clean");
    assert!(number(&outcome.report()["observed"]["frames_allocated"]) >= 50, "{:#}", outcome.report()["observed"]);
    agrees_with_valgrind(prefix, command, &outcome);
}

#[test]
fn mpv() {
    clean(&[], &with_video("mpv --no-config --vo=null --ao=null --untimed --no-terminal VIDEO"), None);
}

#[test]
fn ffmpegthumbnailer() {
    let folder = scratch();
    let picture = folder.path().join("picture.png");
    let mut command = with_video("ffmpegthumbnailer -i VIDEO -o");
    command.push(picture.clone().into());
    clean(&[], &command, Some(&picture));
}

/// VLC refuses to run as root.
#[test]
fn vlc() {
    let home = scratch();
    let mut prefix: Vec<OsString> = Vec::new();
    if is_root() {
        std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).expect("a folder of nobody's");
        prefix.extend(words("setpriv --reuid=65534 --regid=65534 --clear-groups"));
    }
    let mut set = OsString::from("HOME=");
    set.push(home.path());
    prefix.extend([OsString::from("env"), set]);
    clean(&prefix, &with_video("vlc -I dummy --no-dbus --vout dummy --aout dummy --play-and-exit VIDEO"), None);
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

/// GObject calls through libffi: each stack is unwound by framehop and by the backtrace crate, and they agree.
#[test]
fn gstreamer() {
    let command = with_video(
        "gst-launch-1.0 -q filesrc location=LOCATION ! qtdemux name=d d.video_0 ! queue ! avdec_h264 ! fakesink sync=false",
    );
    let mut location = OsString::from("location=");
    location.push(media("short.mp4"));
    let command: Vec<OsString> =
        command.into_iter().map(|word| if word == "location=LOCATION" { location.clone() } else { word }).collect();
    clean(&[], &command, None);
    let outcome = Run::new(&command).env("AVLEAK_OPTIONS", "verify=1").finish();
    let completeness = &outcome.report()["completeness"];
    assert!(completeness["notes"].to_string().contains(" were unwound twice, 0 differed"), "{completeness:#}");
    assert_eq!(number(&completeness["incomplete_stacks"]), 0, "{completeness:#}");
}

/// Built with cargo against the system's FFmpeg; bindgen makes the bindings.
fn rust_decoder() -> PathBuf {
    let target = profile_folder().join("rust_decoder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet"]).current_dir(repository().join("tests/rust_decoder"));
    cargo.env("CARGO_TARGET_DIR", &target);
    process::run(&mut cargo, Duration::from_secs(1800)).expect_success();
    target.join("release/rust_decoder")
}

#[test]
fn ffmpeg_next() {
    if !at_large() {
        println!("built in `make test-all` only");
        return;
    }
    let (program, video) = (rust_decoder(), media("short.mp4"));
    clean(&[], &[program.clone().into(), video.clone().into()], None);
    let command: [OsString; 3] = [program.into(), video.into(), "3".into()];
    let outcome = the_same(&command, None);
    assert_eq!(outcome.finished.code(), 1);
    assert_eq!(number(&outcome.report()["leaks"]["frames"]), 3);
    let leak = groups(outcome.report(), "AVFrame").find(|group| group["leak"] == true).expect("the lost frames");
    let functions = functions(&leak["stack"]);
    assert!(functions.iter().any(|name| name.starts_with("rust_decoder::main")), "{functions:?}");
    agrees_with_valgrind(&[], &command, &outcome);
}
