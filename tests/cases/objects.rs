//! Lost objects other than a plain frame: refs, moved frames, pools, contexts, packets, what a lost struct holds.

use avleak_tests::truth::{groups, number};

use super::leaky_and_clean;

#[test]
fn a_ref_over_a_freed_frame() {
    let outcome = leaky_and_clean("leak_buffer_ref");
    let leak = groups(outcome.report(), "AVBufferRef").find(|group| group["leak"] == true).expect("the lost refs");
    assert_eq!(number(&leak["count"]), 4);
    assert!(number(&leak["pinned_bytes"]) > 600_000, "the pixels are pinned by 24 bytes: {leak:#}");
}

#[test]
fn a_forgotten_unref_before_a_frame_is_filled_again() {
    leaky_and_clean("leak_unref_reused");
}

#[test]
fn a_forgotten_unref_before_the_struct_is_freed() {
    leaky_and_clean("leak_unref_freep");
}

#[test]
fn a_frame_lost_through_move_ref() {
    leaky_and_clean("leak_move_ref");
}

#[test]
fn a_pool_pinned_by_one_buffer() {
    leaky_and_clean("pool_pinned");
}

#[test]
fn a_codec_context_never_freed() {
    leaky_and_clean("codec_context");
}

#[test]
fn a_frame_held_by_a_lost_struct_of_the_programs_own() {
    let outcome = leaky_and_clean("own_struct");
    let leak = groups(outcome.report(), "AVFrame").find(|group| group["leak"] == true).expect("the leaked frames");
    assert_eq!(leak["class"], "indirectly_lost");
    assert!(!leak["held_by"].as_array().expect("a chain").is_empty(), "the struct is not named: {leak:#}");
}

#[test]
fn packets() {
    leaky_and_clean("packets");
}

#[test]
fn a_filter_graph_never_freed() {
    leaky_and_clean("filter_graph");
}
