//! What is alive of one process by allocation stack, from one moment to the next: the drain's own sums, so that nothing is looked at in
//! the process, and no check is needed.

use std::hash::{Hash, Hasher};
use std::sync::PoisonError;

use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Serialize};

use super::Watched;
use crate::live::Made;
use crate::render::brief;
use crate::report::model::Frame;

/// Stacks that are told of.
const MOST: usize = 400;
/// Functions that are named beside the one to blame.
pub const CALLERS: usize = 3;
/// Stacks whose names are kept.
const MOST_NAMES: usize = 20_000;

/// What one allocation stack has alive now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Living {
    /// Of the stack, as [`key`] gives it; empty for all stacks together that nobody has named yet.
    pub key: String,
    /// `AVFrame` or `payload`.
    pub object: String,
    /// Objects.
    pub count: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// The frame to blame.
    pub place: String,
    /// Who called it, see [`brief::callers`].
    pub callers: String,
}

/// Names of stacks, by id.
pub type Names = FxHashMap<u32, Name>;

/// Where a stack leads.
#[derive(Debug, Clone)]
pub struct Name {
    key: String,
    place: String,
    callers: String,
}

/// What stands for a stack in one process, in groups and here: two nodes of the same frames have one.
pub fn key(stack: &[Frame]) -> String {
    let mut hasher = FxHasher::default();
    stack.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// What is alive, the most numerous first; and whether that is all of it. `None` where the process ended.
pub fn of(watched: &Watched) -> Option<(Vec<Living>, bool)> {
    let mut made = watched.inspector.made()?;
    made.sort_unstable_by_key(|made| std::cmp::Reverse((made.frames.cast_signed(), made.payload_bytes.cast_signed())));
    let all = made.len() <= MOST;
    made.truncate(MOST);
    let mut names = watched.names.lock().unwrap_or_else(PoisonError::into_inner);
    let new: Vec<u32> = made.iter().map(|made| made.stack).filter(|stack| !names.contains_key(stack)).collect();
    if !new.is_empty()
        && let Some(named) = watched.inspector.names(&new)
    {
        if names.len() > MOST_NAMES {
            names.clear();
        }
        for (stack, frames) in new.into_iter().zip(named) {
            let place = brief::blamed_of(&frames).map(brief::site).unwrap_or_default();
            let callers = brief::clean(&brief::callers(&frames, CALLERS));
            names.insert(stack, Name { key: key(&frames), place: brief::clean(&place), callers });
        }
    }
    Some((sums(&made, &names), all))
}

fn sums(made: &[Made], names: &Names) -> Vec<Living> {
    let mut sums: FxHashMap<(&str, &str), Living> = FxHashMap::default();
    let mut add = |made: &Made, object: &'static str, count: u32, bytes: u64| {
        // A sum that wrapped: the free came before the allocation that it ends.
        if count.cast_signed() <= 0 {
            return;
        }
        let name = names.get(&made.stack);
        let key = name.map_or("", |name| &name.key);
        let sum = sums.entry((key, object)).or_insert_with(|| Living {
            key: key.into(),
            object: object.into(),
            count: 0,
            bytes: 0,
            place: name.map_or_else(String::new, |name| name.place.clone()),
            callers: name.map_or_else(String::new, |name| name.callers.clone()),
        });
        sum.count += u64::from(count);
        sum.bytes = sum.bytes.saturating_add(u64::try_from(bytes.cast_signed()).unwrap_or(0));
    };
    for made in made {
        add(made, "AVFrame", made.frames, made.frame_bytes);
        add(made, "payload", made.payloads, made.payload_bytes);
    }
    let mut all: Vec<Living> = sums.into_values().collect();
    all.sort_unstable_by(|a, b| (b.count, &a.key, &a.object).cmp(&(a.count, &b.key, &b.object)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::own;

    #[test]
    fn nodes_of_one_stack_are_one_and_what_wrapped_is_nothing() {
        let name = |key: &str| Name { key: key.into(), place: format!("at {key}"), callers: String::new() };
        let names: Names = [(1, name("a")), (2, name("a")), (3, name("b"))].into_iter().collect();
        let made = |stack, frames, payloads: u32| Made {
            stack,
            frames,
            frame_bytes: u64::from(frames) * 10,
            payloads,
            payload_bytes: u64::from(payloads) * 1000,
        };
        let made = [made(1, 2, 0), made(2, 3, 0), made(3, u32::MAX, 4), made(9, 1, 0)];
        let living = |key: &str, object: &str, count, bytes, place: &str| Living {
            key: key.into(),
            object: object.into(),
            count,
            bytes,
            place: place.into(),
            callers: String::new(),
        };
        let expected = [
            living("a", "AVFrame", 5, 50, "at a"),
            living("b", "payload", 4, 4000, "at b"),
            living("", "AVFrame", 1, 10, ""),
        ];
        assert_eq!(sums(&made, &names), expected);
    }

    #[test]
    fn stacks_of_the_same_frames_have_one_key() {
        let stack = || [own("take", "a.c", 3), own("main", "a.c", 9)];
        let (one, another) = (stack().to_vec(), stack());
        assert_eq!(key(&one), key(&another));
        assert_ne!(key(&stack()), key(&stack()[..1]));
    }
}
