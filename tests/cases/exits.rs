//! Ends of every kind: the report is there, and says how it was.

use avleak_tests::avleak::Run;
use avleak_tests::{programs, truth};
use rustix::process::Signal;

use super::checked;

macro_rules! ends {
    ($($name:ident: $mode:literal;)*) => { $(
        #[test]
        fn $name() {
            checked("exits", [$mode]);
        }
    )* };
}

ends! {
    by_return: "return";
    by_exit: "exit";
    by_exit_with_a_status: "status";
    by_underscore_exit: "_exit";
    by_quick_exit: "quick_exit";
    by_exit_group_from_a_thread: "exit_group_thread";
    by_abort: "abort";
    by_a_segmentation_fault: "segv";
    by_its_own_sigterm: "sigterm";
    after_the_main_thread_is_gone: "main_gone";
}

/// Starts the fixture, waits for its truth, and signals the process itself.
fn signalled(mode: &str, signal: Signal) {
    let mut started = Run::new([programs::program("exits").into_os_string(), mode.into()]).start();
    let line = started.running.wait_for_line("\"truth\"");
    let pid = truth::number(&truth::truths(&line)[0]["pid"]);
    started.running.signal(u32::try_from(pid).expect("a pid"), signal);
    truth::check(&started.finish());
}

#[test]
fn by_sigkill_from_outside() {
    signalled("sigkill", Signal::KILL);
}

#[test]
fn by_sigint_from_outside() {
    signalled("sigint", Signal::INT);
}

#[test]
fn avleak_passes_signals_on_to_the_program() {
    let mut started = Run::new([programs::program("exits").into_os_string(), "sigint".into()]).start();
    started.running.wait_for_line("\"truth\"");
    started.running.signal(started.running.pid(), Signal::INT);
    truth::check(&started.finish());
}

#[test]
fn without_ffmpeg_there_is_nothing_to_say() {
    let outcome = Run::new([programs::special("no_ffmpeg", "no_ffmpeg", &[])]).finish();
    assert_eq!(outcome.finished.text(), "no FFmpeg here\n");
    assert!(outcome.reports.is_empty());
    assert_eq!(outcome.document["verdict"], "inconclusive");
    assert_eq!(outcome.finished.code(), 3);
}
