//! `avleak`: see [`avleak::cli`].

fn main() {
    avleak::target::tracer::become_tracer_if_asked();
    std::process::exit(avleak::cli::main());
}
