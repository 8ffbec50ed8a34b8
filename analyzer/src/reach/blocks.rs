//! From an address to the block that holds it: the question that is asked for every word of memory.
//!
//! Three steps, cheapest first: the span from the lowest start to the highest end; a bit for each 64 KiB of address space
//! (modulo 64 GiB) that says whether a block may lie there; then a table of granules that narrows the sorted starts to
//! one or a few. Addresses far apart (the brk heap, the mapped regions) form *clusters* with a table each, so that the
//! tables stay within two entries a block whatever the addresses are.

use super::{Block, MAX_BLOCKS, ReachError};

/// Starts further apart than this lie in different clusters.
const CLUSTER_GAP: u64 = 16 << 20;
/// Bytes of address space for each bit of the filter, as a power of two.
const FILTER_SHIFT: u32 = 16;
/// Bits of the filter.
const FILTER_BITS: u64 = 1 << 20;

/// Where a block lies; its end is cut where the next block starts (two live blocks can't overlap: the older is stale).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: u64,
    pub end: u64,
}

impl Extent {
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
}

struct Cluster {
    /// Where its entries lie in the table: one for each granule and one more.
    table: usize,
    /// Index of the last granule.
    last: u64,
    /// Bytes of a granule, as a power of two.
    shift: u32,
}

pub(super) struct BlockIndex {
    extents: Vec<Extent>,
    /// Lowest start, and how far the highest end (at least its start + 1) lies behind it.
    min: u64,
    span: u64,
    filter: Box<[u64]>,
    /// Start of each cluster's first block.
    bases: Vec<u64>,
    clusters: Vec<Cluster>,
    /// For each granule, the first block that starts in it or behind it.
    table: Vec<u32>,
}

impl BlockIndex {
    /// # Errors
    /// Blocks out of order, or too many.
    pub fn new(blocks: &[Block]) -> Result<Self, ReachError> {
        if blocks.len() > MAX_BLOCKS {
            return Err(ReachError::TooManyBlocks { blocks: blocks.len() });
        }
        if let Some(at) = blocks.windows(2).position(|w| w[1].start <= w[0].start) {
            return Err(ReachError::NotSorted { index: at + 1 });
        }
        let extents: Vec<Extent> = blocks
            .iter()
            .enumerate()
            .map(|(i, b)| {
                let limit = blocks.get(i + 1).map_or(u64::MAX, |next| next.start);
                Extent { start: b.start, end: b.start.saturating_add(b.size).min(limit) }
            })
            .collect();
        let min = extents.first().map_or(0, |e| e.start);
        let span = extents.last().map_or(0, |e| e.end.max(e.start.saturating_add(1)) - min);
        let filter = filter(&extents);
        let mut index = Self { extents, min, span, filter, bases: Vec::new(), clusters: Vec::new(), table: Vec::new() };
        index.build_clusters();
        Ok(index)
    }

    pub fn extent(&self, block: u32) -> Extent {
        self.extents[block as usize]
    }

    /// The block into which `address` leads, and whether behind its start.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<(u32, bool)> {
        if address.wrapping_sub(self.min) >= self.span {
            return None;
        }
        let bit = (address >> FILTER_SHIFT) % FILTER_BITS;
        if self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 0 {
            return None;
        }
        self.search(address)
    }

    #[inline]
    fn search(&self, address: u64) -> Option<(u32, bool)> {
        // At least the first cluster starts at or below an address of the span.
        let at = self.bases.partition_point(|&base| base <= address).checked_sub(1)?;
        let cluster = &self.clusters[at];
        let granule = cluster.table + ((address - self.bases[at]) >> cluster.shift).min(cluster.last) as usize;
        let (low, high) = (self.table[granule] as usize, self.table[granule + 1] as usize);
        let below = low + self.extents[low..high].partition_point(|e| e.start <= address);
        let extent = self.extents[below.checked_sub(1)?];
        let interior = address != extent.start;
        (address < extent.end || !interior).then_some(((below - 1) as u32, interior))
    }

    fn build_clusters(&mut self) {
        let mut first = 0;
        while first < self.extents.len() {
            let mut end = first + 1;
            while end < self.extents.len() && self.extents[end].start - self.extents[end - 1].start <= CLUSTER_GAP {
                end += 1;
            }
            self.build_cluster(first, end);
            first = end;
        }
    }

    fn build_cluster(&mut self, first: usize, end: usize) {
        let base = self.extents[first].start;
        let reach = self.extents[end - 1].start - base;
        let most = 2 * (end - first) as u64;
        let mut shift = 4;
        while (reach >> shift) + 1 > most && shift < 63 {
            shift += 1;
        }
        let last = reach >> shift;
        let table = self.table.len();
        for (i, extent) in self.extents[first..end].iter().enumerate() {
            let granule = ((extent.start - base) >> shift) as usize;
            while self.table.len() <= table + granule {
                self.table.push((first + i) as u32);
            }
        }
        self.table.push(end as u32);
        self.bases.push(base);
        self.clusters.push(Cluster { table, last, shift });
    }
}

/// A bit for each 64 KiB where a block lies. Never denies an address that a block holds.
fn filter(extents: &[Extent]) -> Box<[u64]> {
    let mut bits = vec![0u64; (FILTER_BITS / 64) as usize].into_boxed_slice();
    let mut steps = 0;
    for extent in extents {
        let first = extent.start >> FILTER_SHIFT;
        let last = extent.end.saturating_sub(1).max(extent.start) >> FILTER_SHIFT;
        steps += last - first;
        if steps >= 2 * FILTER_BITS {
            // More memory than the filter can tell apart.
            bits.fill(u64::MAX);
            break;
        }
        for granule in first..=last {
            let bit = granule % FILTER_BITS;
            bits[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::reach::Scan;

    fn block(start: u64, size: u64) -> Block {
        Block { start, size, kind: ObjectKind::Plain, scan: Scan::Words }
    }

    fn naive(blocks: &[Block], address: u64) -> Option<u32> {
        let at = blocks.iter().rposition(|b| b.start <= address)?;
        let inside = address == blocks[at].start || address - blocks[at].start < blocks[at].size;
        inside.then_some(at as u32)
    }

    #[test]
    fn finds_what_a_linear_search_finds() {
        let mut random = crate::reach::tests::Random::new(7);
        for round in 0..60 {
            let mut at = 0x1000;
            let spread = [16, 200, 70_000, 40 << 20, 3 << 36][round % 5];
            let blocks: Vec<Block> = (0..random.below(60))
                .map(|_| {
                    at += 16 * (1 + random.below(spread) / 16);
                    let size = [0, 1, 24, 4096, 1 << 20, 1 << 40][random.below(6) as usize];
                    let made = block(at, size);
                    if random.below(2) == 0 {
                        at += size;
                    }
                    made
                })
                .collect();
            let index = BlockIndex::new(&blocks).unwrap();
            for b in &blocks {
                for address in [b.start, b.start - 1, b.start + 1, b.start + b.size / 2, b.start + b.size] {
                    let found = index.find(address);
                    assert_eq!(found.map(|f| f.0), naive(&blocks, address), "{address:#x} in {blocks:x?}");
                    assert!(found.is_none_or(|(at, interior)| interior == (blocks[at as usize].start != address)));
                }
            }
            for address in [0, 1, u64::MAX, u64::MAX - 7, 0x7fff_ffff_f000] {
                assert_eq!(index.find(address).map(|f| f.0), naive(&blocks, address));
            }
        }
    }

    #[test]
    fn survives_hostile_sizes() {
        let blocks = [
            block(0, u64::MAX),
            block(16, u64::MAX),
            block(1 << 60, u64::MAX),
            block(u64::MAX - 3, 100),
            block(u64::MAX, 0),
        ];
        let index = BlockIndex::new(&blocks).unwrap();
        assert_eq!(index.find(15), Some((0, true)));
        assert_eq!(index.find(16), Some((1, false)));
        assert_eq!(index.find(1 << 59), Some((1, true)));
        assert_eq!(index.find(1 << 62), Some((2, true)));
        assert_eq!(index.find(u64::MAX - 1), Some((3, true)));
        assert!(BlockIndex::new(&[]).unwrap().find(0).is_none());
        assert_eq!(
            BlockIndex::new(&[block(5, 1), block(5, 1)]).err(),
            Some(ReachError::NotSorted { index: 1 }),
            "an address twice"
        );
    }
}
