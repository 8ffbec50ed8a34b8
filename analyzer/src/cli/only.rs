//! `--only EXE`: which programs of the command are watched.
//!
//! The interposer decides by itself, in each process that it is loaded into: `AVLEAK_ONLY` holds names or paths joined by colons, and is
//! compared with the name that a program was started under and with that of its file.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The variable that the interposer reads.
const VARIABLE: &str = "AVLEAK_ONLY";

/// Which programs to watch.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct OnlyArgs {
    /// Watch only programs of this name (or whole path), not what else the command starts; several times if need be
    #[arg(long, value_name = "EXE", value_parser = clap::value_parser!(OsString))]
    only: Vec<OsString>,
}

impl OnlyArgs {
    /// What to set for the command.
    ///
    /// # Errors
    /// A line where a name cannot be passed on.
    pub fn environment(&self) -> Result<Option<(OsString, OsString)>, String> {
        if self.only.is_empty() {
            return Ok(None);
        }
        for name in &self.only {
            let bytes = name.as_bytes();
            if bytes.is_empty() || bytes.contains(&b':') {
                return Err(format!("--only {}: not the name of a program (empty, or with a colon)", name.display()));
            }
        }
        let joined = self.only.iter().map(|name| name.as_bytes()).collect::<Vec<_>>().join(&b':');
        Ok(Some((VARIABLE.into(), OsString::from_vec(joined))))
    }

    /// Process `pid` is one to watch, as far as its file tells; also where nothing can be told.
    pub fn wants(&self, pid: i32) -> bool {
        let Ok(file) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return true };
        self.only.is_empty() || self.only.iter().any(|wanted| is_named(wanted.as_bytes(), &file))
    }
}

fn is_named(wanted: &[u8], file: &Path) -> bool {
    if wanted.contains(&b'/') {
        file.as_os_str().as_bytes() == wanted
    } else {
        file.file_name().is_some_and(|name| name.as_bytes() == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> OnlyArgs {
        OnlyArgs { only: names.iter().map(OsString::from).collect() }
    }

    #[test]
    fn names_are_joined_and_wrong_ones_refused() {
        assert_eq!(only(&[]).environment(), Ok(None));
        assert_eq!(only(&["server", "/opt/x"]).environment(), Ok(Some((VARIABLE.into(), "server:/opt/x".into()))));
        assert!(only(&["a:b"]).environment().is_err() && only(&[""]).environment().is_err());
    }

    #[test]
    fn a_process_is_known_by_its_file() {
        let own = std::env::current_exe().expect("the test's path");
        let pid = std::process::id().cast_signed();
        let name = own.file_name().expect("a name").to_str().expect("UTF-8");
        assert!(
            only(&[]).wants(pid) && only(&[name]).wants(pid) && only(&["x", own.to_str().expect("UTF-8")]).wants(pid)
        );
        assert!(!only(&["x", "/x", &name[1..]]).wants(pid));
    }
}
