//! `avleak ci`: suites of tests in C and Python, green without the leak and red with it; what CI services are told.

use std::process::Command;

use avleak_tests::avleak::{LIMIT, Run, read_report};
use avleak_tests::process::{self, Finished};
use avleak_tests::suite::Suite;
use avleak_tests::{avleak_binary, programs, repository, scratch};
use serde_json::Value;

const CTEST: &str = "-- ctest --test-dir build-ci";
const PYTEST: &str = "-- pytest -q -p no:cacheprovider";

/// `avleak ci` in the suite with these arguments, leaking so often.
fn ci(suite: &Suite, arguments: &str, times: u32) -> Finished {
    suite.run(&format!("tools/avleak/avleak ci {arguments}"), times)
}

/// `avleak ci` of a shell line, outside every suite.
fn shell(options: &[&str], line: &str) -> Finished {
    let mut command = Command::new(avleak_binary());
    command.arg("ci").args(options).args(["--", "sh", "-c", line]);
    command.env("EXITS", programs::program("exits")).env("BATCH", programs::program("leak_batch"));
    command.env("NO_FFMPEG", programs::program("no_ffmpeg"));
    process::run(&mut command, LIMIT)
}

fn assert_ended(done: &Finished, code: i32, decided_by: &str) {
    let line = format!("exit status {code}, decided by: {decided_by}");
    assert!(done.stderr.contains(&line), "{line:?} is not in:\n{}\n{}", done.stderr, done.text());
    assert_eq!(done.code(), code, "{}", done.stderr);
}

fn json(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The line of the C suite at which the leaked frame is allocated.
fn line_of_the_leak() -> usize {
    let source = std::fs::read_to_string(repository().join("examples/c/test_encode.c")).expect("the source");
    source.lines().position(|line| line.contains("av_frame_alloc")).expect("the allocation") + 1
}

#[test]
fn a_c_suite_under_ctest() {
    let suite = Suite::new("c").with_cmake();
    let green = ci(&suite, CTEST, 0);
    assert_ended(&green, 0, "clean");
    assert!(green.text().contains("100% tests passed"), "{}", green.text());
    for program in ["test_encode", "test_pool"] {
        assert!(green.stderr.contains(&format!("  {program} (pid ")), "{}", green.stderr);
    }
    assert!(!green.stderr.contains("test_timestamps"), "it has no memory of FFmpeg's: {}", green.stderr);

    let red = ci(&suite, &format!("--json report.json {CTEST}"), 3);
    assert_ended(&red, 1, "leaks");
    assert!(red.text().contains("100% tests passed"), "the tests themselves saw nothing: {}", red.text());
    let report = read_report(&suite.path().join("report.json")).expect("a report");
    assert_eq!(report["leaks"]["frames"], 3, "{report:#}");
    // The leak and its place are told once, below the table.
    assert_eq!(red.stderr.matches("3 AVFrame definitely lost").count(), 1, "{}", red.stderr);
    let place = format!("test_encode.c:{}", line_of_the_leak());
    assert!(red.stderr.contains("▸ gray") && red.stderr.contains(&place), "{}", red.stderr);
    for silent in ["::error", "gl-code-quality"] {
        assert!(!red.stderr.contains(silent), "no CI service was named: {}", red.stderr);
    }
    assert!(!suite.path().join("gl-code-quality-report.json").exists());
}

#[test]
fn github_is_shown_the_line_and_gets_a_step_summary() {
    let suite = Suite::new("c").with_cmake();
    let root = suite.path().to_str().expect("a path in UTF-8").to_owned();
    let summary = suite.path().join("summary.md");
    std::fs::write(&summary, "of the step before\n").expect("a file");
    let suite = suite.env("GITHUB_ACTIONS", "true").env("GITHUB_WORKSPACE", &root);
    let suite = suite.env("GITHUB_STEP_SUMMARY", summary.to_str().expect("a path in UTF-8"));
    let red = ci(&suite, CTEST, 3);
    assert_ended(&red, 1, "leaks");
    let line = line_of_the_leak();
    let annotations: Vec<&str> = red.stderr.lines().filter(|line| line.starts_with("::")).collect();
    let [only] = annotations[..] else { panic!("not one annotation: {annotations:?}") };
    let expected = format!("::error file=test_encode.c,line={line},title=avleak%3A 3 AVFrame definitely lost::");
    assert!(only.starts_with(&expected), "{only}");
    assert!(!red.text().contains("::error"), "stdout is the tests' own: {}", red.text());
    let markdown = std::fs::read_to_string(&summary).expect("the step summary");
    assert!(markdown.starts_with("of the step before\n### ❌ avleak: 3 frames leaked"), "{markdown}");
    assert!(
        markdown.contains("`test_encode (pid ") && markdown.contains(&format!("test_encode.c:{line}")),
        "{markdown}"
    );

    let green = ci(&suite, CTEST, 0);
    assert_ended(&green, 0, "clean");
    assert!(!green.stderr.contains("\n::"), "{}", green.stderr);
    let both = std::fs::read_to_string(&summary).expect("the step summary");
    assert!(both.starts_with(&markdown) && both.contains("### ✅ avleak: no leaks"), "{both}");

    // A summary that cannot be written is said, and changes no verdict.
    let suite = suite.env("GITHUB_STEP_SUMMARY", "/nonexistent/summary.md");
    let green = ci(&suite, CTEST, 0);
    assert_ended(&green, 0, "clean");
    assert!(green.stderr.contains("/nonexistent/summary.md: ENOENT"), "{}", green.stderr);
}

#[test]
fn gitlab_gets_a_code_quality_report() {
    let suite = Suite::new("c").with_cmake();
    let root = suite.path().to_str().expect("a path in UTF-8").to_owned();
    let suite = suite.env("GITLAB_CI", "true").env("CI_PROJECT_DIR", &root);
    assert_ended(&ci(&suite, CTEST, 3), 1, "leaks");
    let file = suite.path().join("gl-code-quality-report.json");
    let issues = json(&file);
    let [issue] = &issues.as_array().expect("an array")[..] else { panic!("not one issue: {issues:#}") };
    assert_eq!(issue["location"]["path"], "test_encode.c", "{issues:#}");
    assert_eq!(issue["location"]["lines"]["begin"], line_of_the_leak(), "{issues:#}");
    assert_eq!(issue["check_name"], "avleak-definitely-lost");
    assert_eq!(issue["severity"], "critical", "its buffer is pinned: {issues:#}");
    assert_eq!(issue["fingerprint"].as_str().map(str::len), Some(16), "{issues:#}");
    assert!(issue["description"].as_str().is_some_and(|text| text.contains("gray")), "{issues:#}");
    // GitLab compares two reports: the clean one is empty, not absent.
    assert_ended(&ci(&suite, CTEST, 0), 0, "clean");
    assert_eq!(json(&file), Value::Array(Vec::new()));
    // The next commit's build: other folder, other build id, other lines.
    let source = suite.path().join("test_encode.c");
    let text = std::fs::read_to_string(&source).expect("the source");
    std::fs::write(&source, format!("// One more line.\n{text}")).expect("the source");
    suite.run("cmake --build build-ci", 0).expect_success();
    assert_ended(&ci(&suite, &format!("--code-quality other.json {CTEST}"), 3), 1, "leaks");
    let next = json(&suite.path().join("other.json"));
    assert_eq!(next[0]["fingerprint"], issue["fingerprint"], "the same leak keeps its fingerprint: {next:#}");
    assert_eq!(next[0]["location"]["lines"]["begin"], line_of_the_leak() + 1, "{next:#}");
}

#[test]
fn a_pytest_suite_with_pyav() {
    let suite = Suite::new("python");
    let green = ci(&suite, PYTEST, 0);
    assert_ended(&green, 0, "clean");
    assert!(green.text().contains("3 passed"), "{}", green.text());
    let red = ci(&suite, &format!("--json report.json {PYTEST}"), 20);
    assert_ended(&red, 1, "leaks");
    assert!(red.text().contains("3 passed"), "{}", red.text());
    let report = read_report(&suite.path().join("report.json")).expect("a report");
    let packets = report["leaks"]["packets"].as_u64().unwrap_or(0);
    // PyAV keeps what the last generator held.
    assert!((19..=20).contains(&packets), "{packets} packets: {report:#}");
    assert!(red.stderr.contains("InputContainer"), "{}", red.stderr);
}

#[test]
fn python_runs_on_malloc_unless_told_otherwise() {
    let suite = Suite::new("python");
    let show = "python3 -c 'import os; print(os.environ.get(\"PYTHONMALLOC\"))'";
    for (command, expected) in [
        (format!("ci --allow-inconclusive -- {show}"), "malloc\n"),
        (format!("run -q -- {show}"), "malloc\n"),
        (format!("run -q --no-python -- {show}"), "None\n"),
        (format!("run -q -- sh -c \"exec {}\"", show.replace('"', "\\\"")), "None\n"),
        (format!("run -q --python -- sh -c \"exec {}\"", show.replace('"', "\\\"")), "malloc\n"),
    ] {
        let done = suite.run(&format!("tools/avleak/avleak {command}"), 0);
        assert_eq!(done.text(), expected, "{command}: {}", done.stderr);
    }
    let done = suite.run(&format!("PYTHONMALLOC=malloc_debug tools/avleak/avleak run -q -- {show}"), 0);
    assert_eq!(done.text(), "malloc_debug\n", "what the user has chosen stands: {}", done.stderr);
}

#[test]
fn the_tests_own_failure_comes_first() {
    let done = shell(&[], "\"$BATCH\" leak; exit 9");
    assert_ended(&done, 9, "program");
    assert!(done.stderr.contains("leak_batch leak (pid "), "the leak is told all the same: {}", done.stderr);
    assert_ended(&shell(&["--error-exitcode", "42"], "\"$BATCH\" leak"), 42, "leaks");
    assert_ended(&shell(&[], "kill -KILL $$"), 137, "program");
}

#[test]
fn children_are_followed_and_only_users_of_ffmpeg_are_judged() {
    let folder = scratch();
    let file = folder.path().join("report.json");
    let line = "\"$NO_FFMPEG\"; \"$BATCH\" clean & (\"$BATCH\" leak) & wait; ls / >/dev/null";
    let done = shell(&["--json", file.to_str().expect("a path in UTF-8")], line);
    assert_ended(&done, 1, "leaks");
    let report = read_report(&file).expect("a report");
    let verdicts: Vec<(&str, &str)> = (report["processes"].as_array().expect("processes").iter())
        .map(|process| {
            let last = process["target"]["argv"].as_array().and_then(|argv| argv.last()?.as_str());
            (last.unwrap_or("?"), process["verdict"].as_str().unwrap_or("?"))
        })
        .collect();
    assert_eq!(verdicts.len(), 2, "{report:#}");
    assert!(verdicts.contains(&("clean", "clean")) && verdicts.contains(&("leak", "leaks")), "{verdicts:?}");
    let of = |word: &str| done.stderr.find(&format!("leak_batch {word} (pid "));
    assert!(of("leak") < of("clean"), "the worst stands first: {}", done.stderr);
}

#[test]
fn no_ffmpeg_is_not_silently_green() {
    let quiet = "\"$NO_FFMPEG\" >/dev/null";
    let done = shell(&[], quiet);
    assert_ended(&done, 3, "inconclusive");
    assert!(done.stderr.contains("no process used FFmpeg") && done.stderr.contains("do: check"), "{}", done.stderr);
    let allowed = shell(&["--allow-inconclusive"], quiet);
    assert_ended(&allowed, 0, "inconclusive");
    assert!(allowed.stderr.contains("no process used FFmpeg"), "passing is not silence: {}", allowed.stderr);
    assert_ended(&shell(&["--allow-inconclusive", "--require-ffmpeg"], quiet), 3, "inconclusive");
    // What is allowed to pass unjudged is no leave to leak.
    assert_ended(&shell(&["--allow-inconclusive"], "\"$BATCH\" leak"), 1, "leaks");
}

#[test]
fn a_process_that_could_not_be_judged_is_allowed_only_when_asked() {
    let program = programs::program("leak_batch");
    let run = |options: &[&str]| {
        let mut command = Command::new(avleak_binary());
        command.arg("ci").args(options).arg("--").arg(&program).arg("clean").env("AVLEAK_OPTIONS", "ptrace=0");
        process::run(&mut command, LIMIT)
    };
    let done = run(&[]);
    assert_ended(&done, 3, "inconclusive");
    assert!(done.stderr.contains("do: leave ptrace=0 out of AVLEAK_OPTIONS"), "{}", done.stderr);
    assert_ended(&run(&["--allow-inconclusive", "--require-ffmpeg"]), 0, "inconclusive");
}

#[test]
fn a_missing_library_is_an_error() {
    let mut command = Command::new(avleak_binary());
    command.args(["ci", "--", "true"]).env("AVLEAK_LIB", "/nonexistent/libavleak.so");
    let done = process::run(&mut command, LIMIT);
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert!(done.stderr.starts_with("avleak: AVLEAK_LIB names /nonexistent/libavleak.so: ENOENT"), "{}", done.stderr);
    let mut command = Command::new(avleak_binary());
    command.args(["ci", "--code-quality", "/nonexistent/q.json", "--", "true"]);
    let done = process::run(&mut command, LIMIT);
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert!(done.stderr.contains("/nonexistent") && done.stderr.contains("not started"), "{}", done.stderr);
}

#[test]
fn runs_at_once_do_not_disturb_each_other() {
    let program = programs::program("leak_batch");
    // All are started before the first is waited for.
    let started: Vec<_> = (0..8)
        .map(|number| {
            let word = if number % 2 == 0 { "leak" } else { "clean" };
            (word, Run::new([program.as_os_str(), word.as_ref()]).start())
        })
        .collect();
    for (word, run) in started {
        let outcome = run.finish();
        let report = outcome.report();
        assert_eq!(report["target"]["argv"][1], word, "{report:#}");
        assert_eq!(report["verdict"], if word == "leak" { "leaks" } else { "clean" }, "{report:#}");
        assert_eq!(outcome.finished.code(), i32::from(word == "leak"));
    }
}

#[test]
fn a_run_within_a_run_keeps_to_its_own() {
    let folder = scratch();
    let inner = folder.path().join("inner.json");
    let line = format!(
        "\"{}\" ci --json \"{}\" -- \"$BATCH\" leak; echo inner $?; \"$BATCH\" clean",
        avleak_binary().display(),
        inner.display()
    );
    let outer = folder.path().join("outer.json");
    let done = shell(&["--json", outer.to_str().expect("a path in UTF-8")], &line);
    assert!(done.text().contains("inner 1\n"), "{}\n{}", done.text(), done.stderr);
    assert_eq!(read_report(&inner).expect("the inner report")["target"]["argv"][1], "leak");
    let report = read_report(&outer).expect("the outer report");
    assert_eq!(report["target"]["argv"][1], "clean", "{report:#}");
    assert_eq!((done.code(), &report["verdict"]), (0, &Value::from("clean")), "{}", done.stderr);
}
