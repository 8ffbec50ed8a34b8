//! The sum of many reports, as `avleak merge --json` writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::model::{Class, ClassTotals, Frame, FreeSite, Totals, Verdict};

/// `schema` of every sum written by this version: name, slash, major.
pub const FLEET_SCHEMA: &str = "avleak-fleet/1";

/// Many reports, summed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// [`FLEET_SCHEMA`].
    pub schema: String,
    /// avleak's version that wrote it.
    pub avleak: String,
    /// The worst of the processes' verdicts; a file that could not be read is inconclusive.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Files that were given, those that could not be read included.
    pub reports: u64,
    /// Processes in them.
    pub processes: u64,
    /// Of these, those with leaks.
    pub leaking: u64,
    /// Those that could not be judged.
    pub inconclusive: u64,
    /// Services, and how many processes each has.
    pub services: BTreeMap<String, u64>,
    /// Build ids of the executables.
    pub builds: Vec<String>,
    /// AVFrames made in all of them.
    pub frames_allocated: u64,
    /// AVFrames freed.
    pub frames_freed: u64,
    /// Events that were lost.
    pub events_dropped: u64,
    /// What the verdicts count.
    pub leaks: Totals,
    /// Everything alive at the checks, by class.
    pub totals: ClassTotals,
    /// Leak groups: first those that a verdict counts, then by class, pinned bytes, count.
    pub groups: Vec<FleetGroup>,
    /// Machines, those with the most pinned bytes first. `?`: reports that do not name one.
    pub hosts: Vec<Host>,
    /// Files that are no reports, or cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// What should be known beside, one sentence each.
    pub notes: Vec<String>,
}

/// One allocation stack and one class, over all processes that have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetGroup {
    /// As in the reports.
    pub id: String,
    /// Its ids in other builds.
    pub also: Vec<String>,
    /// Its class.
    pub class: Class,
    /// C type of its objects.
    pub object: String,
    /// A verdict counts it.
    pub leak: bool,
    /// Objects that the verdicts count.
    pub leaked: u64,
    /// Objects.
    pub count: u64,
    /// Objects that no lost FFmpeg object holds.
    pub outermost: u64,
    /// Bytes of the objects' own blocks.
    pub bytes: u64,
    /// Bytes of the buffers to which they hold a lost ref.
    pub pinned_bytes: u64,
    /// Age of the oldest object at its check, seconds.
    pub age_max_s: f64,
    /// Objects for each thousand frames that the processes with this group allocated.
    pub per_1000_frames: f64,
    /// Processes with this group.
    pub processes: u64,
    /// Hosts with this group; reports without a host are not counted.
    pub hosts: u64,
    /// Services with this group.
    pub services: Vec<String>,
    /// Build ids of the executables with this group.
    pub builds: Vec<String>,
    /// The processes with the most of it.
    pub most: Vec<Place>,
    /// Who allocated, innermost first, as one of the reports has it.
    pub stack: Vec<Frame>,
    /// Where its siblings were freed, as one of the reports has it.
    pub freed_elsewhere: Vec<FreeSite>,
}

/// A process with much of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its machine, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// Its service, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<String>,
    /// Process id there.
    pub pid: u32,
    /// Path of the executable.
    pub exe: String,
    /// Objects of the group.
    pub count: u64,
    /// Bytes that they pin.
    pub pinned_bytes: u64,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub host: String,
    /// Processes reported.
    pub processes: u64,
    /// Of these, those with leaks.
    pub leaking: u64,
    /// Leaked AVFrames.
    pub frames: u64,
    /// Leaked blocks.
    pub blocks: u64,
    /// Bytes pinned by what leaked.
    pub pinned_bytes: u64,
}

/// A file that was given and is not in the sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its path as it was given.
    pub file: String,
    /// Why: one line.
    pub reason: String,
}
