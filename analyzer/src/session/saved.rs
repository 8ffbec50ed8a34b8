//! A session's file: all that is known of a process but its memory, to be laid beside its core later.
//!
//! ```text
//! magic   8   "AVLEAKSN"            what follows is read only where the format is ours,
//! format  4   [`FORMAT`]            but for the head: it is JSON, and names the version that wrote it
//! head    4   bytes of the head
//! total   8   bytes of the file
//! head        who it was: [`Head`]
//! parts       of the segment: modules, stacks, texts, each with its place
//! state       the live set and what belongs to it, by postcard: as in a checkpoint of [`super::vault`]
//! kinds       what the stacks of the live blocks make: later the files may be gone that tell
//! known       what was known beside: [`Known`], JSON
//! crc     4   CRC-32 of all before
//! ```
//! Numbers are little-endian. A section is its length, 8 bytes, and its bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::drain::Drained;
use super::identity::Identity;
use super::segment::{Segment, SegmentError};
use super::timeline::Timeline;
use super::types::{StackTypes, ToldKind};
use crate::address::TargetRange;
use crate::live::LiveSet;
use crate::render::errno;
use crate::report::model::Ended;
use crate::report::origin::Origin;
use crate::report::post_mortem::Grown;

const MAGIC: [u8; 8] = *b"AVLEAKSN";
/// Raised with every change of what is in the file, the types of its sections included.
pub const FORMAT: u32 = 1;
/// Magic, format, length of the head, length of the file.
const FIXED: usize = 24;
const CRC: usize = 4;

/// Why a session's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum SavedError {
    /// The operating system refused.
    #[error("cannot read the session file {}: {} (it is written by avleak's analyzer, as the user that the process ran as)", .path.display(), errno::name(.source))]
    Io { path: PathBuf, source: io::Error },
    /// Something else.
    #[error("{} is no session file of avleak's (name what `session=1`, or `avleak check PID --session FILE`, wrote)", .path.display())]
    NotASession { path: PathBuf },
    /// Of another version.
    #[error(
        "the session file {} has format {theirs}, written by avleak {by}; this is avleak {}, which reads format {FORMAT}: use the avleak that wrote it",
        .path.display(), env!("CARGO_PKG_VERSION")
    )]
    Format { path: PathBuf, theirs: u32, by: String },
    /// A part is missing.
    #[error("the session file {} is cut off: {got} of {whole} bytes are there (copy it again)", .path.display())]
    CutOff { path: PathBuf, got: u64, whole: u64 },
    /// Its bytes are not those that were written.
    #[error("the session file {} is damaged: {why} (copy it again)", .path.display())]
    Damaged { path: PathBuf, why: String },
}

/// At what moment of its process a session was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// At its end: nothing came after.
    Ended,
    /// While it ran on.
    Running,
    /// While job control had stopped all its threads.
    Stopped,
}

/// Who it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// avleak's version.
    pub avleak: String,
    /// In the analyzer's pid namespace.
    pub pid: i32,
    /// Its executable's path.
    pub exe: Vec<u8>,
    /// Its command line.
    pub argv: Vec<String>,
    /// Host, service, build.
    pub origin: Origin,
    /// What was writable when it registered, ascending.
    pub writable_before: Vec<(u64, u64)>,
    /// How it ended, where that is known.
    pub ended: Option<Ended>,
    /// What its core is known by.
    pub identity: Identity,
    /// When in its life this was saved.
    pub moment: Moment,
    /// Nanoseconds since 1970 of that.
    pub saved_ns: u64,
}

/// What was known beside.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// What its monitor saw growing.
    pub grew: Vec<Grown>,
}

/// A session as its file has it.
pub struct Saved {
    /// Who it was.
    pub head: Head,
    /// What was known beside.
    pub known: Known,
    segment: Arc<Segment>,
    state: State,
    kinds: Vec<ToldKind>,
}

/// What a drain knew.
#[derive(Serialize, Deserialize)]
struct State {
    live: LiveSet,
    timeline: Timeline,
    numbers: Numbers,
}

#[derive(Clone, Serialize, Deserialize)]
struct Numbers {
    clock: Clock,
    now: u64,
    armed_realtime_ns: u64,
    dropped: u64,
    cancelled: u64,
    corrupt_rings: u64,
    threads: u64,
    calls: Vec<u64>,
    waited_s: f64,
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The file of a session, as bytes.
///
/// # Errors
/// Where there is no memory for it.
pub fn bytes(head: &Head, drained: &mut Drained, known: &Known) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut file = Vec::with_capacity(1 << 20);
    file.extend(MAGIC);
    file.extend(FORMAT.to_le_bytes());
    file.extend((head.len() as u32).to_le_bytes());
    file.extend([0; 8]);
    file.extend(&head);
    let parts = drained.segment.parts_in_use();
    file.extend((parts.len() as u64).to_le_bytes());
    for (place, part) in parts {
        file.extend(place.to_le_bytes());
        section(&mut file, &part);
    }
    let numbers = Numbers {
        clock: drained.clock,
        now: drained.now,
        armed_realtime_ns: drained.armed_realtime_ns,
        dropped: drained.dropped,
        cancelled: drained.cancelled,
        corrupt_rings: drained.corrupt_rings,
        threads: drained.threads,
        calls: drained.calls.to_vec(),
        waited_s: drained.waited_s,
    };
    // Its length is known when it is written.
    let at = file.len();
    file.extend([0; 8]);
    let state = (&drained.live, &drained.timeline, &numbers);
    file = postcard::to_extend(&state, file).map_err(io::Error::other)?;
    let length = (file.len() - at - 8) as u64;
    file[at..at + 8].copy_from_slice(&length.to_le_bytes());
    let kinds = drained.types.told(drained.live.objects().iter().map(|block| (block.stack, block.size)));
    section(&mut file, &postcard::to_stdvec(&kinds).map_err(io::Error::other)?);
    section(&mut file, &serde_json::to_vec(known)?);
    let total = (file.len() + CRC) as u64;
    file[16..24].copy_from_slice(&total.to_le_bytes());
    let crc = crc32fast::hash(&file);
    file.extend(crc.to_le_bytes());
    Ok(file)
}

fn section(file: &mut Vec<u8>, bytes: &[u8]) {
    file.extend((bytes.len() as u64).to_le_bytes());
    file.extend(bytes);
}

/// Reads from the front of what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn section(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (section, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(section)
    }
}

impl Saved {
    /// Reads a session's file.
    ///
    /// # Errors
    /// [`SavedError`]: it is none, of another version, or not whole.
    pub fn read(path: &Path) -> Result<Self, SavedError> {
        let io = |source| SavedError::Io { path: path.to_path_buf(), source };
        let no_session = || SavedError::NotASession { path: path.to_path_buf() };
        let mut file = File::open(path).map_err(io)?;
        let data = file.metadata().map_err(io)?;
        if data.is_dir() {
            return Err(io(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if !data.is_file() {
            return Err(no_session());
        }
        let mut fixed = [0; FIXED];
        file.read_exact(&mut fixed).map_err(|_| no_session())?;
        if fixed[..8] != MAGIC {
            return Err(no_session());
        }
        let number = |at: usize| fixed[at..].first_chunk().map_or(0, |number| u32::from_le_bytes(*number));
        let (theirs, head_bytes) = (number(8), u64::from(number(12)));
        if theirs != FORMAT {
            // Whatever the format, the head says who wrote it.
            let mut head = Vec::new();
            let read = (&mut file).take(head_bytes).read_to_end(&mut head);
            let value = read.ok().and_then(|_| serde_json::from_slice::<serde_json::Value>(&head).ok());
            let by = value.and_then(|head| head["avleak"].as_str().map(str::to_string));
            let by = by.unwrap_or_else(|| "of an unknown version".into());
            return Err(SavedError::Format { path: path.to_path_buf(), theirs, by });
        }
        let whole = fixed[16..].first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        if data.len() < whole {
            return Err(SavedError::CutOff { path: path.to_path_buf(), got: data.len(), whole });
        }
        let mut bytes = fixed.to_vec();
        (&mut file).take(whole.saturating_sub(FIXED as u64)).read_to_end(&mut bytes).map_err(io)?;
        Self::parse(&bytes, head_bytes).map_err(|why| SavedError::Damaged { path: path.to_path_buf(), why })
    }

    fn parse(bytes: &[u8], head_bytes: u64) -> Result<Self, String> {
        let (body, crc) = bytes.split_last_chunk::<CRC>().ok_or("it ends too early")?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err("its checksum is another one".into());
        }
        let ends = "a section of it is longer than the file";
        let body = body.get(FIXED..).ok_or(ends)?;
        let (head, rest) = body.split_at_checked(head_bytes as usize).ok_or(ends)?;
        let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        let mut reader = Reader(rest);
        let count = reader.number().ok_or(ends)?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push((reader.number().ok_or(ends)?, reader.section().ok_or(ends)?));
        }
        let segment = Segment::restore(&parts).map_err(|error: SegmentError| error.to_string())?;
        let state = postcard::from_bytes(reader.section().ok_or(ends)?);
        let state = state.map_err(|error| format!("what was alive cannot be read ({error})"))?;
        let kinds = postcard::from_bytes(reader.section().ok_or(ends)?);
        let kinds = kinds.map_err(|error| format!("the kinds of its stacks cannot be read ({error})"))?;
        let known = serde_json::from_slice(reader.section().ok_or(ends)?).map_err(|error| error.to_string())?;
        Ok(Self { head, known, segment, state, kinds })
    }

    /// Process id as the process itself saw it.
    pub fn inner_pid(&self) -> i32 {
        self.segment.header().pid.load(std::sync::atomic::Ordering::Relaxed) as i32
    }

    /// The stamp of so many seconds before it was saved.
    pub fn stamp_before(&self, seconds: f64) -> u64 {
        self.state.numbers.now.saturating_sub(self.state.numbers.clock.units(seconds))
    }

    /// What was writable when it registered.
    pub fn writable_before(&self) -> Vec<TargetRange> {
        self.head.writable_before.iter().map(|&(start, end)| TargetRange { start, end: end.max(start) }).collect()
    }

    /// What the session knew when it was saved. `root`: what the process saw as `/`, where it is not ours.
    pub fn develop(self, exe: PathBuf, root: Option<&Path>) -> Drained {
        let mut types = StackTypes::new(self.segment.clone(), exe, root);
        types.learn_modules();
        types.recall(&self.kinds);
        let State { live, timeline, numbers } = self.state;
        let mut calls = [0; avleak_wire::layout::API_NAMES.len()];
        calls.iter_mut().zip(&numbers.calls).for_each(|(to, &count)| *to = count);
        Drained {
            live,
            types,
            segment: self.segment,
            clock: numbers.clock,
            now: numbers.now,
            armed_realtime_ns: numbers.armed_realtime_ns,
            dropped: numbers.dropped,
            cancelled: numbers.cancelled,
            corrupt_rings: numbers.corrupt_rings,
            threads: numbers.threads,
            calls,
            waited_s: numbers.waited_s,
            timeline,
        }
    }
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
