//! Hosts that misbehave: each does the same with avleak as alone, and the report is right, or says what it could not see.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Outcome, Run};
use avleak_tests::process::{self, Finished};
use avleak_tests::{programs, truth};

/// Output without the process ids, which differ.
fn without_pids(text: &str) -> String {
    let mut parts = text.split("\"pid\":");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| whole + "\"pid\":" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Runs a command alone; it must be able to do what it does.
pub fn alone(command: &[OsString]) -> Finished {
    let mut plain = Command::new(&command[0]);
    process::run(plain.args(&command[1..]), LIMIT)
}

/// Runs a command alone and then under avleak: the same output, and the same status but for avleak's own where that is 0.
pub fn as_alone(command: &[OsString], prepare: impl FnOnce(Run) -> Run) -> Outcome {
    let plain = alone(command);
    let outcome = prepare(Run::new(command)).finish();
    assert_eq!(
        without_pids(&outcome.finished.text()),
        without_pids(&plain.text()),
        "{command:?} under avleak:\n{}",
        outcome.finished.stderr
    );
    if plain.code() != 0 {
        assert_eq!(outcome.finished.code(), plain.code(), "{command:?}: {}", outcome.finished.stderr);
    }
    outcome
}

fn of(program: &Path, arguments: &[&str]) -> Vec<OsString> {
    std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsStr::new)).map(OsStr::to_owned).collect()
}

/// A fixture that leaks, and its clean twin: as alone, and the report is the truth.
fn seen(program: &Path, arguments: &[&str]) {
    for twin in ["leak", "clean"] {
        let arguments = [&[twin], arguments].concat();
        let outcome = as_alone(&of(program, &arguments), |run| run);
        truth::check(&outcome);
        // Nothing is said where all is well, but of a daemon that it is waited for.
        let said = outcome.finished.stderr.lines().find(|line| !line.contains("outlived the command"));
        assert_eq!(said, None, "{arguments:?}");
    }
}

/// A fixture that avleak cannot watch: as alone, one line says why, and it is not called clean.
fn unseen(program: &Path, arguments: &[&str], words: &[&str]) {
    let outcome = as_alone(&of(program, &[&["clean"], arguments].concat()), |run| run);
    let stderr = &outcome.finished.stderr;
    let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("avleak: ")).collect();
    assert!(said.len() == 1 && words.iter().all(|word| said[0].contains(word)), "not one line of {words:?}:\n{stderr}");
    assert_eq!(stderr.lines().count(), 1, "more than avleak's line:\n{stderr}");
    assert_eq!(outcome.finished.code(), 3, "{:#}", outcome.document);
}

fn fixture(name: &str, arguments: &[&str]) {
    seen(&programs::program(name), arguments);
}

#[test]
fn that_close_all_descriptors_before_ffmpegs_first_use() {
    fixture("host_descriptors", &["before"]);
}

#[test]
fn that_close_all_descriptors_afterwards() {
    fixture("host_descriptors", &["after"]);
}

#[test]
fn that_open_files_under_the_standard_numbers() {
    fixture("host_descriptors", &["reused"]);
}

#[test]
fn that_become_another_user() {
    for when in ["before", "between", "after"] {
        fixture("host_rights", &["user", when]);
    }
}

#[test]
fn that_change_their_root_folder() {
    for when in ["before", "between", "after"] {
        fixture("host_rights", &["root", when]);
    }
}

#[test]
fn that_are_not_dumpable() {
    // To root that is no obstacle; for others see `untraceable`.
    if rustix::process::geteuid().is_root() {
        for when in ["before", "between", "after"] {
            fixture("host_rights", &["dumpable", when]);
        }
    }
}

#[test]
fn with_little_address_space() {
    for (when, bytes) in [("before", "400000000"), ("after", "100000000")] {
        fixture("host_limits", &["AS", when, bytes]);
        fixture("host_limits", &["DATA", when, bytes]);
    }
}

#[test]
fn with_too_little_address_space() {
    unseen(&programs::program("host_limits"), &["AS", "before", "20000000"], &["event segment", "ENOMEM"]);
}

#[test]
fn with_no_descriptor_left() {
    fixture("host_limits", &["NOFILE", "after", "3"]);
    let program = programs::program("host_limits");
    unseen(&program, &["NOFILE", "before", "3"], &["memfd_create", "EMFILE"]);
    unseen(&program, &["NOFILE", "before", "4"], &["socket", "EMFILE"]);
}

#[test]
fn that_may_make_no_processes() {
    for when in ["before", "after"] {
        fixture("host_limits", &["NPROC", when, "0"]);
    }
}

#[test]
fn that_may_write_no_files() {
    fixture("host_limits", &["FSIZE", "after", "0"]);
    unseen(&programs::program("host_limits"), &["FSIZE", "before", "0"], &["ulimit -f"]);
}

#[test]
fn whose_stderr_takes_nothing() {
    // A line of avleak's would be a fatal SIGXFSZ or SIGPIPE for a host that never writes there.
    let program = programs::program("host_limits");
    for redirection in ["2>file", "2>&3 3>&-"] {
        let folder = avleak_tests::scratch();
        let script = match redirection {
            "2>file" => "exec \"$0\" clean FSIZE before 0 2>stderr".to_owned(),
            _ => {
                "mkfifo pipe; sleep 0 <pipe & exec 3>pipe; wait; exec \"$0\" clean FSIZE before 0 2>&3 3>&-".to_owned()
            }
        };
        let command = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), program.as_os_str()];
        let outcome = Run::new(command).current_dir(folder.path()).finish();
        assert_eq!(truth::truths(&outcome.finished.text()).len(), 1, "{redirection}: {}", outcome.finished.stderr);
        assert_eq!(outcome.finished.code(), 3, "{redirection}");
    }
}

#[test]
fn that_forbid_themselves_what_avleak_calls() {
    for install in ["prctl", "seccomp"] {
        fixture("host_seccomp", &["after", "errno", install]);
        fixture("host_seccomp", &["after", "kill", install]);
        let program = programs::program("host_seccomp");
        unseen(&program, &["before", "errno", install], &["memfd_create", "EPERM"]);
        unseen(&program, &["before", "kill", install], &["seccomp", "memfd_create"]);
    }
}

#[test]
fn that_become_daemons() {
    fixture("host_daemon", &["alone"]);
    fixture("host_daemon", &["parent"]);
}

#[test]
fn that_start_many_processes() {
    fixture("host_spawn", &[]);
}

#[test]
fn in_a_storm_of_signals() {
    fixture("host_signal_storm", &[]);
}

#[test]
fn that_jump_out_of_ffmpeg() {
    fixture("host_jumps", &[]);
}

#[test]
fn that_throw_out_of_ffmpeg() {
    seen(&programs::cpp_program("host_exceptions"), &[]);
}

#[test]
fn of_coroutines() {
    fixture("host_coroutines", &[]);
}

#[test]
fn with_stacks_in_odd_memory() {
    fixture("host_stacks", &[]);
}

#[test]
fn that_open_and_close_libraries_in_four_threads() {
    let program = programs::program("host_plugins");
    let copies: Vec<OsString> = ["a", "b", "c", "d"].map(programs::plugin_copy).map(Into::into).into();
    for twin in ["leak", "clean"] {
        let command: Vec<OsString> =
            [vec![program.clone().into_os_string()], copies.clone(), vec![twin.into()]].concat();
        truth::check(&as_alone(&command, |run| run));
    }
}

/// A memory cgroup of its own, which goes when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` where none can be made: not root, or the folder is read-only as in most containers.
    fn with_limit(bytes: u64) -> Option<Self> {
        let name = format!("avleak-test-{}", std::process::id());
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.iter().find_map(|(parent, file)| {
            let folder = Path::new(parent).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            std::fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn at_the_limit_of_their_memory_cgroup() {
    let Some(group) = Cgroup::with_limit(50 << 20) else {
        println!("no memory cgroup can be made here: not tested");
        return;
    };
    let (program, procs) = (programs::program("host_memory"), group.0.join("cgroup.procs"));
    // Within the limit; at it; killed for it.
    for mib in ["30", "44", "100"] {
        let script = format!("echo $$ >{} && exec {} leak {mib}", procs.display(), program.display());
        let outcome = as_alone(&["sh".into(), "-c".into(), script.into()], |run| run);
        let report = outcome.report();
        assert_eq!(report["leaks"]["frames"], 2, "{mib} MiB: {report:#}");
        assert_eq!(outcome.finished.code(), if mib == "100" { 128 + 9 } else { 1 }, "{mib} MiB");
    }
}
