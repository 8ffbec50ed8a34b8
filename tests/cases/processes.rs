//! Several processes under one command: each that used FFmpeg has a report of its own.

use super::checked;

macro_rules! processes {
    ($($name:ident: $program:literal $mode:literal, $reports:literal;)*) => { $(
        #[test]
        fn $name() {
            assert_eq!(checked($program, [$mode]).reports.len(), $reports);
        }
    )* };
}

processes! {
    fork_and_both_leak: "fork_leaks" "both", 2;
    fork_and_the_child_leaks: "fork_leaks" "child", 2;
    fork_and_the_parent_leaks: "fork_leaks" "parent", 2;
    fork_and_nobody_leaks: "fork_leaks" "clean", 2;
    fork_of_a_child_without_ffmpeg: "fork_leaks" "quiet", 1;
    fork_and_exec: "children" "fork_exec", 2;
    vfork_and_exec: "children" "vfork", 2;
    vfork_and_exit: "children" "vfork_exit", 1;
    posix_spawn: "children" "spawn", 2;
    exec_after_use: "children" "exec", 2;
    waiting_for_any_child: "wait_any" "leak", 1;
    waiting_for_any_child_clean: "wait_any" "clean", 1;
}
