//! Sorts very many blocks: a stopped process waits for it.
//!
//! In the table they lie in no order, and a sort would wait for memory at each step of each of them. They are dealt out to some
//! hundreds of buckets first, each a stretch of addresses, one behind the other in memory; each bucket is then sorted where it fits
//! into a cache, on two threads.

use super::LiveBlock;
use crate::huge;

/// Fewer are sorted as they are.
pub const WORTH_BUCKETS: usize = 1 << 15;
/// So many addresses, chosen at random, tell where buckets end.
pub const SAMPLED: usize = 2048;
const BUCKETS: usize = 256;

/// All blocks, by address; they come the same each time they are asked for. `sample`: some of their addresses.
pub fn by_address<I: Iterator<Item = LiveBlock>>(blocks: impl Fn() -> I, mut sample: Vec<u64>) -> Vec<LiveBlock> {
    sample.sort_unstable();
    // Where bucket 1, 2, … begin.
    let begins: Vec<u64> =
        (1..BUCKETS).map(|bucket| sample.get(bucket * sample.len() / BUCKETS).copied().unwrap_or(0)).collect();
    let bucket_of = |block: &LiveBlock| begins.partition_point(|&begin| begin <= block.address);
    let mut counts = [0usize; BUCKETS];
    blocks().for_each(|block| counts[bucket_of(&block)] += 1);
    let count = counts.iter().sum();
    let mut sorted = huge::vec(count);
    sorted.resize(count, LiveBlock::NONE);
    {
        let mut next = [0usize; BUCKETS];
        for bucket in 1..BUCKETS {
            next[bucket] = next[bucket - 1] + counts[bucket - 1];
        }
        for block in blocks() {
            let next = &mut next[bucket_of(&block)];
            sorted[*next] = block;
            *next += 1;
        }
    }
    let middle: usize = counts[..BUCKETS / 2].iter().sum();
    let sort = |mut blocks: &mut [LiveBlock], counts: &[usize]| {
        for &count in counts {
            let (bucket, rest) = blocks.split_at_mut(count);
            bucket.sort_unstable_by_key(|block| block.address);
            blocks = rest;
        }
    };
    let (low, high) = sorted.split_at_mut(middle);
    std::thread::scope(|scope| {
        scope.spawn(|| sort(low, &counts[..BUCKETS / 2]));
        sort(high, &counts[BUCKETS / 2..]);
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;

    #[test]
    fn they_come_out_sorted_and_whole_whatever_the_sample() {
        let mut random = 3u64;
        let blocks: Vec<LiveBlock> = (0..100_000)
            .map(|at| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Two stretches far apart, as a heap and mappings are.
                let address = if at % 3 == 0 { 0x7f00_0000_0000 } else { 0x5500_0000_0000 } + random % (1 << 26) * 16;
                LiveBlock { address, size: at, stamp: at, stack: 1, kind: ObjectKind::Plain, by_call_only: false }
            })
            .collect();
        let mut expected: Vec<(u64, u64)> = blocks.iter().map(|block| (block.address, block.size)).collect();
        expected.sort_unstable();
        let addresses = blocks.iter().map(|block| block.address);
        for sample in [addresses.clone().take(SAMPLED).collect(), addresses.take(1).collect(), Vec::new()] {
            let sorted = by_address(|| blocks.iter().copied(), sample);
            assert!(sorted.is_sorted_by_key(|block| block.address));
            let mut found: Vec<(u64, u64)> = sorted.iter().map(|block| (block.address, block.size)).collect();
            found.sort_unstable();
            assert_eq!(found, expected);
        }
    }
}
