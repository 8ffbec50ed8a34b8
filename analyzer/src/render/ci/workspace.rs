//! Where a leak lies in the checked-out repository: the path and line that a CI service can show it at.

use std::path::{Component, Path, PathBuf};

use crate::render::stack;
use crate::report::model::Frame;

/// The folder of the checked-out repository, and the one from which relative paths start.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    current: PathBuf,
}

/// A line of a file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Relative to the root of the repository, without `./`.
    pub path: String,
    /// From 1.
    pub line: u32,
}

impl Workspace {
    /// `root`: of the repository. `current`: the working folder, in which compilers' relative paths are looked up.
    pub fn new(root: &Path, current: &Path) -> Self {
        Self { root: root.to_path_buf(), current: current.to_path_buf() }
    }

    /// The innermost line of `stack` that lies in a file of the repository, in the program's own code.
    pub fn place(&self, stack: &[Frame]) -> Option<Place> {
        stack::own_frames(stack).find_map(|frame| {
            // Line 0 is the compiler's word for code of no line.
            let line = frame.line.filter(|&line| line > 0)?;
            Some(Place { path: self.relative(Path::new(frame.file.as_deref()?))?, line })
        })
    }

    /// The path of `file` in the repository; `None` where it lies outside or is not there.
    pub fn relative(&self, file: &Path) -> Option<String> {
        let candidates = [self.current.join(file), self.root.join(file)];
        candidates.iter().filter(|path| path.is_file()).find_map(|path| {
            let inside = normal(path).strip_prefix(normal(&self.root)).ok().map(Path::to_path_buf).or_else(|| {
                // Either may be reached through a link.
                let (path, root) = (path.canonicalize().ok()?, self.root.canonicalize().ok()?);
                path.strip_prefix(root).ok().map(Path::to_path_buf)
            })?;
            // A path that is not UTF-8 has no form that such a service would read.
            inside.to_str().map(str::to_owned)
        })
    }
}

/// Without `.` and `..`, as the text says it.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{ffmpeg, own};

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("src/in")).unwrap();
        std::fs::write(folder.path().join("src/in/decode.c"), "").unwrap();
        std::fs::write(folder.path().join("outside.c"), "").unwrap();
        folder
    }

    #[test]
    fn paths_are_the_repositorys() {
        let folder = repository();
        let root = folder.path().join("src");
        let workspace = Workspace::new(&root, &root.join("in"));
        let absolute = root.join("in/decode.c");
        for file in [absolute.to_str().unwrap(), "decode.c", "in/decode.c", "./../in/decode.c"] {
            assert_eq!(workspace.relative(Path::new(file)).as_deref(), Some("in/decode.c"), "{file}");
        }
        for file in ["../../outside.c", "/usr/include/stdio.h", "nowhere.c", "in", ""] {
            assert_eq!(workspace.relative(Path::new(file)), None, "{file}");
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert_eq!(Workspace::new(&link, &link).relative(&absolute).as_deref(), Some("in/decode.c"));
    }

    #[test]
    fn the_innermost_own_line_of_the_repository_is_shown() {
        let folder = repository();
        let workspace = Workspace::new(folder.path(), folder.path());
        let stack = [
            ffmpeg("av_frame_alloc", "libavutil.so.57"),
            own("vendored", "/usr/src/vendored.c", 3),
            own("no_line", "src/in/decode.c", 0),
            own("decode", "src/in/decode.c", 230),
            own("main", "outside.c", 9),
        ];
        assert_eq!(workspace.place(&stack), Some(Place { path: "src/in/decode.c".into(), line: 230 }));
        assert_eq!(workspace.place(&stack[..2]), None);
    }
}
