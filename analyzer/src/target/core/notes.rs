//! What stands in a core's notes: threads with their registers, mapped files, the auxiliary vector, the signal.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::elf;
use object::read::elf::NoteIterator;
use object::{Endianness, LittleEndian};

use super::registers::Registers;
use super::{CoreError, MappedPart, Notes};
use crate::address::TargetRange;

type Header = elf::FileHeader64<Endianness>;

/// Notes that are read at most, bytes: 20,000 threads with all the registers that a processor can have.
const MOST_BYTES: u64 = 512 << 20;
/// `struct elf_prstatus`: the signal, the thread's id; registers follow at [`STATUS_REGISTERS`] (linux/elfcore.h, 64 bits).
const STATUS_SIGNAL: usize = 12;
const STATUS_TID: usize = 32;
pub(super) const STATUS_REGISTERS: usize = 112;
/// `struct elf_prpsinfo`: the process's id and its name.
const INFO_PID: usize = 24;
const INFO_NAME: std::ops::Range<usize> = 40..56;

/// Reads them: offsets, lengths and alignments of the parts of the core that hold some.
pub(super) fn read(file: &File, path: &Path, parts: &[(u64, u64, u64)]) -> Result<Notes, CoreError> {
    let no_core = |why: &str| CoreError::NotACore { path: path.to_path_buf(), why: why.into() };
    let mut notes = Notes::default();
    let mut threads: Vec<Registers> = Vec::new();
    let mut left = MOST_BYTES;
    for &(offset, bytes, align) in parts {
        left = left.checked_sub(bytes).ok_or_else(|| no_core("its notes are too long to be true"))?;
        let mut data = vec![0; bytes as usize];
        let read = file.read_exact_at(&mut data, offset);
        read.map_err(|source| CoreError::Io { path: path.to_path_buf(), source })?;
        let iterator = NoteIterator::<Header>::new(Endianness::Little, align, &data);
        let mut iterator = iterator.map_err(|_| no_core("its notes are aligned as none are"))?;
        // One that makes no sense ends them: what came before is as good as ever.
        while let Ok(Some(note)) = iterator.next() {
            let desc = note.desc();
            match note.n_type(Endianness::Little) {
                elf::NT_PRSTATUS if note.name() == b"CORE" => {
                    // The first is of the thread that the signal ended.
                    let signal =
                        desc.get(STATUS_SIGNAL..).and_then(<[u8]>::first_chunk).map(|s| i16::from_le_bytes(*s));
                    if threads.is_empty() {
                        notes.signal = signal.map(i32::from).filter(|&signal| signal > 0);
                    }
                    threads.push(Registers { tid: int(desc, STATUS_TID).unwrap_or(0), ..Registers::default() });
                    if let Some(thread) = threads.last_mut() {
                        thread.general = desc.get(STATUS_REGISTERS..).unwrap_or_default().to_vec();
                    }
                }
                elf::NT_PRPSINFO if note.name() == b"CORE" => {
                    notes.pid = int(desc, INFO_PID);
                    let name = desc.get(INFO_NAME).unwrap_or_default();
                    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                    notes.name = Some(String::from_utf8_lossy(name).into_owned());
                }
                elf::NT_AUXV if note.name() == b"CORE" => {
                    let pairs = desc.as_chunks::<16>().0.iter().map(|pair| (word(pair, 0), word(pair, 8)));
                    notes.auxv = pairs.take_while(|&(key, _)| key != libc::AT_NULL).collect();
                }
                elf::NT_FILE if note.name() == b"CORE" => notes.files = files(desc),
                kind => {
                    if let Some(thread) = threads.last_mut() {
                        thread.add(kind, desc);
                    }
                }
            }
        }
    }
    notes.threads = threads.iter().filter_map(Registers::state).collect();
    if notes.threads.is_empty() {
        return Err(no_core("it has no threads"));
    }
    Ok(notes)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|int| i32::from_le_bytes(*int))
}

/// NT_FILE: how many, the size of a page, start and end and page of each, then all names.
fn files(desc: &[u8]) -> Vec<MappedPart> {
    let (count, page) = (word(desc, 0), word(desc, 8));
    let entries = desc.get(16..).unwrap_or_default().as_chunks::<24>().0;
    let Some(entries) = usize::try_from(count).ok().and_then(|count| entries.get(..count)) else { return Vec::new() };
    let names = desc.get(16 + 24 * entries.len()..).unwrap_or_default();
    let of = |(entry, name): (&[u8; 24], &[u8])| {
        let range = TargetRange { start: word(entry, 0), end: word(entry, 8) };
        let part =
            MappedPart { range, offset: word(entry, 16).saturating_mul(page), name: OsString::from_vec(name.to_vec()) };
        (range.start < range.end).then_some(part)
    };
    let mut files: Vec<MappedPart> = entries.iter().zip(names.split(|&byte| byte == 0)).filter_map(of).collect();
    files.sort_by_key(|part| part.range.start);
    let mut last = 0;
    files.retain(|part| {
        let fits = part.range.start >= last;
        if fits {
            last = part.range.end;
        }
        fits
    });
    files
}

const _: () = assert!(size_of::<elf::NoteHeader64<LittleEndian>>() == 12);
