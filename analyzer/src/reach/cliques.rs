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
    let mut from_outside = vec![false; components.count()];
    let mut held_by_object = vec![false; components.count()];
    let mut leaders = Vec::new();
    for component in (0..components.count()).rev() {
        let members = components.members(component);
        let Some(leader) = leader(blocks, members) else { continue };
        let is_object = blocks[leader as usize].kind.is_object();
        outermost[leader as usize] = is_object && !held_by_object[component];
        if states[leader as usize] == State::Unreached && !from_outside[component] {
            classes[leader as usize] = Class::DefinitelyLost;
            leaders.push(leader);
        }
        let holds = is_object || held_by_object[component];
        for edge in members.iter().flat_map(|&member| graph.edges(member)) {
            let to = components.of[edge.to as usize] as usize;
            if to != component {
                from_outside[to] = true;
                held_by_object[to] |= holds;
            }
        }
    }
    leaders.sort_unstable();
    enter_holders(leaders, &classes, graph, holders);
    Verdict { classes, outermost }
}

/// The member of highest rank; of several the one with the lowest start. [`crate::kind::ObjectKind::rank`] puts every
/// FFmpeg object above everything else, so the leader is an object wherever a member is.
fn leader(blocks: &[Block], members: &[u32]) -> Option<u32> {
    members.iter().copied().max_by_key(|&m| (blocks[m as usize].kind.rank(), std::cmp::Reverse(m)))
}

/// Breadth first from the definitely lost blocks: whoever comes to a block first is its holder.
fn enter_holders(leaders: Vec<u32>, classes: &[Class], graph: &Graph, holders: &mut Holders) {
    let mut seen = vec![false; classes.len()];
    let mut queue = leaders;
    let mut head = 0;
    while let Some(&from) = queue.get(head) {
        head += 1;
        for edge in graph.edges(from) {
            let to = edge.to as usize;
            if classes[to] == Class::IndirectlyLost && !seen[to] {
                seen[to] = true;
                holders.0[to] = Holder::block(from, edge.offset(), edge.is_interior());
                queue.push(edge.to);
            }
        }
    }
}

const NONE: u32 = u32::MAX;

/// The strongly connected components of the blocks that are not still reachable, sinks first.
struct Components {
    /// Of each block; `NONE` where it is still reachable.
    of: Vec<u32>,
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
        let mut found = Self { of: vec![NONE; states.len()], members: Vec::new(), starts: Vec::new() };
        // When a block was met first, and the earliest block on the stack that it leads back to.
        let mut order = vec![NONE; states.len()];
        let mut low = vec![NONE; states.len()];
        let mut met = 0;
        // Met, and of no component yet.
        let mut open: Vec<u32> = Vec::new();
        // The way from the first block to the present one: block, next edge.
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in 0..states.len() as u32 {
            if states[root as usize] == State::Reached || order[root as usize] != NONE {
                continue;
            }
            path.push((root, 0));
            while let Some((block, edge)) = path.last_mut() {
                let at = *block as usize;
                if order[at] == NONE {
                    (order[at], low[at]) = (met, met);
                    met += 1;
                    open.push(*block);
                }
                if let Some(next) = graph.edges(*block).get(*edge as usize) {
                    *edge += 1;
                    let to = next.to as usize;
                    if order[to] == NONE {
                        path.push((next.to, 0));
                    } else if found.of[to] == NONE {
                        low[at] = low[at].min(order[to]);
                    }
                    continue;
                }
                if low[at] == order[at] {
                    let component = found.starts.len() as u32;
                    found.starts.push(found.members.len() as u32);
                    while let Some(member) = open.pop() {
                        found.of[member as usize] = component;
                        found.members.push(member);
                        if member as usize == at {
                            break;
                        }
                    }
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    let parent = parent as usize;
                    low[parent] = low[parent].min(low[at]);
                }
            }
        }
        found
    }
}
