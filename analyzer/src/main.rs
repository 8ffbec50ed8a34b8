//! `avleak`: see [`avleak::cli`].

fn main() {}
