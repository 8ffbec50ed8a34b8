//! The engine against the definitions, spelled out as slowly as they read, on random graphs.

use super::*;
use Class::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};

const KINDS: [ObjectKind; 9] = [
    ObjectKind::Plain,
    ObjectKind::Plain,
    ObjectKind::LibavBlock,
    ObjectKind::Payload,
    ObjectKind::PoolEntry,
    ObjectKind::Buffer,
    ObjectKind::BufferRef,
    ObjectKind::Frame,
    ObjectKind::CodecContext,
];

/// What the definitions say of a word found in a block of `kind` (or a root) that leads into `to`: no edge, a start or
/// an interior one.
fn edge(kind: Option<ObjectKind>, word: u64, to: &Block) -> Option<bool> {
    use ObjectKind::{Buffer, BufferRef, Frame, Payload, PoolEntry};
    if word == to.start {
        return Some(true);
    }
    if word < to.start || word >= to.start + to.size {
        return None;
    }
    if to.kind == ObjectKind::LibavBlock && (word == to.start + 32 || word == to.start + 64) {
        return Some(true);
    }
    let mut chunk = (to.size + 8).div_ceil(16) * 16;
    if chunk < 32 {
        chunk = 32;
    }
    if word == to.start - 16 + chunk {
        return None;
    }
    let typed =
        [(Frame, Payload), (Buffer, Payload), (BufferRef, Payload), (PoolEntry, Payload), (BufferRef, PoolEntry)];
    Some(kind.is_some_and(|kind| typed.contains(&(kind, to.kind))))
}

/// Classes and outermost flags, straight from the definitions.
fn judge(world: &World, words: &[Vec<u64>], roots: &[u64]) -> (Vec<Class>, Vec<bool>) {
    let blocks = &world.blocks;
    let n = blocks.len();
    let mut start = vec![vec![false; n]; n];
    let mut any = vec![vec![false; n]; n];
    for from in 0..n {
        for to in (0..n).filter(|&to| to != from && blocks[from].scan == Scan::Words) {
            for &word in &words[from] {
                if let Some(is_start) = edge(Some(blocks[from].kind), word, &blocks[to]) {
                    any[from][to] = true;
                    start[from][to] |= is_start;
                }
            }
        }
    }
    let mut reachable = vec![false; n];
    let mut possible = vec![false; n];
    for &word in roots {
        for to in 0..n {
            if let Some(is_start) = edge(None, word, &blocks[to]) {
                possible[to] = true;
                reachable[to] |= is_start;
            }
        }
    }
    for _ in 0..n {
        for from in 0..n {
            for to in 0..n {
                reachable[to] |= reachable[from] && start[from][to];
                possible[to] |= (possible[from] || reachable[from]) && any[from][to];
            }
        }
    }
    // Who leads to whom over any number of pointers, within the blocks of one standing.
    let standing: Vec<u8> = (0..n).map(|b| if reachable[b] { 2 } else { possible[b].into() }).collect();
    let mut leads = any;
    for a in 0..n {
        for b in 0..n {
            leads[a][b] &= standing[a] == standing[b];
        }
    }
    for via in 0..n {
        for a in 0..n {
            for b in 0..n {
                leads[a][b] |= leads[a][via] && leads[via][b];
            }
        }
    }
    let same = &|a: usize, b: usize| a == b || leads[a][b] && leads[b][a];
    let leads_its_cycle = |b: usize| {
        (0..n).filter(|&o| same(o, b)).all(|o| {
            let (mine, other) = (blocks[b].kind.rank(), blocks[o].kind.rank());
            mine > other || mine == other && b <= o
        })
    };
    let leads = &leads;
    let outside = |b: usize| (0..n).filter(move |&o| !same(o, b) && leads[o][b]);
    let class = |b: usize| match standing[b] {
        2 => StillReachable,
        1 => PossiblyLost,
        _ if leads_its_cycle(b) && outside(b).next().is_none() => DefinitelyLost,
        _ => IndirectlyLost,
    };
    let outermost = |b: usize| {
        let blame = standing[b] != 2 && blocks[b].kind.is_object() && leads_its_cycle(b);
        blame && !outside(b).any(|o| blocks[o].kind.is_object())
    };
    ((0..n).map(class).collect(), (0..n).map(outermost).collect())
}

/// Each step of each chain is a pointer that is really there, of the kind that the class needs.
fn check_chain(world: &World, words: &[Vec<u64>], found: &Reachability, block: u32) {
    let chain = found.chain(block);
    let class = found.class(block);
    assert_eq!(chain.is_empty(), class == DefinitelyLost);
    let mut definite = true;
    for (i, step) in chain.iter().enumerate() {
        let to = match chain.get(i + 1).map(|next| next.source) {
            Some(Source::Block { block, .. }) => block,
            Some(other) => panic!("{other:?} in the middle"),
            None => block,
        };
        let to = &world.blocks[to as usize];
        let (kind, word) = match step.source {
            Source::Root { address, .. } => (None, world.memory.word(address).unwrap()),
            Source::Register { label } => (None, world.registers[label as usize].value),
            Source::Block { block, offset } => {
                (Some(world.blocks[block as usize].kind), words[block as usize][(offset / 8) as usize])
            }
            Source::Decree { .. } => panic!("no decrees here"),
        };
        definite &= edge(kind, word, to).expect("it leads there");
        assert_eq!(step.interior, word != to.start);
    }
    match class {
        StillReachable => assert!(definite),
        PossiblyLost => assert!(!definite),
        _ => {
            let Source::Block { block: first, .. } =
                chain.first().map_or(Source::Block { block, offset: 0 }, |s| s.source)
            else {
                panic!("a lost block with a root")
            };
            assert_eq!(found.class(first), DefinitelyLost);
        }
    }
}

#[test]
fn random_graphs_are_judged_as_the_definitions_say() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let count = 1 + random.below(14) as usize;
        let density = 1 + random.below(6);
        let mut starts = Vec::new();
        let mut at = 0x7f00_0000_0010 + 16 * random.below(64);
        for _ in 0..count {
            let words = random.below(9);
            starts.push((at, words));
            at += (words * 8).next_multiple_of(16) + 16 + [0, 0x1000, 0x200_0000][random.below(3) as usize];
        }
        let pick = |random: &mut Random| {
            let (start, words) = starts[random.below(count as u64) as usize];
            match random.below(10) {
                0..5 => start,
                5..9 => start + random.below(words * 8 + 9),
                _ => random.below(u64::MAX),
            }
        };
        let mut world = World::default();
        let mut words = Vec::new();
        for &(start, length) in &starts {
            // The first word is no count and no length, so that no heuristic holds.
            let content: Vec<u64> =
                (0..length).map(|_| if random.below(8) < density { pick(&mut random) } else { 0 }).collect();
            let kind = KINDS[random.below(KINDS.len() as u64) as usize];
            world.block(start, kind, &content);
            if kind == ObjectKind::Payload {
                world.blocks.last_mut().unwrap().scan = Scan::Payload;
            }
            words.push(content);
        }
        let mut roots: Vec<u64> = (0..random.below(3)).map(|_| pick(&mut random)).collect();
        world.root(0x60_0000, &roots);
        if random.below(3) == 0 {
            world.registers.push(Register { value: pick(&mut random), label: 0 });
            roots.push(world.registers[0].value);
        }
        let (classes, outermost) = judge(&world, &words, &roots);
        let found = world.check();
        assert_eq!(found.classes(), classes, "seed {seed}: {:x?} {words:x?} {roots:x?}", world.blocks);
        let blamed: Vec<bool> = (0..count as u32).map(|b| found.is_outermost(b)).collect();
        assert_eq!(blamed, outermost, "seed {seed}: {:x?} {words:x?} {roots:x?}", world.blocks);
        for block in 0..count as u32 {
            check_chain(&world, &words, &found, block);
            *seen.entry((found.class(block), found.is_outermost(block))).or_insert(0) += 1;
        }
    }
    for class in [DefinitelyLost, IndirectlyLost, PossiblyLost] {
        assert!(seen[&(class, true)] > 100 && seen[&(class, false)] > 100, "{seen:?}");
    }
    assert!(seen[&(StillReachable, false)] > 1000, "{seen:?}");
}
