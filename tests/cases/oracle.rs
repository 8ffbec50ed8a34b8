//! The oracle: Valgrind's memcheck and avleak agree on the class of every frame, and of the blocks that a fixture's own
//! functions made, wherever both can speak. Printed is where avleak knows more.

use std::collections::BTreeSet;
use std::ffi::OsString;

use avleak_tests::avleak::Run;
use avleak_tests::oracle::{CLASSES, Census, census_of_memcheck, census_of_report, memcheck};
use avleak_tests::truth::{self, number};
use avleak_tests::{media, programs};
use serde_json::Value;

/// Runs a fixture under both and compares. `makers` are its functions whose plain blocks are compared.
fn agree(command: &[OsString], makers: &[&str]) {
    let (run, records) = memcheck(command);
    let truths = truth::truths(&run.text());
    assert_eq!(truths.len(), 1, "no truth under valgrind:\n{}\n{}", run.text(), run.stderr);
    let theirs = census_of_memcheck(&records, makers);
    assert_fits_truth(&truths[0], &theirs);

    let outcome = Run::new(command).level("strict").finish();
    let report = outcome.report();
    let mut ours = census_of_report(report, makers);
    // All frames, whether or not their groups are listed.
    ours.retain(|(what, class), _| what != "AVFrame" && *class != "still_reachable");
    for (class, _) in CLASSES {
        let frames = number(&report["totals"][class]["frames"]);
        if frames > 0 {
            ours.insert(("AVFrame".into(), class), frames);
        }
    }
    compare(command, &ours, &theirs);
    say_what_is_known_beyond(command, report, &theirs);
}

/// Valgrind itself agrees with what the program says.
fn assert_fits_truth(truth: &Value, theirs: &Census) {
    let slack = number(&truth["slack_objects"]);
    for (class, _) in CLASSES {
        if let Some(expected) = truth["totals"][class]["frames"].as_u64() {
            let found = theirs.get(&("AVFrame".to_owned(), class)).copied().unwrap_or(0);
            assert!(
                found.abs_diff(expected) <= slack,
                "valgrind sees {found} frames {class}, the program says {expected}: {theirs:?}"
            );
        }
    }
}

fn compare(command: &[OsString], ours: &Census, theirs: &Census) {
    let kinds: BTreeSet<&String> = ours.keys().chain(theirs.keys()).map(|(what, _)| what).collect();
    let mut faults = Vec::new();
    for what in kinds {
        let count = |census: &Census, class| census.get(&(what.clone(), class)).copied().unwrap_or(0);
        let lost = |census: &Census| count(census, "definitely_lost") + count(census, "indirectly_lost");
        for (class, _) in CLASSES {
            let (our, their) = (count(ours, class), count(theirs, class));
            // Which member of a lost cycle leads it is a matter of taste: Valgrind takes the first, avleak the most telling.
            let leads = class.ends_with("ly_lost") && class != "possibly_lost" && lost(ours) == lost(theirs);
            let listed = what == "AVFrame" || class != "still_reachable";
            if our != their && leads {
                println!("{command:?}: {what} {class}: {our} (valgrind {their}): another member leads the cycle");
            } else if our != their && listed {
                faults.push(format!("{what} {class}: avleak {our}, valgrind {their}"));
            }
        }
    }
    assert!(faults.is_empty(), "{command:?}\n{}\nours {ours:?}\ntheirs {theirs:?}", faults.join("\n"));
}

fn say_what_is_known_beyond(command: &[OsString], report: &Value, theirs: &Census) {
    let leaks = &report["leaks"];
    let definitely = theirs.get(&("AVFrame".to_owned(), "definitely_lost")).copied().unwrap_or(0);
    if number(&leaks["frames"]) != definitely {
        println!("{command:?}: {} leaked frames, valgrind calls {definitely} definitely lost", leaks["frames"]);
    }
    if number(&leaks["pinned_bytes"]) > 0 {
        println!("{command:?}: avleak knows that {} bytes of pictures are pinned", leaks["pinned_bytes"]);
    }
}

macro_rules! oracle {
    ($($name:ident: $program:literal [$($twin:literal),*] $makers:expr;)*) => { $(
        #[test]
        fn $name() {
            for twin in [$($twin),*] {
                agree(&[programs::program($program).into(), twin.into()], &$makers);
            }
        }
    )* };
}

oracle! {
    error_path: "leak_error_path" ["leak", "clean"] [];
    partial_clones: "leak_partial_clones" ["leak"] [];
    worker_return: "leak_worker_return" ["leak"] [];
    batch: "leak_batch" ["leak"] [];
    buffer_ref: "leak_buffer_ref" ["leak"] [];
    unref_reused: "leak_unref_reused" ["leak"] [];
    unref_freep: "leak_unref_freep" ["leak"] [];
    move_ref: "leak_move_ref" ["leak"] [];
    pool_pinned: "pool_pinned" ["leak"] [];
    codec_context: "codec_context" ["leak"] [];
    own_struct: "own_struct" ["leak", "clean"] ["session_open"];
    packets: "packets" ["leak"] [];
    filter_graph: "filter_graph" ["leak"] [];
    nine_blocks: "nine_blocks" ["leak", "clean"] ["block_to"];
    nine_frames: "nine_frames" ["leak", "clean"] [];
    bins: "bins" ["leak"] [];
    realloc_edges: "realloc_edges" ["leak", "clean"] ["edges"];
    exit_by_return: "exits" ["return"] [];
    exit_after_main_is_gone: "exits" ["main_gone"] [];
    tls_destructors: "tls_destructors" ["leak"] [];
}

#[test]
fn plugins() {
    for mode in ["local", "global"] {
        let plugin = programs::plugin();
        agree(&[programs::program("dl_modes").into(), mode.into(), plugin.into(), "leak".into()], &[]);
    }
}

/// Here avleak knows more: the loader holds a thread's blocks by interior pointers only, so that Valgrind calls all that
/// lives in thread-local storage of late libraries possibly lost.
#[test]
fn tls_libraries() {
    let command: [OsString; 3] =
        [programs::program("tls_libs").into(), programs::tls_libraries().into(), "leak".into()];
    let (_, records) = memcheck(&command);
    let theirs = census_of_memcheck(&records, &[]);
    let frames = |class| theirs.get(&("AVFrame".to_owned(), class)).copied().unwrap_or(0);
    assert_eq!((frames("definitely_lost"), frames("possibly_lost"), frames("still_reachable")), (8, 192, 0));
    let outcome = Run::new(&command).finish();
    let totals = &outcome.report()["totals"];
    assert_eq!(number(&totals["definitely_lost"]["frames"]), 8);
    assert_eq!(number(&totals["possibly_lost"]["frames"]), 0);
    println!(
        "{command:?}: avleak knows that 192 frames in thread-local storage are reachable; valgrind: possibly lost"
    );
}

#[test]
fn the_demo_server() {
    agree(&[programs::program("demo_server").into(), media("short.mp4").into()], &[]);
}
