//! Reading the mapped ELF objects of this process: program headers, dynamic section, symbols by name, relocations.
//!
//! A module that is met by an address on a stack may vanish while it is read (the address can be a leftover): all reads go through the
//! kernel, which says so instead of faulting. Only [`Dynamic::of_mapped`] and [`Dynamic::each_slot`] read directly: under
//! dl_iterate_phdr, whose lock keeps modules mapped.

use core::ffi::CStr;

use avleak_wire::layout::BUILD_ID_BYTES;

use crate::sys;

/// No sane hash chain is longer.
const LONGEST_CHAIN: u32 = 1 << 16;

/// Program header types.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PT_GNU_RELRO: u32 = 0x6474_e552;

/// Relocation types whose target is one pointer to a function: the call slots.
#[cfg(target_arch = "x86_64")]
pub const R_GLOB_DAT: u32 = 6;
/// See above.
#[cfg(target_arch = "x86_64")]
pub const R_JUMP_SLOT: u32 = 7;
/// R_AARCH64_GLOB_DAT: as [`R_JUMP_SLOT`].
#[cfg(target_arch = "aarch64")]
pub const R_GLOB_DAT: u32 = 1025;
/// R_AARCH64_JUMP_SLOT: a call slot. (R_AARCH64_ABS64 is data on either processor.)
#[cfg(target_arch = "aarch64")]
pub const R_JUMP_SLOT: u32 = 1026;

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

    /// From the ELF header that is mapped at `start`, read so that an object which vanishes meanwhile is only not found. `None` too where
    /// the program headers are not in the first page (BOLT moves them).
    pub fn at(base: u64, start: u64) -> Option<Self> {
        const HEADERS: usize = 24;
        let mut bytes = [0u64; (64 + HEADERS * 56) / 8];
        let len = size_of_val(&bytes);
        // SAFETY: any bytes are valid words; the slice covers exactly the array.
        let view = unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<u8>(), len) };
        // The program headers follow the header itself in what every linker writes: one call of the kernel reads both.
        let got = sys::read_self(start, view);
        // SAFETY: 64 aligned bytes, every value of which is a valid header.
        let header = unsafe { bytes.as_ptr().cast::<libc::Elf64_Ehdr>().read() };
        let count = header.e_phnum as usize;
        if got < 64
            || header.e_ident[..4] != *b"\x7fELF"
            || header.e_phentsize as usize != size_of::<libc::Elf64_Phdr>()
            || count > HEADERS
            || header.e_phoff.saturating_add(count as u64 * 56) > 4096
        {
            return None;
        }
        let mut headers = bytes.as_ptr().wrapping_byte_add(64);
        if header.e_phoff != 64 || got < 64 + count * 56 {
            headers = bytes.as_ptr();
            // SAFETY: as above.
            let view = unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<u8>(), count * 56) };
            if sys::read_self(start + header.e_phoff, view) != view.len() {
                return None;
            }
        }
        // SAFETY: `count` whole headers were read; every value is valid.
        Some(Self::of(base, unsafe { core::slice::from_raw_parts(headers.cast(), count) }))
    }

    /// The GNU build id, where a note holds one: its bytes and how many.
    pub fn build_id(&self) -> ([u8; BUILD_ID_BYTES], usize) {
        let mut id = [0; BUILD_ID_BYTES];
        for &(mut at, len) in self.notes.iter().filter(|note| note.1 != 0) {
            let end = at.saturating_add(len);
            while at.saturating_add(12) <= end {
                let Some([name, desc, kind]) = read::<[u32; 3]>(at) else { break };
                let name_at = at + 12;
                let desc_at = name_at + u64::from(name).next_multiple_of(4);
                if desc_at.saturating_add(u64::from(desc)) > end {
                    break;
                }
                // NT_GNU_BUILD_ID.
                if kind == 3 && name == 4 && read::<[u8; 4]>(name_at) == Some(*b"GNU\0") {
                    let wanted = (desc as usize).min(id.len());
                    let got = sys::read_self(desc_at, &mut id[..wanted]);
                    return (id, got);
                }
                at = desc_at + u64::from(desc).next_multiple_of(4);
            }
        }
        (id, 0)
    }
}

/// A plain value at `address`, if it is readable. `T` is an array of numbers or a C structure of such.
fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of the value; any bytes are valid for the types that this file reads.
    let view = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    // SAFETY: zeroed, then filled.
    (sys::read_self(address, view) == size_of::<T>()).then(|| unsafe { value.assume_init() })
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
    /// `R_GLOB_DAT` or `R_JUMP_SLOT`.
    pub kind: u32,
    /// The symbol's name in the module's string table, and how much of the table there is.
    name: (u64, u64),
}

impl Slot {
    /// The symbol's name. Reads all of it: [`Self::begins_with`] first, where only some names matter.
    #[inline(always)]
    pub fn name(&self) -> &'static CStr {
        if self.name.1 == 0 {
            return c"";
        }
        // SAFETY: inside the mapped string table, which ends with a NUL.
        unsafe { CStr::from_ptr(self.name.0 as *const _) }
    }

    /// The name begins with these bytes.
    #[inline(always)]
    pub fn begins_with<const N: usize>(&self, bytes: [u8; N]) -> bool {
        // SAFETY: so many bytes of the string table are left, by the comparison before.
        self.name.1 >= N as u64 && unsafe { (self.name.0 as *const [u8; N]).read() } == bytes
    }

    /// What the slot holds.
    #[inline(always)]
    pub fn bound(&self) -> u64 {
        // SAFETY: a slot of a mapped module; see [`Dynamic::each_slot`].
        unsafe { &*(self.at as *const core::sync::atomic::AtomicU64) }.load(core::sync::atomic::Ordering::Acquire)
    }
}

/// Entries of a dynamic section that are read at a time …
const ENTRIES_AT_ONCE: usize = 32;
/// … and at most.
const MOST_ENTRIES: usize = 256;

impl Dynamic {
    /// Reads the section.
    pub fn of(layout: &Layout) -> Option<Self> {
        Self::from_entries(layout, |at, entries| {
            // SAFETY: the bytes of an array of numbers, which any bytes are valid for.
            let view =
                unsafe { core::slice::from_raw_parts_mut(entries.as_mut_ptr().cast::<u8>(), size_of_val(entries)) };
            sys::read_self(at, view) / size_of::<[u64; 2]>()
        })
    }

    /// The same without a call of the kernel.
    ///
    /// # Safety
    /// The module stays mapped during the call: under dl_iterate_phdr.
    pub unsafe fn of_mapped(layout: &Layout) -> Option<Self> {
        Self::from_entries(layout, |at, entries| {
            for (index, entry) in entries.iter_mut().enumerate() {
                // SAFETY: the section ends with an entry of tag 0, and no further is read.
                *entry = unsafe { *((at as *const [u64; 2]).add(index)) };
                if entry[0] == 0 {
                    return index + 1;
                }
            }
            entries.len()
        })
    }

    /// `fill`: reads as many entries from an address on as there are, up to its end; returns how many.
    #[inline(always)]
    fn from_entries(layout: &Layout, fill: impl Fn(u64, &mut [[u64; 2]]) -> usize) -> Option<Self> {
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
        let (mut entries, mut have) = ([[0; 2]; ENTRIES_AT_ONCE], 0);
        for index in 0..MOST_ENTRIES {
            let place = index % ENTRIES_AT_ONCE;
            if place == 0 {
                have = fill(layout.dynamic + index as u64 * 16, &mut entries);
            }
            let [tag, value] = *entries[..have].get(place)?;
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
        }
        (dynamic.symbols != 0 && dynamic.strings != 0).then_some(dynamic)
    }

    /// The symbol is defined here (not merely used).
    pub fn defines(&self, name: &CStr) -> bool {
        self.find(name).is_some()
    }

    /// Runtime address of a symbol that is defined here.
    pub fn find(&self, name: &CStr) -> Option<u64> {
        self.find_sized(name).map(|found| found.0)
    }

    /// The same with its size in bytes.
    pub fn find_sized(&self, name: &CStr) -> Option<(u64, u64)> {
        if self.gnu_hash != 0 { self.find_gnu(name) } else { self.find_sysv(name) }
    }

    fn matches(&self, index: u32, name: &CStr) -> Option<(u64, u64)> {
        let symbol = read::<libc::Elf64_Sym>(self.symbols + u64::from(index) * size_of::<libc::Elf64_Sym>() as u64)?;
        if symbol.st_shndx == 0 || u64::from(symbol.st_name) >= self.strings_len {
            return None;
        }
        let name = name.to_bytes_with_nul();
        let mut theirs = [0; 64];
        let theirs = theirs.get_mut(..name.len())?;
        (sys::read_self(self.strings + u64::from(symbol.st_name), theirs) == name.len() && theirs == name)
            .then(|| (self.base.wrapping_add(symbol.st_value), symbol.st_size))
    }

    /// DT_GNU_HASH: 4 words of header, bloom words, buckets, chain.
    fn find_gnu(&self, name: &CStr) -> Option<(u64, u64)> {
        let hash =
            name.to_bytes().iter().fold(5381u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
        let [buckets, first, bloom, _shift] = read::<[u32; 4]>(self.gnu_hash)?;
        if buckets == 0 {
            return None;
        }
        let bucket_at = self.gnu_hash + 16 + u64::from(bloom) * 8;
        let chain_at = bucket_at + u64::from(buckets) * 4;
        let start = read::<u32>(bucket_at + u64::from(hash % buckets) * 4)?;
        if start < first {
            return None;
        }
        for index in (start..=u32::MAX).take(LONGEST_CHAIN as usize) {
            let found = read::<u32>(chain_at + u64::from(index - first) * 4)?;
            if (found | 1) == (hash | 1)
                && let Some(at) = self.matches(index, name)
            {
                return Some(at);
            }
            if found & 1 != 0 {
                return None;
            }
        }
        None
    }

    /// DT_HASH: nbucket, nchain, buckets, chains.
    fn find_sysv(&self, name: &CStr) -> Option<(u64, u64)> {
        if self.hash == 0 {
            return None;
        }
        let hash = name.to_bytes().iter().fold(0u32, |hash, &byte| {
            let next = (hash << 4).wrapping_add(u32::from(byte));
            let high = next & 0xf000_0000;
            (next ^ (high >> 24)) & !high
        });
        let [buckets, chains] = read::<[u32; 2]>(self.hash)?;
        if buckets == 0 {
            return None;
        }
        let mut index = read::<u32>(self.hash + 8 + u64::from(hash % buckets) * 4)?;
        for _ in 0..chains.min(LONGEST_CHAIN) {
            if index == 0 || index >= chains {
                return None;
            }
            if let Some(at) = self.matches(index, name) {
                return Some(at);
            }
            index = read::<u32>(self.hash + 8 + (u64::from(buckets) + u64::from(index)) * 4)?;
        }
        None
    }

    /// Calls `take` for each slot that is filled with a function's address.
    ///
    /// # Safety
    /// The module stays mapped during the call: under dl_iterate_phdr.
    pub unsafe fn each_slot(&self, mut take: impl FnMut(Slot)) {
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
                if kind != R_JUMP_SLOT && kind != R_GLOB_DAT {
                    continue;
                }
                // SAFETY: a symbol index of the module's own relocation.
                let symbol = unsafe { &*(self.symbols as *const libc::Elf64_Sym).add((info >> 32) as usize) };
                let name = u64::from(symbol.st_name);
                let name = (self.strings + name, self.strings_len.saturating_sub(name));
                take(Slot { at: self.base.wrapping_add(offset), kind, name });
            }
        }
    }
}
