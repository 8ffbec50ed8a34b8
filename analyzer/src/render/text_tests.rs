//! Golden tests of the terminal text. `AVLEAK_UPDATE_GOLDEN=1 cargo test` writes the files anew; look at the difference.

use super::*;
use crate::render::golden::golden;
use crate::render::{json, load};
use crate::report::model::{Class, Ended};
use crate::report::sample;

fn plain(width: Option<usize>, all: bool) -> TextOptions {
    TextOptions { style: Style::PLAIN, width, all }
}

/// The stored JSON is the input, so that the golden files stand for what `avleak report` does.
fn case(name: &str, json_text: &str, variants: &[(&str, TextOptions)]) {
    golden(&format!("{name}.json"), json_text);
    let report = load::parse(std::path::Path::new(name), json_text.as_bytes()).unwrap();
    for (suffix, options) in variants {
        golden(&format!("{name}{suffix}.txt"), &any(&report, options));
    }
}

#[test]
fn golden_leaks() {
    let colored = TextOptions { style: Style::COLORED, width: Some(100), all: false };
    let variants = [
        ("", plain(None, false)),
        (".100", plain(Some(100), false)),
        (".60", plain(Some(60), false)),
        (".all", plain(None, true)),
        (".color", colored),
    ];
    case("leaks", &json::to_string(&sample::leaking()), &variants);
}

#[test]
fn golden_clean_inconclusive_full_and_run() {
    let one = [("", plain(Some(100), false))];
    case("clean", &json::to_string(&sample::clean()), &one);
    case("inconclusive", &json::to_string(&sample::inconclusive()), &one);
    case("full", &json::to_string(&sample::full()), &one);
    case("run", &json::to_string(&sample::run()), &one);
}

#[test]
fn a_clean_run_is_two_calm_lines() {
    let text = process(&sample::clean(), &plain(Some(100), false));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("avleak: no leaks — server (pid 812), exit 0\n"), "{text}");
    assert!(text.contains("6,001 frames allocated, 6,001 freed"), "{text}");
    assert!(text.contains("0 events dropped"), "{text}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for report in [sample::leaking(), sample::full(), sample::inconclusive(), sample::clean()] {
        for columns in [60, 72, 80, 100, 132, 200] {
            for all in [false, true] {
                let text = process(&report, &plain(Some(columns), all));
                let long: Vec<&str> = text.lines().filter(|line| width(line) > columns).collect();
                assert!(long.is_empty(), "{columns}: {long:#?}");
            }
        }
    }
}

#[test]
fn what_is_not_seen_is_never_hidden() {
    for all in [false, true] {
        let text = process(&sample::full(), &plain(None, all));
        for needle in [
            "1 event was dropped",
            "8 KiB (8,192 bytes) of memory could not be read",
            "14 stacks are incomplete",
            "2 frames were freed that were never seen",
            "install libavcodec59-dbgsym",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }
    let mut corrupt = sample::full();
    corrupt.completeness.corrupt_rings = 1;
    assert!(process(&corrupt, &plain(None, false)).contains("1 event ring was corrupt"));
    let mut clean = sample::clean();
    clean.completeness.notes.push("a note".to_string());
    assert!(process(&clean, &plain(None, false)).contains("! a note"));
}

#[test]
fn many_groups_are_cut_and_counted() {
    let mut report = sample::leaking();
    let group = report.groups[0].clone();
    report.groups.splice(0..0, std::iter::repeat_n(group, 25));
    let text = process(&report, &plain(None, false));
    assert_eq!(text.matches("allocated at").count(), GROUPS);
    assert!(text.contains("… and 7 more groups, see the JSON or --all"), "{text}");
    let text = process(&report, &plain(None, true));
    assert_eq!(text.matches("\n     allocated at").count(), report.groups.len());
}

#[test]
fn reachable_groups_are_listed_at_draconian_or_on_demand_only() {
    let mut report = sample::leaking();
    let listed = |report: &Report, all| process(report, &plain(None, all)).contains("3 AVFrame still reachable");
    assert!(!listed(&report, false));
    assert!(listed(&report, true));
    report.level = Level::Draconian;
    assert!(listed(&report, false));
}

#[test]
fn hostile_strings_reach_no_terminal() {
    let mut report = sample::leaking();
    report.target.exe = "/tmp/\x1b[2J".to_string();
    report.reason = "\x1b]0;owned\x07".to_string();
    report.completeness.notes.push("a\r\nb\x1bc".to_string());
    for group in &mut report.groups {
        group.object.push('\x1b');
        group.format = Some("\x1b[31m".to_string());
        for frame in &mut group.stack {
            frame.function = Some("f\x1b[0m\n".to_string());
            frame.file = Some("\x08.c".to_string());
        }
        for holder in &mut group.held_by {
            holder.what.push('\x1b');
        }
    }
    for verdict in [Verdict::Leaks, Verdict::Clean, Verdict::Inconclusive] {
        report.verdict = verdict;
        let text = process(&report, &plain(Some(80), true));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn colour_changes_nothing_but_escapes() {
    let report = sample::full();
    let colored = process(&report, &TextOptions { style: Style::COLORED, width: Some(90), all: true });
    let mut stripped = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        stripped.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    stripped.push_str(rest);
    assert_eq!(stripped, process(&report, &plain(Some(90), true)));
}

#[test]
fn strange_numbers_break_nothing() {
    let mut report = sample::full();
    report.target.duration_s = f64::NAN;
    for group in &mut report.groups {
        (group.count, group.siblings_allocated, group.bytes) = (u64::MAX, 0, u64::MAX);
        (group.age_min_s, group.age_max_s, group.rate_per_minute) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
        group.class = Class::Unclassified;
        group.stack.clear();
        group.refs.iter_mut().for_each(|r| r.count = u64::MAX);
        group.freed_elsewhere.iter_mut().for_each(|f| (f.count, f.lifetime_median_ms) = (u64::MAX, f64::NAN));
    }
    report.totals.unclassified.bytes = u64::MAX;
    report.observed.threads = u64::MAX;
    for all in [false, true] {
        assert!(!process(&report, &plain(Some(80), all)).is_empty());
    }
}

#[test]
fn a_run_of_many_processes_tells_of_those_that_matter() {
    let mut processes = vec![sample::clean(); 40];
    processes.push(sample::leaking());
    processes[3].completeness.notes.push("to be known".to_string());
    let report = crate::report::verdict::sum_up(vec!["make".into()], Some(Ended::Exit(0)), 1, processes);
    let text = run(&report, &plain(None, false));
    assert!(text.lines().nth(2).unwrap().starts_with("  leaks         server (pid 812)"), "{text}");
    assert!(text.contains("… and 21 more, 21 of them clean"), "{text}");
    assert_eq!(text.matches("avleak: ").count(), 3, "the run, the leaking one, the one with a note: {text}");
    assert!(text.contains("! to be known"), "{text}");
    assert_eq!(run(&report, &plain(None, true)).matches("avleak: ").count(), 42);
    for columns in [60, 80, 120] {
        assert!(run(&report, &plain(Some(columns), false)).lines().all(|line| width(line) <= columns));
    }
}

#[test]
fn a_run_of_one_process_is_said_once() {
    let report = sample::leaking();
    let (argv, ended) = (report.target.argv.clone(), report.target.ended);
    let same = crate::report::verdict::sum_up(argv, ended, 1, vec![report.clone()]);
    assert_eq!(run(&same, &plain(None, false)), process(&report, &plain(None, false)));
    let wrapped = crate::report::verdict::sum_up(vec!["sh".into()], Some(Ended::Exit(3)), 1, vec![report]);
    let text = run(&wrapped, &plain(None, false));
    assert!(text.starts_with("avleak: 34 frames leaked, 361 MiB pinned — sh, exit 3\n"), "{text}");
    assert!(text.contains("exit status 3, decided by: program"), "{text}");
    let nothing = crate::report::verdict::sum_up(vec!["true".into()], Some(Ended::Exit(0)), 1, vec![]);
    let text = run(&nothing, &plain(None, false));
    assert!(text.contains("INCONCLUSIVE — true, exit 0") && text.contains("do: check that"), "{text}");
}
