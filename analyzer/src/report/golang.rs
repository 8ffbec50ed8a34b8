//! Go's part of a report: its runtimes, and the goroutines that hold frames.

use serde::{Deserialize, Serialize};

use super::model::Frame;

/// What there is of Go in a process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Go {
    /// A program has one; each Go library that it loads has another.
    pub runtimes: Vec<GoRuntime>,
    /// Goroutines that are alive, less those of the runtime itself.
    pub goroutines: u64,
    /// Those that hold frames or packets, by stack, the largest holders first: from their stacks, or from objects to which nothing else
    /// leads. Such objects are reachable for as long as their goroutine is there; one that never ends leaks them.
    pub holding: Vec<GoroutineGroup>,
}

/// One Go runtime.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GoRuntime {
    /// The file's name.
    pub module: String,
    /// Such as `go1.27`; absent where the file does not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Its heap was searched as Go's collector would; where it was not, what only it holds is possibly lost.
    pub judged: bool,
    /// Why not: a clause.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Objects of its heap that the program can still get at.
    pub objects_reached: u64,
    /// Bytes of its heap that are in use, reached or not.
    pub heap_bytes: u64,
}

/// Goroutines of one stack that hold something.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GoroutineGroup {
    /// What they do: `chan receive`, `chan send`, `select`, `sleep`, `sync`, `IO wait`, `in a call`, `running`, `runnable`, `waiting`.
    pub state: String,
    /// How many.
    pub count: u64,
    /// The lowest of their numbers, as Go's own tracebacks show it.
    pub example: u64,
    /// AVFrames that they hold.
    pub frames: u64,
    /// AVPackets that they hold.
    pub packets: u64,
    /// Age of the youngest of these at the check, seconds.
    pub age_min_s: f64,
    /// Age of the oldest.
    pub age_max_s: f64,
    /// Their stack, innermost first.
    pub stack: Vec<Frame>,
    /// The go statement that started them; absent for the main goroutine.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created_by: Option<Frame>,
}
