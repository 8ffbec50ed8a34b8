//! What a report concludes: which objects count, what the verdict is and why, and what `avleak run` exits with.
//!
//! **Architecture Invariant:** "clean" is said only when it was observed. Where nothing was seen, or something was lost on
//! the way, the answer is "inconclusive"; where leaks were found all the same, it is "leaks" with a caveat. "Leaks" is not said
//! where they may all be blocks whose ends were dropped.

use super::model::{
    Class, Completeness, Ended, ExitStatus, Level, MemoryMeans, Observed, Report, RunReport, Totals, Verdict,
};
use super::words::{contents, counted, grouped, listed};
use crate::kind::ObjectKind;

/// `schema` of every run report written by this version: name, slash, major.
pub const RUN_SCHEMA: &str = "avleak-run/1";

/// avleak's exit status where no leak was found and everything was seen.
pub const EXIT_CLEAN: i32 = 0;
/// avleak's exit status on its own error or wrong usage.
pub const EXIT_AVLEAK: i32 = 2;
/// avleak's exit status where not everything was seen and no leak was found.
pub const EXIT_INCONCLUSIVE: i32 = 3;

/// Whether the verdict counts an object at `level`. `outermost`: no lost FFmpeg object holds it.
pub fn judge(level: Level, class: Class, kind: ObjectKind, outermost: bool) -> bool {
    let object = kind.is_object();
    let normal = object && (class == Class::DefinitelyLost || (class == Class::IndirectlyLost && outermost));
    let strict = class == Class::DefinitelyLost || (object && class == Class::PossiblyLost);
    match level {
        Level::Normal => normal,
        Level::Strict => normal || strict,
        Level::Draconian => normal || strict || object,
    }
}

/// Something that kept avleak from seeing everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blind {
    /// What happened, a clause without a full stop: `312 events were dropped`.
    pub what: String,
    /// What to do about it, likewise.
    pub remedy: &'static str,
}

const PERMISSION: &str = "run avleak as the same user or as root, set /proc/sys/kernel/yama/ptrace_scope to 0, or give the container CAP_SYS_PTRACE";

/// What to do about memory that was not read, by the reason's own words.
fn remedy_for(why: &str) -> &'static str {
    let speaks_of = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if speaks_of(&["ptrace=0"]) {
        "leave ptrace=0 out of AVLEAK_OPTIONS"
    } else if speaks_of(&["interrupted"]) {
        "let the check finish: a Ctrl-C during it ends it"
    } else if speaks_of(&["still ran"]) {
        "end the process before the wait is ended"
    } else if speaks_of(&["execve"]) {
        "check the program that it becomes, or end it before"
    } else if speaks_of(&["already traced", "traced by"]) {
        "run it without the other tracer (gdb, strace)"
    } else if speaks_of(&["EPERM", "denied", "not permitted", "not allowed", "EACCES"]) {
        PERMISSION
    } else {
        "run it again; where that repeats itself, look at the notes of the report"
    }
}

/// Everything that forbids to say "clean", the worst first; empty where all was seen.
pub fn blind_spots(observed: &Observed, completeness: &Completeness) -> Vec<Blind> {
    let mut found = Vec::new();
    let mut add = |what: String, remedy: &'static str| found.push(Blind { what, remedy });
    let objects = observed.frames_allocated.saturating_add(observed.packets_allocated);
    let api_frames = observed.calls.get("av_frame_alloc").copied().unwrap_or(0);
    // A call may be counted whose allocation is not yet: at most one a thread, where the process was stopped between the two.
    if api_frames > observed.frames_allocated.saturating_add(observed.threads) {
        add(
            format!(
                "{} of av_frame_alloc were seen but only {} among the allocations",
                counted(api_frames, "call"),
                counted(observed.frames_allocated, "frame")
            ),
            "FFmpeg's malloc is out of avleak's reach (RTLD_DEEPBIND, --malloc-prefix, an allocator linked in): load or build it without",
        );
    } else if objects.saturating_add(observed.objects_allocated) == 0 {
        add(
            "no FFmpeg object was seen".to_string(),
            "check that the program uses FFmpeg and is linked dynamically: a static, musl or setuid program does not load libavleak.so",
        );
    }
    if completeness.memory == MemoryMeans::None {
        match &completeness.memory_reason {
            Some(why) => add(format!("the process's memory was not read: {why}"), remedy_for(why)),
            None => add("the process's memory could not be read".to_string(), PERMISSION),
        }
    }
    if completeness.hidden_libraries > 0 {
        add(
            format!("{} of libavutil out of reach", counted(completeness.hidden_libraries, "copy")),
            "load it without dlmopen",
        );
    }
    if observed.events_dropped > 0 {
        let were = if observed.events_dropped == 1 { "was" } else { "were" };
        add(
            format!("{} {were} dropped", counted(observed.events_dropped, "event")),
            "the analyzer could not keep up: give it a free CPU, or run fewer processes at once",
        );
    }
    if completeness.untyped_stacks > 0 {
        add(
            format!("{} could not be unwound", counted(completeness.untyped_stacks, "stack")),
            "threads of the program have very small stacks: give them 32 KiB more (pthread_attr_setstacksize, ulimit -s)",
        );
    }
    if completeness.corrupt_rings > 0 {
        let were = if completeness.corrupt_rings == 1 { "was" } else { "were" };
        add(
            format!("{} {were} corrupt", counted(completeness.corrupt_rings, "event ring")),
            "the program may have overwritten memory that is not its own: try it under ASan or Valgrind",
        );
    }
    if completeness.unreadable_bytes > 0 {
        add(
            format!("{} of memory could not be read", counted(completeness.unreadable_bytes, "byte")),
            "the OOM killer or a device took the pages: give the program more memory and run it again",
        );
    }
    found
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What was found.
    pub verdict: Verdict,
    /// Why, in one sentence without a full stop.
    pub reason: String,
}

/// The verdict over one process. `leaks` is what [`judge`] counted at `level`.
pub fn verdict(level: Level, leaks: &Totals, observed: &Observed, completeness: &Completeness) -> Judgement {
    let blind: Vec<String> = blind_spots(observed, completeness).into_iter().map(|b| b.what).collect();
    // The end of a block may be among the events that were dropped: each makes one block seem lost at most. Of a corrupt ring nobody
    // knows how many there were.
    let unseen = if completeness.corrupt_rings > 0 { u64::MAX } else { observed.events_dropped };
    let doubtful = any(leaks) && unseen > 0 && objects(leaks) <= unseen;
    let verdict = match (any(leaks) && !doubtful, blind.is_empty()) {
        (true, _) => Verdict::Leaks,
        (false, true) => Verdict::Clean,
        (false, false) => Verdict::Inconclusive,
    };
    let reason = match verdict {
        Verdict::Leaks => {
            let how = match level {
                Level::Normal => "lost",
                Level::Strict => "lost or possibly lost",
                Level::Draconian => "still alive at the end",
            };
            // Without memory only what a check before the end had judged lost is counted, and that is certain.
            let (how, limits) = match completeness.memory {
                MemoryMeans::None => ("lost by the last check before the end, and never given back", "more"),
                _ => (how, "more or fewer"),
            };
            let mut reason = format!("{}: {how}", contents(leaks));
            if !blind.is_empty() {
                reason.push_str(&format!("; not everything was seen, there may be {limits}: "));
                reason.push_str(&listed(&blind));
            }
            reason
        }
        Verdict::Clean => {
            let what = match level {
                Level::Normal => "no FFmpeg object is lost",
                Level::Strict => "no FFmpeg object is lost or possibly lost, and no block is definitely lost",
                Level::Draconian => "no FFmpeg object was alive at the end",
            };
            format!(
                "{what}: {} allocated, {} freed, 0 events dropped",
                counted(observed.frames_allocated, "frame"),
                grouped(observed.frames_freed)
            )
        }
        Verdict::Inconclusive if doubtful => format!(
            "{}: lost as far as was seen, but the events that gave them back may be among those that were not: {}",
            contents(leaks),
            listed(&blind)
        ),
        Verdict::Inconclusive => format!("no leak was found, but not everything was seen: {}", listed(&blind)),
    };
    Judgement { verdict, reason }
}

/// Blocks that are counted, each of which one event would have ended.
fn objects(t: &Totals) -> u64 {
    [t.frames, t.packets, t.buffer_refs, t.contexts].into_iter().fold(0, u64::saturating_add).max(t.blocks)
}

fn any(t: &Totals) -> bool {
    t.frames | t.packets | t.buffer_refs | t.contexts | t.blocks | t.pinned_bytes != 0
}

/// What `avleak run` exits with. `ended`: how the program ended (`None`, or an exec: nobody knows, so it decides nothing).
/// `verdict`: `None` where avleak failed itself. `error_exitcode`: that of `--error-exitcode`.
///
/// The program's own failure wins (128 + signal for a signal), so that a wrapped test command fails as it would alone.
pub fn exit_status(ended: Option<Ended>, verdict: Option<Verdict>, error_exitcode: i32) -> ExitStatus {
    let program = match ended {
        Some(Ended::Exit(status)) => status & 0xff,
        Some(Ended::Signal(signal)) => 128 + (signal & 0x7f),
        Some(Ended::Exec(_)) | None => 0,
    };
    let (code, by) = match (program, verdict) {
        (1.., _) => (program, "program"),
        (_, None) => (EXIT_AVLEAK, "avleak"),
        (_, Some(Verdict::Clean)) => (EXIT_CLEAN, "clean"),
        (_, Some(Verdict::Leaks)) => (error_exitcode, "leaks"),
        (_, Some(Verdict::Inconclusive)) => (EXIT_INCONCLUSIVE, "inconclusive"),
    };
    ExitStatus { code, decided_by: by.to_string() }
}

/// The verdict over all processes of a command: leaks if one leaks, else inconclusive if one is or there is none.
pub fn run_verdict(processes: &[Report]) -> Judgement {
    let with = |v: Verdict| processes.iter().filter(move |p| p.verdict == v).count() as u64;
    let total = processes.len() as u64;
    if total == 0 {
        let reason = "no process used FFmpeg, or libavleak.so was not loaded into it".to_string();
        return Judgement { verdict: Verdict::Inconclusive, reason };
    }
    let (verdict, bad) = if with(Verdict::Leaks) > 0 {
        (Verdict::Leaks, format!("{} leaked", with(Verdict::Leaks)))
    } else if with(Verdict::Inconclusive) > 0 {
        (Verdict::Inconclusive, format!("{} could not be judged", with(Verdict::Inconclusive)))
    } else {
        (Verdict::Clean, "none leaked".to_string())
    };
    let reason = match processes {
        [only] => only.reason.clone(),
        _ => format!("of {} processes that used FFmpeg, {bad}", grouped(total)),
    };
    Judgement { verdict, reason }
}

/// The report over a command and all its processes that used FFmpeg, with its exit status.
pub fn sum_up(argv: Vec<String>, ended: Option<Ended>, error_exitcode: i32, processes: Vec<Report>) -> RunReport {
    let Judgement { verdict, reason } = run_verdict(&processes);
    let leaks = processes.iter().fold(Totals::default(), |sum, p| add(sum, &p.leaks));
    let exit = exit_status(ended, Some(verdict), error_exitcode);
    RunReport { schema: RUN_SCHEMA.to_string(), verdict, reason, argv, ended, exit, leaks, processes, gate: None }
}

/// The sum of both, kind by kind.
pub fn add(a: Totals, b: &Totals) -> Totals {
    Totals {
        frames: a.frames.saturating_add(b.frames),
        packets: a.packets.saturating_add(b.packets),
        buffer_refs: a.buffer_refs.saturating_add(b.buffer_refs),
        contexts: a.contexts.saturating_add(b.contexts),
        blocks: a.blocks.saturating_add(b.blocks),
        bytes: a.bytes.saturating_add(b.bytes),
        pinned_bytes: a.pinned_bytes.saturating_add(b.pinned_bytes),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
