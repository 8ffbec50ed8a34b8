//! Reading the mapped ELF objects of this process: program headers, dynamic section, symbols by name, relocations.
//!
//! Everything is read from memory that the loader mapped for a module which is in use (a return address of a running call lies
//! in it) or which dl_iterate_phdr is showing at this moment.

use core::ffi::CStr;

/// Program header types.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PT_GNU_RELRO: u32 = 0x6474_e552;

/// Relocation types whose target is one pointer to a function: the call slots.
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;

/// What the program headers say, runtime addresses.
#[derive(Clone, Copy, Default)]
pub struct Layout {
    /// Load bias.
    pub base: u64,
    /// Lowest mapped byte.
    pub start: u64,
    /// One past the highest.
    pub end: u64,
    /// The dynamic section, 0: none.
    pub dynamic: u64,
    /// .eh_frame_hdr and its length, 0: none.
    pub eh_frame_hdr: (u64, u64),
    /// The notes and their length.
    pub notes: [(u64, u64); 4],
    /// What is read-only after relocation.
    pub relro: (u64, u64),
    /// End of the segment that holds .eh_frame_hdr.
    pub eh_segment_end: u64,
}

impl Layout {
    /// From program headers.
    pub fn of(base: u64, headers: &[libc::Elf64_Phdr]) -> Self {
        let mut layout = Self { base, start: u64::MAX, ..Self::default() };
        let mut notes = 0;
        for header in headers {
            let at = base.wrapping_add(header.p_vaddr);
            match header.p_type {
                PT_LOAD => {
                    layout.start = layout.start.min(at & !4095);
                    layout.end = layout.end.max(at.saturating_add(header.p_memsz));
                }
                PT_DYNAMIC => layout.dynamic = at,
                PT_GNU_EH_FRAME => layout.eh_frame_hdr = (at, header.p_memsz),
                PT_GNU_RELRO => layout.relro = (at, header.p_memsz),
                PT_NOTE if notes < layout.notes.len() => {
                    layout.notes[notes] = (at, header.p_memsz);
                    notes += 1;
                }
                _ => (),
            }
        }
        for header in headers.iter().filter(|header| header.p_type == PT_LOAD) {
            let at = base.wrapping_add(header.p_vaddr);
            if (at..at.saturating_add(header.p_memsz)).contains(&layout.eh_frame_hdr.0) {
                layout.eh_segment_end = at.saturating_add(header.p_filesz);
            }
        }
        if layout.start == u64::MAX {
            layout.start = base;
        }
        layout
    }

    /// From the ELF header that is mapped at `start`.
    ///
    /// # Safety
    /// A loaded module's first byte is at `start`, and the module stays mapped during the call.
    pub unsafe fn at(base: u64, start: u64) -> Option<Self> {
        let header = start as *const libc::Elf64_Ehdr;
        // SAFETY: the caller's promise; the ELF header is the file's first 64 bytes, mapped with the first segment.
        let header = unsafe { &*header };
        if header.e_ident[..4] != *b"\x7fELF" || header.e_phentsize as usize != size_of::<libc::Elf64_Phdr>() {
            return None;
        }
        let headers = (start + header.e_phoff) as *const libc::Elf64_Phdr;
        if header.e_phoff + u64::from(header.e_phnum) * 56 > 4096 {
            return None;
        }
        // SAFETY: the table lies in the module's first page, checked above.
        Some(Self::of(base, unsafe { core::slice::from_raw_parts(headers, header.e_phnum as usize) }))
    }

    /// The GNU build id, where a note holds one.
    ///
    /// # Safety
    /// The module stays mapped during the call.
    pub unsafe fn build_id(&self) -> Option<&'static [u8]> {
        for &(mut at, len) in self.notes.iter().filter(|note| note.1 != 0) {
            let end = at + len;
            while at + 12 <= end {
                // SAFETY: inside a note segment of a mapped module.
                let [name, desc, kind] = unsafe { *(at as *const [u32; 3]) };
                let name_at = at + 12;
                let desc_at = name_at + u64::from(name.next_multiple_of(4));
                if desc_at + u64::from(desc) > end {
                    break;
                }
                // SAFETY: as above; `name` bytes were checked to be inside.
                if kind == 3 && name == 4 && unsafe { *(name_at as *const [u8; 4]) } == *b"GNU\0" {
                    // SAFETY: as above.
                    return Some(unsafe { core::slice::from_raw_parts(desc_at as *const u8, desc as usize) });
                }
                at = desc_at + u64::from(desc.next_multiple_of(4));
            }
        }
        None
    }
}

/// The dynamic section of a mapped module.
#[derive(Clone, Copy)]
pub struct Dynamic {
    base: u64,
    symbols: u64,
    strings: u64,
    strings_len: u64,
    gnu_hash: u64,
    hash: u64,
    jump_relocations: (u64, u64),
    relocations: (u64, u64),
    relative_count: u64,
}

/// A relocation with a symbol.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Address of the pointer.
    pub at: u64,
    /// The symbol's name in the module's string table.
    pub name: &'static CStr,
}

impl Dynamic {
    /// Reads the section.
    ///
    /// # Safety
    /// `layout` is of a module that is mapped, and stays so while the value and what it returns are used.
    pub unsafe fn of(layout: &Layout) -> Option<Self> {
        let mut dynamic = Self {
            base: layout.base,
            symbols: 0,
            strings: 0,
            strings_len: 0,
            gnu_hash: 0,
            hash: 0,
            jump_relocations: (0, 0),
            relocations: (0, 0),
            relative_count: 0,
        };
        if layout.dynamic == 0 {
            return None;
        }
        // glibc writes runtime addresses into the section where it is writable; the vDSO's holds offsets.
        let address = |value: u64| if value < layout.start { value.wrapping_add(layout.base) } else { value };
        let mut entry = layout.dynamic as *const [u64; 2];
        for _ in 0..256 {
            // SAFETY: entries up to DT_NULL are mapped.
            let [tag, value] = unsafe { *entry };
            match tag {
                0 => break,
                2 => dynamic.jump_relocations.1 = value,
                4 => dynamic.hash = address(value),
                5 => dynamic.strings = address(value),
                6 => dynamic.symbols = address(value),
                7 => dynamic.relocations.0 = address(value),
                8 => dynamic.relocations.1 = value,
                10 => dynamic.strings_len = value,
                23 => dynamic.jump_relocations.0 = address(value),
                0x6fff_fef5 => dynamic.gnu_hash = address(value),
                0x6fff_fff9 => dynamic.relative_count = value,
                _ => (),
            }
            // SAFETY: not past DT_NULL.
            entry = unsafe { entry.add(1) };
        }
        (dynamic.symbols != 0 && dynamic.strings != 0).then_some(dynamic)
    }

    fn name(&self, offset: u32) -> &'static CStr {
        if u64::from(offset) >= self.strings_len {
            return c"";
        }
        // SAFETY: inside the mapped string table, which ends with a NUL.
        unsafe { CStr::from_ptr((self.strings + u64::from(offset)) as *const _) }
    }

    /// The symbol is defined here (not merely used).
    pub fn defines(&self, name: &CStr) -> bool {
        self.find(name).is_some()
    }

    /// Runtime address of a symbol that is defined here.
    pub fn find(&self, name: &CStr) -> Option<u64> {
        if self.gnu_hash != 0 { self.find_gnu(name) } else { self.find_sysv(name) }
    }

    fn matches(&self, index: u32, name: &CStr) -> Option<u64> {
        // SAFETY: an index that the module's own hash table names.
        let symbol = unsafe { &*(self.symbols as *const libc::Elf64_Sym).add(index as usize) };
        (symbol.st_shndx != 0 && self.name(symbol.st_name) == name).then(|| self.base.wrapping_add(symbol.st_value))
    }

    fn find_gnu(&self, name: &CStr) -> Option<u64> {
        let hash =
            name.to_bytes().iter().fold(5381u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
        // SAFETY: DT_GNU_HASH: 4 words of header, bloom words, buckets, chain; all mapped with the module.
        unsafe {
            let table = self.gnu_hash as *const u32;
            let [buckets, first, bloom, _shift] = *table.cast::<[u32; 4]>();
            if buckets == 0 {
                return None;
            }
            let bucket_at = table.add(4 + bloom as usize * 2);
            let chain = bucket_at.add(buckets as usize);
            let mut index = *bucket_at.add((hash % buckets) as usize);
            if index < first {
                return None;
            }
            loop {
                let found = *chain.add((index - first) as usize);
                if (found | 1) == (hash | 1)
                    && let Some(at) = self.matches(index, name)
                {
                    return Some(at);
                }
                if found & 1 != 0 {
                    return None;
                }
                index += 1;
            }
        }
    }

    fn find_sysv(&self, name: &CStr) -> Option<u64> {
        if self.hash == 0 {
            return None;
        }
        let hash = name.to_bytes().iter().fold(0u32, |hash, &byte| {
            let next = (hash << 4).wrapping_add(u32::from(byte));
            let high = next & 0xf000_0000;
            (next ^ (high >> 24)) & !high
        });
        // SAFETY: DT_HASH: nbucket, nchain, buckets, chains; all mapped with the module.
        unsafe {
            let table = self.hash as *const u32;
            let [buckets, chains] = *table.cast::<[u32; 2]>();
            if buckets == 0 {
                return None;
            }
            let mut index = *table.add(2 + (hash % buckets) as usize);
            for _ in 0..chains {
                if index == 0 || index >= chains {
                    return None;
                }
                if let Some(at) = self.matches(index, name) {
                    return Some(at);
                }
                index = *table.add((2 + buckets + index) as usize);
            }
        }
        None
    }

    /// Calls `take` for each slot that is filled with a function's address.
    pub fn each_slot(&self, mut take: impl FnMut(Slot)) {
        let skip = self.relative_count.min(self.relocations.1 / 24);
        for (start, bytes, skip) in
            [(self.jump_relocations.0, self.jump_relocations.1, 0), (self.relocations.0, self.relocations.1, skip)]
        {
            if start == 0 {
                continue;
            }
            for index in skip..bytes / 24 {
                // SAFETY: inside the relocation table that the dynamic section names.
                let [offset, info, _addend] = unsafe { *((start + index * 24) as *const [u64; 3]) };
                let kind = info as u32;
                if kind != R_X86_64_JUMP_SLOT && kind != R_X86_64_GLOB_DAT {
                    continue;
                }
                // SAFETY: a symbol index of the module's own relocation.
                let symbol = unsafe { &*(self.symbols as *const libc::Elf64_Sym).add((info >> 32) as usize) };
                take(Slot { at: self.base.wrapping_add(offset), name: self.name(symbol.st_name) });
            }
        }
    }
}
