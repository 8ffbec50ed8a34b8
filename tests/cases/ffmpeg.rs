//! Debian's ffmpeg: clean, its output the same with and without avleak, and every frame counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use avleak_tests::avleak::Run;
use avleak_tests::truth::number;
use avleak_tests::{count, media, process, scratch};

/// All files of a folder, with what is in them.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the output folder").flatten();
    entries
        .map(|file| (file.file_name().display().to_string(), std::fs::read(file.path()).expect("an output")))
        .collect()
}

/// Runs ffmpeg over the sample `input` twice alone, once under gdb and avleak, once under avleak, each in a folder of its own.
fn clean_and_untouched(input: &str, arguments: &str) {
    let video = media(input);
    let video = video.to_str().expect("a path in UTF-8");
    let mut command = vec!["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error"];
    command.extend(arguments.split_whitespace().map(|word| if word == "INPUT" { video } else { word }));

    let alone = || {
        let folder = scratch();
        let mut ffmpeg = std::process::Command::new(command[0]);
        let done = process::run(ffmpeg.args(&command[1..]).current_dir(folder.path()), Duration::from_secs(120));
        let done = done.expect_success();
        (done.stdout, done.stderr, contents(folder.path()))
    };
    let (first, second) = (alone(), alone());
    assert!(first == second, "two plain runs of {command:?} differ: choose arguments that make it repeatable");

    let counted = scratch();
    let (frames, seen) = count::calls("av_frame_alloc", &command, counted.path());
    assert!(frames > 0, "gdb saw no frame");
    let seen = &seen.report()["observed"];
    assert_eq!(number(&seen["frames_allocated"]), frames, "av_frame_alloc's body was entered so often");
    assert_eq!(number(&seen["events_dropped"]), 0);

    let folder = scratch();
    let outcome = Run::new(&command).current_dir(folder.path()).finish();
    let report = outcome.report();
    assert_eq!(report["verdict"], "clean", "{report:#}");
    assert_eq!(outcome.finished.code(), 0);
    assert!(outcome.finished.stdout == first.0, "standard output differs under avleak");
    assert_eq!(outcome.finished.stderr, first.1, "standard error differs under avleak");
    assert!(contents(folder.path()) == first.2, "the files differ under avleak");
    let observed = &report["observed"];
    assert!(number(&observed["frames_allocated"]) > 0, "{observed}");
    assert_eq!(number(&observed["events_dropped"]), 0);
    assert_eq!(report["completeness"]["memory"], "ptrace");
    assert_eq!(number(&report["completeness"]["corrupt_rings"]), 0);
    let disagreements = &report["completeness"]["disagreements"];
    assert!(disagreements.as_array().is_some_and(Vec::is_empty), "{disagreements}");
}

#[test]
fn decodes_video_and_audio_with_one_thread() {
    clean_and_untouched("short.mp4", "-threads 1 -i INPUT -f framemd5 -");
}

#[test]
fn decodes_video_and_audio_with_four_threads() {
    clean_and_untouched("short.mp4", "-threads 4 -i INPUT -f framemd5 -");
}

#[test]
fn decodes_the_long_sample() {
    clean_and_untouched("sample.mp4", "-threads 1 -i INPUT -f framecrc -");
}

#[test]
fn transcodes() {
    clean_and_untouched(
        "short.mp4",
        "-threads 1 -i INPUT -fflags +bitexact -flags +bitexact -c:v libx264 -preset ultrafast -threads 1 \
         -c:a aac -map_metadata -1 out.mp4",
    );
}

#[test]
fn transcodes_with_four_threads() {
    clean_and_untouched(
        "short.mp4",
        "-threads 4 -i INPUT -fflags +bitexact -flags +bitexact -c:v mpeg4 -q:v 5 -threads 4 -an out.avi",
    );
}

#[test]
fn filters_with_split_overlay_and_scale() {
    clean_and_untouched(
        "short.mp4",
        "-threads 1 -i INPUT -filter_complex_threads 1 \
         -filter_complex [0:v]split[a][b];[b]scale=160:90[small];[a][small]overlay=8:8 -an -f framemd5 -",
    );
}

#[test]
fn filters_audio() {
    clean_and_untouched("short.mp4", "-i INPUT -vn -af aresample=22050,volume=0.5,atempo=1.5 -bitexact -f wav out.wav");
}

#[test]
fn segments_hls() {
    clean_and_untouched(
        "short.mp4",
        "-threads 1 -i INPUT -fflags +bitexact -flags +bitexact -c:v libx264 -preset ultrafast -threads 1 -g 12 \
         -c:a aac -f hls -hls_time 0.5 -hls_list_size 0 list.m3u8",
    );
}

#[test]
fn copies_packets() {
    // Remuxing makes packets; the few frames are those of avformat's probing.
    clean_and_untouched("short.mp4", "-i INPUT -c copy -fflags +bitexact -map_metadata -1 out.mkv");
}

/// The oracle of the stacks: each is unwound once more, by the `backtrace` crate, in the running process.
#[test]
fn its_stacks_are_those_of_the_backtrace_crate() {
    let video = media("sample.mp4");
    let video = video.to_str().expect("a path in UTF-8");
    let command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-stream_loop", "1", "-i", video, "-f", "null", "-"];
    let outcome = Run::new(command).env("AVLEAK_OPTIONS", "verify=1").finish();
    let notes = outcome.report()["completeness"]["notes"].as_array().expect("notes").clone();
    let note = notes.iter().filter_map(|note| note.as_str()).find(|note| note.starts_with("verify=1: "));
    let numbers: Vec<u64> = note
        .expect("the note of verify=1")
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let [1, stacks, differences] = numbers[..] else { panic!("{note:?}") };
    assert!(stacks >= 100_000, "only {stacks} stacks were compared");
    assert_eq!(differences, 0, "of {stacks} stacks");
    println!("{stacks} stacks equal the backtrace crate's");
}
