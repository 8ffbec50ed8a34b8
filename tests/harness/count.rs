//! Counts the calls of a function's body with gdb: a truth about FFmpeg that owes nothing to avleak or symbol binding. Both count in the same
//! run, for the number is another in each run of an ffmpeg whose parts work in threads of their own (7.0 and later).

use std::path::Path;
use std::time::Duration;

use crate::avleak::{Outcome, Run};

/// How often `function` was entered while `command` ran to its end, in `folder`, and what avleak saw of that run. Calls from inside its own
/// library count.
pub fn calls(function: &str, command: &[&str], folder: &Path) -> (u64, Outcome) {
    let breakpoint = format!("break {function}");
    let mut gdb = vec!["gdb", "-q", "-batch", "-nx"];
    for line in [
        "set debuginfod enabled off",
        "set breakpoint pending on",
        "set print thread-events off",
        "set style enabled off",
        "set width 0",
        &breakpoint,
        "ignore 1 1000000000",
        "run",
        "info breakpoints",
    ] {
        gdb.extend(["-ex", line]);
    }
    gdb.push("--args");
    gdb.extend(command);
    let outcome = Run::new(gdb).current_dir(folder).limit(Duration::from_secs(300)).finish();
    let text = outcome.finished.text();
    assert!(text.contains("exited normally"), "the counted program failed:\n{text}\n{}", outcome.finished.stderr);
    let hits = text.lines().find_map(|line| line.trim().strip_prefix("breakpoint already hit "));
    let hits = hits.and_then(|rest| rest.split(' ').next()).unwrap_or("0");
    (hits.parse().unwrap_or_else(|_| panic!("gdb's count is no number:\n{text}")), outcome)
}
