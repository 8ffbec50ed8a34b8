//! Whether an object's file has a function in its full symbol table: FFmpeg that is linked into a program or a plug-in has no
//! dynamic symbol to know it by.
//!
//! The file is read by system calls into a mapping of ours that goes again: no allocation, no large stack. Every size in it is bounded.

use core::ffi::CStr;

use crate::file::File;
use crate::sandbox::{self, Call};

/// Bytes of the file that are looked at at a time.
const WINDOW: usize = 64 << 10;
/// Larger tables are not searched: reading them would hold the host up for a good part of a second.
const LARGEST: u64 = 256 << 20;
/// A name can occur in the string table as the end of longer ones.
const MOST_OFFSETS: usize = 8;
const SHT_SYMTAB: u32 = 2;
const SYMBOL_BYTES: usize = size_of::<libc::Elf64_Sym>();

/// The file at `path` (empty: this program) defines the function `name` (at most 63 bytes) in its .symtab. False too where there is no such
/// table, or the file cannot be read.
pub fn defines(path: &CStr, name: &CStr) -> bool {
    let path = if path.is_empty() { c"/proc/self/exe" } else { path };
    if [Call::Mmap, Call::Munmap].into_iter().any(sandbox::kills) {
        return false;
    }
    let Some(file) = File::open(path) else { return false };
    // SAFETY: a new anonymous mapping.
    let window = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            WINDOW,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    let mut found = false;
    if window != libc::MAP_FAILED {
        // SAFETY: WINDOW bytes of ours, zero at first, until the munmap below.
        let bytes = unsafe { core::slice::from_raw_parts_mut(window.cast::<u8>(), WINDOW) };
        found = search(&file, bytes, name.to_bytes_with_nul()).is_some();
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(window, WINDOW) };
    }
    found
}

/// A C structure of plain numbers at `offset`.
fn structure<T: Copy>(file: &File, offset: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of the value, which any bytes are valid for: headers of plain numbers.
    let view = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    // SAFETY: zeroed, then filled.
    (file.read(offset, view) == size_of::<T>()).then(|| unsafe { value.assume_init() })
}

/// `Some` where the table defines `name`, which ends with its NUL.
fn search(file: &File, window: &mut [u8], name: &[u8]) -> Option<()> {
    let header: libc::Elf64_Ehdr = structure(file, 0)?;
    if header.e_ident[..5] != *b"\x7fELF\x02" || usize::from(header.e_shentsize) != size_of::<libc::Elf64_Shdr>() {
        return None;
    }
    // All of them at once, for this is asked of every object that comes up on a stack.
    const BYTES: usize = size_of::<libc::Elf64_Shdr>();
    let wanted = usize::from(header.e_shnum).min(WINDOW / BYTES) * BYTES;
    let got = file.read(header.e_shoff, &mut window[..wanted]);
    let section = |index: usize| -> Option<libc::Elf64_Shdr> {
        let bytes = window[..got].get(index.checked_mul(BYTES)?..)?.first_chunk::<BYTES>()?;
        // SAFETY: as many bytes as the structure has, of plain numbers, at any alignment.
        Some(unsafe { bytes.as_ptr().cast::<libc::Elf64_Shdr>().read_unaligned() })
    };
    let symbols = (0..).map_while(section).find(|section| section.sh_type == SHT_SYMTAB)?;
    let strings = section(symbols.sh_link as usize)?;
    if symbols.sh_size > LARGEST || strings.sh_size > LARGEST {
        return None;
    }
    let mut offsets = [u32::MAX; MOST_OFFSETS];
    let count = find_name(file, window, &strings, name, &mut offsets);
    is_defined(file, window, &symbols, &offsets[..count])
}

/// Where `name` stands in the string table; how many places were found.
fn find_name(
    file: &File,
    window: &mut [u8],
    strings: &libc::Elf64_Shdr,
    name: &[u8],
    offsets: &mut [u32; MOST_OFFSETS],
) -> usize {
    let mut count = 0;
    let mut at = 0;
    while at < strings.sh_size {
        let wanted = (strings.sh_size - at).min(window.len() as u64) as usize;
        let got = file.read(strings.sh_offset.saturating_add(at), &mut window[..wanted]);
        for offset in places(&window[..got], name) {
            if let Some(place) = offsets.get_mut(count) {
                *place = (at + offset as u64) as u32;
                count += 1;
            }
        }
        if got < wanted || wanted < window.len() {
            break;
        }
        // So much again that no name is cut in two.
        at += (wanted - (name.len() - 1)) as u64;
    }
    count
}

/// Where `name` begins in `bytes`, looked for by its NULs, which are few.
fn places<'a>(bytes: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.iter().enumerate().filter(|&(_, &byte)| byte == 0).filter_map(|(end, _)| {
        let start = (end + 1).checked_sub(name.len())?;
        (bytes[start..=end] == *name).then_some(start)
    })
}

/// One of the names belongs to a symbol with a place in this file; what it only uses has none.
fn is_defined(file: &File, window: &mut [u8], symbols: &libc::Elf64_Shdr, offsets: &[u32]) -> Option<()> {
    if offsets.is_empty() {
        return None;
    }
    let whole = window.len() / SYMBOL_BYTES * SYMBOL_BYTES;
    let mut at = 0;
    while at < symbols.sh_size {
        let wanted = (symbols.sh_size - at).min(whole as u64) as usize;
        let got = file.read(symbols.sh_offset.saturating_add(at), &mut window[..wanted]);
        for symbol in window[..got].as_chunks::<SYMBOL_BYTES>().0 {
            // Elf64_Sym: name (4 bytes), info, other, section index (2 bytes), value, size.
            let name = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]);
            if symbol[6..8] != [0, 0] && offsets.contains(&name) {
                return Some(());
            }
        }
        if got < wanted {
            return None;
        }
        at += wanted as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A program with and without symbols, and one that only uses the function.
    fn programs(folder: &std::path::Path) -> [std::ffi::CString; 3] {
        let path = |name: &str| std::ffi::CString::new(folder.join(name).to_str().expect("UTF-8")).expect("no NUL");
        let run = |command: &mut Command| assert!(command.status().expect("cc, strip").success(), "{command:?}");
        std::fs::write(
            folder.join("with.c"),
            "int x_av_frame_alloc(void) { return 1; } int av_frame_alloc(void) { return 0; } int main(void) { return av_frame_alloc() + x_av_frame_alloc() - 1; }",
        )
        .expect("a source");
        std::fs::write(folder.join("uses.c"), "int av_frame_alloc(void); int main(void) { return av_frame_alloc(); }")
            .expect("a source");
        std::fs::write(folder.join("lib.c"), "int av_frame_alloc(void) { return 0; }").expect("a source");
        let cc = |arguments: &[&str]| run(Command::new("cc").args(arguments).current_dir(folder));
        cc(&["with.c", "-o", "with"]);
        cc(&["-shared", "-fPIC", "lib.c", "-o", "lib.so"]);
        cc(&["uses.c", "./lib.so", "-o", "uses"]);
        run(Command::new("strip").args(["-o", "stripped", "with"]).current_dir(folder));
        ["with", "stripped", "uses"].map(path)
    }

    #[test]
    fn only_a_definition_in_the_full_table_counts() {
        let folder = std::env::temp_dir().join(format!("avleak-symtab-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let found = programs(&folder).map(|program| defines(&program, c"av_frame_alloc"));
        let other = defines(
            &std::ffi::CString::new(folder.join("with").to_str().expect("UTF-8")).expect("no NUL"),
            c"av_frame_all",
        );
        std::fs::remove_dir_all(&folder).expect("the folder again");
        assert_eq!((found, other), ([true, false, false], false));
        assert!(!defines(c"/nonexistent", c"av_frame_alloc"));
        assert!(!defines(c"/proc/self/maps", c"av_frame_alloc"));
    }

    #[test]
    fn a_name_that_two_windows_share_is_found() {
        let folder = std::env::temp_dir().join(format!("avleak-window-{}", std::process::id()));
        // 100 names of 997 bytes, the wanted one in each of the places around the first window's end.
        for filler in (WINDOW - 20)..(WINDOW + 4) {
            let mut text = vec![b'x'; filler];
            text.extend_from_slice(b"\0av_frame_alloc\0yyyy\0");
            std::fs::write(&folder, &text).expect("a file");
            // SAFETY: all numbers, of which zero is one.
            let mut strings: libc::Elf64_Shdr = unsafe { core::mem::zeroed() };
            strings.sh_size = text.len() as u64;
            let mut offsets = [0; MOST_OFFSETS];
            let mut window = vec![0; WINDOW];
            let path = std::ffi::CString::new(folder.to_str().expect("UTF-8")).expect("no NUL");
            let file = File::open(&path).expect("the file");
            let count = find_name(&file, &mut window, &strings, b"av_frame_alloc\0", &mut offsets);
            assert_eq!(offsets[..count].first(), Some(&(filler as u32 + 1)), "with {filler} bytes before it");
        }
        std::fs::remove_file(&folder).expect("the file again");
    }
}
