//! What a check leaves to the next one of the same process.

use rustc_hash::{FxHashMap, FxHashSet};

use super::scan::Scan;
use super::suspects::{Identity, identity};
use crate::address::TargetRange;
use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::{self, LARGE, PAGE};
use crate::report::model::Class;

/// See the module. Of blocks that are gone it says nothing: another at the same address has another stamp.
#[derive(Default)]
pub struct Learned {
    /// What was lost, of whatever kind, and so still is: unless a scan finds otherwise, nobody looks for it again and again.
    pub lost: FxHashSet<Identity>,
    /// Of large blocks, the parts in which no pointer was.
    quiet: FxHashMap<Identity, Vec<TargetRange>>,
}

impl Learned {
    /// From the last scan of a check, after its result was corrected. `before`: what that check knew.
    pub(super) fn of(last: &Scan, before: &Self) -> Self {
        let reachability = &last.looked.reachability;
        let lost = (0..).zip(&last.blocks).filter(|(index, _)| reachability.class(*index) != Class::StillReachable);
        // Payload that a glance passed over was not searched.
        let is_known = |block: &LiveBlock| {
            !last.kind.is_glance() || block.kind != ObjectKind::Payload || before.quiet.contains_key(&identity(block))
        };
        let searched = last.blocks.iter().zip(&last.list).filter(|(block, searched)| {
            searched.size >= LARGE && searched.scan == reach::Scan::Words && is_known(block)
        });
        let loud = reachability.loud_pages();
        Self {
            lost: lost.map(|(_, block)| identity(block)).collect(),
            quiet: searched
                .map(|(block, _)| {
                    (identity(block), quiet_parts(TargetRange::with_len(block.address, block.size), loud))
                })
                .collect(),
        }
    }

    /// What a glance leaves out of these blocks: what was quiet, and payload unless that was seen to hold pointers. Ascending, disjoint.
    pub(super) fn left_out(&self, blocks: &[LiveBlock]) -> Vec<TargetRange> {
        let mut left_out = Vec::new();
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.size >= LARGE) {
            // Of two that overlap the older is stale.
            let next = blocks.get(at + 1).map_or(u64::MAX, |next| next.address);
            let cut = |range: &TargetRange| TargetRange { end: range.end.min(next), ..*range };
            match self.quiet.get(&identity(block)) {
                Some(parts) => left_out.extend(parts.iter().map(cut).filter(|range| range.start < range.end)),
                None if block.kind == ObjectKind::Payload => {
                    left_out.push(cut(&TargetRange::with_len(block.address, block.size)))
                }
                None => (),
            }
        }
        left_out
    }
}

/// What of a range lies in none of these pages, which ascend.
fn quiet_parts(range: TargetRange, loud: &[u64]) -> Vec<TargetRange> {
    let mut parts = Vec::new();
    let first = loud.partition_point(|page| page.saturating_add(PAGE) <= range.start);
    range.each_outside(loud[first..].iter().map(|&page| TargetRange::with_len(page, PAGE)), |part| parts.push(part));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> TargetRange {
        TargetRange { start, end }
    }

    fn block(address: u64, size: u64, stamp: u64, kind: ObjectKind) -> LiveBlock {
        LiveBlock { address, size, stamp, stack: 1, kind, by_call_only: false }
    }

    #[test]
    fn pages_with_pointers_are_not_quiet() {
        assert_eq!(quiet_parts(range(0x1800, 0x5800), &[]), [range(0x1800, 0x5800)]);
        let loud = [0x0000, 0x1000, 0x3000, 0x5000, 0x9000];
        assert_eq!(quiet_parts(range(0x1800, 0x5800), &loud), [range(0x2000, 0x3000), range(0x4000, 0x5000)]);
        assert_eq!(quiet_parts(range(0x3000, 0x4000), &loud), []);
        assert_eq!(quiet_parts(range(0x2000, 0x3000), &loud), [range(0x2000, 0x3000)]);
        assert_eq!(quiet_parts(range(u64::MAX - 9, u64::MAX), &[u64::MAX - 4095]), []);
    }

    #[test]
    fn another_block_at_the_same_address_is_searched_and_payload_is_not() {
        let known = block(0x1000, 0x2000, 7, ObjectKind::LibavBlock);
        let learned = Learned {
            lost: FxHashSet::default(),
            quiet: [(identity(&known), vec![range(0x1000, 0x2000)]), ((0x20000, 9), vec![])].into_iter().collect(),
        };
        let another = LiveBlock { stamp: 8, ..known };
        let payload = |address, stamp| block(address, 0x1000, stamp, ObjectKind::Payload);
        assert_eq!(learned.left_out(&[known]), [range(0x1000, 0x2000)]);
        assert_eq!(learned.left_out(&[another]), []);
        let small = block(0x8000, 64, 1, ObjectKind::Payload);
        let overlapping = block(0x1800, 64, 2, ObjectKind::Plain);
        let all = [known, overlapping, small, payload(0x10000, 3), payload(0x20000, 9)];
        assert_eq!(learned.left_out(&all), [range(0x1000, 0x1800), range(0x10000, 0x11000)]);
    }
}
