//! The identity of a code address that is the same in every run and on every machine with the same binaries.

use super::{Module, ScriptCall};

/// A call in a binary: what stays the same where the binary does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameKey {
    /// File name and build id (`libavutil.so.57 1f2e…`); the whole path where there is no build id; empty for code in no
    /// module.
    pub binary: String,
    /// Address of the call in that file (SVMA, return address − 1); 0 for code in no module, whose addresses change from run
    /// to run.
    pub svma: u64,
}

impl FrameKey {
    /// Of the call that returns to `return_address`.
    pub fn new(module: Option<&Module>, return_address: u64) -> Self {
        let Some(module) = module else { return Self { binary: String::new(), svma: 0 } };
        let binary = if module.build_id.is_empty() {
            module.clean_path().to_string_lossy().into_owned()
        } else {
            let mut binary = module.name().unwrap_or_default();
            binary.push(' ');
            binary.push_str(&hex(&module.build_id));
            binary
        };
        Self { binary, svma: return_address.wrapping_sub(1).wrapping_sub(module.base) }
    }

    /// Of a script's function: its file's name without the folder (virtual environments lie anywhere), its own, and the line.
    pub fn of_script(call: &ScriptCall) -> Self {
        let file = call.file.rsplit('/').next().unwrap_or_default();
        Self { binary: format!("{file} {}", call.function), svma: call.line.into() }
    }

    /// Adds this key to `hasher`.
    pub fn hash_into(&self, hasher: &mut StableHasher) {
        hasher.text(&self.binary);
        hasher.number(self.svma);
    }
}

/// FNV-1a, 64 bits, over little-endian numbers and length-prefixed texts.
///
/// Group ids are made with it and people keep them in suppressions and tickets: **its results must never change**, so it is
/// written out here instead of taken from a library that may improve. Not for hash tables, not against an attacker.
#[derive(Debug, Clone, Copy)]
pub struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHasher {
    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds a text, with its length so that two texts in a row cannot be confused with two others.
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// The hash so far.
    pub fn finish(self) -> u64 {
        self.0
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    // By hand: a key is made for each frame of each stack, and formatting took most of that.
    let digit = |number: u8| char::from(b"0123456789abcdef"[usize::from(number & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a_for_ever() {
        let of = |text: &str| {
            let mut hasher = StableHasher::default();
            hasher.bytes(text.as_bytes());
            hasher.finish()
        };
        // Published test vectors of FNV-1a 64.
        assert_eq!(of(""), 0xcbf29ce484222325);
        assert_eq!(of("a"), 0xaf63dc4c8601ec8c);
        assert_eq!(of("foobar"), 0x85944171f73967e8);
        let mut hasher = StableHasher::default();
        FrameKey { binary: "libavutil.so.57 0102".into(), svma: 0x32610 }.hash_into(&mut hasher);
        assert_eq!(hasher.finish(), 0xcaa8_636c_072a_5e03, "ids in people's suppressions would change");
    }

    #[test]
    fn a_key_ignores_where_the_module_lies() {
        let module = |base: u64, path: &str, id: &[u8]| Module {
            base,
            path: path.into(),
            build_id: id.to_vec(),
            ..Module::default()
        };
        let one = FrameKey::new(Some(&module(0x7f00_0000_0000, "/usr/lib/libx.so", &[1, 0xab])), 0x7f00_0000_1001);
        let other =
            FrameKey::new(Some(&module(0x5500_0000_0000, "/opt/libx.so (deleted)", &[1, 0xab])), 0x5500_0000_1001);
        assert_eq!(one, other);
        assert_eq!((one.binary.as_str(), one.svma), ("libx.so 01ab", 0x1000));
        let call = |file: &str| ScriptCall { file: file.into(), function: "Reader.next".into(), line: 7 };
        let (here, there) = (call("/home/a/venv/lib/reader.py"), call("/srv/reader.py"));
        assert_eq!(FrameKey::of_script(&here), FrameKey::of_script(&there));
        assert_eq!(FrameKey::of_script(&here), FrameKey { binary: "reader.py Reader.next".into(), svma: 7 });
        let nameless = FrameKey::new(Some(&module(0, "/usr/lib/libx.so", &[])), 0x1001);
        assert_eq!(nameless.binary, "/usr/lib/libx.so");
        assert_eq!(FrameKey::new(None, 0x7fff_1234), FrameKey::new(None, 0x7fff_9999));
    }
}
