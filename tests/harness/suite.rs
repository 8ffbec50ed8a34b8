//! The example suites of `examples/`, copied to a folder of their own and run by `avleak ci` as a CI job would.
//!
//! Each leaks as often as `EXAMPLE_TIMES` says: 0 is the mended program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Finished};
use crate::{avleak_binary, avleak_library, repository, scratch};

/// Go builds its runtime and the standard library anew where its cache is empty.
const LIMIT: Duration = Duration::from_secs(600);

/// Variables by which avleak knows a CI service: whoever runs these tests may be one.
const SERVICES: [&str; 6] =
    ["GITHUB_ACTIONS", "GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY", "GITLAB_CI", "CI_PROJECT_DIR", "AVLEAK_OPTIONS"];

/// A copy of an example, with avleak in `tools/avleak` as docs/ci.md has it.
pub struct Suite {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Suite {
    /// Of `examples/NAME`.
    pub fn new(name: &str) -> Self {
        let folder = scratch();
        copy(&repository().join("examples").join(name), folder.path());
        let tools = folder.path().join("tools/avleak");
        std::fs::create_dir_all(&tools).expect("the folder of the tools");
        for file in [avleak_binary(), avleak_library()] {
            let name = file.file_name().expect("a name");
            std::fs::copy(&file, tools.join(name)).expect("avleak's two files");
        }
        for script in ["run_tests_leak_check.sh", "run_tests_with_avleak.sh"] {
            std::fs::copy(repository().join("scripts").join(script), tools.join(script)).expect("the scripts");
        }
        Self { folder, environment: Vec::new() }
    }

    /// With a variable in the environment of all that runs.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The folder of the copy.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a shell line in the copy; `times`: how often the suite leaks.
    pub fn run(&self, line: &str, times: u32) -> Finished {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![tool("go").parent().expect("a folder").to_path_buf()];
        folders.extend(std::env::split_paths(&path));
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(self.path()).env("EXAMPLE_TIMES", times.to_string());
        for name in SERVICES {
            command.env_remove(name);
        }
        command.env("PATH", std::env::join_paths(folders).expect("a PATH"));
        // Nothing is fetched: the examples need no other module, and no other toolchain.
        command.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "")]);
        command.env_remove("AVLEAK_LIB").envs(self.environment.iter().map(|(name, value)| (name, value)));
        process::run(&mut command, LIMIT)
    }

    /// Builds what has to be built before the C suite runs.
    pub fn with_cmake(self) -> Self {
        self.run("cmake -S . -B build-ci && cmake --build build-ci", 0).expect_success();
        self
    }
}

/// A program that `make setup-tests` installs into `build/venv`.
pub fn tool(name: impl AsRef<OsStr>) -> PathBuf {
    let path = repository().join("build/venv/bin").join(Path::new(name.as_ref()));
    assert!(path.exists(), "{} is missing: `make setup-tests` installs it", path.display());
    path
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder of the copy");
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
