//! A copy of what a check is going to search, so that the process need not stand still while it is searched.

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::address::TargetRange;
use crate::target::memory::Memory;

/// Ranges closer than this are copied in one piece: cheaper than another read.
const GAP: u64 = 4096;
const PAGE: u64 = 4096;
/// Unreadable pages in a row that are tried one by one; then steps double, as the scan's own do.
const PATIENCE: u32 = 256;

/// Bytes at the target's addresses, as they were.
pub struct Snapshot {
    /// Ascending, disjoint; where each begins in `bytes`.
    parts: Vec<(TargetRange, usize)>,
    /// The parts again.
    ranges: Vec<TargetRange>,
    bytes: MmapMut,
}

/// Adds a range that begins at or behind the last one's start; close ones become one.
pub fn add_range(merged: &mut Vec<TargetRange>, range: TargetRange) {
    match merged.last_mut() {
        Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
        _ => merged.push(range),
    }
}

/// Room for a copy. Huge pages where the kernel has some: the process waits while each page that the copy touches first is cleared.
fn room(bytes: usize) -> std::io::Result<MmapMut> {
    let map = MmapOptions::new().len(bytes.max(1)).map_anon()?;
    // A kernel without huge pages refuses, and small ones do.
    let _ = map.advise(Advice::HugePage);
    Ok(map)
}

impl Snapshot {
    /// Copies the ranges, in any order; `None` where they are more than `most` bytes, or there is no room for them.
    pub fn take(memory: &dyn Memory, mut ranges: Vec<TargetRange>, most: u64) -> Option<Self> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable();
        let mut merged: Vec<TargetRange> = Vec::new();
        for range in ranges {
            add_range(&mut merged, range);
        }
        let total = merged.iter().map(|range| range.len()).fold(0, u64::saturating_add);
        if total > most {
            return None;
        }
        let mut bytes = room(total as usize).ok()?;
        let (mut parts, mut used) = (Vec::new(), 0);
        for range in merged {
            let (mut at, mut failures, mut step) = (range.start, 0, PAGE);
            while at < range.end {
                let room = used + (range.end - at) as usize;
                match memory.read(at, &mut bytes[used..room]).min(room - used) {
                    0 => {
                        failures += 1;
                        if failures > PATIENCE {
                            step = step.saturating_mul(2);
                        }
                        at = (at & !(PAGE - 1)).saturating_add(step).min(range.end);
                    }
                    got => {
                        let end = at + got as u64;
                        parts.push((TargetRange { start: at, end }, used));
                        (at, used, failures, step) = (end, used + got, 0, PAGE);
                    }
                }
            }
        }
        let ranges = parts.iter().map(|&(range, _)| range).collect();
        Some(Self { parts, ranges, bytes })
    }
}

impl Snapshot {
    /// What was copied: by address, disjoint.
    pub fn ranges(&self) -> &[TargetRange] {
        &self.ranges
    }

    /// How many bytes were copied.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// A copy, and a process that has gone on since for what is not in it.
pub struct Over<'a> {
    /// What is asked first.
    pub copy: &'a Snapshot,
    /// What is asked for the rest.
    pub rest: &'a dyn Memory,
}

impl Memory for Over<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len()
            && let Some(at) = address.checked_add(done as u64)
        {
            let got = match self.copy.read(at, &mut buffer[done..]) {
                0 => {
                    // Up to where the copy begins again.
                    let next = self.copy.ranges.partition_point(|range| range.start <= at);
                    let until = self.copy.ranges.get(next).map_or(u64::MAX, |range| range.start);
                    let room = (buffer.len() - done).min(usize::try_from(until - at).unwrap_or(usize::MAX));
                    self.rest.read(at, &mut buffer[done..done + room])
                }
                got => got,
            };
            if got == 0 {
                break;
            }
            done += got;
        }
        done
    }
}

/// Two copies, the first of which is asked first.
pub struct Both(pub Snapshot, pub Snapshot);

impl Memory for Both {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len()
            && let Some(at) = address.checked_add(done as u64)
        {
            match self.0.read(at, &mut buffer[done..]) {
                0 => match self.1.read(at, &mut buffer[done..]) {
                    0 => break,
                    got => done += got,
                },
                got => done += got,
            }
        }
        done
    }
}

impl Memory for Snapshot {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        let mut next = self.parts.partition_point(|(range, _)| range.end <= address);
        while let Some(&(range, offset)) = self.parts.get(next)
            && done < buffer.len()
        {
            let Some(skip) = address.checked_add(done as u64).and_then(|at| at.checked_sub(range.start)) else { break };
            let from = offset + skip as usize;
            let count = (buffer.len() - done).min((range.len() - skip) as usize);
            buffer[done..done + count].copy_from_slice(&self.bytes[from..from + count]);
            done += count;
            next += 1;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    fn range(start: u64, end: u64) -> TargetRange {
        TargetRange { start, end }
    }

    #[test]
    fn reads_as_the_memory_did_where_it_was_copied_and_nothing_elsewhere() {
        let mut memory = SavedMemory::default();
        memory.insert_words(0x1000, &(0..1024).collect::<Vec<u64>>());
        memory.insert_words(0x4000, &(0..512).map(|n| 7 * n).collect::<Vec<u64>>());
        memory.insert_words(0x20000, &[1, 2, 3]);
        memory.insert_words(0x90000, &[9; 8]);
        // The first two are one piece with an unreadable page in it.
        let ranges = vec![range(0x20008, 0x20018), range(0x1010, 0x2ff8), range(0x3ff0, 0x4100), range(7, 3)];
        let copy = Snapshot::take(&memory, ranges.clone(), 1 << 20).expect("little to copy");
        for address in [0x1010, 0x1011, 0x2000, 0x2ff0, 0x4000, 0x40f8, 0x20008, 0x2000d] {
            let (mut was, mut is) = ([0; 8], [0; 8]);
            assert_eq!(copy.read(address, &mut is), memory.read(address, &mut was).min(8), "{address:#x}");
            assert_eq!(is, was, "{address:#x}");
        }
        let mut whole = vec![0; 0x4000];
        assert_eq!(copy.read(0x1010, &mut whole), 0x3000 - 0x1010, "up to the unreadable page");
        for address in [0, 7, 0x100f, 0x3800, 0x4100, 0x20018, 0x90000, u64::MAX, u64::MAX - 7] {
            assert_eq!(copy.read(address, &mut [0; 8]), 0, "{address:#x}");
        }
        assert!(Snapshot::take(&memory, ranges, 0x1000).is_none());
        assert_eq!(Snapshot::take(&memory, Vec::new(), 0).map(|copy| copy.read(0, &mut [0])), Some(0));
    }

    #[test]
    fn two_copies_read_as_one() {
        let mut memory = SavedMemory::default();
        memory.insert_words(0x1000, &(0..1024).collect::<Vec<u64>>());
        let part = |start, end| Snapshot::take(&memory, vec![range(start, end)], 1 << 20).expect("little to copy");
        let both = Both(part(0x1800, 0x2000), part(0x1400, 0x2100));
        let (mut was, mut is) = ([0; 0xd00], [0; 0xd00]);
        memory.read(0x1400, &mut was);
        assert_eq!(both.read(0x1400, &mut is), 0xd00);
        assert_eq!(is, was);
        assert_eq!(both.read(0x1400, &mut [0; 0xd08]), 0xd00);
        assert_eq!(both.read(u64::MAX, &mut [0; 8]) + both.read(0x13ff, &mut [0; 8]), 0);
    }

    #[test]
    fn an_unreadable_terabyte_takes_few_reads_and_no_room() {
        let copy = Snapshot::take(&SavedMemory::default(), vec![range(0x1000, 1 << 26)], 1 << 27);
        assert_eq!(copy.map(|copy| copy.parts.len()), Some(0));
    }
}
