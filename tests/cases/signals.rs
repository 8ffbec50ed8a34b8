//! Signal handlers that allocate, and handlers that never return.

use super::leaky_and_clean;

#[test]
fn a_handler_that_allocates() {
    leaky_and_clean("signal_malloc");
}

#[test]
fn a_handler_that_jumps_away() {
    leaky_and_clean("signal_longjmp");
}
