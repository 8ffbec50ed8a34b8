//! What unwind tables say of signed return addresses, taken out of our copies of them.
//!
//! Code built with `-mbranch-protection` (Debian's since trixie) says in its tables where a return address is signed
//! (DW_CFA_AARCH64_negate_ra_state, an opcode that means something else on other processors), with processors that sign none too. framehop 0.16
//! refuses the whole function for it, and would follow frame pointers, which FFmpeg's libraries do not keep. We need not be told: a
//! signature is taken off every return address ([`super::entry::strip_signature`]). So the opcode is overwritten with DW_CFA_nop.

const NOP: u8 = 0x00;
const NEGATE_RA_STATE: u8 = 0x2d;

/// A place in a section.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at).filter(|_| self.at < self.end)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes).filter(|&at| at <= self.end)?;
        Some(())
    }

    /// A LEB128 number, signed or not: its length is the same.
    fn leb(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0usize, 0);
        loop {
            let byte = self.byte()?;
            if shift < usize::BITS {
                value |= usize::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    }

    fn int(&mut self) -> Option<u32> {
        let at = self.at;
        self.skip(4)?;
        Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    /// Overwrites the opcode in the instructions up to the end (DWARF 5, 6.4.2). What follows an unknown one stays as it is.
    fn instructions(&mut self, encoding: u8) -> Option<()> {
        while self.at < self.end {
            let opcode = self.byte()?;
            match (opcode >> 6, opcode) {
                (0, NEGATE_RA_STATE) => self.bytes[self.at - 1] = NOP,
                // advance_loc, restore; nop, remember_state, restore_state.
                (1 | 3, _) | (0, 0x00 | 0x0a | 0x0b) => {}
                (0, 0x01) => self.skip(size(encoding)?)?,
                (0, 0x02..=0x04) => self.skip(1 << (opcode - 2))?,
                // offset; those with one number.
                (2, _) | (0, 0x06..=0x08 | 0x0d | 0x0e | 0x13 | 0x2e) => {
                    self.leb()?;
                }
                (0, 0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f) => {
                    self.leb()?;
                    self.leb()?;
                }
                // Expressions, for a register or for the frame.
                (0, 0x0f) => {
                    let length = self.leb()?;
                    self.skip(length)?;
                }
                (0, 0x10 | 0x16) => {
                    self.leb()?;
                    let length = self.leb()?;
                    self.skip(length)?;
                }
                _ => return None,
            }
        }
        Some(())
    }
}

/// Bytes of a pointer in an encoding (LSB Core, DWARF Exception Header Encoding).
fn size(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// What functions' entries need of their common one: whether they are augmented, and how their addresses are written.
#[derive(Clone, Copy)]
struct Common {
    augmented: bool,
    encoding: u8,
}

/// Reads the head of a common entry from behind its id up to its instructions.
fn common(cursor: &mut Cursor<'_>) -> Option<Common> {
    let version = cursor.byte()?;
    let augmentation = cursor.at;
    while cursor.byte()? != 0 {}
    let letters = augmentation..cursor.at - 1;
    cursor.leb()?;
    cursor.leb()?;
    if version == 1 {
        cursor.byte()?;
    } else {
        cursor.leb()?;
    }
    let mut common = Common { augmented: false, encoding: 0 };
    if cursor.bytes.get(letters.start) == Some(&b'z') {
        common.augmented = true;
        let length = cursor.leb()?;
        let behind = cursor.at.checked_add(length)?;
        for letter in letters.skip(1) {
            match cursor.bytes[letter] {
                b'R' => common.encoding = cursor.byte()?,
                b'L' => {
                    cursor.byte()?;
                }
                b'P' => {
                    let encoding = cursor.byte()?;
                    cursor.skip(size(encoding)?)?;
                }
                // Signal frames; the second key; tagged stacks.
                b'S' | b'B' | b'G' => {}
                _ => break,
            }
        }
        cursor.at = behind;
    } else if !letters.is_empty() {
        return None;
    }
    Some(common)
}

/// Overwrites the opcode in a whole .eh_frame section.
pub fn forget(section: &mut [u8]) {
    let mut at = 0;
    // Functions' entries follow their common one.
    let mut last: Option<(usize, Option<Common>)> = None;
    while at + 8 <= section.len() {
        let mut cursor = Cursor { end: section.len(), bytes: section, at };
        let Some(length) = cursor.int().filter(|&length| length != 0 && length != u32::MAX) else { return };
        let start = cursor.at;
        let Some(end) = start.checked_add(length as usize).filter(|&end| end <= cursor.end) else { return };
        cursor.end = end;
        match cursor.int() {
            Some(0) => {
                let found = common(&mut cursor);
                last = Some((at, found));
                if let Some(found) = found {
                    cursor.instructions(found.encoding);
                }
            }
            Some(back) => {
                let known =
                    last.filter(|last| start.checked_sub(back as usize) == Some(last.0)).and_then(|last| last.1);
                // An entry of a common one that is not the last is rare, and read once more.
                let common = known.or_else(|| {
                    let mut other =
                        Cursor { at: start.checked_sub(back as usize)?.checked_add(8)?, end: at, bytes: cursor.bytes };
                    common(&mut other)
                });
                if let Some(common) = common {
                    function(&mut cursor, common);
                }
            }
            None => return,
        }
        at = end;
    }
}

fn function(cursor: &mut Cursor<'_>, common: Common) -> Option<()> {
    cursor.skip(2 * size(common.encoding)?)?;
    if common.augmented {
        let length = cursor.leb()?;
        cursor.skip(length)?;
    }
    cursor.instructions(common.encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of one common entry and one function's.
    fn section(instructions: &[u8]) -> Vec<u8> {
        let entry = |body: &[u8]| {
            let mut body = body.to_vec();
            body.resize(body.len().next_multiple_of(4), NOP);
            [&(body.len() as u32).to_le_bytes()[..], &body].concat()
        };
        // Version 1, "zR", code 4, data -8, x30; pcrel | sdata4; the frame is at sp + 0.
        let common = entry(&[&[0; 4][..], b"\x01zR\0\x04\x78\x1e\x01\x1b\x0c\x1f\x00"].concat());
        let back = (common.len() as u32 + 4).to_le_bytes();
        let function = entry(&[&back[..], &[0x2d; 4], &[0x2d, 0, 0, 0], &[0], instructions].concat());
        [common, function, vec![0; 4]].concat()
    }

    #[test]
    fn only_the_opcode_is_overwritten() {
        // advance 1, negate, advance 1, frame at sp + 0x2d, x29 at -0x2d * 8, an expression of 2 bytes, negate.
        let before = section(&[0x41, 0x2d, 0x41, 0x0e, 0x2d, 0x9d, 0x2d, 0x10, 0x13, 0x02, 0x2d, 0x2d, 0x2d]);
        let mut after = before.clone();
        forget(&mut after);
        let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        let at = before.windows(2).position(|two| two == [0x41, 0x2d]).unwrap() + 1;
        assert_eq!(changed, [at, at + 11]);
        assert!(changed.iter().all(|&at| after[at] == NOP));
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        let whole = section(&[0x2d, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        for cut in 0..whole.len() {
            forget(&mut whole[..cut].to_vec());
            let mut other = whole.clone();
            other[cut] = 0xff;
            forget(&mut other);
        }
        forget(&mut [0xff; 64]);
    }
}
