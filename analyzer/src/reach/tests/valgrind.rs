//! The engine against Valgrind's own verdict: random graphs built by a C program under memcheck, cycles, interior
//! pointers and all four heuristics included.
//!
//! One difference is Valgrind's: it takes blocks in order of address, and a cycle stays "definitely lost" when a later lost
//! block points to a member other than its first (its cliques are not strongly connected components). By the definition
//! such a cycle is indirectly lost, and so the engine says.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Graphs judged in one run.
const GRAPHS: u64 = 400;

/// A word of a graph.
#[derive(Clone, Copy)]
struct Word {
    /// Block, or none for a root.
    place: Option<usize>,
    index: usize,
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Vtable,
    Pointer(usize, u64),
}

struct Graph {
    sizes: Vec<u64>,
    words: Vec<Word>,
}

/// Sizes are different powers of two, so that a sum of bytes tells which blocks it is made of.
fn random_graph(random: &mut Random) -> Graph {
    let count = 1 + random.below(10) as usize;
    let mut sizes: Vec<u64> = (0..count).map(|k| 32 << k).collect();
    for i in (1..count).rev() {
        sizes.swap(i, random.below(i as u64 + 1) as usize);
    }
    let mut words = Vec::new();
    for place in (0..count).map(Some).chain([None]) {
        let density = random.below(4);
        let flavour = random.below(6);
        for index in 0..4 {
            let to = random.below(count as u64) as usize;
            let value = match random.below(12) {
                // An object with two bases, an array, a length, a string: mostly right ones.
                _ if flavour == 0 && index % 2 == 0 => Value::Vtable,
                _ if flavour == 1 && index == 0 => Value::Number(2 + random.below(4)),
                _ if flavour == 2 && index == 0 => Value::Number(place.map_or(8, |p| sizes[p]) - 8 * random.below(2)),
                _ if flavour == 3 && index == 0 => Value::Number(random.below(9)),
                _ if flavour == 3 && index == 1 => Value::Number(place.map_or(0, |p| sizes[p] - 24 - random.below(2))),
                _ if random.below(5) < density => continue,
                0..5 => Value::Pointer(to, 0),
                5 => Value::Pointer(to, 8),
                6 => Value::Pointer(to, 24),
                7 => Value::Pointer(to, 8 * random.below(5)),
                8 => Value::Pointer(to, random.below(sizes[to])),
                9 => Value::Vtable,
                _ => Value::Number(random.below(30)),
            };
            words.push(Word { place, index, value });
        }
    }
    Graph { sizes, words }
}

fn describe(graphs: &[Graph]) -> String {
    let mut text = format!("{}\n", graphs.len());
    for graph in graphs {
        text += &format!("{}", graph.sizes.len());
        graph.sizes.iter().for_each(|size| text += &format!(" {size}"));
        text += &format!("\n{}\n", graph.words.len());
        for word in &graph.words {
            let (what, value) = match word.value {
                Value::Number(number) => (-1, number),
                Value::Vtable => (-2, 0),
                Value::Pointer(to, offset) => (to as i64, offset),
            };
            let place = word.place.map_or(-1, |p| p as i64);
            text += &format!("{place} {} {what} {value}\n", word.index);
        }
    }
    text
}

/// The engine's verdict on the graph at these addresses: bytes of each class, in Valgrind's order.
fn judge(graph: &Graph, addresses: &[u64], vtable: &[u64]) -> [u64; 4] {
    let mut world = World::default();
    let value = |value| match value {
        Value::Number(number) => number,
        Value::Vtable => vtable[0],
        Value::Pointer(to, offset) => addresses[to] + offset,
    };
    let content = |place, length: usize| {
        let mut words = vec![0; length];
        graph.words.iter().filter(|w| w.place == place).for_each(|w| words[w.index] = value(w.value));
        words
    };
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|&i| addresses[i]);
    for i in order {
        world.plain(addresses[i], &content(Some(i), graph.sizes[i] as usize / 8));
    }
    world.root(0x1000, &content(None, 4));
    world.memory.insert_words(vtable[0], &[vtable[1], vtable[2]]);
    let mapping = |address| match address {
        a if a == vtable[0] => Mapping::File,
        a if a == vtable[1] || a == vtable[2] => Mapping::Code,
        _ => Mapping::Other,
    };
    let found = world.check_mapped(&mapping).unwrap();
    let bytes = |class| {
        let of_class = (0..world.blocks.len()).filter(|&b| found.class(b as u32) == class);
        of_class.map(|b| world.blocks[b].size).sum()
    };
    [Class::DefinitelyLost, Class::IndirectlyLost, Class::PossiblyLost, Class::StillReachable].map(bytes)
}

/// Is the block on a cycle of two or more?
fn is_on_cycle(graph: &Graph, block: usize) -> bool {
    let pointers = |from| {
        let words = graph.words.iter().filter(move |w| w.place == Some(from));
        words.filter_map(move |w| match w.value {
            Value::Pointer(to, offset) if to != from && offset < graph.sizes[to] => Some(to),
            _ => None,
        })
    };
    let mut seen: Vec<usize> = pointers(block).collect();
    for at in 0.. {
        let Some(&from) = seen.get(at) else { break };
        for to in pointers(from) {
            if !seen.contains(&to) {
                seen.push(to);
            }
        }
    }
    seen.contains(&block)
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// The bytes that each of memcheck's summaries names: definitely, indirectly, possibly lost, still reachable.
fn summaries(log: &str) -> Vec<[u64; 4]> {
    let names = ["definitely lost: ", "indirectly lost: ", "possibly lost: ", "still reachable: "];
    let mut found = Vec::new();
    for line in log.lines() {
        for (i, name) in names.iter().enumerate() {
            let Some((_, rest)) = line.split_once(name) else { continue };
            if i == 0 {
                found.push([0; 4]);
            }
            found.last_mut().unwrap()[i] = rest.split_once(' ').unwrap().0.replace(',', "").parse().unwrap();
        }
    }
    found
}

#[test]
fn valgrind_judges_random_graphs_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/reach/tests/valgrind.c");
    let program = folder.path().join("graphs");
    let compiled = Command::new("cc").args(["-O1", "-g", source, "-o"]).arg(&program).status();
    assert!(compiled.expect("a C compiler (Debian: gcc)").success());
    let mut random = Random::new(2024);
    let graphs: Vec<Graph> = (0..GRAPHS).map(|_| random_graph(&mut random)).collect();
    let mut child = Command::new("valgrind")
        .arg("--leak-check-heuristics=all")
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind (Debian: valgrind)");
    child.stdin.take().unwrap().write_all(describe(&graphs).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    let mut lines = out.lines();
    let vtable = numbers(lines.next().unwrap());
    let verdicts = summaries(&log);
    assert_eq!((verdicts.len() as u64, out.lines().count() as u64), (GRAPHS, GRAPHS + 1), "{log}");
    let (mut sums, mut differing) = ([0; 4], 0);
    for (seen, (graph, (line, theirs))) in graphs.iter().zip(lines.zip(&verdicts)).enumerate() {
        let ours = judge(graph, &numbers(line), &vtable);
        let text = || format!("graph {seen}: {}at {line}\n{ours:?} {theirs:?}", describe(std::slice::from_ref(graph)));
        assert_eq!(ours[2..], theirs[2..], "{}", text());
        assert_eq!(ours[0] + ours[1], theirs[0] + theirs[1], "{}", text());
        // A bit for each block, as no two have one size.
        assert_eq!(ours[0] & !theirs[0], 0, "{}", text());
        let more = (0..graph.sizes.len()).filter(|&b| graph.sizes[b] & theirs[0] & !ours[0] != 0).collect::<Vec<_>>();
        assert!(more.iter().all(|&b| is_on_cycle(graph, b)), "{}", text());
        differing += u64::from(!more.is_empty());
        (0..4).for_each(|i| sums[i] += u64::from(ours[i] > 0));
    }
    assert!(sums.iter().all(|&graphs| graphs > GRAPHS / 10), "every class often: {sums:?}");
    assert!(differing < GRAPHS / 10, "{differing}");
    println!(
        "{GRAPHS} graphs, {differing} with a cycle that Valgrind takes for definitely lost; classes seen: {sums:?}"
    );
    for heuristic in ["stdstring", "length64", "newarray", "multipleinheritance"] {
        assert!(log.contains(heuristic), "no graph had a {heuristic}");
    }
}
