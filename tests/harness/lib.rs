//! The harness of the end-to-end tests: builds the fixtures, runs them under avleak, and compares report with truth.
//!
//! It sees avleak as a user does, as two files and their output; it links nothing of the analyzer.
//! A test never sleeps: what it waits for is an event (a pidfd, the end of a pipe), and each wait has a limit, after which
//! everything that was started is killed and the test fails.

pub mod avleak;
pub mod avutil;
pub mod browser;
pub mod cores;
pub mod count;
pub mod golang;
pub mod oracle;
pub mod process;
pub mod programs;
pub mod suite;
pub mod tmux;
pub mod truth;

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where cargo put this profile's binaries: this test lies in its `deps`.
pub fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    test.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_path_buf()
}

/// The `avleak` under test: `AVLEAK_BIN`, or that of this profile.
pub fn avleak_binary() -> PathBuf {
    under_test("AVLEAK_BIN", "avleak")
}

/// The `libavleak.so` under test: `AVLEAK_LIB`, or that of this profile.
pub fn avleak_library() -> PathBuf {
    under_test("AVLEAK_LIB", "libavleak.so")
}

fn under_test(variable: &str, name: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| profile_folder().join(name), PathBuf::from);
    assert!(path.is_file(), "{} is missing: `make build` makes it, {variable} names another", path.display());
    path
}

/// A sample file of `build/media` (or `AVLEAK_MEDIA`), made by scripts/make-media.sh where it is missing.
pub fn media(name: &str) -> PathBuf {
    static MADE: std::sync::Once = std::sync::Once::new();
    let folder = std::env::var_os("AVLEAK_MEDIA").map_or_else(|| repository().join("build/media"), PathBuf::from);
    let path = folder.join(name);
    MADE.call_once(|| {
        std::fs::create_dir_all(&folder).expect("the folder of the sample files");
        let lock = std::fs::File::create(folder.join(".lock")).expect("the lock of the sample files");
        lock.lock().expect("the lock of the sample files");
        let script = repository().join("scripts/make-media.sh");
        let mut command = std::process::Command::new(script);
        command.env("AVLEAK_MEDIA", &folder);
        process::run(&mut command, std::time::Duration::from_secs(120)).expect_success();
    });
    assert!(path.is_file(), "{} was not made", path.display());
    path
}

/// A folder of its own for one test, which may be read by every user; it goes when it is dropped.
pub fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("avleak-test-").tempdir().expect("a folder in TMPDIR");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("the folder's mode");
    folder
}
