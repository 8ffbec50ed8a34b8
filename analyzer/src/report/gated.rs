//! The model of what suppressions and a baseline let through: part of the report.

use super::model::Totals;
use serde::{Deserialize, Serialize};

/// What was let through, and by whom.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Gate {
    /// What the verdict would count without the suppressions.
    pub suppressed: Totals,
    /// What it would count, beside that, without the baseline.
    pub known: Totals,
    /// Suppressions that took something, in the order of their files.
    pub used: Vec<SuppressionUse>,
    /// Suppressions of the user's files that matched no group, counted or not.
    pub unused: Vec<SuppressionPlace>,
    /// The baseline that was held against the groups.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline: Option<BaselineSummary>,
    /// What in the files was passed over, and why.
    pub notes: Vec<String>,
}

/// Where a suppression is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SuppressionPlace {
    /// Its name; of LSan's kind, the line itself.
    pub name: String,
    /// Path as it was given, or [`BUILT_IN`].
    pub file: String,
    /// Its first line.
    pub line: u32,
}

/// `file` of the suppressions that avleak brings along.
pub const BUILT_IN: &str = "(built in)";

/// What one suppression took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionUse {
    /// Which.
    pub suppression: SuppressionPlace,
    /// Groups that would have counted.
    pub groups: u64,
    /// Their objects that would have counted.
    pub count: u64,
    /// Bytes of these objects' own blocks.
    pub bytes: u64,
}

/// How the groups that count compare with a baseline. The first four are numbers of groups, an id in several processes being
/// one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BaselineSummary {
    /// As it was given.
    pub path: String,
    /// How much a group may grow, percent of its count.
    pub slack_percent: f64,
    /// Let through.
    pub known: u64,
    /// Of those let through, those that were recognised by their stack, not by their id.
    pub moved: u64,
    /// Not in the baseline.
    pub new: u64,
    /// In the baseline with a smaller count than they have.
    pub grown: u64,
    /// In the baseline, and not seen in this run.
    pub gone: Vec<GoneGroup>,
}

/// A group of the baseline that was not seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneGroup {
    /// Its id.
    pub id: String,
    /// C type of its objects.
    pub object: String,
    /// How many the baseline lets through.
    pub count: u64,
    /// Function and line that asked for them.
    pub at: String,
}

/// What the baseline says of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InBaseline {
    /// The finding.
    pub status: BaselineStatus,
    /// Objects that the baseline lets through, slack included; 0 for a new one.
    pub allowed: u64,
    /// Objects that are held against `allowed`: of all processes of the run, and of all classes at this stack.
    pub seen: u64,
    /// The id in the baseline, where it is another one: the program was built anew, or the class changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moved_from: Option<String>,
}

/// How a group compares with the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaselineStatus {
    /// Not in it.
    New,
    /// In it, with fewer objects.
    Grown,
    /// In it, with as many objects or more: let through.
    Known,
}
