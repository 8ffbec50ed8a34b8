//! Children that must not be traced or preloaded, tracers of the user's own, and `--only`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use avleak_tests::avleak::Run;
use avleak_tests::truth::number;
use avleak_tests::{programs, scratch, truth};

use super::hosts::as_alone;

/// `host_children` with these command lines: as alone, to the last line of each child, and the report on the parent is right.
fn with_children(lines: &[String]) {
    for twin in ["leak", "clean"] {
        let mut command: Vec<OsString> = vec![programs::program("host_children").into(), twin.into()];
        command.extend(lines.iter().map(OsString::from));
        let outcome = as_alone(&command, |run| run);
        truth::check(&outcome);
        assert_eq!(outcome.finished.stderr, "", "{lines:?}");
    }
}

fn child(name: &str, flags: &[&str]) -> String {
    programs::special("no_ffmpeg", name, flags).display().to_string()
}

#[test]
fn built_with_sanitizers() {
    let asan = child("no_ffmpeg_asan", &["-fsanitize=address"]);
    let inside = child("no_ffmpeg_asan_inside", &["-fsanitize=address", "-static-libasan"]);
    let lsan = child("no_ffmpeg_lsan", &["-fsanitize=leak"]);
    with_children(&[format!("{asan} 2>&1"), format!("{inside} 2>&1"), format!("{lsan} 2>&1")]);
}

#[test]
fn built_with_sanitizers_that_use_ffmpeg() {
    // LeakSanitizer stops its process by ptrace at the end: that must still be free. It finds the leak by itself.
    let flags = ["-fsanitize=leak", "-lavcodec", "-lavutil", "-lpthread"];
    let lsan = programs::special("leak_batch", "leak_batch_lsan", &flags);
    with_children(&[format!("{} leak >/dev/null 2>&1", lsan.display())]);
}

#[test]
fn for_musl_and_of_32_bits() {
    let musl = PathBuf::from("/usr/bin/musl-gcc");
    assert!(musl.exists(), "musl-tools is missing: `make setup-tests` installs it");
    let musl = child("no_ffmpeg_musl", &["-specs", "/usr/lib/x86_64-linux-musl/musl-gcc.specs"]);
    let narrow = child("no_ffmpeg_32", &["-m32"]);
    let scripts = scratch();
    let script = scripts.path().join("script");
    std::fs::write(&script, format!("#!{musl}\n")).expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    with_children(&[format!("{musl} 2>&1"), format!("{narrow} 2>&1"), format!("{} 2>&1", script.display())]);
}

#[test]
fn started_from_python() {
    // Neither fork nor exec of this one goes through a shell.
    let musl = child("no_ffmpeg_musl", &["-specs", "/usr/lib/x86_64-linux-musl/musl-gcc.specs"]);
    let line = format!("import os, subprocess; subprocess.run(['{musl}']); os.spawnv(os.P_WAIT, '{musl}', ['{musl}'])");
    with_children(&[format!("/usr/bin/python3 -c \"{line}\" 2>&1")]);
}

#[test]
fn of_other_rights() {
    if !rustix::process::geteuid().is_root() {
        // Who is not root has sudo for this.
        return with_children(&["sudo -n id -u 2>&1".to_owned()]);
    }
    let folder = scratch();
    let program = folder.path().join("setuid");
    std::fs::copy("/usr/bin/id", &program).expect("a copy of id");
    std::os::unix::fs::chown(&program, Some(65534), Some(65534)).expect("another owner");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("setuid");
    let program = program.display();
    with_children(&[format!("{program} -u 2>&1"), "sudo -n -u '#65534' id -u 2>&1".to_owned()]);
}

#[test]
fn that_trace_others() {
    let quiet = child("no_ffmpeg", &[]);
    with_children(&[
        format!("strace -f -o /dev/null {quiet} 2>&1"),
        format!("gdb -nx -batch -q -ex run --args {quiet} 2>/dev/null | grep -o 'no FFmpeg here'"),
    ]);
}

/// Seen but not judged: the user's tracer was first.
fn honest(command: &[&Path], frames: u64) {
    let outcome = as_alone(&command.iter().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>(), |run| run);
    let report = outcome.report();
    assert_ne!(report["verdict"], "clean", "{report:#}");
    assert_eq!(number(&report["observed"]["frames_allocated"]), frames, "{report:#}");
    assert!(
        report["completeness"]["memory_reason"].as_str().is_some_and(|why| why.contains("traces it already")),
        "{report:#}"
    );
}

#[test]
fn that_use_ffmpeg_under_strace() {
    let program = programs::program("host_limits");
    let command = ["strace", "-f", "-o", "/dev/null"].map(Path::new);
    let arguments = ["clean", "NPROC", "before", "0"].map(Path::new);
    honest(&[&command[..], &[&program], &arguments[..]].concat(), 40);
}

#[test]
fn only_the_programs_that_are_named() {
    let program = programs::program("children");
    // The fixture starts itself again as `leaf`, by the same file: under another name it is another program.
    let folder = scratch();
    let other = folder.path().join("other");
    std::fs::copy(&program, &other).expect("a copy of the program");
    let script = format!("{} leaf; {} leaf", program.display(), other.display());
    let run = |only: &str| Run::new(["sh", "-c", &script]).options(["--only", only]).finish();
    for only in ["other", other.to_str().expect("UTF-8")] {
        let outcome = run(only);
        let report = outcome.report();
        let truths = truth::truths(&outcome.finished.text());
        assert_eq!(truths.len(), 2);
        assert_eq!(report["target"]["pid"], truths[1]["pid"], "--only {only}");
    }
    assert_eq!(run("nothing").reports.len(), 0);
    let refused = avleak_tests::process::run(
        std::process::Command::new(avleak_tests::avleak_binary()).args(["run", "--only", "a:b", "--", "true"]),
        avleak_tests::avleak::LIMIT,
    );
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr.contains("--only a:b"), "{}", refused.stderr);
}
