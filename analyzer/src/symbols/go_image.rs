//! A Go program or library on disk: its version, where its code and its variables lie, its table of lines.
//!
//! All of it survives `-s -w`: the table by its section, the rest by `moduledata`, the record with which the runtime finds its own code and
//! data. That record is found by its first two words, which lead into the table; where the file is position-independent those words are
//! in its relocations.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf;

use super::elf::{ElfError, SectionInfo, sections, segments};
use super::pclntab::{GoSite, LineTable};
use crate::address::TargetRange;

/// Largest table of lines that is read, bytes.
const LARGEST_TABLE: u64 = 512 << 20;
/// Most bytes of variables and of relocations that are searched for `moduledata`.
const LARGEST_DATA: u64 = 256 << 20;
/// What is read from where `go:func.*` begins: it has no section of its own.
const LARGEST_FUNC: u64 = 64 << 20;

/// Go's release, without its patch level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1.
    pub major: u32,
    /// 22 and up.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "go{}.{}", self.major, self.minor)
    }
}

/// What the file says. Addresses are the file's (SVMA).
#[derive(Debug, Clone)]
pub struct GoImage {
    /// `None` where the file does not say.
    pub version: Option<Version>,
    /// Go's own code.
    pub text: TargetRange,
    /// Variables that may hold pointers of Go's: initialized, and zero at first.
    pub pointers: [TargetRange; 2],
    /// All variables of Go's, from the lowest to the highest.
    pub variables: TargetRange,
    table: LineTable,
    /// Offset in the file and address of what is loaded.
    segments: Vec<(u64, u64)>,
}

impl GoImage {
    /// Reads `file`; `None` where there is no Go code in it that is understood.
    pub fn open(file: &File) -> Option<Self> {
        Self::look(file).ok().flatten()
    }

    /// The same, and whether it is certain.
    ///
    /// # Errors
    /// The file cannot be read, or makes no sense: a clause.
    pub fn look(file: &File) -> Result<Option<Self>, String> {
        Self::read(file).map_err(|error| error.to_string())
    }

    fn read(file: &File) -> Result<Option<Self>, ElfError> {
        let sections = sections(file)?;
        let named = |name: &str| sections.iter().find(|section| section.name == name);
        let Some(lines) = named(".gopclntab").or_else(|| named(".data.rel.ro.gopclntab")) else { return Ok(None) };
        let Some(table) = bytes(file, lines, LARGEST_TABLE)?.and_then(LineTable::parse) else { return Ok(None) };
        let image = Data { file, sections: &sections, relocations: relocations(file, &sections)? };
        let Some(module) = image.find_module(lines.address, lines.address.wrapping_add(table.names_offset()))? else {
            return Ok(None);
        };
        // Offsets in `moduledata` are the same from Go 1.18 to 1.27 up to the end of its variables (runtime/symtab.go).
        let range = |at: u64| TargetRange { start: image.word(module + at), end: image.word(module + at + 8) };
        let variables: Vec<TargetRange> =
            [192, 208, 224, 240].map(range).into_iter().filter(|r| r.start < r.end).collect();
        let variables = TargetRange {
            start: variables.iter().map(|r| r.start).min().unwrap_or(0),
            end: variables.iter().map(|r| r.end).max().unwrap_or(0),
        };
        let version =
            named(".go.buildinfo").and_then(|section| bytes(file, section, 1 << 20).ok()?).and_then(|b| version(&b));
        // Where `go:func.*` begins moved in Go 1.27.
        let data = match version.map(|version| version.minor) {
            Some(18..=26) => image.from(image.word(module + 320), LARGEST_FUNC),
            Some(27) => image.from(image.word(module + 344), LARGEST_FUNC),
            _ => None,
        };
        Ok(Some(Self {
            version,
            text: range(176),
            pointers: [range(208), range(224)],
            variables,
            table: table.with_data(data.unwrap_or_default()),
            segments: segments(file)?,
        }))
    }

    /// Runtime address minus address in the file, where the page at `offset` of the file is mapped at `start`.
    pub fn bias(&self, offset: u64, start: u64) -> Option<u64> {
        let page = rustix::param::page_size() as u64;
        let pages = |address: u64| address & !(page - 1);
        let segment = self.segments.iter().find(|segment| pages(segment.0) == offset)?;
        Some(start.wrapping_sub(pages(segment.1)))
    }

    /// The functions at `svma`: inlined ones first, innermost first. Empty outside Go's code.
    pub fn sites(&self, svma: u64) -> Vec<GoSite> {
        if self.text.contains(svma) { self.table.sites(svma - self.text.start) } else { Vec::new() }
    }

    /// The function whose code holds `svma`.
    pub fn function(&self, svma: u64) -> Option<String> {
        if self.text.contains(svma) { self.table.function(svma - self.text.start) } else { None }
    }
}

struct Data<'a> {
    file: &'a File,
    sections: &'a [SectionInfo],
    /// Address and value, by address.
    relocations: Vec<(u64, u64)>,
}

impl Data<'_> {
    /// Where `moduledata` lies: two words of it are known.
    fn find_module(&self, first: u64, second: u64) -> Result<Option<u64>, ElfError> {
        let fits = |at: u64| self.word(at) == first && self.word(at.wrapping_add(8)) == second;
        if let Some(&(at, _)) = self.relocations.iter().find(|&&(at, value)| value == first && fits(at)) {
            return Ok(Some(at));
        }
        for section in self.sections.iter().filter(|section| section.is_data()) {
            let Some(bytes) = bytes(self.file, section, LARGEST_DATA)? else { continue };
            let words = bytes.as_chunks::<8>().0;
            let found = words
                .windows(2)
                .position(|two| u64::from_le_bytes(two[0]) == first && u64::from_le_bytes(two[1]) == second);
            if let Some(index) = found.filter(|_| section.address.is_multiple_of(8)) {
                return Ok(Some(section.address + 8 * index as u64));
            }
        }
        Ok(None)
    }

    /// The word that a loaded, unmoved image has at `address`; 0 where there is none.
    fn word(&self, address: u64) -> u64 {
        if let Ok(at) = self.relocations.binary_search_by_key(&address, |entry| entry.0) {
            return self.relocations[at].1;
        }
        let mut word = [0; 8];
        let place = self.place(address).map(|(offset, left)| (offset, left >= 8));
        match place {
            Some((offset, true)) if self.file.read_exact_at(&mut word, offset).is_ok() => u64::from_le_bytes(word),
            _ => 0,
        }
    }

    /// From `address` to the end of its section.
    fn from(&self, address: u64, most: u64) -> Option<Vec<u8>> {
        let (offset, left) = self.place(address)?;
        let mut bytes = vec![0; left.min(most) as usize];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Where in the file `address` lies, and how many bytes of its section are left.
    fn place(&self, address: u64) -> Option<(u64, u64)> {
        let holds = |section: &&SectionInfo| {
            section.is_in_file() && address.wrapping_sub(section.address) < section.size && section.address != 0
        };
        let section = self.sections.iter().find(holds)?;
        let into = address - section.address;
        Some((section.offset.checked_add(into)?, section.size - into))
    }
}

/// Of the processor that avleak is built for.
const RELATIVE: u32 = if cfg!(target_arch = "aarch64") { elf::R_AARCH64_RELATIVE.0 } else { elf::R_X86_64_RELATIVE.0 };

/// Words of a position-independent file that are known only by what they are moved by, as they are where nothing is moved.
fn relocations(file: &File, sections: &[SectionInfo]) -> Result<Vec<(u64, u64)>, ElfError> {
    let mut found = Vec::new();
    for section in sections.iter().filter(|section| section.kind == elf::SHT_RELA && section.flags & SHF_ALLOC != 0) {
        let Some(bytes) = bytes(file, section, LARGEST_DATA)? else { continue };
        for entry in bytes.as_chunks::<24>().0 {
            let word = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            if word(8) as u32 == RELATIVE {
                found.push((word(0), word(16)));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

const SHF_ALLOC: u64 = elf::SHF_ALLOC.0;

fn bytes(file: &File, section: &SectionInfo, most: u64) -> Result<Option<Vec<u8>>, ElfError> {
    if !section.is_in_file() || section.size > most || section.size > file.metadata()?.len() {
        return Ok(None);
    }
    let mut bytes = vec![0; section.size as usize];
    file.read_exact_at(&mut bytes, section.offset)?;
    Ok(Some(bytes))
}

/// From `.go.buildinfo` as Go 1.18 and later write it: 14 bytes of magic, sizes and flags up to byte 32, a length, the version's text.
fn version(bytes: &[u8]) -> Option<Version> {
    const INLINE: u8 = 2;
    if !bytes.starts_with(b"\xff Go buildinf:") || bytes.get(15)? & INLINE == 0 {
        return None;
    }
    let length = usize::from(*bytes.get(32)?);
    let text = std::str::from_utf8(bytes.get(33..33 + length.min(127))?).ok()?;
    // `go1.27.3`, `go1.28rc1`, `go1.27.3 X:…`; `devel go1.28-abcdef …`.
    let (_, number) = text.split_once("go")?;
    let (major, rest) = number.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some(Version { major: major.parse().ok()?, minor: rest[..digits].parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_far_as_they_matter() {
        let of = |text: &str| {
            let mut bytes = b"\xff Go buildinf:\x08\x02".to_vec();
            bytes.resize(32, 0);
            bytes.push(text.len() as u8);
            bytes.extend(text.bytes());
            version(&bytes).map(|version| version.to_string())
        };
        assert_eq!(of("go1.27.3").as_deref(), Some("go1.27"));
        assert_eq!(of("devel go1.28-3a5b X:foo").as_deref(), Some("go1.28"));
        assert_eq!(of("go1.22rc1").as_deref(), Some("go1.22"));
        assert_eq!(of("unknown"), None);
        assert_eq!(version(b"\xff Go buildinf:"), None);
    }
}
