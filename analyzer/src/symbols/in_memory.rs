//! The build id of an ELF object as it lies in memory.

use object::elf;
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};

/// What is read of the object's first page.
const HEAD: usize = 4096;
/// Longest note segment that is read, bytes.
const LARGEST_NOTE: u64 = 1 << 16;

/// Of the object whose first byte lies at `start`; `None` where that cannot be read, or there is none. `read` as of
/// [`crate::target::memory::Memory`].
pub fn build_id_in_memory(read: &dyn Fn(u64, &mut [u8]) -> usize, start: u64) -> Option<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let got = read(start, &mut head);
    head.truncate(got);
    let header = elf::FileHeader64::<object::Endianness>::parse(&head[..]).ok()?;
    let endian = header.endian().ok()?;
    let parts = header.program_headers(endian, &head[..]).ok()?;
    let first =
        parts.iter().filter(|part| part.p_type(endian) == elf::PT_LOAD).map(|part| part.p_vaddr(endian)).min()?;
    let notes = parts.iter().filter(|part| part.p_type(endian) == elf::PT_NOTE);
    notes.filter(|part| part.p_filesz(endian) <= LARGEST_NOTE).find_map(|part| {
        let at = part.p_vaddr(endian).wrapping_sub(first & !(HEAD as u64 - 1)).wrapping_add(start);
        let mut bytes = vec![0; part.p_filesz(endian) as usize];
        if read(at, &mut bytes) != bytes.len() {
            return None;
        }
        let mut notes =
            NoteIterator::<elf::FileHeader64<object::Endianness>>::new(endian, part.p_align(endian), &bytes).ok()?;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return Some(note.desc().to_vec());
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::maps;
    use crate::target::memory::Memory;
    use crate::target::process_memory::ProcessMemory;

    #[test]
    fn the_c_library_has_the_same_in_memory_as_on_disk() {
        let tid = std::process::id() as i32;
        let memory = ProcessMemory::new(tid);
        let read = |at: u64, buffer: &mut [u8]| memory.read(at, buffer);
        let maps = maps::read_maps(tid).expect("the mappings");
        let is_libc = |path: &std::path::Path| path.to_string_lossy().contains("/libc.so");
        let libc = maps.iter().find(|mapping| mapping.path().is_some_and(is_libc)).expect("the C library");
        let file = std::fs::File::open(libc.path().expect("a path")).expect("its file");
        let own = build_id_in_memory(&read, libc.range.start).expect("its build id");
        assert_eq!(crate::symbols::build_id(&file), Some(crate::symbols::key::hex(&own)));
        assert_eq!(build_id_in_memory(&read, 4096), None);
        assert_eq!(build_id_in_memory(&read, libc.range.start + 4096), None);
    }
}
