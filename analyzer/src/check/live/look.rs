//! Looks through what is new, and through FFmpeg's objects, for pointers to what is suspected.

use std::time::Duration;

use super::scan::Scan;
use super::suspects::{Identity, identity};
use super::{Checker, ENDED};
use crate::check::mapping_in;
use crate::kind::ObjectKind;
use crate::live::LiveBlock;
use crate::reach::{self, Control, RootBlock};
use crate::report::model::Class;
use crate::target::process_memory::ProcessMemory;
use crate::target::threads;

/// How often, after each round of scans, at most.
const LOOKS: u32 = 16;
/// So many in a row that found nothing are the last: what is left is lost, or held by a stack.
const IN_VAIN: u32 = 3;
/// Between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

impl Checker<'_> {
    /// Looks again and again through FFmpeg's objects that are not suspected, and through what is new, for pointers to what is.
    pub(super) fn look(&mut self, scan: &Scan) -> Result<(), String> {
        let tid = threads::live_thread(self.subject.pid).ok_or(ENDED)?;
        let process = ProcessMemory::new(tid);
        let since = self.since.unwrap_or(u64::MAX);
        let is_holder = |(block, searched): &(&LiveBlock, &reach::Block)| {
            block.kind.is_libav() && searched.scan == reach::Scan::Words && !self.suspects.contains(block)
        };
        let holders: Vec<reach::Block> =
            scan.blocks.iter().zip(&scan.list).filter(is_holder).map(|(_, searched)| *searched).collect();
        let mut in_vain = 0;
        for _ in 0..LOOKS {
            if in_vain == IN_VAIN || self.suspects.objects(&self.order.learned.lost) == 0 {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            let newer = self.subject.inquirer.newer_than(since).ok_or(ENDED)?;
            let held = |block: reach::Block| (block, None);
            let new = |block: &LiveBlock| {
                held(reach::Block {
                    start: block.address,
                    size: block.size,
                    kind: block.kind,
                    scan: if block.kind == ObjectKind::Payload { reach::Scan::Payload } else { reach::Scan::Words },
                })
            };
            let suspects = scan.blocks.iter().zip(&scan.list).filter(|(block, _)| self.suspects.contains(block));
            let suspects = suspects.map(|(block, searched)| (*searched, Some(block)));
            // What is new comes first: where something else lay there, that is gone.
            let mut all: Vec<(reach::Block, Option<&LiveBlock>)> =
                newer.iter().map(new).chain(holders.iter().copied().map(held)).chain(suspects).collect();
            all.sort_by_key(|(block, _)| block.start);
            all.dedup_by_key(|(block, _)| block.start);
            let list: Vec<reach::Block> = all.iter().map(|(block, _)| *block).collect();
            let known = (0..).zip(&all).filter(|(_, (_, suspect))| suspect.is_none());
            let root_blocks: Vec<RootBlock> = known.map(|(block, _)| RootBlock { block, label: 0 }).collect();
            let input = reach::Input {
                blocks: &list,
                roots: &[],
                registers: &[],
                root_blocks: &root_blocks,
                doubtful: &[],
                left_out: &scan.left_out,
                mapping: &mapping_in(&scan.maps),
                python: None,
            };
            let control = Control { progress: &|_, _| (), cancel: self.order.cancel };
            let found = reach::check(&process, &input, &control).map_err(|error| error.to_string())?;
            let reached = |(index, (_, suspect)): (u32, &(reach::Block, Option<&LiveBlock>))| {
                suspect.filter(|_| found.class(index) == Class::StillReachable).map(identity)
            };
            let cleared: Vec<Identity> = (0..).zip(&all).filter_map(reached).collect();
            in_vain = if cleared.is_empty() { in_vain + 1 } else { 0 };
            cleared.iter().for_each(|block| self.suspects.clear(block));
        }
        Ok(())
    }
}
