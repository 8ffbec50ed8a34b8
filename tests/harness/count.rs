//! Counts the calls of a function's body with gdb: a truth about FFmpeg that owes nothing to avleak or symbol binding.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process;

/// How often `function` was entered while `command` ran to its end, in `folder`. Calls from inside its own library count.
pub fn calls(function: &str, command: &[&str], folder: &Path) -> u64 {
    let breakpoint = format!("break {function}");
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-batch", "-nx"]);
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
        gdb.args(["-ex", line]);
    }
    gdb.arg("--args").args(command).current_dir(folder);
    let done = process::run(&mut gdb, Duration::from_secs(300));
    let text = done.text();
    assert!(text.contains("exited normally"), "the counted program failed:\n{text}\n{}", done.stderr);
    let hits = text.lines().find_map(|line| line.trim().strip_prefix("breakpoint already hit "));
    let hits = hits.and_then(|rest| rest.split(' ').next()).unwrap_or("0");
    hits.parse().unwrap_or_else(|_| panic!("gdb's count is no number:\n{text}"))
}
