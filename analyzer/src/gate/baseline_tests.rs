//! Tests of the baseline's file.

use super::*;
use crate::report::sample;

fn parse(text: &str) -> Result<Baseline, String> {
    Baseline::parse(Path::new("b.toml"), text.as_bytes()).map_err(|error| error.to_string())
}

fn of(report: Report) -> Baseline {
    Baseline::of(&[AnyReport::Process(Box::new(report))])
}

#[test]
fn what_is_written_is_what_is_read() {
    let baseline = of(sample::leaking());
    assert_eq!(baseline.groups.len(), 2);
    assert_eq!(baseline.groups.values().map(|entry| entry.count).sum::<u64>(), 34);
    let text = baseline.to_text();
    let again = parse(&text).unwrap();
    assert_eq!(again.groups, baseline.groups);
    assert_eq!(again.to_text(), text, "written anew it is the same");
}

#[test]
fn golden() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/baseline.toml");
    let text = of(sample::leaking()).to_text();
    if std::env::var_os("AVLEAK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn the_most_of_several_runs_counts_and_processes_of_one_run_are_summed() {
    let mut less = sample::leaking();
    less.groups[0].count = 3;
    let id = less.groups[0].id.clone();
    let mut reports = [less, sample::leaking()].map(|report| AnyReport::Process(Box::new(report)));
    assert_eq!(Baseline::of(&reports).groups[&id].count, 30);
    reports.reverse();
    assert_eq!(Baseline::of(&reports).groups[&id].count, 30);
    let twice =
        crate::report::verdict::sum_up(vec!["make".into()], None, 1, vec![sample::leaking(), sample::leaking()]);
    assert_eq!(Baseline::of(&[AnyReport::Run(Box::new(twice))]).groups[&id].count, 60);
}

#[test]
fn of_indirectly_lost_objects_the_outermost_are_counted() {
    let mut report = sample::leaking();
    let cached = report.groups.iter_mut().find(|group| group.leak && group.class == Class::IndirectlyLost).unwrap();
    (cached.count, cached.outermost) = (40, 4);
    let id = cached.id.clone();
    assert_eq!(of(report).groups[&id].count, 4);
}

#[test]
fn what_people_wrote_is_kept() {
    let text = of(sample::leaking()).to_text();
    let id = sample::leaking().groups[0].id.clone();
    let text = text
        .replace(&format!("[group.{id}]\n"), &format!("# ticket 4711\n[group.{id}]\nnote = \"vendor's fix is due\"\n"))
        .replace("count = 30\n", "count = 7 # seven\n")
        .replace("# Leak groups", "# Ours.\n# Leak groups");
    let mut next = of(sample::leaking());
    next.succeed(parse(&text).unwrap(), false);
    let written = next.to_text();
    for kept in ["# ticket 4711\n[group.", "note = \"vendor's fix is due\"\n", "count = 30 # seven\n", "# Ours.\n"] {
        assert!(written.contains(kept), "{kept}:\n{written}");
    }
    assert_eq!(parse(&written).unwrap().groups[&id].count, 30);
}

#[test]
fn notes_follow_a_group_whose_id_changed() {
    let text = of(sample::leaking()).to_text();
    let id = sample::leaking().groups[0].id.clone();
    let text = text.replace(&format!("[group.{id}]\n"), &format!("[group.{id}]\nnote = \"known\"\n"));
    let mut rebuilt = sample::leaking();
    rebuilt.groups[0].id = "00000000000000aa".into();
    rebuilt.groups[0].stack[1].line = Some(91);
    let mut next = of(rebuilt);
    next.succeed(parse(&text).unwrap(), false);
    let written = next.to_text();
    assert!(written.contains("[group.00000000000000aa]\nnote = \"known\"\n"), "{written}");
    assert!(!written.contains(&id) && written.contains("decode.c:91"), "{written}");
}

#[test]
fn groups_that_are_gone_stay_only_where_that_is_asked_for() {
    let old = || of(sample::leaking());
    let mut next = of(sample::clean());
    next.succeed(old(), false);
    assert_eq!(next.groups.len(), 0);
    let mut next = of(sample::clean());
    next.succeed(old(), true);
    assert_eq!(next.groups, old().groups);
    let empty = of(sample::clean()).to_text();
    assert!(parse(&empty).unwrap().groups.is_empty(), "{empty}");
}

#[test]
fn faults_name_file_line_and_reason() {
    let good = of(sample::leaking()).to_text();
    let line_of = |text: &str, words: &str| 1 + text.lines().position(|line| line.contains(words)).unwrap();
    let id = sample::leaking().groups[0].id.clone();
    let table = [
        ("count = 30", "count = -1", "count = -1", "is no number of objects"),
        ("count = 30", "count = \"x\"", "count = \"x\"", "is no number of objects"),
        ("count = 30\n", "", "group", "has no `count`"),
        ("class = \"definitely_lost\"", "class = \"lost\"", "class = \"lost\"", "`lost` of group"),
        ("object = \"AVFrame\"", "object = 3", "object = 3", "is no text"),
        ("count = 30", "count = 30\ncount = 31", "count = 31", "duplicate key"),
        ("count = 30", "<<<<<<< HEAD\ncount = 30", "<<<<<<<", ""),
    ];
    for (from, to, at, words) in table {
        let bad = good.replace(from, to);
        let error = parse(&bad).unwrap_err();
        let line = if at == "group" { line_of(&bad, &format!("[group.{id}]")) } else { line_of(&bad, at) };
        assert!(error.starts_with(&format!("b.toml:{line}:")), "{line}: {error}");
        assert!(error.contains(words) && error.contains("avleak baseline save"), "{words}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let twice = format!("{good}\n[group.{id}]\ncount = 1\n");
    assert!(parse(&twice).unwrap_err().contains("duplicate key"), "{}", parse(&twice).unwrap_err());
    let short = good.replace(&id, "abc");
    assert!(parse(&short).unwrap_err().contains("`abc` is no group's id"));
}

#[test]
fn what_is_no_baseline_is_named() {
    let table = [
        ("", "empty"),
        (" \n", "empty"),
        ("{\"schema\": \"avleak-report/1\"}", "looks like a report"),
        ("[package]\nname = \"x\"\n", "it has no `format = \"avleak-baseline/1\"`"),
        ("format = 1", "it has no `format"),
        ("format = \"other/1\"", "its format is `other/1`"),
        (
            "format = \"avleak-baseline/2\"",
            "avleak-baseline/2 cannot be read by this avleak, which reads avleak-baseline/1",
        ),
        ("format = \"avleak-baseline/1\"\ngroup = 3", "`group` is no table"),
        ("format = \"avleak-baseline/1\"\ngroup.x = 3", "`x` is no group's id"),
        ("format = \"avleak-baseline/1\"\n[[group]]\na = 3", "`group` is no table"),
    ];
    for (text, words) in table {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with("b.toml:") && error.contains(words), "{text}: {error}");
    }
    let error = Baseline::parse(Path::new("b"), b"\x7fELF\xff").unwrap_err().to_string();
    assert!(error.contains("it is no text"), "{error}");
    let error = Baseline::load(Path::new("/nonexistent.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read baseline /nonexistent.toml: ENOENT (check the name, or"), "{error}");
}

/// Cut anywhere, and with any byte replaced: an answer, never a panic.
#[test]
fn no_bytes_are_too_strange() {
    let good = of(sample::leaking()).to_text().into_bytes();
    for end in (0..good.len()).step_by(3) {
        let _ = Baseline::parse(Path::new("b"), &good[..end]);
    }
    let mut refused = 0;
    for at in (0..good.len()).step_by(2) {
        let mut bad = good.clone();
        bad[at] = [b'"', b'[', 0xff, b'\n', b'=', b'#'][at / 2 % 6];
        match Baseline::parse(Path::new("b"), &bad) {
            Ok(baseline) => assert!(baseline.to_text().contains(FORMAT)),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused}");
}
