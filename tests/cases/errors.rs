//! Errors are tried: one clear line, the right exit code, no half-written report, and the program is not harmed.

use std::path::{Path, PathBuf};
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Run};
use avleak_tests::process::Finished;
use avleak_tests::{avleak_binary, process, programs, scratch};

/// avleak with these arguments.
fn avleak<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    process::run(Command::new(avleak_binary()).args(arguments), LIMIT)
}

/// Standard error is one line of avleak's, and holds all of these words.
fn assert_one_line(done: &Finished, words: &[&str]) {
    let lines: Vec<&str> = done.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "not one line:\n{}", done.stderr);
    assert!(lines[0].starts_with("avleak: "), "not a line of avleak's: {}", lines[0]);
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in: {}", lines[0]);
    }
}

#[test]
fn no_such_command() {
    let done = avleak(["run", "--", "/nonexistent/server"]);
    assert!(matches!(done.code(), 2 | 127), "exit code {}", done.code()); // 127: as a shell says it
    assert_one_line(&done, &["/nonexistent/server"]);
    let done = avleak(["run", "--", "no-such-command-anywhere"]);
    assert!(matches!(done.code(), 2 | 127), "exit code {}", done.code()); // 127: as a shell says it
    assert_one_line(&done, &["no-such-command-anywhere"]);
}

#[test]
fn a_file_that_is_no_program() {
    let folder = scratch();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "not a program").expect("a file");
    let done = avleak(["run".as_ref(), "--".as_ref(), file.as_os_str()]);
    assert!(matches!(done.code(), 2 | 126), "exit code {}", done.code());
    assert_one_line(&done, &["notes.txt"]);
}

#[test]
fn no_command_at_all() {
    let done = avleak(["run"]);
    assert_eq!(done.code(), 2);
    assert!(!done.stderr.is_empty());
}

#[test]
fn a_static_executable() {
    let program = programs::special("no_ffmpeg", "no_ffmpeg_static", &["-static"]);
    let done = avleak(["run".as_ref(), "--".as_ref(), program.as_os_str()]);
    assert_one_line(&done, &["static"]);
    assert!(matches!(done.code(), 2 | 3), "exit code {}", done.code());
    // Either it was not started, or it ran as ever.
    assert!(matches!(done.text().as_str(), "" | "no FFmpeg here\n"), "{}", done.text());
}

/// A 32-bit x86 executable that exits with 0: header, one program header, `mov eax,1; xor ebx,ebx; int 0x80`.
fn thirty_two_bit(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    const BASE: u32 = 0x0804_8000;
    const CODE: [u8; 9] = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, words: &[u16]| words.iter().for_each(|w| file.extend(w.to_le_bytes()));
    let word = |file: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|w| file.extend(w.to_le_bytes()));
    half(&mut file, &[2, 3]); // ET_EXEC, EM_386
    word(&mut file, &[1, BASE + 84, 52, 0, 0]); // version, entry, program headers, section headers, flags
    half(&mut file, &[52, 32, 1, 40, 0, 0]);
    word(&mut file, &[1, 0, BASE, BASE, 84 + CODE.len() as u32, 84 + CODE.len() as u32, 5, 0x1000]); // PT_LOAD
    file.extend(CODE);
    let path = folder.join("server32");
    std::fs::write(&path, file).expect("the program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

#[test]
fn a_32_bit_executable() {
    let folder = scratch();
    let program = thirty_two_bit(folder.path());
    let done = avleak(["run".as_ref(), "--".as_ref(), program.as_os_str()]);
    assert_one_line(&done, &["32-bit"]);
    assert!(matches!(done.code(), 2 | 3), "exit code {}", done.code());
}

#[test]
fn an_unknown_option() {
    let done = avleak(["run", "--jsn", "x.json", "--", "true"]);
    assert_eq!(done.code(), 2);
    assert!(done.stderr.contains("--jsn"), "{}", done.stderr);
    let done = avleak(["run", "--level", "hard", "--", "true"]);
    assert_eq!(done.code(), 2);
    assert!(done.stderr.contains("hard") && done.stderr.contains("draconian"), "{}", done.stderr);
    let done = avleak(["rn"]);
    assert_eq!(done.code(), 2);
    assert!(done.stderr.contains("rn"), "{}", done.stderr);
}

/// A real report.
fn report(folder: &Path) -> String {
    let path = folder.join("report.json");
    let program = programs::program("leak_batch");
    let done = avleak([
        "run".as_ref(),
        "--quiet".as_ref(),
        "--json".as_ref(),
        path.as_os_str(),
        "--".as_ref(),
        program.as_os_str(),
    ]);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    std::fs::read_to_string(path).expect("the report")
}

fn rendered(folder: &Path, text: &str) -> Finished {
    let path = folder.join("given.json");
    std::fs::write(&path, text).expect("a file");
    avleak(["report".as_ref(), path.as_os_str()])
}

#[test]
fn a_report_is_rendered_again() {
    let folder = scratch();
    let done = rendered(folder.path(), &report(folder.path()));
    assert!(matches!(done.code(), 0 | 1), "{}", done.stderr);
    assert!(done.text().contains("leak_batch"), "{}", done.text());
}

#[test]
fn a_report_of_another_major() {
    let folder = scratch();
    let done = rendered(folder.path(), &report(folder.path()).replace("avleak-report/1", "avleak-report/2"));
    assert_eq!(done.code(), 2);
    assert_one_line(&done, &["given.json", "avleak-report/2", "avleak-report/1"]);
}

#[test]
fn a_truncated_report() {
    let folder = scratch();
    let whole = report(folder.path());
    for cut in [whole.len() / 2, whole.len() - 2, 1, 0] {
        let done = rendered(folder.path(), &whole[..cut]);
        assert_eq!(done.code(), 2, "cut at {cut}");
        assert_one_line(&done, &["given.json"]);
    }
}

#[test]
fn a_report_that_is_not_there() {
    let done = avleak(["report", "/nonexistent/report.json"]);
    assert_eq!(done.code(), 2);
    assert_one_line(&done, &["/nonexistent/report.json"]);
}

#[test]
fn a_folder_that_is_not_there() {
    let program = programs::program("leak_batch");
    let done = avleak([
        "run".as_ref(),
        "--quiet".as_ref(),
        "--json".as_ref(),
        "/nonexistent/report.json".as_ref(),
        "--".as_ref(),
        program.as_os_str(),
    ]);
    assert_eq!(done.code(), 2);
    assert_one_line(&done, &["/nonexistent", "ENOENT"]);
}

/// Runs a shell line in a mount namespace of its own, with `folder` a file system mounted with `options`; then lists it.
fn mounted(options: &str, prepare: &str) -> (Finished, String) {
    let folder = scratch();
    let mut command = Command::new("unshare");
    command.args(if rustix::process::geteuid().is_root() { ["-m"].as_slice() } else { ["-r", "-m"].as_slice() });
    let script = "set -e; mount -t tmpfs -o \"$OPTIONS\" tmpfs \"$FOLDER\"; eval \"$PREPARE\"; code=0
        \"$AVLEAK\" run --quiet --json \"$FOLDER/report.json\" -- \"$PROGRAM\" || code=$?
        echo files: $(ls -A \"$FOLDER\"); exit $code";
    command.args(["sh", "-c", script]).env("FOLDER", folder.path()).env("OPTIONS", options).env("PREPARE", prepare);
    command.env("AVLEAK", avleak_binary()).env("PROGRAM", programs::program("leak_batch"));
    let done = process::run(&mut command, LIMIT);
    let text = done.text();
    let files = text.lines().find_map(|line| line.strip_prefix("files:")).unwrap_or("?").trim().to_owned();
    (done, files)
}

#[test]
fn a_folder_that_cannot_be_written() {
    let (done, files) = mounted("ro", "true");
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert_one_line(&done, &["EROFS"]);
    assert_eq!(files, "");
}

#[test]
fn a_full_disk() {
    let (done, files) = mounted("size=8k", "cat /dev/zero >\"$FOLDER/fill\" 2>/dev/null || true");
    assert!(done.text().contains("\"truth\""), "the program did not run: {}", done.stderr);
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert_one_line(&done, &["ENOSPC"]);
    assert_eq!(files, "fill", "a half-written report was left");
}

#[test]
fn the_programs_own_status_comes_first() {
    let done = Run::new(["sh", "-c", "echo out; echo err >&2; exit 9"]).finish().finished;
    assert_eq!((done.code(), done.text().as_str()), (9, "out\n"));
    assert!(done.stderr.starts_with("err\n"), "{}", done.stderr);
}
