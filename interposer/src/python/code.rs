//! What a code object is called: its file, function and line, copied through the kernel, which refuses instead of faulting.

use super::offsets::Offsets;

/// The types of the interpreter that are checked before an object is believed.
#[derive(Clone, Copy)]
pub struct Types {
    /// `PyCode_Type`.
    pub code: u64,
    /// `PyUnicode_Type`.
    pub text: u64,
    /// `PyBytes_Type`.
    pub bytes: u64,
}

/// PyObject: count, type; PyVarObject: size behind them.
const TYPE: u64 = 8;
const SIZE: u64 = 16;
/// PyBytesObject.ob_sval.
const BYTES: u64 = 32;
/// PyASCIIObject: length, state.
const LENGTH: u64 = 16;
const STATE: u64 = 32;

/// A text of at most `N` bytes.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// UTF-8.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, character: char) -> bool {
        let mut encoded = [0; 4];
        let encoded = character.encode_utf8(&mut encoded).as_bytes();
        let Some(room) = self.bytes.get_mut(self.len..self.len + encoded.len()) else { return false };
        room.copy_from_slice(encoded);
        self.len += encoded.len();
        true
    }
}

/// Reads this process's memory: fills the slice, or says that it cannot.
pub trait Memory: Fn(u64, &mut [u8]) -> bool {}
impl<F: Fn(u64, &mut [u8]) -> bool> Memory for F {}

fn word(memory: &impl Memory, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory(at, &mut bytes).then_some(u64::from_le_bytes(bytes))
}

fn half(memory: &impl Memory, at: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    memory(at, &mut bytes).then_some(u32::from_le_bytes(bytes))
}

/// The object at `at` is a code object.
pub fn is_code(memory: &impl Memory, types: &Types, at: u64) -> bool {
    word(memory, at + TYPE) == Some(types.code)
}

/// The text at `at`; of a longer one the end is kept, or its start.
pub fn text<const N: usize>(
    memory: &impl Memory,
    offsets: &Offsets,
    types: &Types,
    at: u64,
    end_counts: bool,
) -> Option<Text<N>> {
    if word(memory, at + TYPE)? != types.text {
        return None;
    }
    let length = word(memory, at + LENGTH)?;
    let state = half(memory, at + STATE)?;
    // Bits: interned 2, kind 3, compact 1, ascii 1 (3.14: a byte for interned).
    let (kind, compact, ascii) = (u64::from(state >> 2 & 7), state >> 5 & 1 != 0, state >> 6 & 1 != 0);
    if !compact || !matches!(kind, 1 | 2 | 4) || length > 1 << 16 {
        return None;
    }
    let data = at + if ascii { offsets.ascii_header } else { offsets.compact_header };
    // A character becomes at most four bytes, at least one.
    let most = if ascii { N } else { N / 4 } as u64;
    let skipped = length.saturating_sub(most);
    let start = if end_counts { data + skipped * kind } else { data };
    let count = (length - skipped) as usize;
    let mut text = Text::new();
    let mut raw = [0; N];
    let raw = &mut raw[..count * kind as usize];
    if !memory(start, raw) {
        return None;
    }
    for unit in raw.chunks_exact(kind as usize) {
        let value = unit.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        // Names of files may hold surrogates, for bytes that are no UTF-8.
        if !text.push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)) {
            break;
        }
    }
    Some(text)
}

/// The line of the instruction at address `instruction` of the code object at `code`; `None` where it has none.
pub fn line(memory: &impl Memory, offsets: &Offsets, types: &Types, code: u64, instruction: u64) -> Option<u32> {
    let first = half(memory, code + offsets.first_line)?;
    let unit = instruction.checked_sub(code + offsets.bytecode)? / 2;
    let table = word(memory, code + offsets.linetable)?;
    if word(memory, table + TYPE)? != types.bytes {
        return None;
    }
    let len = word(memory, table + SIZE)?;
    let mut piece = [0u8; 256];
    let mut from = u64::MAX;
    line_of(first, unit, |index| {
        if index >= len {
            return None;
        }
        let start = index & !255;
        if start != from {
            let bytes = &mut piece[..(len - start).min(256) as usize];
            if !memory(table + BYTES + start, bytes) {
                return None;
            }
            from = start;
        }
        Some(piece[(index & 255) as usize])
    })
}

/// Most bytes of a table that are gone through.
const LONGEST: u64 = 1 << 20;

/// CPython's location table (Objects/locations.md, "Code objects: locations"): entries of a first byte, 1 | code (4 bits) | units − 1 (3 bits), and
/// what the code needs; of these only the line's steps matter here. `unit`: which code unit, of two bytes.
fn line_of(first: u32, unit: u64, mut byte: impl FnMut(u64) -> Option<u8>) -> Option<u32> {
    let mut line = i64::from(first);
    let (mut at, mut units) = (0, 0);
    while at < LONGEST {
        let head = byte(at)?;
        at += 1;
        units += u64::from(head & 7) + 1;
        let code = head >> 3 & 15;
        let mut varint = |at: &mut u64| {
            let (mut value, mut shift) = (0i64, 0);
            loop {
                let next = byte(*at)?;
                *at += 1;
                value |= i64::from(next & 63) << shift;
                shift += 6;
                if next & 64 == 0 || shift > 42 {
                    return Some(value);
                }
            }
        };
        match code {
            0..=9 => at += 1,
            10..=12 => {
                line += i64::from(code) - 10;
                at += 2;
            }
            13 | 14 => {
                let step = varint(&mut at)?;
                line += if step & 1 != 0 { -(step >> 1) } else { step >> 1 };
                if code == 14 {
                    for _ in 0..3 {
                        varint(&mut at)?;
                    }
                }
            }
            _ => (),
        }
        if units > unit {
            return (code != 15).then_some(u32::try_from(line).ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `co_firstlineno`, `co_linetable` and, for each code unit, the line that `co_positions()` gives, of this function in CPython 3.11:
    /// ```python
    /// def f(path):
    ///     with open(path) as file:
    ///
    ///         for line in file: yield (line,
    ///                                  len(line))
    /// ```
    const FIRST: u32 = 1;
    const TABLE: &[u8] = &[
        232, 0, 232, 0, 128, 0, 221, 9, 13, 136, 100, 137, 26, 140, 26, 240, 0, 3, 5, 44, 144, 116, 224, 20, 24, 240,
        0, 1, 9, 44, 240, 0, 1, 9, 44, 136, 68, 160, 20, 221, 33, 36, 160, 84, 161, 25, 164, 25, 240, 3, 1, 33, 44,
        240, 0, 1, 27, 44, 240, 0, 1, 27, 44, 240, 0, 1, 27, 44, 240, 0, 1, 27, 44, 240, 0, 1, 9, 44, 240, 5, 3, 5, 44,
        240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 241, 0, 3, 5, 44, 244, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44,
        240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 248, 248, 248, 240,
        0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44, 240, 0, 3, 5, 44,
    ];
    const LINES: &[i16] = &[
        1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
        5, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, -1, -1, -1, 2, 2, 2, 2, 2, 2,
    ];

    #[test]
    fn lines_are_those_that_python_says() {
        for (unit, &expected) in LINES.iter().enumerate() {
            let line = line_of(FIRST, unit as u64, |at| TABLE.get(at as usize).copied());
            assert_eq!(line, u32::try_from(expected).ok(), "unit {unit}");
        }
        assert_eq!(line_of(FIRST, LINES.len() as u64, |at| TABLE.get(at as usize).copied()), None);
        assert_eq!(line_of(FIRST, 5, |_| Some(0xff)), None, "nonsense ends");
    }

    struct Fake(Vec<u8>);

    impl Fake {
        fn read(&self) -> impl Memory + '_ {
            |at, into: &mut [u8]| {
                let from = self.0.get(at as usize..at as usize + into.len());
                from.map(|bytes| into.copy_from_slice(bytes)).is_some()
            }
        }
    }

    fn object(kind: u32, ascii: bool, units: &[u32]) -> Fake {
        let offsets = super::super::offsets::of(0x030c_01f0, |_| None).unwrap();
        let mut bytes = vec![0; if ascii { offsets.ascii_header } else { offsets.compact_header } as usize];
        bytes[8..16].copy_from_slice(&77u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&(units.len() as u64).to_le_bytes());
        bytes[32..36].copy_from_slice(&(kind << 2 | 1 << 5 | u32::from(ascii) << 6).to_le_bytes());
        for unit in units {
            bytes.extend_from_slice(&unit.to_le_bytes()[..kind as usize]);
        }
        Fake(bytes)
    }

    fn said<const N: usize>(fake: &Fake, end_counts: bool) -> Option<String> {
        let offsets = super::super::offsets::of(0x030c_01f0, |_| None).unwrap();
        let types = Types { code: 1, text: 77, bytes: 2 };
        text::<N>(&fake.read(), &offsets, &types, 0, end_counts)
            .map(|text| String::from_utf8(text.bytes().to_vec()).unwrap())
    }

    #[test]
    fn texts_of_every_kind_are_read() {
        let units = |text: &str| text.chars().map(|character| character as u32).collect::<Vec<_>>();
        assert_eq!(said::<64>(&object(1, true, &units("decode")), false).as_deref(), Some("decode"));
        assert_eq!(said::<64>(&object(1, false, &units("décode")), false).as_deref(), Some("décode"));
        assert_eq!(said::<64>(&object(2, false, &units("解码")), false).as_deref(), Some("解码"));
        assert_eq!(said::<64>(&object(4, false, &units("🎞.py")), false).as_deref(), Some("🎞.py"));
        assert_eq!(said::<64>(&object(2, false, &[0xdc80, 0x61]), false).as_deref(), Some("\u{fffd}a"));
        assert_eq!(said::<8>(&object(1, true, &units("/a/long/path")), true).as_deref(), Some("ong/path"));
        assert_eq!(said::<8>(&object(1, true, &units("/a/long/path")), false).as_deref(), Some("/a/long/"));
    }

    #[test]
    fn what_is_no_text_is_not_read() {
        let whole = object(1, true, &[0x61; 9]);
        assert_eq!(said::<64>(&Fake(whole.0[..44].to_vec()), false), None, "it ends too early");
        let mut other = object(1, true, &[0x61; 9]);
        other.0[8] = 78;
        assert_eq!(said::<64>(&other, false), None, "another type");
        assert_eq!(said::<64>(&object(3, false, &[0x61; 9]), false), None, "no such kind");
    }
}
