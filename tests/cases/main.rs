//! End-to-end tests: each topic is a module, each behaviour a test. See the harness for how truth and report are compared.

mod ci;
mod ci_baseline;
mod ci_docs;
mod ci_go;
mod cores;
mod errors;
mod exits;
mod faults;
mod ffmpeg;
mod fleet;
mod formats;
mod gate;
mod golang;
mod hosts;
mod hosts_allocators;
mod hosts_children;
mod html;
mod http;
mod linked_in;
mod live;
mod loading;
mod memory;
mod monitor;
mod nine;
mod objects;
mod oracle;
mod postmortem;
mod preload;
mod processes;
mod production_docs;
mod programs_at_large;
mod python;
mod real_leaks;
mod serve;
mod signals;
mod soak;
mod storm;
mod streaming;
mod threads;
mod top;
mod untraceable;
mod wheels;

use std::ffi::OsStr;

use avleak_tests::avleak::{Outcome, Run};
use avleak_tests::{programs, truth};

/// Runs a fixture with these arguments and compares its truth with the report.
fn checked<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Outcome {
    let mut command = vec![programs::program(name).into_os_string()];
    command.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    let outcome = Run::new(command).finish();
    truth::check(&outcome);
    outcome
}

/// A fixture that leaks, and its clean twin.
fn leaky_and_clean(name: &str) -> Outcome {
    checked(name, ["clean"]);
    checked(name, ["leak"])
}
