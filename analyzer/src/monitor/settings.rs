//! What a monitor is to do: how often it checks, what it alerts of, and how.

use serde::{Deserialize, Serialize};

/// Where monitoring is wished for and nothing says how often, milliseconds.
pub const DEFAULT_INTERVAL_MS: u64 = 60_000;
/// Where no threshold is set: any growth that is significant counts.
const ANY_GROWTH: u64 = 1;

/// What options say; what they leave open is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Milliseconds from check to check.
    pub interval_ms: Option<u64>,
    /// Lost frames of a group.
    pub frames: Option<u64>,
    /// Bytes that lost objects of a group pin.
    pub bytes: Option<u64>,
    /// Objects an hour.
    pub growth: Option<u64>,
    /// A program.
    pub command: Option<String>,
    /// A file for lines of JSON.
    pub file: Option<String>,
}

impl Wishes {
    /// These, and where they leave something open, `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            interval_ms: self.interval_ms.or(others.interval_ms),
            frames: self.frames.or(others.frames),
            bytes: self.bytes.or(others.bytes),
            growth: self.growth.or(others.growth),
            command: self.command.or(others.command),
            file: self.file.or(others.file),
        }
    }

    /// What that comes to; `None`: no monitoring is wished for. `folder`: for what has no other place.
    pub fn settle(self, folder: &str) -> Option<Settings> {
        if self == Self::default() {
            return None;
        }
        let silent = self.frames.is_none() && self.bytes.is_none() && self.growth.is_none();
        let file = self.file.unwrap_or_else(|| format!("{folder}/avleak.alerts.ndjson"));
        Some(Settings {
            interval_ms: self.interval_ms.unwrap_or(DEFAULT_INTERVAL_MS),
            frames: self.frames,
            bytes: self.bytes,
            growth: if silent { Some(ANY_GROWTH) } else { self.growth },
            command: self.command,
            file,
        })
    }
}

/// What a monitor is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Milliseconds from check to check.
    pub interval_ms: u64,
    /// An alert, once so many frames of a group are lost.
    pub frames: Option<u64>,
    /// An alert, once lost objects of a group pin so many bytes.
    pub bytes: Option<u64>,
    /// An alert, once a group grows by so many objects an hour.
    pub growth: Option<u64>,
    /// The program to start at an alert.
    pub command: Option<String>,
    /// Each alert adds a line here. Reports at the alert lie beside it.
    pub file: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wished_for_unless_something_is() {
        assert_eq!(Wishes::default().or(Wishes::default()).settle("/log"), None);
        let some = Wishes { frames: Some(3), ..Wishes::default() };
        let more = Wishes { frames: Some(9), interval_ms: Some(500), ..Wishes::default() };
        let settled = some.or(more).settle("/log").expect("settings");
        assert_eq!((settled.interval_ms, settled.frames, settled.growth), (500, Some(3), None));
        assert_eq!(settled.file, "/log/avleak.alerts.ndjson");
        let only = Wishes { interval_ms: Some(500), ..Wishes::default() }.settle("/log").expect("settings");
        assert_eq!((only.frames, only.bytes, only.growth), (None, None, Some(ANY_GROWTH)));
    }
}
