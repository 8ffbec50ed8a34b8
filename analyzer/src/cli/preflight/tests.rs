//! Programs of every kind, made for the occasion.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn cc(&self, source: &str, args: &[&str]) -> PathBuf {
        let (input, output) = (self.0.path().join("p.c"), self.0.path().join("p"));
        std::fs::write(&input, source).unwrap();
        let built = Command::new("cc").arg("-o").arg(&output).arg(&input).args(args).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        output
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

const MAIN: &str = "int main(void) { return 0; }";

fn problem(path: &Path) -> Option<(Problem, i32)> {
    problem_of(path.as_os_str(), std::env::var_os("PATH").as_deref(), &path.display().to_string())
}

/// The message is one line that names the thing and ends with a remedy in parentheses.
fn problem_of(command: &OsStr, path: Option<&OsStr>, named: &str) -> Option<(Problem, i32)> {
    let (problem, message, code) = match judge(command, path) {
        Preflight::Ok { .. } => return None,
        Preflight::Warn { problem, message, .. } => (problem, message, 0),
        Preflight::Refused { problem, message, exit_code } => (problem, message, exit_code),
    };
    assert!(message.contains(named) && !message.contains('\n') && message.ends_with(')'), "{message}");
    Some((problem, code))
}

#[test]
fn an_ordinary_program_is_found_in_path_as_execvp_finds_it() {
    let path = std::env::var_os("PATH");
    let Preflight::Ok { path: found } = judge(OsStr::new("cat"), path.as_deref()) else { panic!() };
    assert!(found.is_absolute() && found.ends_with("cat"));
    let dir = Dir::new();
    let mine = dir.file("cat", b"no program", 0o755);
    dir.file("secret", b"", 0o644);
    let search = std::env::join_paths([dir.0.path(), Path::new("/usr/bin")]).unwrap();
    assert_eq!(judge(OsStr::new("cat"), Some(&search)), Preflight::Ok { path: mine });
    assert_eq!(problem_of(OsStr::new("no-such-thing"), Some(&search), "no-such-thing"), Some((Problem::NotFound, 127)));
    assert_eq!(problem_of(OsStr::new("secret"), Some(&search), "secret"), Some((Problem::NotExecutable, 126)));
    assert_eq!(problem_of(OsStr::new(""), Some(&search), ""), Some((Problem::NotFound, 127)));
    assert_eq!(problem(Path::new("/no/such/file")), Some((Problem::NotFound, 127)));
    assert_eq!(problem(dir.0.path()), Some((Problem::NotExecutable, 126)));
}

#[test]
fn kinds_of_programs_are_told_apart() {
    let dir = Dir::new();
    assert_eq!(problem(&dir.cc(MAIN, &[])), None);
    assert_eq!(problem(&dir.cc(MAIN, &["-s", "-Wl,-z,now", "-no-pie"])), None);
    assert_eq!(problem(&dir.cc(MAIN, &["-static"])), Some((Problem::Static, 0)));
    assert_eq!(problem(&dir.cc(MAIN, &["-static-pie"])), Some((Problem::Static, 0)));
    let musl = "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1";
    assert_eq!(problem(&dir.cc(MAIN, &[musl])), Some((Problem::Musl, 2)));
    assert_eq!(problem(&dir.cc(MAIN, &["-Wl,--dynamic-linker=/lib/gone.so.2"])), Some((Problem::NoInterpreter, 127)));
    assert_eq!(problem(&dir.cc(MAIN, &["-fsanitize=address"])), Some((Problem::Sanitizer, 2)));
    assert_eq!(problem(&dir.cc(MAIN, &["-fsanitize=leak"])), Some((Problem::Sanitizer, 2)));
    // A sanitizer that is linked statically gives itself away by its exported entry.
    let inside = "void __asan_init(void) {} int main(void) { return 0; }";
    assert_eq!(problem(&dir.cc(inside, &["-rdynamic"])), Some((Problem::Sanitizer, 2)));
    let own = "#include <stddef.h>\nvoid *malloc(size_t n) { return NULL; } int main(void) { return malloc(1) != 0; }";
    assert_eq!(problem(&dir.cc(own, &["-rdynamic"])), Some((Problem::OwnMalloc, 0)));
}

#[test]
fn other_machines_are_told_by_their_headers() {
    let dir = Dir::new();
    let good = std::fs::read(dir.cc(MAIN, &[])).unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        dir.file("other", &bytes, 0o755)
    };
    assert_eq!(problem(&with(4, 1)), Some((Problem::ThirtyTwoBit, 2)));
    assert_eq!(problem(&with(18, 183)), Some((Problem::OtherMachine, 2)));
    assert_eq!(problem(&with(5, 2)), Some((Problem::OtherMachine, 2)));
    // Cut short anywhere, it is judged without a panic.
    for len in (0..good.len()).step_by(97).chain(0..200) {
        judge(dir.file("cut", &good[..len], 0o755).as_os_str(), None);
    }
}

#[test]
fn scripts_are_followed_to_their_interpreters() {
    let dir = Dir::new();
    let path = |text: String| dir.file("script", text.as_bytes(), 0o755);
    assert_eq!(problem(&path("#!/bin/sh\nexit\n".into())), None);
    assert_eq!(problem(&path("#! /usr/bin/env -S FOO=1 sh -e\n".into())), None);
    assert_eq!(problem(&path("echo no first line\n".into())), None);
    assert_eq!(problem(&path("#!/no/such/python\n".into())), Some((Problem::NoInterpreter, 127)));
    let missing = path("#!/usr/bin/env no-such-python\n".into());
    assert_eq!(problem(&missing), Some((Problem::NoInterpreter, 127)));
    let own = dir.cc(MAIN, &["-static"]);
    let script = path(format!("#!{} -x\n", own.display()));
    assert_eq!(problem_of(script.as_os_str(), None, &own.display().to_string()), Some((Problem::Static, 0)));
    // A script that is its own interpreter ends the search.
    let itself = dir.0.path().join("loop");
    dir.file("loop", format!("#!{}\n", itself.display()).as_bytes(), 0o755);
    assert_eq!(problem(&itself), None);
    path("#!".into());
}

#[test]
fn setuid_matters_only_where_it_changes_rights() {
    let dir = Dir::new();
    let program = dir.cc(MAIN, &[]);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    // The test's own user owns it: no rights change.
    assert_eq!(problem(&program), None);
    let metadata = std::fs::metadata(&program).unwrap();
    let nosuid = rustix::fs::statvfs(&program).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID);
    if rustix::process::getuid().is_root() && !nosuid {
        std::os::unix::fs::chown(&program, Some(metadata.uid() + 1), None).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(problem(&program), Some((Problem::Privileged, 2)));
    }
}

#[test]
fn the_preload_keeps_what_was_there() {
    let library = Path::new("/opt/libavleak.so");
    let with = |existing: Option<&str>| preload_value(library, existing.map(OsStr::new)).unwrap();
    assert_eq!(with(None), "/opt/libavleak.so");
    assert_eq!(with(Some("")), "/opt/libavleak.so");
    assert_eq!(with(Some("a.so b.so")), "/opt/libavleak.so:a.so b.so");
    assert!(preload_value(Path::new("/a b/x.so"), None).unwrap_err().contains("/a b/x.so"));
}
