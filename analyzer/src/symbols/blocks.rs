//! A file read in blocks: parsing an ELF file asks for some dozen small pieces that lie side by side, and a call of the kernel for each
//! costs more than all the rest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What is read at once: headers at a file's start, section headers and their names at its end.
const BLOCK: usize = 16 << 10;
/// Blocks begin at multiples of this.
const PAGE: u64 = 4096;

/// A reader with a position of its own: the file's is not moved.
#[derive(Debug)]
pub(crate) struct Blocks<'a> {
    file: &'a File,
    position: u64,
    /// The block that was read last, and where it begins.
    block: Vec<u8>,
    start: u64,
}

impl<'a> Blocks<'a> {
    /// Of `file`, from its start.
    pub fn new(file: &'a File) -> Self {
        Self { file, position: 0, block: Vec::new(), start: 0 }
    }

    /// What of the present block lies at the position.
    fn here(&self) -> &[u8] {
        let at = self.position.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.block.get(at..)).unwrap_or_default()
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.here().is_empty() {
            if into.len() >= BLOCK {
                let got = self.file.read_at(into, self.position)?;
                self.position += got as u64;
                return Ok(got);
            }
            self.start = self.position & !(PAGE - 1);
            self.block.resize(BLOCK, 0);
            let got = self.file.read_at(&mut self.block, self.start);
            self.block.truncate(*got.as_ref().unwrap_or(&0));
            got?;
        }
        let here = self.here();
        let taken = here.len().min(into.len());
        into[..taken].copy_from_slice(&here[..taken]);
        self.position += taken as u64;
        Ok(taken)
    }
}

impl Seek for Blocks<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from = |base: u64, by: i64| base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput);
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => from(self.position, by)?,
            SeekFrom::End(by) => from(self.file.metadata()?.len(), by)?,
        };
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn any_piece_is_what_the_file_has_there() {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..70_001u32).map(|at| ((at / 7) ^ at) as u8).collect();
        file.write_all(&bytes).expect("written");
        let mut blocks = Blocks::new(&file);
        for (at, len) in [(0, 64), (69_990, 11), (4_090, 20), (16_000, 5_000), (100, 40_000), (3, 0), (65_536, 4_465)] {
            assert_eq!(blocks.seek(SeekFrom::Start(at as u64)).expect("inside"), at as u64);
            let mut piece = vec![0; len];
            blocks.read_exact(&mut piece).expect("that much is there");
            assert_eq!(piece, bytes[at..at + len], "{len} bytes at {at}");
        }
        assert_eq!(blocks.seek(SeekFrom::End(-1)).expect("inside"), 70_000);
        let mut rest = Vec::new();
        assert_eq!(blocks.read_to_end(&mut rest).expect("read"), 1);
        assert_eq!(blocks.read(&mut [0; 8]).expect("nothing is there"), 0);
        assert!(blocks.seek(SeekFrom::Current(-70_002)).is_err());
    }
}
