//! Another preloaded allocator, before avleak's library or behind it.

use std::ffi::OsString;
use std::path::PathBuf;

use avleak_tests::avleak::{Outcome, Run};
use avleak_tests::truth::number;
use avleak_tests::{avleak_library, programs, truth};

use serde_json::Value;

use super::hosts::as_alone;

/// Where Debian puts it.
fn library(name: &str) -> PathBuf {
    let path = PathBuf::from("/usr/lib/x86_64-linux-gnu").join(name);
    assert!(path.exists(), "{} is missing: `make setup-tests` installs it", path.display());
    path
}

/// `avleak run` puts its library before what is preloaded already.
fn behind(name: &str, program: &str, twin: &str) -> Outcome {
    let command = [programs::program(program).into_os_string(), twin.into()];
    as_alone(&command, |run: Run| run.env("LD_PRELOAD", library(name)))
}

/// A wrapper of the user's own puts the allocator first.
fn before(name: &str, program: &str, twin: &str) -> Outcome {
    let mut preload = OsString::from("LD_PRELOAD=");
    preload.push(library(name));
    preload.push(":");
    preload.push(avleak_library());
    let command = ["env".into(), preload, programs::program(program).into_os_string(), twin.into()];
    Run::new(command).finish()
}

/// The host is not disturbed, nothing is invented, and the report says that this allocator may hide leaks. How much is found depends on it: its
/// caches keep stale pointers to blocks that it has handed out again, and avleak knows its way in glibc's only. `least`: of a hundred
/// lost frames. Of jemalloc's that is none: one cached pointer that a thread left behind may hold all that the thread lost.
fn check(outcome: &Outcome, least: u64) -> Value {
    let truth = truth::truths(&outcome.finished.text());
    let [truth] = &truth[..] else { panic!("no truth: {}\n{}", outcome.finished.text(), outcome.finished.stderr) };
    let (lost, report) = (number(&truth["leaks"]["frames"]), outcome.report());
    let found = number(&report["leaks"]["frames"]);
    assert!(found <= lost && 100 * found >= least * lost, "{found} of {lost} found: {report:#}");
    assert_eq!(report["verdict"] == "leaks", found > 0, "{report:#}");
    assert_eq!(report["observed"]["frames_allocated"], truth["observed"]["frames_allocated"]);
    assert_eq!(number(&report["observed"]["events_dropped"]), 0);
    assert_eq!(outcome.finished.stderr, "");
    let notes = report["completeness"]["notes"].to_string();
    assert!(notes.contains("may hide leaks"), "{notes}");
    report.clone()
}

macro_rules! allocators {
    ($($name:ident $library:literal $least:literal;)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn behind_avleak() {
                for program in ["leak_batch", "threads_many", "host_signal_storm"] {
                    for twin in ["leak", "clean"] {
                        let report = check(&behind($library, program, twin), $least);
                        assert_eq!(report["completeness"]["disagreements"].as_array().map(Vec::len), Some(0));
                        assert_ne!(report["verdict"], "inconclusive", "{report:#}");
                    }
                }
            }

            #[test]
            fn before_avleak() {
                for twin in ["leak", "clean"] {
                    // Armed by the first call of av_frame_alloc, of which one witness knows more than the other: that may be said.
                    check(&before($library, "leak_batch", twin), $least);
                }
            }
        }
    )* };
}

allocators! {
    jemalloc "libjemalloc.so.2" 0;
    tcmalloc "libtcmalloc_minimal.so.4" 60;
    mimalloc "libmimalloc.so.2" 60;
}
