//! Which pages of private memory were ever written: the others hold nothing that a check looks for.
//!
//! A private page that was never written is zero, or what its file says: no address of a block is in it. A decoder's process has seven
//! times as much writable memory as it has written, most of it stacks and tables of libraries. The kernel tells in
//! /proc/PID/pagemap, eight bytes a page; reading the memory itself would besides put the pages into the target's memory.
//! Of files only those that are mapped as code too are judged: what is written into another file may be anything.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::maps::Mapping;
use crate::address::TargetRange;

/// Bytes of a page of memory: an entry of the page map stands for one.
fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Of an entry: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// It is swapped out, or on its way to another place.
const SWAPPED: u64 = 1 << 62;
/// It is a guard (MADV_GUARD_INSTALL, as glibc 2.42 puts below stacks), which nobody can read; the kernel says so since 6.15.
const GUARD: u64 = 1 << 58;
/// It is the file's own page, or shared.
const OF_FILE: u64 = 1 << 61;
/// Entries that are read at a time.
const ENTRIES: usize = 1 << 13;

/// Larger mappings are taken to be written all over: their page map alone would take seconds.
const LARGEST: u64 = 1 << 40;

/// What of a process's writable memory may have been written.
#[derive(Debug, Default)]
pub struct Touched {
    /// By address, disjoint.
    parts: Vec<TargetRange>,
    /// Guards inside mappings, by address.
    guards: Vec<TargetRange>,
}

impl Touched {
    /// Of the process that the thread `tid` belongs to. Mappings of which it cannot be told are kept whole.
    /// `never`: what is left out.
    pub fn read(tid: i32, maps: &[Mapping], never: &[TargetRange]) -> Self {
        let pagemap = File::open(format!("/proc/{tid}/pagemap")).ok();
        let (mut parts, mut guards) = (Vec::new(), Vec::new());
        let is_wanted = |mapping: &&Mapping| {
            let is_in = |range: &TargetRange| range.start <= mapping.range.start && mapping.range.end <= range.end;
            mapping.writable && mapping.is_scannable() && !never.iter().any(is_in)
        };
        for mapping in maps.iter().filter(is_wanted) {
            let before = parts.len();
            let told = pagemap
                .as_ref()
                .filter(|_| tells(mapping, maps))
                .and_then(|pagemap| add_written(pagemap, mapping.range, &mut parts, &mut guards));
            if told.is_none() {
                parts.truncate(before);
                parts.push(mapping.range);
            }
        }
        Self { parts, guards }
    }

    /// What is known to have been written, by address, disjoint.
    pub fn told(parts: Vec<TargetRange>) -> Self {
        Self { parts, guards: Vec::new() }
    }

    /// The parts, by address.
    pub fn parts(&self) -> &[TargetRange] {
        &self.parts
    }

    /// Guards inside mappings.
    pub fn guards(&self) -> &[TargetRange] {
        &self.guards
    }

    /// What of a range of writable memory may have been written.
    pub fn within(&self, range: TargetRange) -> impl Iterator<Item = TargetRange> {
        let first = self.parts.partition_point(|part| part.end <= range.start);
        let inside = self.parts[first..].iter().take_while(move |part| part.start < range.end);
        inside.map(move |part| TargetRange { start: part.start.max(range.start), end: part.end.min(range.end) })
    }
}

fn tells(mapping: &Mapping, maps: &[Mapping]) -> bool {
    let is_code = || {
        let same = |other: &&Mapping| (other.inode, other.device) == (mapping.inode, mapping.device);
        maps.iter().filter(same).any(|other| other.executable)
    };
    !mapping.shared && mapping.range.len() <= LARGEST && (mapping.inode == 0 || is_code())
}

/// Adds a page at the end, to the last range where that is of the same mapping (numbered `first` or more).
fn join(ranges: &mut Vec<TargetRange>, first: usize, page: TargetRange) {
    match ranges[first..].last_mut() {
        Some(last) if last.end == page.start => last.end = page.end,
        _ => ranges.push(page),
    }
}

/// Adds the written pages of a mapping, and its guards; `None` where the kernel does not say.
fn add_written(
    pagemap: &File,
    range: TargetRange,
    parts: &mut Vec<TargetRange>,
    guards: &mut Vec<TargetRange>,
) -> Option<()> {
    let first = parts.len();
    let mut buffer = [0; 8 * ENTRIES];
    let bytes = page_bytes();
    let (mut page, end) = (range.start / bytes, range.end / bytes);
    while page < end {
        let wanted = (end - page).min(ENTRIES as u64) as usize * 8;
        let got = pagemap.read_at(&mut buffer[..wanted], page * 8).ok()?;
        if got < 8 {
            return None;
        }
        for entry in buffer[..got].as_chunks().0 {
            let entry = u64::from_le_bytes(*entry);
            let one = TargetRange { start: page * bytes, end: page * bytes + bytes };
            if entry & GUARD != 0 {
                join(guards, 0, one);
            } else if entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT {
                join(parts, first, one);
            }
            page += 1;
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(unsafe_code, reason = "pages of this process are mapped and looked at from outside")]
mod tests {
    use super::*;
    use crate::target::maps;
    use memmap2::MmapOptions;

    fn parts_of(range: TargetRange) -> Vec<TargetRange> {
        let maps = maps::read_maps(std::process::id() as i32).expect("the mappings");
        Touched::read(std::process::id() as i32, &maps, &[]).within(range).collect()
    }

    #[test]
    fn pages_that_were_written_are_told_from_those_that_were_read() {
        let mut map = MmapOptions::new().len(100 * page_bytes() as usize).map_anon().expect("memory");
        let start = map.as_ptr() as u64;
        // SAFETY: the whole of the mapping; a hint.
        unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_NOHUGEPAGE) };
        let page = |number: u64| TargetRange {
            start: start + number * page_bytes(),
            end: start + (number + 1) * page_bytes(),
        };
        for number in [3, 4, 70] {
            map[number * page_bytes() as usize + 8] = 1;
        }
        assert_eq!(map[50 * page_bytes() as usize], 0);
        let all = TargetRange { start: start + 16, end: start + 100 * page_bytes() };
        let mut parts = parts_of(all);
        // A page that was read is the kernel's zero page: it is there, and nothing is lost by reading it.
        parts.retain(|part| *part != page(50));
        assert_eq!(parts, [TargetRange { start: page(3).start, end: page(4).end }, page(70)]);
        let inside = TargetRange { start: page(4).start + 24, end: page(4).start + 40 };
        assert_eq!(parts_of(inside), [inside]);
    }

    #[test]
    fn guards_are_told_where_the_kernel_has_them() {
        const MADV_GUARD_INSTALL: i32 = 102;
        let mut map = MmapOptions::new().len(8 * page_bytes() as usize).map_anon().expect("memory");
        map.fill(1);
        let start = map.as_ptr() as u64;
        let guard = TargetRange { start: start + 2 * page_bytes(), end: start + 4 * page_bytes() };
        // SAFETY: inside the mapping; what is guarded is not touched again.
        let done = unsafe { libc::madvise(guard.start as *mut _, guard.len() as usize, MADV_GUARD_INSTALL) };
        if done != 0 {
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL), "a kernel before 6.13");
            return;
        }
        let maps = maps::read_maps(std::process::id() as i32).expect("the mappings");
        let touched = Touched::read(std::process::id() as i32, &maps, &[]);
        let all = TargetRange { start, end: start + 8 * page_bytes() };
        let rest = [TargetRange { start, end: guard.start }, TargetRange { start: guard.end, end: all.end }];
        assert_eq!(touched.within(all).collect::<Vec<_>>(), rest);
        assert!(touched.guards().contains(&guard), "{:?}", touched.guards());
    }

    #[test]
    fn shared_memory_and_data_files_are_kept_whole() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 * page_bytes()).expect("its size");
        // SAFETY: nobody shortens the file.
        let (shared, private) = unsafe {
            let (shared, private) = (MmapOptions::new(), MmapOptions::new());
            (shared.map_mut(&file).expect("a mapping"), private.map_copy(&file).expect("a mapping"))
        };
        for start in [shared.as_ptr() as u64, private.as_ptr() as u64] {
            let all = TargetRange { start, end: start + 8 * page_bytes() };
            assert_eq!(parts_of(all), [all]);
        }
    }
}
