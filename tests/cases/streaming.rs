//! The four ways of leaking that streaming servers know; here the report's groups are read as well.

use serde_json::Value;

use avleak_tests::avleak::Outcome;
use avleak_tests::truth::{functions, groups, number};

use super::leaky_and_clean;

/// The leak group of frames, of which there is one in each of these programs.
fn the_leak(outcome: &Outcome) -> Value {
    let mut leaks = groups(outcome.report(), "AVFrame").filter(|group| group["leak"] == true);
    let group = leaks.next().expect("a leak group of frames");
    assert!(leaks.next().is_none(), "one leak, two groups:\n{:#}", outcome.document);
    group.clone()
}

/// Its stack names `function` with a line of `file`, and says which pictures are lost.
fn assert_names(group: &Value, function: &str, file: &str) {
    assert!(functions(&group["stack"]).contains(&function), "{function} is not in {:#}", group["stack"]);
    let frames = group["stack"].as_array().expect("a stack");
    let frame = frames.iter().find(|frame| frame["function"] == function).expect("the function's frame");
    assert!(frame["file"].as_str().is_some_and(|path| path.ends_with(file)), "no {file} in {frame}");
    assert!(number(&frame["line"]) > 0, "no line in {frame}");
    assert_eq!((number(&group["width"]), number(&group["height"])), (640, 360), "{group:#}");
    assert_eq!(group["format"], "yuv420p");
    assert_eq!(group["exclusive"], true, "nobody else has these pixels");
}

/// Siblings of this stack were freed in `file`, so many of them.
fn assert_siblings_freed(group: &Value, file: &str, expected: u64) {
    let sites = group["freed_elsewhere"].as_array().expect("the free sites");
    let ours = sites.iter().filter(|site| site["stack"].as_array().is_some_and(|s| s.iter().any(|f| is_in(f, file))));
    assert_eq!(ours.map(|site| number(&site["count"])).sum::<u64>(), expected, "{sites:#?}");
}

fn is_in(frame: &Value, file: &str) -> bool {
    frame["file"].as_str().is_some_and(|path| path.ends_with(file))
}

#[test]
fn no_free_on_an_error_path() {
    let group = the_leak(&leaky_and_clean("leak_error_path"));
    assert_names(&group, "show_picture", "leak_error_path.c");
    assert_siblings_freed(&group, "leak_error_path.c", 18);
    assert_eq!((group["pts_first"].as_i64(), group["pts_last"].as_i64()), (Some(3), Some(17)));
    assert_eq!(number(&group["siblings_allocated"]), 21);
}

#[test]
fn clones_are_forgotten_when_a_later_one_fails() {
    let group = the_leak(&leaky_and_clean("leak_partial_clones"));
    assert_names(&group, "fan_out", "leak_partial_clones.c");
    assert_siblings_freed(&group, "leak_partial_clones.c", 36);
}

#[test]
fn a_worker_returns_early_with_its_frames() {
    // Two frames of one stack shape but two call sites: two groups.
    let outcome = leaky_and_clean("leak_worker_return");
    let leaks: Vec<&Value> = groups(outcome.report(), "AVFrame").filter(|group| group["leak"] == true).collect();
    assert_eq!(leaks.iter().map(|group| number(&group["count"])).sum::<u64>(), 4);
    for group in leaks {
        assert_names(group, "work", "leak_worker_return.c");
    }
}

#[test]
fn only_some_of_a_batch_are_freed() {
    let group = the_leak(&leaky_and_clean("leak_batch"));
    assert_names(&group, "one_batch", "leak_batch.c");
    assert_siblings_freed(&group, "leak_batch.c", 15);
}

#[test]
fn the_id_of_a_group_is_stable() {
    let id = |_| the_leak(&super::checked("leak_batch", ["leak"]))["id"].clone();
    let ids = [(); 2].map(id);
    assert_eq!(ids[0], ids[1]);
}
