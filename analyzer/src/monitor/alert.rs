//! An alert: one line of JSON, and the same in words.

use serde::{Deserialize, Serialize};

use super::series::{Growth, Sample, Series};
use crate::render::brief;
use crate::report::model::{Check, Class, Report, Totals};

/// `schema` of every alert of this version.
pub const SCHEMA: &str = "avleak-alert/1";
/// Checks that an alert shows.
const SHOWN: usize = 16;

/// What brought an alert about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// `alert_frames`.
    Frames,
    /// `alert_bytes`.
    Bytes,
    /// `alert_growth`.
    Growth,
}

impl Reason {
    /// As JSON names it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Bytes => "bytes",
            Self::Growth => "growth",
        }
    }
}

/// One alert. Its JSON form is described in `docs/monitoring.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the check began, RFC 3339, UTC.
    pub time: String,
    /// Process id.
    pub pid: u32,
    /// File name of its executable.
    pub process: String,
    /// What brought it about.
    pub reasons: Vec<Reason>,
    /// The same for people: one line.
    pub message: String,
    /// Whom it is about; absent where that is the whole process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<About>,
    /// Objects: of the group, or lost frames of the process, or goroutines.
    pub count: u64,
    /// Bytes that they pin.
    pub pinned_bytes: u64,
    /// Age of the youngest and of the oldest, seconds.
    pub age_s: [f64; 2],
    /// How it grows; absent where no growth is significant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth: Option<PerHour>,
    /// Everything that is lost in the process.
    pub leaks: Totals,
    /// Go's goroutines, and how they grow; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goroutines: Option<Goroutines>,
    /// How the check went.
    pub check: Check,
    /// Checks of this process so far.
    pub checks: u64,
    /// Checks that came to nothing.
    pub checks_failed: u64,
    /// The last checks, oldest first.
    pub samples: Vec<Sample>,
    /// The report of this check; absent where it could not be written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub report: Option<String>,
}

/// A leak group, or Go's goroutines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// As in reports; `goroutines`.
    pub id: String,
    /// `AVFrame`; `goroutine`.
    pub object: String,
    /// Absent of goroutines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<Class>,
}

/// Growth as people count it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PerHour {
    /// Objects an hour: the median slope of all pairs of checks.
    pub per_hour: f64,
    /// The probability that chance alone shows so much of a rise.
    pub p: f64,
    /// Over so many checks.
    pub checks: usize,
}

impl From<Growth> for PerHour {
    fn from(growth: Growth) -> Self {
        Self { per_hour: growth.per_second * 3600.0, p: growth.p, checks: growth.checks }
    }
}

/// Go's goroutines.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Goroutines {
    /// Alive, less those of the runtime itself.
    pub count: u64,
    /// How they grow; absent where no growth is significant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth: Option<PerHour>,
}

/// What an alert says of the one whom it is about.
pub struct Finding<'a> {
    /// Why.
    pub reasons: Vec<Reason>,
    /// Who; `None`: the whole process.
    pub about: Option<About>,
    /// In words.
    pub what: String,
    /// At this check.
    pub now: Sample,
    /// Its growth.
    pub growth: Option<Growth>,
    /// Its checks.
    pub series: Option<&'a Series>,
}

impl Alert {
    /// From what was found at the check of `report`.
    pub fn of(finding: Finding<'_>, report: &Report, goroutines: Option<Goroutines>, checks: (u64, u64)) -> Self {
        let Finding { reasons, about, what, now, growth, series } = finding;
        let growth = growth.map(PerHour::from);
        let grows = growth.map_or_else(String::new, |growth| format!(", {:.0} more an hour", growth.per_hour));
        let exe = report.target.exe.rsplit('/').next().unwrap_or_default().to_owned();
        let all: Vec<Sample> = series.iter().flat_map(|series| series.samples().copied()).collect();
        Self {
            schema: SCHEMA.into(),
            time: report.check.started.clone(),
            pid: report.target.pid,
            message: brief::clean(&format!("{exe} (pid {}): {what}{grows}", report.target.pid)),
            process: exe,
            reasons,
            group: about,
            count: now.count,
            pinned_bytes: now.pinned_bytes,
            age_s: [now.age_min_s, now.age_max_s],
            growth,
            leaks: report.leaks,
            goroutines,
            check: report.check.clone(),
            checks: checks.0,
            checks_failed: checks.1,
            samples: all[all.len().saturating_sub(SHOWN)..].to_vec(),
            report: None,
        }
    }
}
