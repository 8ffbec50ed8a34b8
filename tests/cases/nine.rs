//! Valgrind's nine cases, and what each level makes of them.

use avleak_tests::avleak::Run;
use avleak_tests::{programs, truth};

use super::leaky_and_clean;

#[test]
fn on_plain_blocks() {
    leaky_and_clean("nine_blocks");
}

#[test]
fn on_frames() {
    leaky_and_clean("nine_frames");
}

/// Exit codes of the three levels.
fn codes(name: &str, twin: &str) -> [i32; 3] {
    ["normal", "strict", "draconian"].map(|level| {
        let program = programs::program(name).into_os_string();
        let outcome = Run::new([program, twin.into()]).level(level).finish();
        assert_eq!(outcome.report()["level"], level);
        outcome.finished.code()
    })
}

#[test]
fn lost_plain_blocks_count_from_strict_on() {
    assert_eq!(codes("nine_blocks", "leak"), [0, 1, 1]);
    assert_eq!(codes("nine_blocks", "clean"), [0, 0, 0]);
}

#[test]
fn frames_alive_at_the_end_count_at_draconian() {
    assert_eq!(codes("nine_frames", "leak"), [1, 1, 1]);
    assert_eq!(codes("nine_frames", "clean"), [0, 0, 1]);
}

#[test]
fn strict_counts_what_is_possibly_lost() {
    let program = programs::program("nine_frames").into_os_string();
    let outcome = Run::new([program, "leak".into()]).level("strict").finish();
    let frames = truth::number(&outcome.report()["leaks"]["frames"]);
    // Three definitely lost; of six possibly lost ones, at least those four that no other lost frame holds.
    assert!((7..=9).contains(&frames), "leaks.frames is {frames} at level strict");
}

#[test]
fn the_exit_code_of_leaks_can_be_chosen() {
    let program = programs::program("nine_frames").into_os_string();
    assert_eq!(Run::new([program]).options(["--error-exitcode", "77"]).finish().finished.code(), 77);
}
