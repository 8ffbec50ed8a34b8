//! Reads an ELF file without trusting it: identity, links to debug files, function symbols.
//!
//! By positioned reads instead of a mapping: a file that is cut while it is read gives an error, not SIGBUS. Every size in it
//! is bounded before memory is reserved for it.

use std::fs::File;
use std::io;

use object::elf;
use object::read::elf::{CompressionHeader, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};
use object::read::{ReadCache, ReadRef};
use object::{Endian, Endianness};
use thiserror::Error;

use super::blocks::Blocks;
use super::table::{Binding, RawSymbol, SymbolTable};

/// Largest string table that is read, bytes.
const LARGEST_STRINGS: u64 = 512 << 20;
/// Largest symbol table that is read, bytes: 8 million symbols, which take twice that while they are sorted.
const LARGEST_TABLE: u64 = 192 << 20;
/// Largest note, link or string section that is read, bytes.
const LARGEST_NOTE: u64 = 1 << 16;
/// Most bytes that a file's compressed debug sections may say to unpack to.
const LARGEST_UNPACKED: u64 = 4 << 30;

type Header = elf::FileHeader64<Endianness>;
type Sections<'a> = SectionTable<'a, Header, &'a ReadCache<Blocks<'a>>>;

/// Why an ELF file could not be read.
#[derive(Debug, Error)]
pub(super) enum ElfError {
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its bytes make no sense.
    #[error("not a well-formed 64-bit ELF file ({0})")]
    Malformed(#[from] object::Error),
    /// A size in it is beyond what is sane.
    #[error("its {0} is too large to be true")]
    TooLarge(&'static str),
}

/// What an ELF file says of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// GNU build id; empty where there is none.
    pub build_id: Vec<u8>,
    /// A loader finds it. Go's own linker (programs without cgo) writes one that no program header leads to.
    pub build_id_is_loaded: bool,
    /// File name and CRC-32 of its separate debug file.
    pub debuglink: Option<(Vec<u8>, u32)>,
    /// Path and build id of the file that dwz moved shared debug information to.
    pub altlink: Option<(Vec<u8>, Vec<u8>)>,
    /// It has .debug_info or .debug_line, and their sizes are sane.
    pub has_dwarf: bool,
    /// It has a full symbol table.
    pub has_symtab: bool,
    /// Bytes from the lowest mapped address to the highest, in whole pages.
    pub span: u64,
}

/// Reads what `file` says of itself.
pub(super) fn identify(file: &File) -> Result<Identity, ElfError> {
    let cache = ReadCache::new(Blocks::new(file));
    let (header, endian, sections) = parse(&cache)?;
    let mut identity = Identity { span: span(header, endian, &cache)?, ..Identity::default() };
    let mut unpacked = 0u64;
    let mut dwarf = false;
    for section in sections.iter() {
        let size = section.sh_size(endian);
        match section.sh_type(endian) {
            elf::SHT_NOTE if size <= LARGEST_NOTE && identity.build_id.is_empty() => {
                identity.build_id = build_id(section, endian, &cache).unwrap_or_default();
            }
            elf::SHT_SYMTAB => identity.has_symtab = true,
            _ => {}
        }
        let Ok(name) = sections.section_name(endian, section) else { continue };
        match name {
            b".gnu_debuglink" if size <= LARGEST_NOTE => {
                identity.debuglink = section.data(endian, &cache).ok().and_then(|d| debuglink(d, endian));
            }
            b".gnu_debugaltlink" if size <= LARGEST_NOTE => {
                identity.altlink = section.data(endian, &cache).ok().and_then(altlink);
            }
            // NOBITS: the empty place that strip leaves in one of the two files.
            b".debug_info" | b".debug_line" | b".zdebug_info" | b".zdebug_line" => {
                dwarf |= section.sh_type(endian) != elf::SHT_NOBITS && size > 0;
            }
            _ => {}
        }
        if name.starts_with(b".debug_") {
            let declared = section.compression(endian, &cache).ok().flatten().map_or(0, |(h, ..)| h.ch_size(endian));
            unpacked = unpacked.saturating_add(declared);
        }
    }
    identity.has_dwarf = dwarf && unpacked <= LARGEST_UNPACKED;
    let loaded = build_id_by_segment(header, endian, &cache);
    identity.build_id_is_loaded = loaded.is_some();
    if identity.build_id.is_empty() {
        identity.build_id = loaded.unwrap_or_default();
    }
    Ok(identity)
}

/// The functions of .symtab, or without one those of .dynsym. `left`: bytes of tables that may still be read, of this file and others.
pub(super) fn functions(file: &File, left: &mut u64) -> Result<SymbolTable, ElfError> {
    let cache = ReadCache::new(Blocks::new(file));
    let (_, endian, sections) = parse(&cache)?;
    let full = read_functions(&cache, endian, &sections, elf::SHT_SYMTAB, left)?;
    if !full.is_empty() {
        return Ok(full);
    }
    read_functions(&cache, endian, &sections, elf::SHT_DYNSYM, left)
}

/// A section, as far as Go's tables need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SectionInfo {
    pub name: String,
    pub kind: elf::SectionType,
    pub flags: u64,
    pub address: u64,
    pub offset: u64,
    pub size: u64,
}

impl SectionInfo {
    /// Its bytes are in the file, and are loaded.
    pub fn is_in_file(&self) -> bool {
        self.kind != elf::SHT_NOBITS && self.flags & elf::SHF_ALLOC.0 != 0
    }

    /// Variables.
    pub fn is_data(&self) -> bool {
        self.is_in_file() && self.flags & elf::SHF_WRITE.0 != 0
    }
}

/// Every section of `file`.
pub(super) fn sections(file: &File) -> Result<Vec<SectionInfo>, ElfError> {
    let cache = ReadCache::new(Blocks::new(file));
    let (_, endian, sections) = parse(&cache)?;
    let of = |section: &elf::SectionHeader64<Endianness>| SectionInfo {
        name: sections
            .section_name(endian, section)
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .unwrap_or_default(),
        kind: section.sh_type(endian),
        flags: section.sh_flags(endian).0,
        address: section.sh_addr(endian),
        offset: section.sh_offset(endian),
        size: section.sh_size(endian),
    };
    Ok(sections.iter().map(of).collect())
}

/// Offset in the file and address of each part that is loaded.
pub(super) fn segments(file: &File) -> Result<Vec<(u64, u64)>, ElfError> {
    let cache = ReadCache::new(Blocks::new(file));
    let (header, endian, _) = parse(&cache)?;
    let loaded = header.program_headers(endian, &cache)?.iter().filter(|p| p.p_type(endian) == elf::PT_LOAD);
    Ok(loaded.map(|p| (p.p_offset(endian), p.p_vaddr(endian))).collect())
}

fn parse<'a>(cache: &'a ReadCache<Blocks<'a>>) -> Result<(&'a Header, Endianness, Sections<'a>), ElfError> {
    let header = Header::parse(cache)?;
    let endian = header.endian()?;
    // An e_shnum of 0 means that the count is a 64-bit number elsewhere: only giant object files do that.
    if header.e_shoff(endian) != 0 && header.e_shnum(endian) == 0 {
        return Err(ElfError::TooLarge("section count"));
    }
    if header.e_phnum(endian) == elf::PN_XNUM {
        return Err(ElfError::TooLarge("segment count"));
    }
    Ok((header, endian, header.sections(endian, cache)?))
}

fn build_id<'a>(
    section: &elf::SectionHeader64<Endianness>,
    endian: Endianness,
    data: &'a ReadCache<Blocks<'a>>,
) -> Option<Vec<u8>> {
    let mut notes = section.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec());
        }
    }
    None
}

/// A name, its NUL, zeroes up to a multiple of 4, and the debug file's CRC-32.
fn debuglink(data: &[u8], endian: Endianness) -> Option<(Vec<u8>, u32)> {
    let end = data.iter().position(|&b| b == 0)?;
    let crc = data.get((end + 1).next_multiple_of(4)..)?.first_chunk::<4>()?;
    Some((data[..end].to_vec(), endian.read_u32(*crc)))
}

/// A path, its NUL, and the other file's build id.
fn altlink(data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let end = data.iter().position(|&b| b == 0)?;
    Some((data[..end].to_vec(), data[end + 1..].to_vec()))
}

/// As a loader reads it; also for files whose section headers were stripped.
fn build_id_by_segment<'a>(header: &Header, endian: Endianness, data: &'a ReadCache<Blocks<'a>>) -> Option<Vec<u8>> {
    for segment in header.program_headers(endian, data).ok()? {
        if segment.p_type(endian) != elf::PT_NOTE || segment.p_filesz(endian) > LARGEST_NOTE {
            continue;
        }
        let mut notes = segment.notes(endian, data).ok()??;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return Some(note.desc().to_vec());
            }
        }
    }
    None
}

fn span<'a>(header: &Header, endian: Endianness, data: &'a ReadCache<Blocks<'a>>) -> Result<u64, ElfError> {
    const PAGE: u64 = 4096;
    let loads =
        || header.program_headers(endian, data).into_iter().flatten().filter(|p| p.p_type(endian) == elf::PT_LOAD);
    let start = loads().map(|p| p.p_vaddr(endian)).min().unwrap_or(0) & !(PAGE - 1);
    let end = loads().map(|p| p.p_vaddr(endian).saturating_add(p.p_memsz(endian))).max().unwrap_or(0);
    Ok(end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX).saturating_sub(start))
}

fn read_functions<'a>(
    cache: &'a ReadCache<Blocks<'a>>,
    endian: Endianness,
    sections: &Sections<'a>,
    table_type: elf::SectionType,
    left: &mut u64,
) -> Result<SymbolTable, ElfError> {
    let Some((index, section)) = sections.enumerate().find(|(_, s)| s.sh_type(endian) == table_type) else {
        return Ok(SymbolTable::default());
    };
    if section.sh_size(endian) > LARGEST_TABLE {
        return Err(ElfError::TooLarge("symbol table"));
    }
    let linked = object::SectionIndex(section.sh_link(endian) as usize);
    let Ok(strings) = sections.section(linked) else { return Ok(SymbolTable::default()) };
    if strings.sh_size(endian) > LARGEST_STRINGS {
        return Err(ElfError::TooLarge("string table"));
    }
    // Both are at most a GiB here.
    let bytes = section.sh_size(endian) + strings.sh_size(endian);
    *left = left.checked_sub(bytes).ok_or(ElfError::TooLarge("symbol table, beside those read before,"))?;
    let table = sections.symbol_table_by_index(endian, cache, index)?;
    let names = match strings.file_range(endian) {
        Some((offset, size)) => cache
            .read_bytes_at(offset, size)
            .map_err(|()| io::Error::other("its string table lies outside the file"))?,
        None => return Ok(SymbolTable::default()),
    };
    let mut has_static = false;
    let mut functions = Vec::new();
    for symbol in table.iter() {
        if symbol.st_type() != elf::STT_FUNC && symbol.st_type() != elf::STT_GNU_IFUNC {
            continue;
        }
        let place = usize::from(symbol.st_shndx(endian).0);
        // Undefined ones, and the reserved numbers (absolute, common …), have no code here.
        let Some(home) = sections.section(object::SectionIndex(place)).ok() else { continue };
        let Some(name) = names.get(symbol.st_name(endian) as usize..) else { continue };
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let binding = match symbol.st_bind() {
            elf::STB_LOCAL => Binding::Local,
            elf::STB_WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        has_static |= binding == Binding::Local;
        let limit = home.sh_addr(endian).saturating_add(home.sh_size(endian));
        functions.push(RawSymbol {
            name,
            start: symbol.st_value(endian),
            size: symbol.st_size(endian),
            limit,
            binding,
        });
    }
    // `strip -x` leaves a .symtab of exported functions only; every linked file has static ones of its start-up code.
    Ok(SymbolTable::new(functions, table_type == elf::SHT_SYMTAB && has_static))
}
