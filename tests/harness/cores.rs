//! Core files: by the kernel where it writes plain files here, else by gdb, and the sessions beside them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::avleak::LIMIT;
use crate::process::{self, Finished};
use crate::{avleak_binary, avleak_library, scratch};

/// A process that has ended, its core and its session.
pub struct Crashed {
    /// What it printed; its end, where nobody stood between.
    pub finished: Finished,
    /// Its core.
    pub core: PathBuf,
    /// What else it left: its session and its report.
    pub folder: tempfile::TempDir,
}

impl Crashed {
    /// The one file of the folder with this ending.
    pub fn left(&self, ending: &str) -> PathBuf {
        let found = left_in(self.folder.path(), ending);
        assert_eq!(found.len(), 1, "{found:?}: {}", self.finished.stderr);
        found[0].clone()
    }

    /// Its session's file.
    pub fn session(&self) -> PathBuf {
        self.left(".session")
    }
}

/// The files of a folder with this ending.
pub fn left_in(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder").flatten().map(|file| file.path());
    files.filter(|file| file.to_string_lossy().ends_with(ending)).collect()
}

/// The kernel writes cores into the folder in which a program runs.
pub fn kernel_writes_cores() -> bool {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    !pattern.trim().is_empty() && !pattern.starts_with('|') && !pattern.contains('/')
}

/// With the library preloaded and these options, in `folder`, whose path marks the analyzer too.
fn preloaded(command: &mut Command, folder: &Path, options: &str) {
    command.current_dir(folder).env("TMPDIR", folder).env("AVLEAK_ANALYZER", avleak_binary());
    command.env("AVLEAK_OPTIONS", format!("report_dir={}:{options}", folder.display()));
}

/// Runs a program to its bad end with `ptrace=0`; the kernel writes the core.
pub fn by_kernel(command: &[&str], options: &str, environment: &[(&str, &str)]) -> Crashed {
    let folder = scratch();
    let mut program = Command::new(command[0]);
    program.args(&command[1..]).envs(environment.iter().copied()).env("LD_PRELOAD", avleak_library());
    preloaded(&mut program, folder.path(), &format!("ptrace=0:{options}"));
    let finished = process::start_marked(&mut program, LIMIT, folder.path().to_str().expect("a path")).finish();
    let files = std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|file| file.path());
    let is_core = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"));
    let core = files.into_iter().find(is_core).unwrap_or_else(|| panic!("no core was written: {}", finished.stderr));
    Crashed { finished, core, folder }
}

/// Runs a program below gdb to its bad end, at which gdb writes the core before it lets it end.
pub fn by_gdb(command: &[&str], options: &str) -> Crashed {
    let folder = scratch();
    let core = folder.path().join("core.gdb");
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-batch", "-ex", "set startup-with-shell off", "-ex", "set debuginfod enabled off"]);
    gdb.arg("-ex").arg(format!("set environment LD_PRELOAD {}", avleak_library().display()));
    gdb.args(["-ex", "set disable-randomization off", "-ex", "run"]);
    gdb.arg("-ex")
        .arg(format!("generate-core-file {}", core.display()))
        .args(["-ex", "continue", "--args"])
        .args(command);
    preloaded(&mut gdb, folder.path(), &format!("ptrace=0:session=1:{options}"));
    let finished = process::start_marked(&mut gdb, LIMIT, folder.path().to_str().expect("a path")).finish();
    assert!(core.is_file(), "{}\n{}", finished.text(), finished.stderr);
    Crashed { finished, core, folder }
}

/// Writes the core of a process that lives on.
pub fn gcore(pid: i32, core: &Path) {
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-p"]).arg(pid.to_string());
    gdb.arg("-ex").arg(format!("generate-core-file {}", core.display()));
    let done = process::run(&mut gdb, LIMIT);
    assert!(core.is_file(), "{}\n{}", done.text(), done.stderr);
}
