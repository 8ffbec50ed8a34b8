//! Which groups of two reports are the same leak though their ids differ: the program was built anew in between.
//!
//! An id is made of build ids and addresses: it outlives a new run and another machine, not a new build. What outlives a build
//! is the names. Two groups are kin if their objects have the same type, the innermost function of the program's own and its
//! source file are the same, and the functions and files of the one stack are all in the other's, in order, where what they
//! share is at least [`ALIKE`] of both. Line numbers and offsets do not matter, and calls may have been put between or taken
//! out. Where a function stands instead of another it is another leak, however much the stacks share: those of a helper that
//! makes frames for everybody are the same but for one. Where the innermost own function has no name nothing is kin. A
//! function that was renamed is a new one.

use crate::render::stack::{name, own_frame};
use crate::report::model::{Frame, Group};
use rustc_hash::FxHashMap;

/// What share of both stacks the common frames must be (Dice's coefficient).
pub const ALIKE: f64 = 0.6;
/// Frames that are compared, from the innermost.
pub const DEPTH: usize = 32;
/// Stacks of one function that are compared each with each; where there are more, only equal ones are kin.
const MOST_PAIRS: usize = 20_000;

/// A group as it is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Kin {
    /// C type of its objects.
    pub object: String,
    /// [`label`]s, innermost first, at most [`DEPTH`].
    pub stack: Vec<String>,
    /// The label of the innermost frame of the program's own.
    pub at: String,
}

impl Kin {
    /// Of a group.
    pub fn of(group: &Group) -> Self {
        Self {
            object: group.object.clone(),
            stack: group.stack.iter().take(DEPTH).map(label).collect(),
            at: own_frame(&group.stack).or(group.stack.first()).map_or_else(|| "?".to_string(), label),
        }
    }
}

/// A frame in one line that keeps: `decode demo.c:130 in server`, `av_malloc in libavutil.so.57`, `server+0x12a4`, `?`.
pub fn label(frame: &Frame) -> String {
    let Some(module) = &frame.module else { return frame.function.clone().unwrap_or_else(|| "?".to_string()) };
    if frame.function.is_none() {
        return format!("{module}+{:#x}", frame.offset);
    }
    let place = match (frame.file.as_deref().map(|file| file.rsplit('/').next().unwrap_or(file)), frame.line) {
        (Some(file), Some(line)) => format!(" {file}:{line}"),
        (Some(file), None) => format!(" {file}"),
        (None, _) => String::new(),
    };
    // What a file is read by is told apart by lines.
    let text = format!("{}{place} in {module}", name(frame));
    if text.contains(char::is_control) { text.replace(char::is_control, "?") } else { text }
}

/// What of a label outlives a build: function and file; of code without a name the module.
fn token(label: &str) -> &str {
    let without_module = label.rsplit_once(" in ").map_or(label, |(start, _)| start);
    if without_module.len() == label.len() {
        return label.rsplit_once("+0x").map_or(label, |(module, _)| module);
    }
    match without_module.rsplit_once(':') {
        Some((start, line)) if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) => start,
        _ => without_module,
    }
}

fn has_name(label: &str) -> bool {
    label.contains(" in ")
}

/// Groups of one object and one innermost own function: indexes into both sides.
type Room = (Vec<usize>, Vec<usize>);

/// Pairs of kin, as indexes into `left` and `right`; each at most once, the most alike first.
pub fn pair(left: &[Kin], right: &[Kin]) -> Vec<(usize, usize)> {
    let mut rooms: FxHashMap<(&str, &str), Room> = FxHashMap::default();
    for (at, kin) in left.iter().enumerate().filter(|(_, kin)| has_name(&kin.at)) {
        rooms.entry((&kin.object, token(&kin.at))).or_default().0.push(at);
    }
    for (at, kin) in right.iter().enumerate().filter(|(_, kin)| has_name(&kin.at)) {
        rooms.entry((&kin.object, token(&kin.at))).or_default().1.push(at);
    }
    let mut rooms: Vec<Room> =
        rooms.into_values().filter(|(left, right)| !left.is_empty() && !right.is_empty()).collect();
    rooms.sort();
    let mut pairs = Vec::new();
    for (ours, theirs) in &mut rooms {
        equal(left, right, ours, theirs, &mut pairs);
        if ours.len().saturating_mul(theirs.len()) > MOST_PAIRS {
            continue;
        }
        let tokens = |kin: &[Kin], at: usize| kin[at].stack.iter().map(|label| token(label).to_string()).collect();
        let ours: Vec<(usize, Vec<String>)> = ours.iter().map(|&at| (at, tokens(left, at))).collect();
        let theirs: Vec<(usize, Vec<String>)> = theirs.iter().map(|&at| (at, tokens(right, at))).collect();
        let mut scored: Vec<(f64, usize, usize)> = ours
            .iter()
            .flat_map(|(a, one)| theirs.iter().map(move |(b, other)| (alike(one, other), *a, *b)))
            .filter(|(score, ..)| *score >= ALIKE)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let (mut taken_left, mut taken_right) = (Vec::new(), Vec::new());
        for (_, a, b) in scored {
            if !taken_left.contains(&a) && !taken_right.contains(&b) {
                taken_left.push(a);
                taken_right.push(b);
                pairs.push((a, b));
            }
        }
    }
    pairs
}

/// Takes those out that are equal: first line by line, then by functions and files.
fn equal(left: &[Kin], right: &[Kin], ours: &mut Vec<usize>, theirs: &mut Vec<usize>, pairs: &mut Vec<(usize, usize)>) {
    fn by_token(kin: &Kin) -> Vec<&str> {
        kin.stack.iter().map(|label| token(label)).collect()
    }
    fn by_line(kin: &Kin) -> Vec<&str> {
        kin.stack.iter().map(String::as_str).collect()
    }
    for key in [by_line, by_token] {
        let mut places: FxHashMap<Vec<&str>, Vec<usize>> = FxHashMap::default();
        for &at in theirs.iter().rev() {
            places.entry(key(&right[at])).or_default().push(at);
        }
        ours.retain(|&at| match places.get_mut(&key(&left[at])).and_then(Vec::pop) {
            Some(other) => {
                pairs.push((at, other));
                false
            }
            None => true,
        });
        let mut left_over: Vec<usize> = places.into_values().flatten().collect();
        left_over.sort_unstable();
        *theirs = left_over;
    }
}

/// 0: each has a frame that the other has not; 1: equal; between: one is the other with frames put in.
fn alike(one: &[String], other: &[String]) -> f64 {
    let mut best = vec![0_usize; other.len() + 1];
    for a in one {
        let mut diagonal = 0;
        for (at, b) in other.iter().enumerate() {
            let above = best[at + 1];
            best[at + 1] = if a == b { diagonal + 1 } else { above.max(best[at]) };
            diagonal = above;
        }
    }
    let (common, total) = (best[other.len()], one.len() + other.len());
    if common == 0 || common < one.len().min(other.len()) { 0.0 } else { 2.0 * common as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{ffmpeg, own, plain_group};

    fn kin(stack: Vec<Frame>) -> Kin {
        Kin::of(&Group { stack, ..plain_group() })
    }

    fn leak(function: &str, line: u32, callers: &[&str]) -> Kin {
        let mut stack = vec![ffmpeg("av_frame_alloc", "libavutil.so.57"), own(function, "src/a.c", line)];
        stack.extend(callers.iter().map(|caller| own(caller, "src/b.c", line + 100)));
        kin(stack)
    }

    #[test]
    fn labels_and_what_of_them_outlives_a_build() {
        let bare = Frame { module: Some("server".into()), offset: 0x12a4, ..Frame::default() };
        let table = [
            (own("cut", "src/a.c", 7), "cut a.c:7 in server", "cut a.c"),
            (ffmpeg("av_malloc", "libavutil.so.57"), "av_malloc in libavutil.so.57", "av_malloc"),
            (bare, "server+0x12a4", "server"),
            (Frame { offset: 0x7f00, ..Frame::default() }, "?", "?"),
            (own("a\nb", "src/a.c", 7), "a?b a.c:7 in server", "a?b a.c"),
            (own("in in", "x in y.c", 7), "in in x in y.c:7 in server", "in in x in y.c"),
        ];
        for (frame, text, kept) in table {
            assert_eq!(label(&frame), text);
            assert_eq!(token(text), kept);
        }
    }

    #[test]
    fn a_new_build_moves_lines_and_loses_a_frame() {
        let old = [leak("take", 10, &["pump", "serve", "main"]), leak("drop", 10, &["pump", "serve", "main"])];
        let new = [leak("drop", 12, &["pump", "serve", "main"]), leak("take", 13, &["pump", "main"])];
        let mut pairs = pair(&old, &new);
        pairs.sort_unstable();
        assert_eq!(pairs, [(0, 1), (1, 0)]);
    }

    #[test]
    fn strangers_are_none() {
        let pairs = |a: Kin, b: Kin| pair(&[a], &[b]).len();
        assert_eq!(pairs(leak("take", 1, &["main"]), leak("take", 1, &["main"])), 1);
        assert_eq!(pairs(leak("take", 1, &["main"]), leak("taken", 1, &["main"])), 0, "another function");
        let other = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(pairs(leak("take", 1, &["u", "v", "w", "x", "y", "z"]), leak("take", 1, &other)), 0, "another way");
        let one_of_many = |place: &str| leak("make_frame", 1, &["fill", place, "hide", "run", "main"]);
        assert_eq!(pairs(one_of_many("first"), one_of_many("second")), 0, "another user of the same helper");
        let packet = Kin { object: "AVPacket".into(), ..leak("take", 1, &["main"]) };
        assert_eq!(pairs(leak("take", 1, &["main"]), packet), 0, "another object");
        let bare = || kin(vec![Frame { module: Some("server".into()), offset: 0x12a4, ..Frame::default() }]);
        assert_eq!(pairs(bare(), bare()), 0, "nameless");
    }

    #[test]
    fn the_most_alike_are_paired() {
        let far = leak("take", 6, &["p", "main"]);
        let near = leak("take", 6, &["p", "q", "main"]);
        let exact = leak("take", 5, &["p", "q", "r", "main"]);
        assert_eq!(pair(&[far.clone(), near.clone(), exact.clone()], std::slice::from_ref(&exact)), [(2, 0)]);
        assert_eq!(pair(&[far.clone(), near], std::slice::from_ref(&exact)), [(1, 0)]);
        assert_eq!(pair(&[far], &[exact]), [(0, 0)]);
        assert_eq!(pair(&[], &[Kin::default()]), []);
    }

    #[test]
    fn many_of_one_function_are_paired_where_equal() {
        let many = |line: u32| -> Vec<Kin> { (0..2_000).map(|i| leak("take", line, &[&format!("f{i}")])).collect() };
        assert_eq!(pair(&many(1), &many(2)).len(), 2_000);
    }
}
