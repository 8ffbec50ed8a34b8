//! Builds the Go programs of `tests/go` with the toolchains at hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{process, programs, repository, suite};

/// Go builds its standard library anew where its cache is empty.
const LIMIT: Duration = Duration::from_secs(1200);

/// A Go toolchain.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// Its name in file names: `1.22.10`, or `default`.
    pub name: String,
    go: PathBuf,
}

/// The one of `build/venv`.
pub fn default_toolchain() -> Toolchain {
    Toolchain { name: "default".into(), go: suite::tool("go") }
}

/// The others, of `build/go`: `make test-all` installs them and sets `AVLEAK_GO_ALL`; then they must be there.
pub fn other_toolchains() -> Vec<Toolchain> {
    let folder = repository().join("build/go");
    let mut found: Vec<Toolchain> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Toolchain {
            name: entry.file_name().to_string_lossy().into_owned(),
            go: entry.path().join("go/bin/go"),
        })
        .filter(|toolchain| toolchain.go.is_file())
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if std::env::var_os("AVLEAK_GO_ALL").is_some() {
        assert!(found.len() >= 5, "scripts/setup.sh go installs five other versions of Go into build/go");
        found
    } else {
        Vec::new()
    }
}

impl Toolchain {
    /// The program of `tests/go/NAME`; `suffix` tells builds with other `arguments` apart.
    pub fn program(&self, name: &str, suffix: &str, arguments: &[&str]) -> PathBuf {
        let output = programs::folder().join(format!("{name}-{}{suffix}", self.name));
        let sources = repository().join("tests/go").join(name);
        programs::build_with(&output, &sources, |part| vec![self.command(&sources, part, arguments)])
    }

    fn command(&self, sources: &Path, output: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.go);
        command.arg("build").args(["-buildvcs=false", "-o"]).arg(output).args(arguments).arg(".").current_dir(sources);
        // Nothing is fetched: the programs need no other module, and no other toolchain.
        command.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "")]).env_remove("GOROOT");
        command
    }
}

/// Builds with the limit of a Go build.
pub(crate) fn run(command: &mut Command) -> process::Finished {
    process::run(command, LIMIT)
}
