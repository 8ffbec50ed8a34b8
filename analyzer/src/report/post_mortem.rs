//! What a report says of a process whose memory nobody could look at when it ended.

use serde::{Deserialize, Serialize};

use super::model::{Class, Frame};

/// See the module. Each part is absent where it is not known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PostMortem {
    /// The last whole check while it lived. What that judged lost, and was never given back, stands in the groups with its class of then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_check: Option<LastCheck>,
    /// What its monitor saw growing at one of its last 48 checks, and was not fewer at the last one. The steepest first.
    #[serde(default)]
    pub grew: Vec<Grown>,
    /// The kernel wrote a core, or handed one to whoever takes them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dumped_core: Option<bool>,
    /// The session's file: with it and a core the classes are found after all (`avleak core`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
}

impl PostMortem {
    /// There is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.last_check.is_none() && self.grew.is_empty() && self.session.is_none() && self.dumped_core != Some(true)
    }
}

/// A check while the process lived.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LastCheck {
    /// RFC 3339, UTC.
    pub started: String,
    /// How long before the end it was, seconds.
    pub before_end_s: f64,
    /// FFmpeg objects that it judged definitely or indirectly lost.
    pub lost: u64,
    /// Of those, how many were given back all the same: about them it was wrong, or somebody guessed their address.
    pub freed_since: u64,
}

/// A group that grew, lost or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grown {
    /// The group's id then.
    pub group: String,
    /// Its class then.
    pub class: Class,
    /// C type of its objects.
    pub object: String,
    /// Objects at the last check at which it grew.
    pub count: u64,
    /// Objects an hour.
    pub per_hour: f64,
    /// Over so many checks.
    pub checks: u64,
    /// How many checks before the last one it was last seen growing; 0 at that one.
    #[serde(default)]
    pub checks_ago: u64,
    /// Who allocated, innermost first.
    pub stack: Vec<Frame>,
}
