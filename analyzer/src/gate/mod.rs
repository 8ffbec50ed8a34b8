//! What a report's verdict lets through: suppressions, a baseline of known leaks; and what differs between two reports.
//!
//! The way of a file: [`suppression_file`] (lines and blocks, told apart) with [`lsan`] and [`valgrind`] → [`matching`] (which
//! suppression takes which group) → [`apply`] (marks the groups, sums and judges anew). [`baseline`] is the baseline's file,
//! [`compare`] holds groups against it, [`kinship`] pairs groups whose ids differ. [`generate`] writes suppressions, [`diff`]
//! compares two reports.
//!
//! Sees only the report model: what was stored can be judged again.
//!
//! **Architecture Invariant:** nothing here turns "inconclusive" into "clean". What is let through leaves the sums, and the
//! verdict is made of what remains by the same rules as without.

pub mod apply;
pub mod baseline;
pub mod compare;
pub mod diff;
pub mod generate;
pub mod kinship;
pub mod lsan;
pub mod matching;
pub mod pattern;
pub mod suppression_file;
pub mod valgrind;

use crate::report::model::{Class, Group, Level};

/// How many of a group's objects the verdict counts where nothing is let through; 0 where it counts none.
///
/// Of indirectly lost objects the levels below draconian count only the outermost.
pub fn counted(group: &Group, level: Level) -> u64 {
    match group.class {
        _ if !would_count(group) => 0,
        Class::IndirectlyLost if level != Level::Draconian => group.outermost.clamp(1, group.count.max(1)),
        _ => group.count,
    }
}

/// The verdict counts the group, or would but for a suppression or the baseline.
pub fn would_count(group: &Group) -> bool {
    group.leak || group.suppressed_by.is_some() || group.baseline.is_some()
}
