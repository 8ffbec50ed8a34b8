//! Leak groups: their stable ids and their order.

use super::model::{Class, Group};
use std::fmt;

/// The id of a leak group: the same for the same object kind, class and stack, whatever the run or the machine.
///
/// # Algorithm
/// [FNV-1a, 64 bit](http://www.isthe.com/chongo/tech/comp/fnv/) (offset basis `0xcbf29ce484222325`, prime `0x100000001b3`) over
/// these bytes, in this order:
/// 1. `avleak-group/1` and a zero byte;
/// 2. the object kind's name as reports show it (`AVFrame`) and a zero byte;
/// 3. the class as JSON names it (`definitely_lost`) and a zero byte;
/// 4. each stack frame's stable key, innermost first, eight bytes little-endian each.
///
/// It is written as 16 lower-case hex digits. A change of any of this changes the number after `avleak-group/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// From the object kind's name, the class, and the frames' stable keys, innermost first.
    pub fn of(kind_name: &str, class: Class, keys: impl IntoIterator<Item = u64>) -> Self {
        let mut hash = Fnv::new();
        for text in ["avleak-group/1", kind_name, class.key()] {
            hash.write(text.as_bytes());
            hash.write(&[0]);
        }
        for key in keys {
            hash.write(&key.to_le_bytes());
        }
        Self(hash.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Puts groups in the report's order: first those that the verdict counts, then by class (definitely lost first), then by
/// pinned bytes, count and bytes, most first; ids decide ties, so the order is the same in every run.
pub fn sort(groups: &mut [Group]) {
    groups.sort_by(|a, b| {
        (b.leak.cmp(&a.leak))
            .then(a.class.cmp(&b.class))
            .then(b.pinned_bytes.cmp(&a.pinned_bytes))
            .then(b.count.cmp(&a.count))
            .then(b.bytes.cmp(&a.bytes))
            .then_with(|| a.id.cmp(&b.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn fnv_matches_its_published_vectors() {
        for (text, expected) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8_u64)]
        {
            let mut hash = Fnv::new();
            hash.write(text.as_bytes());
            assert_eq!(hash.0, expected, "{text:?}");
        }
    }

    // These values are kept by whoever stores reports: they change only together with `avleak-group/N`.
    #[test]
    fn ids_have_not_changed() {
        let golden = [
            (GroupId::of("AVFrame", Class::DefinitelyLost, []), "baff7e23c6800673"),
            (GroupId::of("AVFrame", Class::DefinitelyLost, [1, 2, 3]), "ad69561505cc5313"),
            (GroupId::of("block", Class::StillReachable, [u64::MAX]), "5bddef133c9599cc"),
        ];
        for (id, expected) in golden {
            assert_eq!(id.to_string(), expected);
        }
    }

    #[test]
    fn every_part_counts() {
        let id = GroupId::of("AVFrame", Class::DefinitelyLost, [1, 2]);
        assert_ne!(id, GroupId::of("AVPacket", Class::DefinitelyLost, [1, 2]));
        assert_ne!(id, GroupId::of("AVFrame", Class::IndirectlyLost, [1, 2]));
        assert_ne!(id, GroupId::of("AVFrame", Class::DefinitelyLost, [2, 1]));
        assert_ne!(id, GroupId::of("AVFrame", Class::DefinitelyLost, [1]));
        assert_ne!(id, GroupId::of("AVFrame", Class::DefinitelyLost, [1, 2, 0]));
        assert_eq!(GroupId(0x1f).to_string(), "000000000000001f");
    }

    #[test]
    fn counted_groups_come_first_then_the_worst_class_then_the_most_memory() {
        let group = |id: &str, leak, class, pinned_bytes, count| Group {
            id: id.to_string(),
            leak,
            class,
            pinned_bytes,
            count,
            ..sample::plain_group()
        };
        let mut groups = vec![
            group("e", false, Class::DefinitelyLost, 9, 9),
            group("c", true, Class::PossiblyLost, 900, 1),
            group("b", true, Class::DefinitelyLost, 10, 2),
            group("bb", true, Class::DefinitelyLost, 10, 2),
            group("a", true, Class::DefinitelyLost, 10, 3),
            group("0", true, Class::DefinitelyLost, 20, 1),
        ];
        sort(&mut groups);
        let order: Vec<&str> = groups.iter().map(|g| g.id.as_str()).collect();
        assert_eq!(order, ["0", "a", "b", "bb", "c", "e"]);
    }
}
