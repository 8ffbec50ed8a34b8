//! Where a report comes from: what tells the processes of many machines apart, and which of them belong together.

use serde::{Deserialize, Serialize};

/// Host, service and build of a process. Each is absent where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The machine's name (uname -n); in a container the container's, in Kubernetes the pod's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// What the process is part of: `service=` in AVLEAK_OPTIONS, else OTEL_SERVICE_NAME, else its systemd unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<String>,
    /// GNU build id of the executable, lower-case hex digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub build_id: Option<String>,
}
