//! The libavutils at hand: the system's, and the one that PyAV's wheel brings.

use std::path::PathBuf;

use crate::repository;

/// The name by which a loader finds the system's: libavutil.so.N.
pub fn of_the_system() -> String {
    let files = std::fs::read_dir("/usr/lib/x86_64-linux-gnu").expect("the libraries").flatten();
    let mut names = files.filter_map(|entry| entry.file_name().into_string().ok());
    let is_so_name = |name: &String| name.strip_prefix("libavutil.so.").is_some_and(|rest| !rest.contains('.'));
    names.find(is_so_name).expect("libavutil.so.N")
}

/// The path of PyAV's, which is newer, and whose name is mangled.
pub fn of_the_wheel() -> PathBuf {
    let versions =
        std::fs::read_dir(repository().join("build/venv/lib")).expect("the libraries of build/venv").flatten();
    let folders = versions.map(|entry| entry.path().join("site-packages/av.libs"));
    let mut files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libavutil-");
    files.find(named).expect("PyAV's libavutil").path()
}
