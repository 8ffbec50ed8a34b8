//! The report where avleak itself failed: nothing is claimed.

use super::model::{
    Check, ClassTotals, Completeness, Ended, Level, MemoryMeans, Observed, Report, SCHEMA, Target, Totals, Verdict,
};
use super::origin::Origin;
use std::time::SystemTime;

impl Report {
    /// Of a process that avleak could not follow to its end; `why`: one line.
    pub fn of_failure(pid: i32, exe: &str, argv: Vec<String>, ended: Option<Ended>, level: Level, why: &str) -> Self {
        // When that was is not known any more, but a report has its times.
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let origin = Origin::default();
        Self {
            schema: SCHEMA.into(),
            avleak: env!("CARGO_PKG_VERSION").into(),
            verdict: Verdict::Inconclusive,
            reason: "avleak failed while it followed the process; please report this".into(),
            level,
            target: Target {
                pid: pid as u32,
                exe: exe.into(),
                argv,
                ended,
                started: now.clone(),
                duration_s: 0.0,
                origin,
            },
            observed: Observed::default(),
            leaks: Totals::default(),
            totals: ClassTotals::default(),
            groups: Vec::new(),
            modules: Vec::new(),
            completeness: Completeness {
                memory: MemoryMeans::None,
                memory_reason: Some("avleak failed".into()),
                hidden_libraries: 0,
                unreadable_bytes: 0,
                corrupt_rings: 0,
                incomplete_stacks: 0,
                untyped_stacks: 0,
                disagreements: Vec::new(),
                notes: vec![why.into()],
            },
            check: Check { started: now, ..Check::default() },
            timeline: None,
            go: None,
            post_mortem: None,
            exit: None,
            gate: None,
        }
    }
}
