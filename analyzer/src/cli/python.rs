//! Python's own allocator under avleak: whether the command is a Python, and what to set for it.
//!
//! pymalloc keeps freed objects in arenas of its own, which avleak takes for roots: a dead Python object that still holds a
//! frame's address would hide the leak. With `PYTHONMALLOC=malloc` objects are blocks of the C library, and freed ones vanish
//! from the scan.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The variable of CPython that chooses its allocator (docs.python.org, "Environment variables").
const VARIABLE: &str = "PYTHONMALLOC";
/// The kernel reads this much of a `#!` line.
const SHEBANG: u64 = 256;

/// Whether to treat the command as a Python's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::Args)]
pub struct PythonArgs {
    /// Set PYTHONMALLOC=malloc for the command (default: where it is a Python or a script for one): objects that Python has
    /// freed then hide no leak
    #[arg(long, overrides_with = "no_python")]
    python: bool,
    /// Leave Python's allocator alone
    #[arg(long, overrides_with = "python")]
    no_python: bool,
}

/// What to set for the command: nothing where it is no Python, or where the user has chosen an allocator.
///
/// `program` is the file that is started, `command` its arguments, its name included.
pub fn environment(args: PythonArgs, program: &Path, command: &[OsString]) -> Option<(OsString, OsString)> {
    let chosen = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    wanted(args, program, command, chosen).then(|| (VARIABLE.into(), "malloc".into()))
}

fn wanted(args: PythonArgs, program: &Path, command: &[OsString], chosen: bool) -> bool {
    if args.no_python || chosen {
        return false;
    }
    args.python || interpreter(program, command).is_some_and(|name| !is_free_threaded(&name))
}

/// The Python that will run: the name of its file, links resolved (`python` of a virtual environment is `python3.13t`, say).
fn interpreter(program: &Path, command: &[OsString]) -> Option<OsString> {
    if let Some(name) = python(program) {
        return Some(name);
    }
    // `env VARIABLE=1 python3 tests.py`, on the command line as in a script.
    if program.file_name() == Some(OsStr::new("env")) {
        return through_env(command.iter().skip(1).map(|word| word.as_bytes()));
    }
    let mut start = Vec::new();
    File::open(program).ok()?.take(SHEBANG).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let first = Path::new(OsStr::from_bytes(words.next()?));
    if first.file_name() == Some(OsStr::new("env")) {
        return through_env(words);
    }
    // pip writes `#!/bin/sh` and `'''exec' /long/path/python` where the path is too long for the kernel.
    let exec = start.split(|&byte| byte == b'\n').nth(1).and_then(|line| line.strip_prefix(b"'''exec' "));
    let named = exec.and_then(|rest| rest.split(|&byte| byte == b' ').next()).map(strip_quotes);
    python(named.map_or(first, |path| Path::new(OsStr::from_bytes(path))))
}

fn strip_quotes(word: &[u8]) -> &[u8] {
    word.strip_prefix(b"\"").and_then(|word| word.strip_suffix(b"\"")).unwrap_or(word)
}

fn through_env<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<OsString> {
    let command = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    python(Path::new(OsStr::from_bytes(command)))
}

/// `python`, `python3`, `python3.13`, `python3.13t`, also where that is only the name of the link.
fn python(path: &Path) -> Option<OsString> {
    let is_python = |path: &Path| {
        let rest = path.file_name()?.as_bytes().strip_prefix(b"python")?;
        let version = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        rest.strip_suffix(b"t").unwrap_or(rest).iter().all(version).then(|| path.file_name().map(OsStr::to_owned))?
    };
    let resolved = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    is_python(&resolved).or_else(|| is_python(path))
}

/// Builds without the global lock know no allocator but their own, and end with an error where another is asked for.
fn is_free_threaded(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b"t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn is_set(program: &Path, words: &[&str]) -> bool {
        let command: Vec<OsString> = words.iter().map(OsString::from).collect();
        wanted(PythonArgs::default(), program, &command, false)
    }

    #[test]
    fn pythons_are_known_by_name_link_and_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["python", "python3", "python3.11"] {
            assert!(is_set(&script(folder.path(), name, ""), &[name]), "{name}");
        }
        for name in ["pythonista", "python3-config", "ffmpeg", "pytest.txt"] {
            assert!(!is_set(&script(folder.path(), name, ""), &[name]), "{name}");
        }
        let texts = [
            ("pytest", "#!/opt/venv/bin/python3\nimport pytest\n", true),
            ("tox", "#!/usr/bin/env python3\n", true),
            ("spaced", "#! /usr/bin/env -S python3 -X dev\n", true),
            ("long", "#!/bin/sh\n'''exec' \"/a/very/long/path/bin/python3\" \"$0\" \"$@\"\n' '''\n", true),
            ("run.sh", "#!/bin/sh\npython3 tests.py\n", false),
            ("node", "#!/usr/bin/env node\n", false),
            ("empty", "", false),
            ("bare", "#!", false),
        ];
        for (name, text, expected) in texts {
            assert_eq!(is_set(&script(folder.path(), name, text), &[name]), expected, "{name}");
        }
        std::os::unix::fs::symlink(at("python3.11"), at("py")).unwrap();
        assert!(is_set(&at("py"), &["py"]));
        let env = ["env", "-u", "PYTHONPATH", "A=1", "python3", "x.py"];
        // `-u`'s argument stands where a command could; what is not set then can be forced.
        assert!(!is_set(Path::new("/usr/bin/env"), &env));
        assert!(is_set(Path::new("/usr/bin/env"), &["env", "A=1", "python3", "x.py"]));
    }

    #[test]
    fn a_free_threaded_python_would_refuse_to_start() {
        let folder = tempfile::tempdir().unwrap();
        let real = script(folder.path(), "python3.14t", "");
        assert!(!is_set(&real, &["python3.14t"]));
        let link = folder.path().join("python3");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(!is_set(&link, &["python3"]));
        let pytest = script(folder.path(), "pytest", &format!("#!{}\n", link.display()));
        assert!(!is_set(&pytest, &["pytest"]));
    }

    #[test]
    fn the_user_decides() {
        let (python, other) = (Path::new("/nonexistent/python3"), Path::new("/nonexistent/make"));
        let args = |python, no_python| PythonArgs { python, no_python };
        assert!(wanted(args(true, false), other, &["make".into()], false));
        assert!(!wanted(args(false, true), python, &["python3".into()], false));
        assert!(!wanted(args(true, false), python, &["python3".into()], true), "PYTHONMALLOC was set already");
    }
}
