//! Python over the FFmpeg of PyAV's wheels: libraries of mangled names, loaded RTLD_LOCAL.
//!
//! The wheel of `make setup-tests`; `make matrix` names more of them in `AVLEAK_WHEELS`, Pythons joined by colons.

use std::path::PathBuf;

use avleak_tests::avleak::Run;
use avleak_tests::truth::{functions, groups, number};
use avleak_tests::{media, programs, suite, truth};

fn pythons() -> Vec<PathBuf> {
    match std::env::var_os("AVLEAK_WHEELS") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => vec![suite::tool("python")],
    }
}

#[test]
fn frames_of_a_wheel() {
    let (script, video) = (programs::sources().join("wheel.py"), media("short.mp4"));
    for python in pythons() {
        let run = |twin: &str| {
            let outcome = Run::new([python.as_os_str(), script.as_os_str(), video.as_os_str(), twin.as_ref()]).finish();
            println!("{} {twin}: {}", python.display(), outcome.finished.stderr.trim());
            truth::check(&outcome);
            outcome
        };
        run("clean");
        let outcome = run("leak");
        let leaks: Vec<_> = groups(outcome.report(), "AVFrame").filter(|group| group["leak"] == true).collect();
        assert_eq!(leaks.len(), 1, "one line of Python loses frames:\n{:#}", outcome.document);
        let leak = leaks[0];
        assert_eq!((number(&leak["width"]), number(&leak["height"])), (640, 360), "{leak:#}");
        assert_eq!(leak["format"], "yuv420p", "{leak:#}");
        let pictures = number(&leak["count"]) * 640 * 360 * 3 / 2;
        assert!(number(&leak["pinned_bytes"]) >= pictures, "the pixels are pinned: {leak:#}");
        assert!(functions(&leak["stack"]).contains(&"av_frame_alloc"), "{:#}", leak["stack"]);
    }
}
