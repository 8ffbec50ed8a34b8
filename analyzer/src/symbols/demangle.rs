//! Turns linker names into the names that programmers wrote: C++ (Itanium) and Rust (legacy and v0).

use std::fmt::{self, Write};

/// Longest demangled name, bytes: substitutions let a short mangled name grow without end.
const LONGEST: usize = 4096;

/// The readable form of `name`, without symbol version, without Rust's hash; `name` itself where it is not mangled.
pub fn demangle(name: &str) -> String {
    let name = without_version(name);
    demangle_rust(name).or_else(|| demangle_cpp(name)).unwrap_or_else(|| name.to_owned())
}

/// `name` is mangled by a C++ or Rust compiler.
pub fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R") || name.starts_with("__Z")
}

/// `memcpy` of `memcpy@@GLIBC_2.14`.
pub fn without_version(name: &str) -> &str {
    match name.find('@') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

fn demangle_rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    let mut out = Bounded::default();
    // `#` leaves the hash out.
    let written = write!(out, "{symbol:#}");
    out.finish(written.is_ok())
}

fn demangle_cpp(name: &str) -> Option<String> {
    if !is_mangled(name) {
        return None;
    }
    let symbol = cpp_demangle::Symbol::new(name).ok()?;
    let mut out = Bounded::default();
    let written = symbol.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::new().no_return_type());
    out.finish(written.is_ok())
}

/// A text that refuses to grow beyond [`LONGEST`].
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl Bounded {
    /// The text, marked where it was cut; nothing where the demangler itself gave up.
    fn finish(mut self, complete: bool) -> Option<String> {
        if self.full {
            self.text.push('…');
        } else if !complete {
            return None;
        }
        Some(self.text)
    }
}

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.text.len() + s.len() > LONGEST {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled_by_their_own_scheme() {
        for (mangled, plain) in [
            ("main", "main"),
            ("av_frame_alloc", "av_frame_alloc"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("_ZN6server7Session6decodeEi", "server::Session::decode(int)"),
            ("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back(int&&)"),
            ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
            (
                "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE",
                "<Test + 'static as foo::Bar<Test>>::bar",
            ),
            ("_RNvNtCs9ltgdHTiPiY_4core3fmt5write", "core::fmt::write"),
            ("_ZN9__gnu_cxxbroken", "_ZN9__gnu_cxxbroken"),
        ] {
            assert_eq!(demangle(mangled), plain);
        }
    }

    #[test]
    fn an_exploding_name_is_cut() {
        // P<int, int>, then each parameter is a P of two of the one before it: 2^30 ints in 300 bytes.
        let mut name = String::from("_Z1f1PIiiE");
        for i in 0..30 {
            let digit = char::from_digit(i, 36).expect("a digit").to_ascii_uppercase();
            name.push_str(&format!("S_IS{digit}_S{digit}_E"));
        }
        let text = demangle(&name);
        assert!(text.starts_with("f(P<int, int>, P<P<int, int>, P<int, int> >") && text.ends_with('…'), "{text}");
        assert!(text.len() <= LONGEST + '…'.len_utf8());
        let nested = format!("_Z1f{}", "N".repeat(100_000));
        assert_eq!(demangle(&nested), nested);
    }
}
