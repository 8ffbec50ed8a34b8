//! Memory that misleads a scan: the allocator's own words, pages that were reused, blocks that ld.so made.

use avleak_tests::avleak::Run;
use avleak_tests::{programs, truth};

use super::leaky_and_clean;

#[test]
fn the_allocators_bins_hide_no_frame() {
    leaky_and_clean("bins");
}

#[test]
fn pages_of_a_freed_block_that_became_a_threads_stack() {
    leaky_and_clean("thread_stack_reuse");
}

#[test]
fn realloc_that_fails_and_realloc_to_nothing() {
    leaky_and_clean("realloc_edges");
}

#[test]
fn thread_local_storage_of_200_libraries_loaded_late() {
    for twin in ["leak", "clean"] {
        let (program, libraries) = (programs::program("tls_libs"), programs::tls_libraries());
        truth::check(&Run::new([program.as_os_str(), libraries.as_os_str(), twin.as_ref()]).finish());
    }
}

#[test]
fn a_million_blocks_and_a_gib_of_frames() {
    for shape in ["list", "lost"] {
        for twin in ["leak", "clean"] {
            let program = programs::program("many_blocks");
            // What is judged here is the check: on a busy machine the drain may stand still for long.
            let run = Run::new([program.as_os_str(), shape.as_ref(), twin.as_ref()]);
            truth::check(&run.env("AVLEAK_OPTIONS", "patience_ms=20000").finish());
        }
    }
}
