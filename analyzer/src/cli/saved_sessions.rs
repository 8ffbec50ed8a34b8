//! Where the sessions are saved whose processes ended with nobody to look at their memory, and which of them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::report::model::Ended;

/// What is wished for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSessions {
    /// The folder, as bytes: no path need be text.
    folder: Vec<u8>,
    /// Every one, not only those that there may be a core of.
    every: bool,
}

impl SavedSessions {
    /// In this folder.
    pub fn to(folder: &Path, every: bool) -> Self {
        Self { folder: folder.as_os_str().as_bytes().to_vec(), every }
    }

    /// `avleak.PID.session`, beside the report of a bare preload.
    pub fn file_of(&self, pid: i32) -> PathBuf {
        Path::new(std::ffi::OsStr::from_bytes(&self.folder)).join(format!("avleak.{pid}.session"))
    }

    /// Whether the session of a process that ended so is saved. Without a core it is worth nothing: so it is for those that the kernel says
    /// it dumped, and for those of which nobody knows.
    pub fn wants(&self, ended: Option<Ended>, dumped_core: Option<bool>) -> bool {
        self.every || dumped_core.unwrap_or(ended.is_none_or(|ended| matches!(ended, Ended::Signal(_))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_saved_where_there_may_be_a_core() {
        let some = SavedSessions::to(Path::new("/log"), false);
        assert_eq!(some.file_of(7), Path::new("/log/avleak.7.session"));
        assert!(some.wants(Some(Ended::Signal(6)), Some(true)) && some.wants(None, None));
        assert!(some.wants(Some(Ended::Signal(6)), None));
        assert!(!some.wants(Some(Ended::Signal(9)), Some(false)) && !some.wants(Some(Ended::Exit(0)), Some(false)));
        assert!(!some.wants(Some(Ended::Exit(0)), None) && !some.wants(Some(Ended::Exec(true)), None));
        assert!(SavedSessions::to(Path::new("/log"), true).wants(Some(Ended::Exit(0)), Some(false)));
    }
}
