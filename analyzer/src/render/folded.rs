//! Folded stacks: one line a leak group, outermost frame first, as flamegraph.pl, inferno and speedscope read them.
//!
//! `main;decode_one;av_frame_alloc;[AVFrame definitely lost] 373248000`. The innermost frame says what was allocated, so that
//! the call tree above it stays whole; where a report has several processes, the outermost one names the process, as perf's
//! stacks do. A `;` inside a name (Rust's `[u8; 4]`) is written `:`.

use super::brief;
use super::load::AnyReport;
use super::stack::{self, Whose};
use crate::report::model::{Frame, Group};
use std::collections::HashMap;
use std::fmt::Write;

/// What the width of a flame, and the number of a folded line, stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Weight {
    /// Bytes of the buffers that leaked objects pin
    Pinned,
    /// Leaked objects
    Count,
}

impl Weight {
    /// Pinned bytes, unless nothing is pinned: then objects, for leaked shells should be seen too.
    pub fn fitting<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Self {
        let pins = |group: &Group| group.leak && Self::Pinned.of(group) > 0;
        if groups.into_iter().any(pins) { Self::Pinned } else { Self::Count }
    }

    /// Of one group. What a group pins counts only where some of its objects are outermost: a lost frame and the lost refs that it
    /// holds pin the same buffers. (Two groups of outermost objects that share a buffer both count it.)
    pub fn of(self, group: &Group) -> u64 {
        match self {
            Self::Pinned if group.outermost == 0 => 0,
            Self::Pinned => group.pinned_bytes,
            Self::Count => group.count,
        }
    }

    /// `bytes` or `objects`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Pinned => "bytes",
            Self::Count => "objects",
        }
    }
}

/// Folded stacks, and whose code the frames in them are.
#[derive(Debug, Default)]
pub struct Folded {
    /// Stack, a space, weight.
    pub lines: Vec<String>,
    /// By the frame's name as it stands in the lines.
    pub(super) whose: HashMap<String, Whose>,
    /// Sum of the weights.
    pub total: u64,
}

impl Folded {
    /// Adds the leak groups of one process below a frame named `root`; groups without weight leave no line.
    pub fn add<'a>(&mut self, root: Option<&str>, groups: impl IntoIterator<Item = &'a Group>, weight: Weight) {
        for group in groups.into_iter().filter(|group| group.leak && weight.of(group) > 0) {
            let mut line = String::new();
            if let Some(root) = root {
                line.push_str(&plain(root));
                line.push(';');
            }
            if group.stack.is_empty() {
                line.push_str("[stack not recorded];");
            }
            for frame in group.stack.iter().rev() {
                self.push(&mut line, frame);
            }
            // Ends with a bracket: a name that ended with a number could be taken for the first of two weights.
            let _ = write!(line, "[{} {}] {}", plain(&group.object), group.class.phrase(), weight.of(group));
            self.total = self.total.saturating_add(weight.of(group));
            self.lines.push(line);
        }
    }

    fn push(&mut self, line: &mut String, frame: &Frame) {
        let name = plain(&stack::name(frame));
        line.push_str(&name);
        line.push(';');
        self.whose.entry(name).or_insert_with(|| stack::whose(frame));
    }

    /// Of every process in a report.
    pub fn of(report: &AnyReport, weight: Weight) -> Self {
        let mut folded = Self::default();
        let processes = report.processes();
        for process in processes {
            let title = (processes.len() > 1).then(|| brief::title(process));
            folded.add(title.as_deref(), &process.groups, weight);
        }
        folded
    }
}

/// Nothing that has a meaning in a folded line; nothing that XML forbids.
fn plain(name: &str) -> String {
    brief::clean(name).replace(';', ":")
}

/// The whole file: sorted, for the same leaks give the same file whatever their order was.
pub fn folded(report: &AnyReport, weight: Weight) -> String {
    let mut lines = Folded::of(report, weight).lines;
    lines.sort_unstable();
    lines.into_iter().fold(String::new(), |text, line| text + &line + "\n")
}
