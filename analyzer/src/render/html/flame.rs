//! The flame graph's tree: stacks of groups merged from the outermost frame inwards, small ones left out.

use std::collections::HashMap;

use serde::Serialize;

use super::tables::Tables;
use crate::render::folded::Weight;
use crate::render::stack::{Whose, whose};
use crate::report::model::Group;

/// Nodes that a page holds at most: the widest. Thinner ones could not be seen.
const MOST_NODES: usize = 1_500;

/// What widths stand for: pinned bytes, objects, bytes of the objects themselves.
type Weights = [u64; 3];

/// A node as page.js reads it: name and class (numbers of strings), whose it is, weights, children.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Flame(u32, u8, Weights, Vec<Flame>);

struct Node<'a> {
    name: Name<'a>,
    whose: u8,
    weights: Weights,
    parent: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name<'a> {
    Borrowed(&'a str),
    /// Code without a symbol, by module and offset.
    Offset(Option<&'a str>, u64),
    /// What was allocated, and its class.
    Leaf(&'a str, &'static str),
}

/// Builds the tree of `groups`; `None` where there are none.
pub(super) fn tree<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Option<Tree<'a>> {
    let mut nodes = vec![Node { name: Name::Borrowed(""), whose: 0, weights: [0; 3], parent: 0 }];
    let mut known: HashMap<(usize, Name<'a>), usize> = HashMap::new();
    for group in groups {
        let weights = [Weight::Pinned.of(group), Weight::Count.of(group), group.bytes];
        let mut at = 0;
        add(&mut nodes[0].weights, weights);
        let frames = group.stack.iter().rev().filter(|frame| whose(frame) != Whose::Avleak).map(|frame| {
            let name = match &frame.function {
                Some(function) => Name::Borrowed(function.as_str()),
                None => Name::Offset(frame.module.as_deref(), frame.offset),
            };
            let whose = match whose(frame) {
                Whose::Libav => 2,
                Whose::Own => 4,
                Whose::Runtime | Whose::Avleak => 0,
            };
            (name, whose)
        });
        for (name, whose) in frames.chain([(Name::Leaf(&group.object, group.class.phrase()), 8)]) {
            at = *known.entry((at, name.clone())).or_insert_with(|| {
                nodes.push(Node { name, whose, weights: [0; 3], parent: at });
                nodes.len() - 1
            });
            add(&mut nodes[at].weights, weights);
        }
    }
    (nodes.len() > 1).then_some(Tree { nodes })
}

fn add(sum: &mut Weights, weights: Weights) {
    for (sum, weight) in sum.iter_mut().zip(weights) {
        *sum = sum.saturating_add(weight);
    }
}

/// A tree before it is pruned.
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Tree<'a> {
    /// The widest nodes.
    pub(super) fn pruned(self, tables: &mut Tables<'a>) -> Flame {
        let whole = self.nodes[0].weights;
        let share = |node: &Node<'_>| {
            node.weights.iter().zip(whole).map(|(&part, whole)| part as f64 / whole.max(1) as f64).fold(0.0, f64::max)
        };
        // A parent is as wide as its child and stands before it: the widest nodes are a tree.
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by(|&a, &b| share(&self.nodes[b]).total_cmp(&share(&self.nodes[a])).then(a.cmp(&b)));
        order.truncate(MOST_NODES);
        order.sort_unstable();
        let mut children: HashMap<usize, Vec<Flame>> = HashMap::new();
        // Inner nodes stand after their parents: from the back each node's children are complete.
        for &at in order.iter().rev() {
            let node = &self.nodes[at];
            let mut below = children.remove(&at).unwrap_or_default();
            below.reverse();
            let name = match &node.name {
                Name::Borrowed(name) => tables.string(*name),
                Name::Offset(Some(module), offset) => tables.string(format!("{module}+{offset:#x}")),
                Name::Offset(None, offset) => tables.string(format!("{offset:#x}")),
                Name::Leaf(object, class) => tables.string(format!("{object} {class}")),
            };
            let flame = Flame(name, node.whose, node.weights, below);
            if at == 0 {
                return flame;
            }
            children.entry(node.parent).or_default().push(flame);
        }
        Flame(tables.string(""), 0, whole, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Frame;
    use crate::report::sample;

    fn group(functions: &[&str], count: u64, pinned_bytes: u64, outermost: u64) -> Group {
        let stack: Vec<Frame> = functions.iter().map(|name| sample::own(name, "a.c", 1)).collect();
        Group { stack, count, pinned_bytes, outermost, bytes: 10, ..sample::plain_group() }
    }

    /// The tree as indented text.
    fn shown(flame: &Flame, names: &[String]) -> String {
        fn write(flame: &Flame, names: &[String], depth: usize, out: &mut String) {
            out.push_str(&format!("{}{} {:?}\n", " ".repeat(depth), names[flame.0 as usize], flame.2));
            flame.3.iter().for_each(|child| write(child, names, depth + 1, out));
        }
        let mut out = String::new();
        write(flame, names, 0, &mut out);
        out
    }

    fn strings(tables: &Tables<'_>) -> Vec<String> {
        serde_json::from_value(serde_json::to_value(tables).unwrap()["strings"].clone()).unwrap()
    }

    #[test]
    fn stacks_merge_from_the_outermost_frame_inwards() {
        let groups = [
            group(&["alloc", "decode", "main"], 3, 100, 3),
            group(&["alloc", "scale", "main"], 2, 50, 2),
            group(&["ref", "decode", "main"], 9, 100, 0),
        ];
        let mut tables = Tables::default();
        let flame = tree(&groups).unwrap().pruned(&mut tables);
        let leaf = "AVFrame definitely lost";
        let expected = format!(
            " [150, 14, 30]\n main [150, 14, 30]\n  decode [100, 12, 20]\n   alloc [100, 3, 10]\n    {leaf} [100, 3, 10]\n   \
             ref [0, 9, 10]\n    {leaf} [0, 9, 10]\n  scale [50, 2, 10]\n   alloc [50, 2, 10]\n    {leaf} [50, 2, 10]\n"
        );
        assert_eq!(shown(&flame, &strings(&tables)), expected);
        assert!(tree(&[]).is_none());
    }

    #[test]
    fn of_many_the_widest_stay_and_widths_stay_true() {
        let names: Vec<String> = (0..20_000).map(|n| format!("function_{n}")).collect();
        let groups: Vec<Group> =
            names.iter().enumerate().map(|(n, name)| group(&[name, "main"], n as u64 + 1, 0, 1)).collect();
        let mut tables = Tables::default();
        let flame = tree(&groups).unwrap().pruned(&mut tables);
        let main = &flame.3[0];
        assert_eq!(main.2[1], 20_000 * 20_001 / 2);
        assert!(main.3.len() >= MOST_NODES / 2 - 2 && main.3.len() < MOST_NODES, "{}", main.3.len());
        let kept = strings(&tables);
        assert!(main.3.iter().any(|child| kept[child.0 as usize] == "function_19999"));
        assert!(!main.3.iter().any(|child| kept[child.0 as usize] == "function_7"));
    }
}
