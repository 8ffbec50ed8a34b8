//! Python: callers by name in every interpreter at hand, wheels with FFmpegs of their own, ctypes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use avleak_tests::avleak::{Outcome, Run};
use avleak_tests::suite::tool;
use avleak_tests::truth::{groups, number};
use avleak_tests::{avutil, media, repository, scratch};
use serde_json::Value;

/// A way through Python: function and line, innermost first; and how often it was gone.
type Ways = BTreeMap<Vec<(String, u64)>, u64>;

fn script(name: &str) -> OsString {
    repository().join("tests/python").join(name).into()
}

/// The interpreter into which the wheels are installed.
fn python() -> OsString {
    tool("python").into()
}

/// PyAV's wheel is for every version from 3.11 on: it runs in interpreters that do not know it.
fn wheels() -> PathBuf {
    let lib = repository().join("build/venv/lib");
    let inside = std::fs::read_dir(&lib).expect("the libraries of build/venv").filter_map(Result::ok);
    inside.map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir()).expect("site-packages")
}

/// Debian's, and those that pyenv or AVLEAK_PYTHONS (paths, joined by `:`) knows.
fn interpreters() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/bin/python3")];
    let named = std::env::var_os("AVLEAK_PYTHONS").unwrap_or_default();
    found.extend(std::env::split_paths(&named).filter(|path| path.is_file()));
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let versions = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().filter_map(Result::ok);
    let minor = |name: &OsStr| name.to_str()?.strip_prefix("3.")?.split('.').next()?.parse::<u32>().ok();
    let known = versions.filter(|version| minor(&version.file_name()).is_some_and(|minor| (11..=15).contains(&minor)));
    found.extend(known.map(|version| version.path().join("bin/python3")));
    found
}

fn run<S: Into<OsString>>(python: OsString, name: &str, arguments: impl IntoIterator<Item = S>) -> Run {
    Run::new([python, script(name)].into_iter().chain(arguments.into_iter().map(Into::into)))
}

/// The ways to what is lost, or possibly lost: a word that has nothing to do with it may be its address.
fn ways(report: &Value, object: &str) -> Ways {
    let mut ways = Ways::new();
    for group in groups(report, object).filter(|group| group["class"] != "still_reachable") {
        let frames = group["stack"].as_array().into_iter().flatten().filter(|frame| frame["python"] == true);
        let way = frames.map(|frame| (frame["function"].as_str().unwrap_or("?").into(), number(&frame["line"])));
        *ways.entry(way.collect()).or_default() += number(&group["count"]);
    }
    ways
}

fn notes(outcome: &Outcome) -> String {
    outcome.report()["completeness"]["notes"].to_string()
}

#[test]
fn callers_are_named_in_every_version() {
    for python in interpreters() {
        let mut run = run(python.clone().into(), "callers.py", [media("short.mp4")]);
        run = run.env("PYTHONPATH", wheels());
        let outcome = run.finish();
        let truth: Vec<(u64, Vec<(String, u64)>)> = serde_json::from_str(&outcome.finished.text()).expect("the truth");
        let truth: Ways = truth.into_iter().map(|(times, way)| (way, times)).collect();
        assert_eq!(ways(outcome.report(), "AVPacket"), truth, "{}", python.display());
        let (all, lost): (u64, u64) = (truth.values().sum(), number(&outcome.report()["leaks"]["packets"]));
        // Every one is named above; a stale word in memory of Python's own may still hide one (docs/compatibility.md).
        assert!(lost + 1 >= all, "{}: {lost} of {all} packets", python.display());
        assert_eq!(outcome.finished.code(), 1);
        println!("{}: {lost} of {all} packets, every caller by name and line", python.display());
    }
}

/// sorted() stands between the function that calls it and the one that it calls.
#[test]
fn c_code_stands_between_the_functions_that_it_came_from_and_went_to() {
    let outcome = run(python(), "callers.py", [media("short.mp4")]).finish();
    let by_callback = |group: &&Value| group["stack"].to_string().contains("by_callback.<locals>.<lambda>");
    let group = groups(outcome.report(), "AVPacket").find(by_callback).expect("the packet of the callback");
    let stack: Vec<&Value> = group["stack"].as_array().into_iter().flatten().collect();
    let place = |name: &str| stack.iter().position(|frame| frame["function"] == name).expect("a frame");
    let (inner, outer) = (place("by_callback.<locals>.<lambda>"), place("by_callback"));
    assert!(stack[inner + 1..outer].iter().any(|frame| frame["python"] != true), "{group:#}");
    assert!(stack[..place("Reader.first")].iter().all(|frame| frame["python"] != true), "{group:#}");
}

#[test]
fn decoding_filtering_encoding_and_remuxing_lose_nothing() {
    let folder = scratch();
    let outcome = run(python(), "clean.py", [media("short.mp4").into_os_string(), folder.path().into()]).finish();
    assert_eq!(outcome.finished.code(), 0, "{:#}", outcome.document);
    assert_eq!(outcome.report()["verdict"], "clean");
    assert!(number(&outcome.report()["observed"]["frames_allocated"]) > 100);
}

/// Pointers to Python's objects lead behind the start of their blocks.
#[test]
fn what_python_objects_hold_is_reachable() {
    let outcome = run(python(), "held.py", [media("short.mp4")]).level("strict").finish();
    let totals = &outcome.report()["totals"];
    assert!(number(&totals["still_reachable"]["frames"]) >= 12, "{totals:#}");
    let elsewhere =
        ["definitely_lost", "indirectly_lost", "possibly_lost"].map(|class| number(&totals[class]["frames"]));
    assert_eq!(elsewhere, [0, 0, 0], "{totals:#}");
}

/// The one packet was held by a dead object that its type keeps for the next use. Strict: that a number in memory older than avleak
/// looks like an address of the middle of a packet is a matter of where the kernel puts the heap, and was seen once in some tens of runs.
#[test]
fn two_ffmpegs_in_one_process() {
    for times in [0, 1, 5] {
        let outcome = run(python(), "two_ffmpegs.py", [media("short.mp4").into_os_string(), times.to_string().into()])
            .level("strict")
            .finish();
        let report = outcome.report();
        assert_eq!(outcome.finished.code(), i32::from(times > 0), "{times}: {:#}", report["leaks"]);
        assert_eq!(number(&report["leaks"]["packets"]), times, "{:#}", report["leaks"]);
        assert_eq!(number(&report["leaks"]["frames"]), 0);
        assert_eq!(number(&report["completeness"]["untyped_stacks"]), 0);
        let found = ways(report, "AVPacket");
        assert_eq!(found.len(), usize::from(times > 0), "{found:?}");
        assert!(found.keys().all(|way| way.first().is_some_and(|call| call.0 == "first_packet")), "{found:?}");
    }
}

/// ctypes calls through libffi, whose frames no other function's are like. Strict: as above.
#[test]
fn ctypes() {
    let avutil = OsString::from(avutil::of_the_system());
    for (times, options) in [(0u64, &[][..]), (3, &[]), (3, &["--no-python"])] {
        let outcome = run("/usr/bin/python3".into(), "by_ctypes.py", [avutil.clone(), times.to_string().into()])
            .options(options)
            .level("strict")
            .env("AVLEAK_OPTIONS", "verify=1")
            .finish();
        let report = outcome.report();
        assert_eq!(outcome.finished.code(), i32::from(times > 0), "{report:#}");
        assert_eq!(number(&report["leaks"]["frames"]), times);
        assert_eq!(number(&report["completeness"]["incomplete_stacks"]), 0, "{report:#}");
        assert!(notes(&outcome).contains(" were unwound twice, 0 differed"), "{}", notes(&outcome));
        if times > 0 {
            let functions: Vec<Vec<String>> =
                ways(report, "AVFrame").into_keys().map(|way| way.into_iter().map(|call| call.0).collect()).collect();
            assert_eq!(functions, [["make", "lose", "<module>"]]);
        }
    }
}
