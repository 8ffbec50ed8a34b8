//! Tests of the options that write files.

use super::*;
use crate::report::sample;
use clap::Parser;
use std::fs;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    outputs: Outputs,
}

fn outputs<const N: usize>(words: [&str; N]) -> Outputs {
    Line::try_parse_from(std::iter::once("avleak").chain(words)).unwrap().outputs
}

fn complaint(outputs: &Outputs) -> String {
    outputs.check().unwrap_err().to_string()
}

#[test]
fn every_format_has_an_option_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |format: Format| folder.path().join(format!("report.{}", format.extension()));
    let words: Vec<String> = Format::ALL.iter().map(|f| format!("--{}={}", f.name(), path(*f).display())).collect();
    let outputs = Line::try_parse_from(std::iter::once("avleak".into()).chain(words)).unwrap().outputs;
    outputs.check().unwrap();
    let report = AnyReport::Process(Box::new(sample::leaking()));
    assert!(outputs.write(&report).is_empty());
    let root = fs::canonicalize(std::env::current_dir().unwrap()).unwrap();
    let options = RenderOptions { weight: None, source_root: Some(root) };
    for format in Format::ALL {
        assert_eq!(fs::read(path(format)).unwrap(), format.render(&report, &options), "{}", format.name());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), Format::ALL.len(), "nothing else is left");
}

#[test]
fn two_outputs_at_one_place_are_refused() {
    let said = complaint(&outputs(["--csv", "-", "--folded", "/dev/stdout"]));
    assert_eq!(said, "--folded and --csv both write to stdout: name a file for one of them");
    let folder = tempfile::tempdir().unwrap();
    let (one, same) = (folder.path().join("r"), folder.path().join("../").join(folder.path().file_name().unwrap()));
    let said = complaint(&outputs(["--json", one.to_str().unwrap(), "--sarif", same.join("r").to_str().unwrap()]));
    assert!(
        said.starts_with("--json and --sarif both write to ") && said.ends_with(": name different files"),
        "{said}"
    );
    outputs(["--json", "/dev/null", "--sarif", "/dev/null"]).check().unwrap();
    outputs(["--json", "-", "--sarif", one.to_str().unwrap()]).check().unwrap();
}

#[test]
fn what_cannot_be_written_is_known_before() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/r.xml");
    let said = complaint(&outputs(["--junit", missing.to_str().unwrap()]));
    assert!(said.contains("ENOENT in ") && said.contains("create the folder, or name another with --junit"), "{said}");
    let said = complaint(&outputs(["--pprof", folder.path().to_str().unwrap()]));
    assert!(said.contains("EISDIR (name a file in it with --pprof)"), "{said}");
    let said = complaint(&outputs(["--source-root", missing.to_str().unwrap()]));
    assert!(said.contains("cannot use --source-root") && said.contains("ENOENT"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a check leaves nothing");
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("r.csv");
    let outputs = outputs(["--json", "/dev/full", "--csv", good.to_str().unwrap()]);
    let errors = outputs.write(&AnyReport::Process(Box::new(sample::clean())));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("/dev/full: ENOSPC"), "{}", errors[0]);
    assert!(fs::read_to_string(good).unwrap().starts_with("process,pid,"));
}

#[test]
fn the_weight_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.folded");
    for (weight, number) in [("count", " 30\n"), ("pinned", " 373248000\n")] {
        let outputs = outputs(["--folded", file.to_str().unwrap(), "--weight", weight]);
        assert!(outputs.write(&AnyReport::Process(Box::new(sample::leaking()))).is_empty());
        assert!(fs::read_to_string(&file).unwrap().contains(number), "{weight}");
    }
}
