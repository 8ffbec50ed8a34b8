//! Source lines around a frame's line, where the file is at hand when the page is made.
//!
//! A report may be anybody's, and a page may be shown to anybody: only regular files that are called like source code are
//! read, a few lines of each.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

/// Lines before and after the line itself.
const AROUND: u32 = 3;
/// Larger files are generated code. Bytes.
const LARGEST: u64 = 4 << 20;
/// Characters of a line.
const WIDEST: usize = 200;
const EXTENSIONS: [&str; 26] = [
    "c", "h", "cc", "cpp", "cxx", "c++", "hh", "hpp", "hxx", "inc", "inl", "ipp", "m", "mm", "rs", "go", "py", "pyx",
    "pxd", "zig", "swift", "java", "kt", "s", "cu", "d",
];

/// A few lines of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snippet {
    /// Number of the first.
    pub(super) first: u32,
    /// Their text, joined by newlines.
    pub(super) text: String,
    /// The file was written after the check: the lines may not be those that ran.
    pub(super) changed: bool,
}

/// Files that were read for one page.
#[derive(Default)]
pub(super) struct Sources {
    files: HashMap<String, Option<(String, Option<SystemTime>)>>,
}

impl Sources {
    /// The lines around `line` (from 1) of `file`, absolute or relative to the present folder; `None` where it is not at hand
    /// or has no such line. `checked`: when the report's check was.
    pub(super) fn around(&mut self, file: &str, line: u32, checked: Option<SystemTime>) -> Option<Snippet> {
        let read = || read(Path::new(file));
        let (content, modified) = self.files.entry(file.to_string()).or_insert_with(read).as_ref()?;
        let first = line.checked_sub(1)?.saturating_sub(AROUND) + 1;
        let lines: Vec<&str> =
            content.lines().skip(first as usize - 1).take((line - first + 1 + AROUND) as usize).collect();
        if first as usize + lines.len() <= line as usize {
            return None;
        }
        let cut = |line: &&str| line.chars().take(WIDEST).collect::<String>();
        Some(Snippet {
            first,
            text: lines.iter().map(cut).collect::<Vec<_>>().join("\n"),
            changed: modified.zip(checked).is_some_and(|(modified, checked)| modified > checked),
        })
    }
}

fn read(path: &Path) -> Option<(String, Option<SystemTime>)> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    if !EXTENSIONS.contains(&extension.as_str()) {
        return None;
    }
    let about = std::fs::metadata(path).ok()?;
    if !about.is_file() || about.len() > LARGEST {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    Some((String::from_utf8_lossy(&bytes).into_owned(), about.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_few_lines_around_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.c");
        std::fs::write(&path, (1..=20).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let file = path.to_str().unwrap();
        let mut sources = Sources::default();
        let mut lines = |line| sources.around(file, line, None).map(|s| (s.first, s.text.lines().count()));
        assert_eq!(lines(10), Some((7, 7)));
        assert_eq!(lines(1), Some((1, 4)));
        assert_eq!(lines(20), Some((17, 4)));
        assert_eq!(lines(21), None);
        assert_eq!(lines(0), None);
        assert_eq!(lines(u32::MAX), None);
        assert_eq!(sources.around(file, 2, None).unwrap().text, "line 1\nline 2\nline 3\nline 4\nline 5");
    }

    #[test]
    fn a_file_that_is_newer_than_the_check_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        std::fs::write(&path, "fn main() {}\n").unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut sources = Sources::default();
        let mut changed = |at| sources.around(path.to_str().unwrap(), 1, Some(at)).unwrap().changed;
        assert!(changed(written - Duration::from_secs(1)));
        assert!(!changed(written + Duration::from_secs(1)));
    }

    #[test]
    fn what_is_not_called_like_source_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["id_rsa", "passwd.txt", "key.pem", "c"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "secret\n").unwrap();
            assert_eq!(Sources::default().around(path.to_str().unwrap(), 1, None), None, "{name}");
        }
        let pipe = folder.path().join("pipe.c");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert_eq!(Sources::default().around(pipe.to_str().unwrap(), 1, None), None, "a pipe would block for ever");
        assert_eq!(Sources::default().around("/nonexistent/a.c", 1, None), None);
    }
}
