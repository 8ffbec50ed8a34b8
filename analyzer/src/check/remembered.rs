//! What the last check of a living process judged lost, remembered for its end.
//!
//! What is lost never gets a pointer back. So where nobody can look at the memory any more, a block that a check judged definitely or
//! indirectly lost, and that was not given back since, is lost still: a certain leak. (What was possibly lost may have been held rightly.)
//! A block is known again by its address and the stamp of its allocation, which no other has.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Formats, Looked};
use crate::graph::Graph;
use crate::live::LiveBlock;
use crate::reach::Reachability;
use crate::report::model::{Check, Class};
use crate::report::post_mortem::LastCheck;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// When the check began, RFC 3339.
    started: String,
    /// The stamp of its last scan.
    stamp: u64,
    /// What was lost, and the other refs to the buffers that it pins.
    blocks: Vec<LiveBlock>,
    /// [`Class::Unclassified`] of those others.
    classes: Vec<Class>,
    outermost: Vec<bool>,
    /// Over these blocks.
    graph: Graph,
    formats: Formats,
}

fn is_certain(class: Class) -> bool {
    matches!(class, Class::DefinitelyLost | Class::IndirectlyLost)
}

impl Remembered {
    /// Of a check: `stamp` is that of its last scan.
    pub(super) fn of(check: &Check, stamp: u64, blocks: &[LiveBlock], looked: &Looked) -> Self {
        let class = |index: u32| looked.reachability.class(index);
        let lost = (0..blocks.len() as u32).filter(|&index| is_certain(class(index)));
        let mut wanted: Vec<u32> = lost.collect();
        let buffers = wanted.iter().filter_map(|index| looked.graph.buffer_of_ref.get(index));
        let others: Vec<u32> =
            buffers.flat_map(|&buffer| looked.graph.buffers[buffer as usize].refs.iter().copied()).collect();
        wanted.extend(others);
        wanted.sort_unstable();
        wanted.dedup();
        let places: FxHashMap<u32, u32> = wanted.iter().zip(0..).map(|(&old, new)| (old, new)).collect();
        let certain = |&index: &u32| if is_certain(class(index)) { class(index) } else { Class::Unclassified };
        let is_outermost = |&index: &u32| is_certain(class(index)) && looked.reachability.is_outermost(index);
        Self {
            started: check.started.clone(),
            stamp,
            classes: wanted.iter().map(certain).collect(),
            outermost: wanted.iter().map(is_outermost).collect(),
            graph: looked.graph.only(&|index| places.get(&index).copied()),
            formats: looked.formats.clone(),
            blocks: wanted.iter().map(|&index| blocks[index as usize]).collect(),
        }
    }

    /// What of it is alive among `blocks` at `now`, as if that had been looked at; all else is unclassified. Kinds that the check had
    /// confirmed are taken over. `seconds`: of a span of stamps.
    pub(super) fn recall(
        self,
        blocks: &mut [LiveBlock],
        now: u64,
        seconds: impl Fn(u64) -> f64,
    ) -> (Looked, LastCheck) {
        let identity = |block: &LiveBlock| (block.address, block.stamp);
        let alive: FxHashMap<(u64, u64), u32> =
            blocks.iter().zip(0..).map(|(block, index)| (identity(block), index)).collect();
        let place = |index: u32| alive.get(&identity(self.blocks.get(index as usize)?)).copied();
        let mut classes = vec![Class::Unclassified; blocks.len()];
        let mut outermost = vec![false; blocks.len()];
        let (mut lost, mut freed_since) = (0, 0);
        for ((index, block), (&class, &is_outermost)) in
            (0..).zip(&self.blocks).zip(self.classes.iter().zip(&self.outermost))
        {
            let counts = u64::from(is_certain(class) && block.kind.is_object());
            lost += counts;
            let Some(at) = place(index).map(|at| at as usize) else {
                freed_since += counts;
                continue;
            };
            blocks[at].kind = block.kind;
            (classes[at], outermost[at]) = (class, is_outermost);
        }
        let looked = Looked {
            reachability: Reachability::recalled(classes, outermost),
            graph: self.graph.only(&place),
            formats: self.formats,
            labels: Vec::new(),
            hidden: Vec::new(),
            notes: Vec::new(),
            go: None,
        };
        let before_end_s = seconds(now.saturating_sub(self.stamp));
        (looked, LastCheck { started: self.started, before_end_s, lost, freed_since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Buffer;
    use crate::kind::ObjectKind;

    fn block(address: u64, stamp: u64, kind: ObjectKind) -> LiveBlock {
        LiveBlock { address, size: 64, stamp, stack: 1, kind, by_call_only: false }
    }

    /// A lost frame with its ref, a reachable ref to the same buffer, a lost plain block, a possibly lost frame, a reachable one.
    fn checked() -> (Vec<LiveBlock>, Looked) {
        use Class::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};
        let blocks = vec![
            block(0x1000, 1, ObjectKind::Frame),
            block(0x2000, 2, ObjectKind::BufferRef),
            block(0x3000, 3, ObjectKind::BufferRef),
            block(0x4000, 4, ObjectKind::Plain),
            block(0x5000, 5, ObjectKind::Frame),
            block(0x6000, 6, ObjectKind::Frame),
        ];
        let classes =
            vec![DefinitelyLost, IndirectlyLost, StillReachable, DefinitelyLost, PossiblyLost, StillReachable];
        let outermost = vec![true, false, false, false, true, false];
        let mut graph = Graph::default();
        graph.buffers.push(Buffer { address: 0x9000, payload: None, bytes: 777, refs: vec![1, 2] });
        graph.buffer_of_ref.extend([(1, 0), (2, 0)]);
        graph.refs_of.insert(0, vec![1]);
        let looked = Looked {
            reachability: Reachability::recalled(classes, outermost),
            graph,
            formats: Formats::default(),
            labels: Vec::new(),
            hidden: Vec::new(),
            notes: Vec::new(),
            go: None,
        };
        (blocks, looked)
    }

    fn recalled(mut alive: Vec<LiveBlock>) -> (Vec<Class>, Looked, LastCheck) {
        let (blocks, looked) = checked();
        let remembered = Remembered::of(&Check::default(), 100, &blocks, &looked);
        let bytes = postcard::to_stdvec(&remembered).expect("bytes");
        let remembered: Remembered = postcard::from_bytes(&bytes).expect("the same");
        let (looked, last) = remembered.recall(&mut alive, 300, |units| units as f64);
        (looked.reachability.classes().to_vec(), looked, last)
    }

    #[test]
    fn what_was_lost_and_lives_on_is_lost_and_nothing_else() {
        use Class::{DefinitelyLost, IndirectlyLost, Unclassified};
        // One came between, and the kinds are as stacks tell.
        let mut alive = checked().0;
        alive.insert(1, block(0x1800, 50, ObjectKind::Frame));
        alive.iter_mut().for_each(|block| block.kind = ObjectKind::LibavBlock);
        let (classes, looked, last) = recalled(alive);
        let expected =
            [DefinitelyLost, Unclassified, IndirectlyLost, Unclassified, DefinitelyLost, Unclassified, Unclassified];
        assert_eq!(classes, expected);
        assert!(looked.reachability.is_outermost(0) && !looked.reachability.is_outermost(5));
        assert_eq!(looked.graph.buffers[0].refs, [2, 3]);
        assert_eq!((looked.graph.buffer_of_ref[&3], &looked.graph.refs_of[&0][..]), (0, &[2][..]));
        assert_eq!((last.lost, last.freed_since, last.before_end_s), (2, 0, 200.0));
    }

    #[test]
    fn another_block_at_the_same_address_is_another_one() {
        let mut alive = checked().0;
        alive[0].stamp = 99;
        alive.remove(3);
        let (classes, _, last) = recalled(alive);
        assert_eq!(classes[0], Class::Unclassified);
        assert_eq!(classes[1], Class::IndirectlyLost);
        assert_eq!((last.lost, last.freed_since), (2, 1));
    }
}
