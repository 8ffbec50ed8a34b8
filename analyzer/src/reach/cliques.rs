//! Cycles of lost blocks, their leaders, and the outermost FFmpeg objects.
//!
//! Strongly connected components are condensed (Tarjan 1972, with a stack of its own instead of recursion). He finds them
//! sinks first, so going through them backwards meets every component after all that point to it: one pass decides
//! which have a pointer from outside and which are held by an FFmpeg object. All is linear in blocks and pointers.

use super::chain::{Holder, Holders};
use super::mark::{Graph, State};
use super::{Block, Class};

pub(super) struct Verdict {
    pub classes: Vec<Class>,
    pub outermost: Vec<bool>,
}

/// Decides the classes, and enters the holders of lost blocks.
pub(super) fn judge(blocks: &[Block], states: &[State], graph: &Graph, holders: &mut Holders) -> Verdict {
    let mut classes: Vec<Class> = states
        .iter()
        .map(|state| match state {
            State::Reached => Class::StillReachable,
            State::Possible | State::SetAside => Class::PossiblyLost,
            State::Unreached => Class::IndirectlyLost,
        })
        .collect();
    let mut outermost = vec![false; blocks.len()];
    let components = Components::find(states, graph);
    let mut flags = vec![0u8; components.count()];
    let mut leaders = Vec::new();
    for component in (0..components.count()).rev() {
        let members = components.members(component);
        let Some(leader) = leader(blocks, members) else { continue };
        let is_object = blocks[leader as usize].kind.is_object();
        let held_by_object = flags[component] & HELD_BY_OBJECT != 0;
        outermost[leader as usize] = is_object && !held_by_object;
        if states[leader as usize] == State::Unreached && flags[component] & FROM_OUTSIDE == 0 {
            classes[leader as usize] = Class::DefinitelyLost;
            leaders.push(leader);
        }
        let passed_on = if is_object || held_by_object { FROM_OUTSIDE | HELD_BY_OBJECT } else { FROM_OUTSIDE };
        for edge in members.iter().flat_map(|&member| graph.edges(member)) {
            let to = components.nodes[edge.to as usize].component as usize;
            if to != component {
                flags[to] |= passed_on;
            }
        }
    }
    leaders.sort_unstable();
    enter_holders(leaders, &classes, graph, holders);
    Verdict { classes, outermost }
}

/// Another component points to this one.
const FROM_OUTSIDE: u8 = 1;
/// An FFmpeg object of another component leads to this one.
const HELD_BY_OBJECT: u8 = 2;

/// The member of highest rank; of several the one with the lowest start. [`crate::kind::ObjectKind::rank`] puts every
/// FFmpeg object above everything else, so the leader is an object wherever a member is.
fn leader(blocks: &[Block], members: &[u32]) -> Option<u32> {
    members.iter().copied().max_by_key(|&m| (blocks[m as usize].kind.rank(), std::cmp::Reverse(m)))
}

/// Breadth first from the definitely lost blocks: whoever comes to a block first is its holder.
fn enter_holders(leaders: Vec<u32>, classes: &[Class], graph: &Graph, holders: &mut Holders) {
    let mut queue = leaders;
    let mut head = 0;
    while let Some(&from) = queue.get(head) {
        head += 1;
        for edge in graph.edges(from) {
            let to = edge.to as usize;
            if classes[to] == Class::IndirectlyLost && holders.0[to].is_none() {
                holders.0[to] = Holder::block(from, edge.offset(), edge.is_interior());
                queue.push(edge.to);
            }
        }
    }
}

const NONE: u32 = u32::MAX;

/// What the search knows of a block; [`NONE`] at first, and for ever where it is still reachable.
#[derive(Clone, Copy)]
struct Node {
    /// When it was met first.
    order: u32,
    /// The earliest open block that it leads back to.
    low: u32,
    component: u32,
}

/// The strongly connected components of the blocks that are not still reachable, sinks first.
struct Components {
    /// Of each block.
    nodes: Vec<Node>,
    /// Blocks, component by component.
    members: Vec<u32>,
    /// Where each component begins in `members`.
    starts: Vec<u32>,
}

impl Components {
    fn count(&self) -> usize {
        self.starts.len()
    }

    fn members(&self, component: usize) -> &[u32] {
        let end = self.starts.get(component + 1).map_or(self.members.len(), |&s| s as usize);
        &self.members[self.starts[component] as usize..end]
    }

    fn find(states: &[State], graph: &Graph) -> Self {
        let unmet = Node { order: NONE, low: NONE, component: NONE };
        let mut found = Self { nodes: vec![unmet; states.len()], members: Vec::new(), starts: Vec::new() };
        let nodes = &mut found.nodes;
        let mut met = 0;
        // Met, and of no component yet.
        let mut open: Vec<u32> = Vec::new();
        // The way from the first block to the present one: block, next edge.
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in 0..states.len() as u32 {
            if states[root as usize] == State::Reached || nodes[root as usize].order != NONE {
                continue;
            }
            path.push((root, 0));
            while let Some((block, edge)) = path.last_mut() {
                let at = *block as usize;
                if nodes[at].order == NONE {
                    (nodes[at].order, nodes[at].low) = (met, met);
                    met += 1;
                    open.push(*block);
                }
                if let Some(next) = graph.edges(*block).get(*edge as usize) {
                    *edge += 1;
                    let to = next.to as usize;
                    if nodes[to].order == NONE {
                        path.push((next.to, 0));
                    } else if nodes[to].component == NONE {
                        nodes[at].low = nodes[at].low.min(nodes[to].order);
                    }
                    continue;
                }
                if nodes[at].low == nodes[at].order {
                    let component = found.starts.len() as u32;
                    found.starts.push(found.members.len() as u32);
                    while let Some(member) = open.pop() {
                        nodes[member as usize].component = component;
                        found.members.push(member);
                        if member as usize == at {
                            break;
                        }
                    }
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    let parent = parent as usize;
                    nodes[parent].low = nodes[parent].low.min(nodes[at].low);
                }
            }
        }
        found
    }
}
