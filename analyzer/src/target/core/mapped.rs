//! The files that were mapped into a core's process: what the core leaves out, code and constants, is read from them.
//!
//! A file may have been replaced since. An ELF file is taken where its build id is the one that the session saw loaded, or where its first
//! page is the one in the core; a process maps no two different files of which either is the same.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};

use super::{MappedPart, PAGE, open_regular};
use crate::symbols;
use crate::symbols::key::hex;

/// Where files are looked for, and what is known of them.
#[derive(Debug, Default)]
pub struct Sources {
    /// The folder that the process saw as `/`; `None`: ours.
    pub root: Option<PathBuf>,
    /// Build ids of what was loaded, by the lowest address of each.
    pub loaded: Vec<(u64, Vec<u8>)>,
}

/// One file by its name.
#[derive(Debug)]
pub(super) struct Image {
    /// As NT_FILE has it, without ` (deleted)`.
    pub name: std::ffi::OsString,
    /// The kernel said that it was deleted.
    pub deleted: bool,
    /// Open, and proved to be the one that was mapped.
    pub file: Option<File>,
    /// Bytes of it that a mapping shows: whole pages.
    pub shown: u64,
    /// Offsets in it that are code: what a core does not speak of has no rights there.
    code: Vec<(u64, u64)>,
}

impl Image {
    /// What lies at this offset is mapped as code.
    pub fn is_code(&self, offset: u64) -> bool {
        self.code.iter().any(|&(start, end)| (start..end).contains(&offset))
    }
}

/// Opens what can be opened; the images, and which of them each part is of. `read_core`: reads what is in the core itself.
pub(super) fn open(
    parts: &[MappedPart],
    sources: &Sources,
    read_core: &dyn Fn(u64, &mut [u8]) -> usize,
) -> (Vec<Image>, Vec<usize>) {
    let mut images: Vec<Image> = Vec::new();
    let mut of_part = Vec::with_capacity(parts.len());
    let mut known = std::collections::HashMap::new();
    for part in parts {
        let number = *known.entry(part.name.as_os_str()).or_insert_with(|| {
            let (name, deleted) = match part.name.as_bytes().strip_suffix(b" (deleted)") {
                Some(name) => (OsStr::from_bytes(name), true),
                None => (part.name.as_os_str(), false),
            };
            let own: Vec<&MappedPart> = parts.iter().filter(|other| other.name == part.name).collect();
            let file = open_proved(name, deleted, &own, sources, read_core).ok();
            let code = file.as_ref().map(code_of).unwrap_or_default();
            let length = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |data| data.len());
            let shown = length.checked_next_multiple_of(PAGE).unwrap_or(length);
            images.push(Image { name: name.to_owned(), deleted, file, shown, code });
            images.len() - 1
        });
        of_part.push(number);
    }
    (images, of_part)
}

fn open_proved(
    name: &OsStr,
    deleted: bool,
    parts: &[&MappedPart],
    sources: &Sources,
    read_core: &dyn Fn(u64, &mut [u8]) -> usize,
) -> io::Result<File> {
    let path = Path::new(name);
    // memfds, devices and the like: what lies there by now is somebody else's.
    if !path.is_absolute() || path.starts_with("/dev") && !path.starts_with("/dev/shm") || path.starts_with("/proc") {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = match &sources.root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    };
    let file = open_regular(&path)?;
    let mut first = vec![0; PAGE as usize];
    let got = file.read_at(&mut first, 0)?;
    let loaded = sources.loaded.iter().find(|(start, _)| parts.iter().any(|part| part.range.contains(*start)));
    let proved = if let Some((_, build_id)) = loaded.filter(|(_, build_id)| !build_id.is_empty()) {
        symbols::build_id(&file).is_some_and(|own| own.starts_with(&hex(build_id)))
    } else if first[..got].starts_with(b"\x7fELF") {
        let start = parts.iter().find(|part| part.offset == 0).map(|part| part.range.start);
        let mut in_core = vec![0; got];
        // Padding may follow the file's end in its last page: only what the file has is compared.
        let read = start.map_or(0, |start| read_core(start, &mut in_core));
        read >= 64 && in_core[..read] == first[..read]
    } else {
        // Data can only hide a leak, never make one up.
        !deleted
    };
    if proved { Ok(file) } else { Err(io::Error::other("another file by now")) }
}

fn code_of(file: &File) -> Vec<(u64, u64)> {
    let cache = ReadCache::new(file);
    let Ok(header) = elf::FileHeader64::<object::Endianness>::parse(&cache) else { return Vec::new() };
    let Ok(endian) = header.endian() else { return Vec::new() };
    let Ok(parts) = header.program_headers(endian, &cache) else { return Vec::new() };
    let code =
        parts.iter().filter(|part| part.p_type(endian) == elf::PT_LOAD && part.p_flags(endian).0 & elf::PF_X.0 != 0);
    let range = |part: &elf::ProgramHeader64<object::Endianness>| {
        let start = part.p_offset(endian) & !(PAGE - 1);
        (start, part.p_offset(endian).saturating_add(part.p_filesz(endian)))
    };
    code.map(range).collect()
}
