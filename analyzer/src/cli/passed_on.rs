//! What an analyzer's checks of a process that runs on have come to, for the next analyzer: the keeper holds it.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::check::inspector::{Inspector, Tally};
use crate::monitor::Monitor;

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PassedOn {
    /// How many checks there were.
    pub tally: Tally,
    /// What its monitor knows.
    pub monitor: Option<Vec<u8>>,
}

impl PassedOn {
    /// What another analyzer left.
    pub fn read(left: Option<&[u8]>) -> Self {
        left.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default()
    }

    /// As it stands now, as bytes.
    pub fn write(inspector: &Inspector, monitor: Option<&Arc<Mutex<Monitor>>>) -> Vec<u8> {
        let monitor = monitor.map(|monitor| monitor.lock().unwrap_or_else(PoisonError::into_inner).state());
        // It holds no maps, and no serializer that fails.
        postcard::to_stdvec(&Self { tally: inspector.tally(), monitor }).unwrap_or_default()
    }
}
