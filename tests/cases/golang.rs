//! Go programs: what only their own heap holds, who called, what goroutines hold, however they end.

use std::path::{Path, PathBuf};
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Outcome, Run};
use avleak_tests::golang::{Toolchain, default_toolchain, other_toolchains};
use avleak_tests::truth::{self, functions, groups, number};
use avleak_tests::{avleak_binary, avutil, process, repository, scratch};
use serde_json::Value;

const STRIPPED: &[&str] = &["-ldflags=-s -w"];

fn frames() -> PathBuf {
    default_toolchain().program("frames", "", &[])
}

fn checked(program: &Path, arguments: &[&str]) -> Outcome {
    let mut command = vec![program.as_os_str().to_owned()];
    command.extend(arguments.iter().map(Into::into));
    let outcome = Run::new(command).finish();
    truth::check(&outcome);
    outcome
}

/// Of 1,000 frames each at most 3 % are hidden, without a collection.
fn lost_and_held(program: &Path) {
    for how in ["error", "clones", "worker", "batch"] {
        checked(program, &["lose", how]);
    }
    for how in ["map", "channel", "slice", "parked", "uintptr", "closure", "finalizer", "local"] {
        let outcome = checked(program, &["hold", how]);
        let totals = &outcome.report()["totals"];
        assert_eq!(number(&totals["still_reachable"]["frames"]), 1000, "{how}: {totals:#}");
    }
}

#[test]
fn what_only_garbage_holds_is_lost_and_nothing_else() {
    lost_and_held(&frames());
}

#[test]
fn stripped_programs_are_judged_too() {
    lost_and_held(&default_toolchain().program("frames", "-stripped", STRIPPED));
}

#[test]
fn position_independent_programs_are_judged_too() {
    let program = default_toolchain().program("frames", "-pie", &["-buildmode=pie", "-ldflags=-s -w"]);
    checked(&program, &["lose", "batch"]);
    checked(&program, &["hold", "map"]);
}

#[test]
fn every_version_of_go_is_judged() {
    for toolchain in other_toolchains() {
        lost_and_held(&toolchain.program("frames", "", &[]));
        callers(&toolchain);
    }
}

/// `main.function` at a line of main.go.
fn is_at(frame: &Value, function: &str) -> bool {
    let in_file = frame["file"].as_str().is_some_and(|file| file.ends_with("/main.go"));
    frame["function"] == function && in_file && number(&frame["line"]) > 0
}

fn callers(toolchain: &Toolchain) {
    for (suffix, arguments) in [("", &[][..]), ("-stripped", STRIPPED)] {
        let outcome = checked(&toolchain.program("frames", suffix, arguments), &["lose", "error"]);
        let report = outcome.report();
        let group = groups(report, "AVFrame").find(|group| group["leak"] == true).expect("a leak group");
        let stack = group["stack"].as_array().expect("a stack");
        let names = functions(&group["stack"]);
        for function in ["main.newFrame", "main.decode", "main.loseByError", "main.lose", "main.main"] {
            assert!(stack.iter().any(|frame| is_at(frame, function)), "{} {function}: {names:?}", toolchain.name);
        }
        // In this order, and to the end of the goroutine's stack.
        let place = |name: &str| names.iter().position(|known| *known == name);
        assert!(
            place("main.newFrame") < place("main.decode") && place("main.decode") < place("main.main"),
            "{names:?}"
        );
        assert_eq!(names.last(), Some(&"runtime.goexit"), "{names:?}");
        let freed = &group["freed_elsewhere"][0]["stack"];
        assert!(functions(freed).contains(&"main.(*Frame).free"), "{freed:#}");
    }
}

#[test]
fn go_callers_are_named() {
    callers(&default_toolchain());
}

#[test]
fn goroutines_that_hold_frames_are_shown() {
    let outcome = checked(&frames(), &["hold", "parked"]);
    let go = &outcome.report()["go"];
    assert!(number(&go["goroutines"]) >= 1001, "{go:#}");
    assert_eq!(go["runtimes"][0]["judged"], true);
    let group = &go["holding"][0];
    assert_eq!((number(&group["count"]), number(&group["frames"])), (1000, 1000), "{group:#}");
    assert_eq!(group["state"], "chan receive", "{group:#}");
    assert!(functions(&group["stack"]).contains(&"main.park"), "{group:#}");
    assert!(is_at(&group["created_by"], "main.hold"), "{group:#}");
    let folder = scratch();
    let file = folder.path().join("report.json");
    std::fs::write(&file, outcome.document.to_string()).expect("a report");
    let shown = process::run(Command::new(avleak_binary()).arg("report").arg(&file), LIMIT).expect_success();
    let text = shown.text();
    assert!(text.contains("1,000 of ") && text.contains("1,000 × chan receive"), "{text}");
    // What a variable holds is no goroutine's.
    let outcome = checked(&frames(), &["hold", "map"]);
    assert_eq!(outcome.report()["go"]["holding"], Value::Array(Vec::new()));
}

/// None of these ends runs an exit handler.
#[test]
fn a_go_program_is_judged_however_it_ends() {
    for how in ["return", "exit", "panic", "panic-elsewhere", "sigterm", "segv"] {
        checked(&frames(), &["end", how]);
    }
}

/// purego's callers: from assembly on g0 through reflection to the program. Versions beside each other are told apart.
#[test]
fn without_cgo() {
    let purego = repository().join("build/purego/src/github.com/ebitengine/purego/go.mod");
    if !purego.is_file() {
        assert!(std::env::var_os("AVLEAK_GO_ALL").is_none(), "scripts/setup.sh go unpacks purego into build/purego");
        println!("left out: {} is not there (scripts/setup.sh go)", purego.display());
        return;
    }
    let (ours, wheels) = (avutil::of_the_system(), avutil::of_the_wheel().display().to_string());
    for (suffix, arguments) in [("", &[][..]), ("-stripped", STRIPPED)] {
        let program = default_toolchain().program("pure", suffix, arguments);
        for libraries in [ours.clone(), wheels.clone(), format!("{ours},{wheels}")] {
            for (how, held) in [("lose", 0), ("hold", 1000), ("clean", 0)] {
                let outcome = checked(&program, &[&libraries, how]);
                let report = outcome.report();
                assert!(number(&report["totals"]["still_reachable"]["frames"]) >= held, "{report:#}");
                assert_eq!(report["completeness"]["notes"], Value::Array(Vec::new()), "{report:#}");
                for group in groups(report, "AVFrame").filter(|group| group["leak"] == true) {
                    let names = functions(&group["stack"]);
                    for function in ["main.newPicture", "main.decode", "main.main", "runtime.goexit"] {
                        assert!(names.contains(&function), "{function}: {names:?}");
                    }
                }
            }
        }
    }
}
