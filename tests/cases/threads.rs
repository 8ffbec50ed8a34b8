//! Threads that come and go, and what runs when they end.

use avleak_tests::avleak::Run;
use avleak_tests::{programs, truth};

use super::leaky_and_clean;

#[test]
fn two_thousand_of_them() {
    leaky_and_clean("threads_many");
}

#[test]
fn that_make_the_first_frames_at_once() {
    leaky_and_clean("first_frames_at_once");
}

#[test]
fn whose_first_allocation_comes_from_pthread_getattr_np() {
    leaky_and_clean("getattr_first");
}

#[test]
fn destructors_of_thread_keys() {
    leaky_and_clean("tls_destructors");
}

#[test]
fn destructors_of_cpp_thread_locals() {
    for twin in ["leak", "clean"] {
        truth::check(&Run::new([programs::cpp_program("cpp_thread_local").into_os_string(), twin.into()]).finish());
    }
}
