//! The report model: the one thing that every rendering reads. Its JSON form is `docs/report.schema.json`.

use super::gated::{Gate, InBaseline};
use serde::{Deserialize, Serialize};

/// `schema` of every report written by this version: name, slash, major.
pub const SCHEMA: &str = "avleak-report/1";

/// The report of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// avleak's version that wrote it.
    pub avleak: String,
    /// What was found, at `level`.
    pub verdict: Verdict,
    /// Why the verdict is what it is, in one sentence a person reads.
    pub reason: String,
    /// What counts as a leak.
    pub level: Level,
    /// The process.
    pub target: Target,
    /// What was seen of it.
    pub observed: Observed,
    /// What the verdict counts at this level.
    pub leaks: Totals,
    /// Everything alive at the check, by class.
    pub totals: ClassTotals,
    /// Leak groups: first those the verdict counts, then by class, pinned bytes, count.
    pub groups: Vec<Group>,
    /// The modules whose code stands in the groups' stacks, by address.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// What avleak could not see.
    pub completeness: Completeness,
    /// How the check went.
    pub check: Check,
    /// What was alive over the run; absent where it was not sampled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<super::timeline::Timeline>,
    /// Go's runtimes and goroutines; absent where there are none, or memory was not read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub go: Option<super::golang::Go>,
    /// What is known of a process whose memory nobody could look at when it ended; absent where there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub post_mortem: Option<super::post_mortem::PostMortem>,
    /// What `avleak run` exited with, and what decided it; absent in a bare preload's report.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<ExitStatus>,
    /// What suppressions and a baseline let through; absent where nothing was, and no file was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<Gate>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// FFmpeg was used, everything was seen, nothing is leaked at this level.
    Clean,
    /// Leaks were found.
    Leaks,
    /// Nothing was found, but not everything was seen.
    Inconclusive,
}

/// What counts as a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every outermost lost FFmpeg object.
    #[default]
    Normal,
    /// Also possibly lost ones and every definitely lost block.
    Strict,
    /// Also every FFmpeg object alive at the end.
    Draconian,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Process id.
    pub pid: u32,
    /// Path of the executable.
    pub exe: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// How it ended; absent where it still ran or nobody saw it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<Ended>,
    /// When avleak armed in it, RFC 3339, UTC.
    pub started: String,
    /// From arming to the check, seconds.
    pub duration_s: f64,
    /// Host, service, build.
    #[serde(flatten)]
    pub origin: super::origin::Origin,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It replaced itself by another program (execve).
    Exec(bool),
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Every AVFrame made since arming, inside libav too.
    pub frames_allocated: u64,
    /// Every AVFrame freed.
    pub frames_freed: u64,
    /// Every AVPacket made.
    pub packets_allocated: u64,
    /// Every AVPacket freed.
    #[serde(default)]
    pub packets_freed: u64,
    /// Every FFmpeg object made: frames, packets, refs, buffers, pools, contexts … 0 where it was not counted.
    #[serde(default)]
    pub objects_allocated: u64,
    /// Blocks returned by the malloc family since arming.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Of the allocations, those that were given back young, so that neither event ever left the process.
    #[serde(default)]
    pub cancelled_young: u64,
    /// Events that were lost.
    pub events_dropped: u64,
    /// Threads that recorded something.
    pub threads: u64,
    /// Most blocks alive at once.
    #[serde(default)]
    pub peak_blocks: u64,
    /// Calls of FFmpeg's API seen by the second witness (patched call slots), by name.
    pub calls: std::collections::BTreeMap<String, u64>,
}

/// A sum over objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// AVFrames.
    pub frames: u64,
    /// AVPackets.
    pub packets: u64,
    /// AVBufferRefs.
    pub buffer_refs: u64,
    /// Contexts (codec, format, filter, scaler …).
    pub contexts: u64,
    /// Everything: all blocks, those above too.
    pub blocks: u64,
    /// Bytes of these blocks.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of the distinct payload buffers that a lost ref pins.
    pub pinned_bytes: u64,
}

/// Totals by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClassTotals {
    /// No pointer from outside.
    pub definitely_lost: Totals,
    /// Only through lost blocks.
    pub indirectly_lost: Totals,
    /// Every chain has an interior pointer.
    pub possibly_lost: Totals,
    /// A chain of pointers leads there.
    pub still_reachable: Totals,
    /// Alive, but reachability could not be judged.
    #[serde(default)]
    pub unclassified: Totals,
}

/// The class of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// No pointer from outside.
    DefinitelyLost,
    /// Only through lost blocks.
    IndirectlyLost,
    /// Every chain has an interior pointer.
    PossiblyLost,
    /// A chain of pointers leads there.
    StillReachable,
    /// Memory could not be read.
    Unclassified,
}

/// One allocation stack and one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// 16 hex digits, stable from run to run and machine to machine for the same binaries.
    pub id: String,
    /// Its class.
    pub class: Class,
    /// C type of its objects, such as `AVFrame`.
    pub object: String,
    /// The verdict counts this group at the report's level.
    pub leak: bool,
    /// Objects of this group that are outermost: no lost FFmpeg object holds them.
    #[serde(default)]
    pub outermost: u64,
    /// Objects.
    pub count: u64,
    /// Bytes of the objects' own blocks.
    pub bytes: u64,
    /// Bytes of the distinct buffers to which its objects hold a lost ref.
    pub pinned_bytes: u64,
    /// All live refs of those buffers are lost.
    #[serde(default)]
    pub exclusive: bool,
    /// Pixel or sample format of the frames, where they agree.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub format: Option<String>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub height: Option<u32>,
    /// Samples per channel of an audio frame.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nb_samples: Option<u32>,
    /// pts of the oldest object that has one, in its stream's time base.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pts_first: Option<i64>,
    /// pts of the youngest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pts_last: Option<i64>,
    /// Age of the youngest object at the check, seconds.
    pub age_min_s: f64,
    /// Age of the oldest.
    pub age_max_s: f64,
    /// Objects a minute, over the time from arming to the check.
    #[serde(default)]
    pub rate_per_minute: f64,
    /// Objects for each thousand frames allocated.
    #[serde(default)]
    pub rate_per_1000_frames: f64,
    /// Who allocated, innermost first; frames inlined at one address stand innermost first, each with `inlined: true` but the last.
    pub stack: Vec<Frame>,
    /// Where the siblings (same allocation stack) were freed.
    pub freed_elsewhere: Vec<FreeSite>,
    /// How many siblings were made in all, these included.
    #[serde(default)]
    pub siblings_allocated: u64,
    /// The live refs of the buffers that its objects hold: each ref's own stack, lost or reachable.
    pub refs: Vec<RefHolder>,
    /// What holds a reachable, possibly or indirectly lost object: from the root or outermost holder down, one example.
    pub held_by: Vec<Holder>,
    /// The suppression that lets it through: then it does not count, `leak` is false.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub suppressed_by: Option<String>,
    /// What the baseline says of it, where there is one: if it is known, `leak` is false.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline: Option<InBaseline>,
}

/// One frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Frame {
    /// Demangled; absent where no symbol is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub function: Option<String>,
    /// File name of the module without its folder; absent for code in no module.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub module: Option<String>,
    /// Source file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// Source line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Address in the module's file (SVMA) of the call, that is the return address − 1; absolute where there is no module.
    pub offset: u64,
    /// Inlined into the next frame.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub inlined: bool,
    /// The module is one of FFmpeg's libraries.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub libav: bool,
    /// A function of Python's, between the C frames of the interpreter that runs it: it has no module, and `offset` is 0.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub python: bool,
}

/// A loaded ELF object. Where two of them have one name, a frame's `module` does not say which of them it lies in.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// File name without its folder, as frames name it.
    pub name: String,
    /// As the process named it.
    pub path: String,
    /// Where links lead from there, if elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub real_path: Option<String>,
    /// GNU build id, lower-case hex digits; absent where the module has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub build_id: Option<String>,
    /// Its lowest mapped address in the process.
    pub start: u64,
    /// One past its highest.
    pub end: u64,
    /// Runtime address minus the address in the file, modulo 2⁶⁴: what turns a frame's `offset` into a runtime address.
    pub bias: u64,
}

/// A place where siblings die.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FreeSite {
    /// The stack of the free, innermost first; empty where it was not recorded.
    pub stack: Vec<Frame>,
    /// Objects freed there.
    pub count: u64,
    /// Their median lifetime, milliseconds.
    pub lifetime_median_ms: f64,
}

/// Live refs of one stack and class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefHolder {
    /// Class of these refs.
    pub class: Class,
    /// How many.
    pub count: u64,
    /// Who made them.
    pub stack: Vec<Frame>,
}

/// One step of a chain that holds an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// `register rax of thread 812`, `stack of thread 812`, `.bss of server`, `AVCodecContext`, `block of 96 bytes` …
    pub what: String,
    /// Where in it the pointer lies, bytes from its start.
    pub offset: u64,
    /// The pointer leads into the middle of the next one.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub interior: bool,
    /// Who allocated it, where it is a block: the innermost frames outside libav.
    #[serde(default)]
    pub stack: Vec<Frame>,
}

/// By which means memory was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryMeans {
    /// Stopped by ptrace, read by process_vm_readv.
    Ptrace,
    /// Read by process_vm_readv while it ran or with registers unknown.
    VmReadv,
    /// Copied by the interposer.
    Cooperative,
    /// From the process's core file.
    Core,
    /// Not read.
    None,
}

/// What avleak could not see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completeness {
    /// How memory was read.
    pub memory: MemoryMeans,
    /// Why it was not read, where it was not: a clause.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_reason: Option<String>,
    /// Copies of libavutil whose objects are out of reach (in a dlmopen namespace).
    #[serde(default)]
    pub hidden_libraries: u64,
    /// Bytes that should have been scanned and could not be read.
    pub unreadable_bytes: u64,
    /// Rings abandoned because they held nonsense.
    pub corrupt_rings: u64,
    /// Stacks cut at the depth limit or ended early.
    #[serde(default)]
    pub incomplete_stacks: u64,
    /// Allocations and frees of which only the caller is known: made on stacks too small to unwind them, they have no type.
    #[serde(default)]
    pub untyped_stacks: u64,
    /// Where the second witness and the malloc view disagree, and by how many objects.
    #[serde(default)]
    pub disagreements: Vec<String>,
    /// The rest, one sentence each, with the remedy where there is one.
    pub notes: Vec<String>,
}

/// How the check went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Check {
    /// RFC 3339, UTC.
    pub started: String,
    /// From the stop to the finished report, seconds.
    pub duration_s: f64,
    /// How long the process stood still, milliseconds.
    pub stopped_ms: f64,
    /// Scans of the memory.
    pub scans: u32,
}

/// A summary over all processes of one command: `avleak run --json`'s file where several processes used FFmpeg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// `avleak-run/1`.
    pub schema: String,
    /// The worst of the processes' verdicts: leaks, then inconclusive, then clean.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// The command.
    pub argv: Vec<String>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<Ended>,
    /// avleak's exit status, and what decided it.
    pub exit: ExitStatus,
    /// Sums over the processes.
    pub leaks: Totals,
    /// Each process that used FFmpeg.
    pub processes: Vec<Report>,
    /// What suppressions and a baseline let through in all of them; absent where nothing was, and no file was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<Gate>,
}

/// What `avleak run` exits with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The number.
    pub code: i32,
    /// `program`, `leaks`, `clean`, `avleak` (its own error) or `inconclusive`.
    pub decided_by: String,
}
