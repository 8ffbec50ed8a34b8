//! What parts a core file has: its ELF header and program headers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, LittleEndian};

use super::{CoreError, Segment};
use crate::address::TargetRange;

type Header = elf::FileHeader64<Endianness>;

/// Program headers that are read at most: a process has 65,530 mappings unless somebody raised the kernel's limit.
const MOST_HEADERS: u64 = 1 << 20;

#[cfg(target_arch = "x86_64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_X86_64, "x86-64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_AARCH64, "AArch64");

/// The first bytes of what cores are packed with, what that is called, and what unpacks it.
const PACKED: [(&[u8], &str, &str); 5] = [
    (b"\x28\xb5\x2f\xfd", "zstd", "`zstd -d`, or `coredumpctl dump PID -o core` where systemd stored it"),
    (b"\x04\x22\x4d\x18", "lz4", "`lz4 -d`, or `coredumpctl dump PID -o core` where systemd stored it"),
    (b"\xfd7zXZ", "xz", "`xz -d`, or `coredumpctl dump PID -o core` where systemd stored it"),
    (b"\x1f\x8b", "gzip", "`gzip -d`"),
    (b"ProblemType", "an Apport report", "`apport-unpack`"),
];

/// Where things are.
pub(super) struct Headers {
    /// By address, disjoint.
    pub segments: Vec<Segment>,
    /// Offset and length in the file of each part with notes, and how notes are aligned there.
    pub notes: Vec<(u64, u64, u64)>,
}

/// Reads them.
pub(super) fn read(file: &File, path: &Path) -> Result<Headers, CoreError> {
    let no_core = |why: &str| CoreError::NotACore { path: path.to_path_buf(), why: why.into() };
    let io = |source| CoreError::Io { path: path.to_path_buf(), source };
    let length = file.metadata().map_err(io)?.len();
    let mut first = [0; 16];
    let got = file.read_at(&mut first, 0).map_err(io)?;
    if let Some((_, with, by)) = PACKED.iter().find(|(magic, ..)| first[..got].starts_with(magic)) {
        return Err(CoreError::Compressed { path: path.to_path_buf(), with, by });
    }
    if !first[..got].starts_with(b"\x7fELF") {
        return Err(no_core("it does not begin as an ELF file"));
    }
    let cache = ReadCache::new(file);
    let header = Header::parse(&cache).map_err(|_| no_core("it is no 64-bit ELF file"))?;
    let endian = header.endian().map_err(|_| no_core("its byte order makes no sense"))?;
    if header.e_type(endian) != elf::ET_CORE {
        return Err(no_core("it is another kind of ELF file, a program or a library"));
    }
    let machine = header.e_machine(endian);
    if machine != MACHINE.0 || endian != Endianness::Little {
        let theirs = match machine {
            elf::EM_X86_64 => "x86-64".into(),
            elf::EM_AARCH64 => "AArch64".into(),
            other => format!("number {} of ELF's list", other.0),
        };
        return Err(CoreError::Machine { path: path.to_path_buf(), theirs, ours: MACHINE.1 });
    }
    let count = header.phnum(endian, &cache).map_err(|_| no_core("it does not say how many parts it has"))?;
    let bytes = u64::from(count) * size_of::<elf::ProgramHeader64<LittleEndian>>() as u64;
    if u64::from(count) > MOST_HEADERS {
        return Err(no_core("it has more parts than a process can have mappings"));
    }
    if header.e_phoff(endian).saturating_add(bytes) > length {
        let missing = header.e_phoff(endian).saturating_add(bytes) - length;
        return Err(CoreError::CutOff { path: path.to_path_buf(), missing, whole: length.saturating_add(missing) });
    }
    let headers = header.program_headers(endian, &cache).map_err(|_| no_core("its list of parts makes no sense"))?;
    let (mut segments, mut notes, mut end) = (Vec::new(), Vec::new(), 0);
    for part in headers {
        let (offset, bytes) = (part.p_offset(endian), part.p_filesz(endian));
        let flags = part.p_flags(endian).0;
        match part.p_type(endian) {
            elf::PT_LOAD => {
                let range = TargetRange::with_len(part.p_vaddr(endian), part.p_memsz(endian));
                segments.push(Segment {
                    range,
                    readable: flags & elf::PF_R.0 != 0,
                    writable: flags & elf::PF_W.0 != 0,
                    executable: flags & elf::PF_X.0 != 0,
                    offset,
                    in_core: bytes.min(range.len()),
                });
            }
            elf::PT_NOTE => notes.push((offset, bytes, part.p_align(endian))),
            _ => continue,
        }
        if bytes > 0 {
            end = end.max(offset.saturating_add(bytes));
        }
    }
    if end > length {
        return Err(CoreError::CutOff { path: path.to_path_buf(), missing: end - length, whole: end });
    }
    segments.retain(|segment| !segment.range.is_empty());
    segments.sort_by_key(|segment| segment.range.start);
    let mut last = 0;
    // No kernel writes parts that overlap: of such the first is taken.
    segments.retain(|segment| {
        let fits = segment.range.start >= last;
        if fits {
            last = segment.range.end;
        }
        fits
    });
    Ok(Headers { segments, notes })
}
