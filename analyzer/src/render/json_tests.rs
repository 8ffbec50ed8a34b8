//! Tests of writing reports.

use super::*;
use crate::report::sample;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_report_is_written_whole_and_read_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    for report in [sample::leaking(), sample::full()] {
        write(&path, &report).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<crate::report::model::Report>(&text).unwrap(), report);
    }
    assert_eq!(entries(folder.path()), ["report.json"]);
}

#[test]
fn a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, path) = (folder.path().join("plain"), folder.path().join("r.json"));
    File::create(&plain).unwrap();
    write(&path, &sample::clean()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), fs::metadata(&plain).unwrap().mode());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    write(&path, &sample::clean()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_file_in_shared_memory_is_replaced_as_any_other() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("r.json");
    for report in [sample::leaking(), sample::clean()] {
        write(&path, &report).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), to_string(&report));
    }
}

#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
    fs::write(&real, "old").unwrap();
    symlink(&real, &link).unwrap();
    write(&link, &sample::clean()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().starts_with('{'));
}

#[test]
fn a_pipe_gets_the_report_without_a_rename() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        })
    };
    write(&path, &sample::leaking()).unwrap();
    assert_eq!(reader.join().unwrap(), to_string(&sample::leaking()));
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(entries(folder.path()), ["pipe"]);
}

#[test]
fn every_failure_is_one_line_with_path_errno_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    let cases = [
        (PathBuf::from("/dev/full"), "ENOSPC", "free some space"),
        (folder.path().join("no/such/report.json"), "ENOENT", "create the folder"),
        (folder.path().to_path_buf(), "EISDIR", "name a file"),
        (file.join("report.json"), "ENOTDIR", "a part of the path"),
        (folder.path().join("x".repeat(300)), "ENAMETOOLONG", "shorter"),
        (PathBuf::from("/proc/avleak.json"), "ENOENT", "folder"),
    ];
    for (path, number, help) in cases {
        let error = write(&path, &sample::clean()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: {number} (", path.display())), "{error}");
        assert!(error.contains(help) && !error.contains('\n'), "{error}");
    }
    assert_eq!(entries(folder.path()), ["file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}
