//! Tests of `avleak merge`.

use super::*;
use crate::report::model::Report;
use crate::report::sample;
use std::fs::File;

struct Stored {
    folder: tempfile::TempDir,
}

impl Stored {
    fn new(reports: &[(&str, Report)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, report) in reports {
            json::write(&folder.path().join(name), report).unwrap();
        }
        Self { folder }
    }

    /// Exit status or error, and stdout.
    fn merge(&self, change: impl FnOnce(&mut MergeArgs)) -> (Result<i32, String>, String) {
        let shown = self.folder.path().join("shown");
        let mut args = MergeArgs {
            reports: vec![self.folder.path().to_path_buf()],
            json: None,
            ndjson: None,
            by_build: false,
            quiet: false,
            all: false,
            color: ColorChoice::Never,
        };
        change(&mut args);
        let code = run_on(&args, &mut File::create(&shown).unwrap());
        (code, std::fs::read_to_string(shown).unwrap())
    }
}

/// A clean process beside the leaking one.
fn another() -> Report {
    let mut report = sample::clean();
    report.target.pid += 1;
    report
}

fn elsewhere() -> Report {
    let mut report = sample::leaking();
    report.target.origin.host = Some("edge-9".into());
    report
}

#[test]
fn a_folder_is_summed_and_what_is_no_report_is_named() {
    let stored = Stored::new(&[("a.json", sample::leaking()), ("b.json", elsewhere()), ("c.json", another())]);
    std::fs::write(stored.folder.path().join("cut.json"), "{\"schema\": \"avleak-re").unwrap();
    std::fs::write(stored.folder.path().join("notes.txt"), "no report").unwrap();
    let file = stored.folder.path().join("sum");
    let (code, text) = stored.merge(|args| args.json = Some(file.clone()));
    assert_eq!(code, Ok(1));
    assert!(text.contains("2 of 3 processes leak") && text.contains("edge-9") && text.contains("cut.json"), "{text}");
    let fleet: Fleet = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((fleet.reports, fleet.processes, fleet.unreadable.len()), (4, 3, 1));
    assert_eq!(fleet.leaks.frames, 2 * sample::leaking().leaks.frames);
}

#[test]
fn a_file_that_was_named_and_is_no_report_is_an_error() {
    let stored = Stored::new(&[("a.json", sample::clean())]);
    let missing = stored.folder.path().join("missing.json");
    let (code, text) = stored.merge(|args| args.reports.push(missing.clone()));
    assert!(code.unwrap_err().contains(&missing.display().to_string()));
    assert_eq!(text, "");
    let empty = tempfile::tempdir().unwrap();
    assert!(stored.merge(|args| args.reports = vec![empty.path().into()]).0.unwrap_err().contains("no *.json"));
}

#[test]
fn the_exit_status_tells_leaks_from_doubt() {
    assert_eq!(Stored::new(&[("a.json", sample::clean())]).merge(|_| ()).0, Ok(0));
    let stored = Stored::new(&[("a.json", sample::clean())]);
    std::fs::write(stored.folder.path().join("b.json"), "").unwrap();
    assert_eq!(stored.merge(|_| ()).0, Ok(3));
}

#[test]
fn lines_for_databases_have_every_process_and_group() {
    let stored = Stored::new(&[("a.json", sample::leaking()), ("b.json", another())]);
    let file = stored.folder.path().join("lines");
    let (code, _) = stored.merge(|args| args.ndjson = Some(file.clone()));
    assert_eq!(code, Ok(1));
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |record: &str| lines.iter().filter(|line| line["record"] == record).count();
    assert_eq!(of("process"), 2);
    assert_eq!(of("group"), sample::leaking().groups.len() + sample::clean().groups.len());
    assert!(lines.iter().all(|line| line["host"] == "edge-7" && line["service"] == "live"));
}

#[test]
fn two_outputs_do_not_share_stdout() {
    let stored = Stored::new(&[("a.json", sample::clean())]);
    let both = |args: &mut MergeArgs| (args.json, args.ndjson) = (Some("-".into()), Some("-".into()));
    assert!(stored.merge(both).0.unwrap_err().contains("stdout"));
}
