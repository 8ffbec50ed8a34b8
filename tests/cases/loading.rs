//! FFmpeg that comes by other ways than the program's own DT_NEEDED: plug-ins, two of a name, namespaces, dlclose.

use std::ffi::OsStr;

use avleak_tests::avleak::Run;
use avleak_tests::{programs, truth};

#[test]
fn two_libraries_of_one_name_and_four_ways_to_call() {
    let [one, two] = programs::two_avutils();
    let program = programs::program("two_libs");
    for twin in ["leak", "clean"] {
        let arguments: [&OsStr; 6] =
            [program.as_ref(), twin.as_ref(), one.0.as_ref(), one.1.as_ref(), two.0.as_ref(), two.1.as_ref()];
        truth::check(&Run::new(arguments).finish());
    }
}

fn opened(mode: &str) {
    let (program, plugin) = (programs::program("dl_modes"), programs::plugin());
    for twin in ["leak", "clean"] {
        let arguments: [&OsStr; 4] = [program.as_ref(), mode.as_ref(), plugin.as_ref(), twin.as_ref()];
        truth::check(&Run::new(arguments).finish());
    }
}

#[test]
fn opened_local() {
    opened("local");
}

#[test]
fn opened_global() {
    opened("global");
}

#[test]
fn opened_deepbind() {
    opened("deepbind");
}

#[test]
fn opened_in_a_namespace_of_its_own() {
    opened("dlmopen");
}

#[test]
fn closed_while_another_thread_allocates() {
    let (program, plugin) = (programs::program("dlclose_race"), programs::plugin());
    for twin in ["leak", "clean"] {
        let arguments: [&OsStr; 3] = [program.as_ref(), plugin.as_ref(), twin.as_ref()];
        truth::check(&Run::new(arguments).finish());
    }
}
