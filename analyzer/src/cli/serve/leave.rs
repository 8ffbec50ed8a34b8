//! Leaves the report of a process: `avleak.PID.json`, with earlier ones of the same id beside it.
//!
//! Ids come again, in containers at each start: there a server is always process 1 or 7. What would be replaced is set aside under the time at
//! which it was written, `avleak.7.20261129T101203Z.json`, and so many of those stay as `reports_kept` says.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::options::Options;
use crate::cli::observe::say;
use crate::render::file::{self, Mode, WriteError};
use crate::render::json;
use crate::report::model::{Report, Verdict};

/// So often somebody else may be quicker (several containers with one folder, and the same ids in them).
const TRIES: usize = 100;

/// Leaves a report and says so in one line. False where it could not be written where it should be.
pub fn report(report: &Report, options: &Options) -> bool {
    let (pid, text) = (report.target.pid, json::to_string(report));
    let verdict = match report.verdict {
        Verdict::Clean => "no leaks",
        Verdict::Leaks => "leaks",
        Verdict::Inconclusive => "inconclusive",
    };
    let finding = format!("pid {pid}: {verdict}: {}", report.reason);
    match write(&options.report_dir, pid, text.as_bytes(), options.reports_kept, Mode::Usual) {
        Ok(file) => {
            if !options.quiet {
                say(&format!("{finding}; report: {}", file.display()));
            }
            true
        }
        Err(error) => {
            // Rather elsewhere than nowhere; and not for everybody's eyes, as nobody chose the place.
            let elsewhere = std::env::temp_dir();
            match write(&elsewhere, pid, text.as_bytes(), options.reports_kept, Mode::Private) {
                Ok(file) => say(&format!("{finding}; {error}; report: {}", file.display())),
                Err(_) => say(&format!("{finding}; {error}")),
            }
            false
        }
    }
}

/// Whole or not at all, and replaces nothing. Returns where it lies.
fn write(folder: &Path, pid: u32, bytes: &[u8], kept: usize, mode: Mode) -> Result<PathBuf, WriteError> {
    // Somebody may have tidied it away while the process ran. Its parent is none of our business.
    if !folder.exists() {
        let _ = std::fs::create_dir(folder);
    }
    let file = folder.join(format!("avleak.{pid}.json"));
    let set_aside = || set_aside(&file).map_err(|source| WriteError { path: file.clone(), source });
    let (mut written, mut tries) = (file::prepare(&file, bytes, mode)?, 0);
    while let Some(again) = written.put_if_free(&file)? {
        if tries == TRIES {
            return Err(WriteError { path: file, source: Errno::EXIST.into() });
        }
        set_aside()?;
        (written, tries) = (again, tries + 1);
    }
    forget_oldest(folder, pid, kept);
    Ok(file)
}

/// Gives a report the name of the time at which it was written.
fn set_aside(file: &Path) -> std::io::Result<()> {
    let data = match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        data => data?,
    };
    let time = humantime::format_rfc3339_seconds(data.modified()?).to_string().replace(['-', ':'], "");
    for try_ in 1..=TRIES {
        let suffix = if try_ == 1 { String::new() } else { format!("-{try_}") };
        let aside = file.with_extension(format!("{time}{suffix}.json"));
        match renameat_with(CWD, file, CWD, &aside, RenameFlags::NOREPLACE) {
            // Gone: whoever was quicker has set it aside.
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST) => {}
            // File systems that know no such renaming: here two may still be too quick for each other.
            Err(_) if !aside.exists() => return std::fs::rename(file, &aside),
            Err(_) => {}
        }
    }
    Err(Errno::EXIST.into())
}

/// The names of set aside reports of a process id, and nothing else.
fn is_aside(name: &OsStr, pid: u32) -> bool {
    let time = || name.to_str()?.strip_prefix(&format!("avleak.{pid}."))?.strip_suffix(".json");
    let is_time = |text: &str| {
        let (time, number) = text.split_once("Z-").unwrap_or((text.strip_suffix('Z').unwrap_or(text), "2"));
        time.len() == 15
            && time.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'T' } else { byte.is_ascii_digit() })
            && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    time().is_some_and(is_time)
}

fn forget_oldest(folder: &Path, pid: u32, kept: usize) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let aside = entries.filter(|entry| is_aside(&entry.file_name(), pid));
    let mut aside: Vec<_> = aside
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.file_name(), entry.path())))
        .collect();
    aside.sort();
    for (_, _, path) in aside.iter().take(aside.len().saturating_sub(kept)) {
        // Who cannot remove it could not have written it either.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("the folder").flatten();
        let mut texts: Vec<String> =
            entries.map(|entry| std::fs::read_to_string(entry.path()).expect("text")).collect();
        texts.sort();
        texts
    }

    #[test]
    fn nothing_is_replaced_and_the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let leave = |text: &str, kept| write(folder.path(), 7, text.as_bytes(), kept, Mode::Usual).expect("a report");
        for text in ["a", "b", "c", "d"] {
            assert_eq!(std::fs::read_to_string(leave(text, 3)).expect("text"), text);
        }
        assert_eq!(texts(folder.path()), ["a", "b", "c", "d"]);
        // Another process's, and an alert's, are not touched.
        for name in ["avleak.77.20200101T000000Z.json", "avleak.7.alert-1.json"] {
            std::fs::write(folder.path().join(name), name).expect("a file");
        }
        leave("e", 2);
        let left = texts(folder.path());
        assert_eq!((left.len(), left.contains(&"e".into()), left.contains(&"a".into())), (5, true, false), "{left:?}");
        leave("f", 0);
        assert_eq!(texts(folder.path()).len(), 3);
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    for round in 0..5 {
                        let text = format!("{thread}.{round}");
                        write(folder, 1, text.as_bytes(), 100, Mode::Usual).expect("a report");
                    }
                });
            }
        });
        assert_eq!(texts(folder.path()).len(), 40);
    }

    #[test]
    fn names_of_others_are_not_taken_for_reports() {
        let is = |name: &str| is_aside(OsStr::new(name), 7);
        assert!(is("avleak.7.20261129T101203Z.json") && is("avleak.7.20261129T101203Z-12.json"));
        for other in ["avleak.7.json", "avleak.7.alert-1.json", "avleak.70.20261129T101203Z.json", "avleak.7.x.json"] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn a_folder_that_was_removed_is_made_anew_and_its_parent_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("reports");
        assert!(write(&inner, 7, b"x", 1, Mode::Usual).expect("a report").starts_with(&inner));
        let error = write(&inner.join("a/b"), 7, b"x", 1, Mode::Usual).expect_err("no such folder");
        assert!(error.to_string().contains("ENOENT"), "{error}");
    }
}
