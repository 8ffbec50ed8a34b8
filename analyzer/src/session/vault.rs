//! What a session knows, kept where it outlives the analyzer: a memfd with a checkpoint of its state and a journal of the events since.
//!
//! The keeper holds the descriptor too. An analyzer that is started in place of one that was killed reads the checkpoint, applies the
//! journal, and goes on where the other stood: each event is in the journal before its place in the ring is given back, and the journal
//! knows how far each ring was read. So nothing is lost, and nothing is applied twice.
//!
//! Journals are numbered. Checkpoint *k* is the state before journal *k*. While checkpoint *k + 1* is written, events go on into journal
//! *k + 1*, unapplied; one store makes the new checkpoint the valid one. Whoever dies in between leaves checkpoint *k* and both journals.
//!
//! Only avleak's own processes have the descriptor, so what is read here was written here; it is bounded all the same.
#![allow(unsafe_code, reason = "a mapping shared with the next analyzer")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use avleak_wire::event::{ADDRESS_BITS, Event};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags};

const MAGIC: u64 = u64::from_le_bytes(*b"vault\0\0\x01");
/// In place of the magic number: what is kept here is not true any more.
const GIVEN_UP: u64 = u64::from_le_bytes(*b"given up");
const PAGE: u64 = 4096;
/// What was found out at registration, as JSON; a process may have 65,530 mappings.
const META: u64 = PAGE;
const META_BYTES: u64 = 8 << 20;
const JOURNALS: u64 = META + META_BYTES;
/// Room for 8 million events; touched as far as it is used.
const JOURNAL_BYTES: u64 = 256 << 20;
const CHECKPOINTS: u64 = JOURNALS + 2 * JOURNAL_BYTES;
/// From one checkpoint to the other, and to what a check found; files are sparse.
const CHECKPOINT_STRIDE: u64 = 1 << 40;
const FINDING: u64 = CHECKPOINTS + 2 * CHECKPOINT_STRIDE;
/// What the last check of the living process judged lost, in turns at two places.
const REMEMBERED: u64 = FINDING + CHECKPOINT_STRIDE;
const REMEMBERED_STRIDE: u64 = 1 << 36;
/// A checkpoint is due once the journal is as large as this …
const LEAST_JOURNAL: u64 = 16 << 20;
/// … and so many times as large as the last checkpoint, so that writing checkpoints costs little beside the events …
const JOURNAL_SHARE: u64 = 4;
/// … but never larger than this, so that it does not take long to apply.
const MOST_JOURNAL: u64 = 160 << 20;
/// A checkpoint is written in pieces of this size: in between, rings are emptied.
const PIECE: usize = 256 << 10;

const WORD: u64 = 8;
const EVENT_WORDS: u64 = 4;
/// Words before the events of a record: kind and ring and count, position in the ring behind them.
const HEAD_WORDS: u64 = 2;
const KIND_EVENTS: u64 = 1;
const KIND_PASS: u64 = 2;
const KIND_GIVEN_UP: u64 = 3;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    meta_bytes: AtomicU64,
    /// Number of the valid checkpoint; 0: none, the state before journal 0 is empty.
    checkpoint: AtomicU64,
    checkpoint_bytes: [AtomicU64; 2],
    /// Number of the journal in each place, plus 1.
    journal: [AtomicU64; 2],
    /// Bytes of it that are complete.
    journal_bytes: [AtomicU64; 2],
    /// Bytes of what the check found; 0: it has not come so far.
    finding_bytes: AtomicU64,
    /// Twice the bytes of what is remembered, plus its place; 0: nothing is.
    remembered: AtomicU64,
}

const META_BYTES_AT: u64 = std::mem::offset_of!(Header, meta_bytes) as u64;
const FINDING_BYTES_AT: u64 = std::mem::offset_of!(Header, finding_bytes) as u64;
const REMEMBERED_AT: u64 = std::mem::offset_of!(Header, remembered) as u64;

/// See the module.
pub struct Vault {
    file: File,
    map: MmapRaw,
    /// Number of the journal that is written.
    journal: u64,
    /// Bytes of it, what is not complete included.
    filled: u64,
    /// Where the record that is being written begins, and whose it is.
    record: (u64, u32),
}

/// What a journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// Events of a ring, and its reader's position behind them.
    Events(u32, u64, &'a [[u64; 4]]),
    /// All rings were emptied: CLOCK_MONOTONIC in nanoseconds, and cancelled allocations so far.
    Pass(u64, u64),
    /// A ring holds nonsense and is not read again.
    GivenUp(u32),
}

/// What an analyzer that was killed left behind.
pub struct Left {
    /// The checkpoint; empty: there is none.
    pub checkpoint: Vec<u8>,
    /// The journals since then, in order.
    pub journals: Vec<Journal>,
}

/// The words of one journal.
pub struct Journal(Vec<u64>);

/// An event as four words.
pub fn event_of([stamp, address, size, stack]: [u64; 4]) -> Event {
    let kind = (address >> ADDRESS_BITS) as u8;
    Event { stamp, address: address & ((1 << ADDRESS_BITS) - 1), kind, size, stack: stack as u32 }
}

/// A fresh, empty vault, to be held by the keeper.
///
/// # Errors
/// What the kernel says, EFBIG where files may not be large enough (RLIMIT_FSIZE).
pub fn create() -> io::Result<OwnedFd> {
    // A write beyond the limit would be answered by a signal.
    if rustix::process::getrlimit(rustix::process::Resource::Fsize).current.is_some() {
        return Err(rustix::io::Errno::FBIG.into());
    }
    let fd = rustix::fs::memfd_create("avleak-vault", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, CHECKPOINTS)?;
    Ok(fd)
}

/// What was written about the process itself.
pub fn meta(vault: &File) -> Option<Vec<u8>> {
    let mut bytes = [0; 8];
    vault.read_exact_at(&mut bytes, META_BYTES_AT).ok()?;
    let bytes = u64::from_le_bytes(bytes);
    if bytes == 0 || bytes > META_BYTES {
        return None;
    }
    let mut meta = vec![0; bytes as usize];
    vault.read_exact_at(&mut meta, META).ok()?;
    Some(meta)
}

/// Keeps what is known of the process itself.
///
/// # Errors
/// Where it is too long or cannot be written; then nothing is kept.
pub fn set_meta(vault: &File, meta: &[u8]) -> io::Result<()> {
    if meta.len() as u64 > META_BYTES {
        return Err(io::Error::other("too long"));
    }
    vault.write_all_at(meta, META)?;
    vault.write_all_at(&(meta.len() as u64).to_le_bytes(), META_BYTES_AT)
}

/// What the check of the process found, where it came so far.
pub fn finding(vault: &File) -> Option<Vec<u8>> {
    let mut bytes = [0; 8];
    vault.read_exact_at(&mut bytes, FINDING_BYTES_AT).ok()?;
    let bytes = u64::from_le_bytes(bytes);
    if bytes == 0 || FINDING.saturating_add(bytes) > vault.metadata().ok()?.len() {
        return None;
    }
    let mut finding = vec![0; bytes as usize];
    vault.read_exact_at(&mut finding, FINDING).ok()?;
    Some(finding)
}

/// Keeps what the check of the process found.
///
/// # Errors
/// What `write` or the kernel says; then nothing is kept.
pub fn set_finding(vault: &File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    struct At<'a>(&'a File, u64);
    impl Write for At<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.0.write_at(bytes, self.1)?;
            self.1 += written as u64;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut to = io::BufWriter::with_capacity(PIECE, At(vault, FINDING));
    write(&mut to)?;
    let end = to.into_inner().map_err(io::IntoInnerError::into_error)?.1;
    vault.write_all_at(&(end - FINDING).to_le_bytes(), FINDING_BYTES_AT)
}

/// What the last check of the living process judged lost.
pub fn remembered(vault: &File) -> Option<Vec<u8>> {
    let (at, bytes) = remembered_at(vault)?;
    if bytes == 0 || at.saturating_add(bytes) > vault.metadata().ok()?.len() {
        return None;
    }
    let mut remembered = vec![0; bytes as usize];
    vault.read_exact_at(&mut remembered, at).ok()?;
    Some(remembered)
}

/// Keeps it in place of what was kept before.
///
/// # Errors
/// Where it is too long or cannot be written; then what was kept before is kept on.
pub fn set_remembered(vault: &File, bytes: &[u8]) -> io::Result<()> {
    let (old, old_bytes) = remembered_at(vault).unwrap_or((REMEMBERED, 0));
    let place = u64::from(old == REMEMBERED);
    if bytes.len() as u64 > REMEMBERED_STRIDE {
        return Err(io::Error::other("too long"));
    }
    vault.write_all_at(bytes, REMEMBERED + place * REMEMBERED_STRIDE)?;
    // Killed before this, the one before is still there.
    vault.write_all_at(&((bytes.len() as u64) << 1 | place).to_le_bytes(), REMEMBERED_AT)?;
    if old_bytes > 0 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(vault, flags, old, old_bytes);
    }
    Ok(())
}

/// Where what is remembered lies, and how long it is.
fn remembered_at(vault: &File) -> Option<(u64, u64)> {
    let mut word = [0; 8];
    vault.read_exact_at(&mut word, REMEMBERED_AT).ok()?;
    let word = u64::from_le_bytes(word);
    Some((REMEMBERED + (word & 1) * REMEMBERED_STRIDE, (word >> 1).min(REMEMBERED_STRIDE)))
}

impl Vault {
    /// Opens a vault; with what is left in it, where somebody used it before.
    ///
    /// # Errors
    /// Where it cannot be mapped or read: then nothing was changed.
    pub fn open(fd: OwnedFd) -> io::Result<(Self, Option<Left>)> {
        let file = File::from(fd);
        if file.metadata()?.len() < CHECKPOINTS {
            return Err(io::Error::other("too short"));
        }
        let map = MmapOptions::new().len(CHECKPOINTS as usize).map_raw(&file)?;
        let mut vault = Self { file, map, journal: 0, filled: 0, record: (0, 0) };
        let magic = vault.header().magic.load(Ordering::Acquire);
        if magic == GIVEN_UP {
            return Err(io::Error::other("it was given up"));
        }
        if magic != MAGIC {
            vault.begin_journal(0);
            vault.header().magic.store(MAGIC, Ordering::Release);
            return Ok((vault, None));
        }
        let left = vault.read_left()?;
        Ok((vault, Some(left)))
    }

    fn read_left(&mut self) -> io::Result<Left> {
        let valid = self.header().checkpoint.load(Ordering::Acquire);
        let mut checkpoint = Vec::new();
        if valid > 0 {
            let bytes = self.header().checkpoint_bytes[place(valid)].load(Ordering::Relaxed);
            let behind = CHECKPOINTS + place(valid) as u64 * CHECKPOINT_STRIDE;
            if behind.saturating_add(bytes) > self.file.metadata()?.len() {
                return Err(io::Error::other("a checkpoint that is cut off"));
            }
            checkpoint.resize(bytes as usize, 0);
            self.file.read_exact_at(&mut checkpoint, behind)?;
        }
        let mut journals = Vec::new();
        for number in [valid, valid + 1] {
            if self.header().journal[place(number)].load(Ordering::Acquire) != number + 1 {
                break;
            }
            let bytes = self.header().journal_bytes[place(number)].load(Ordering::Acquire).min(JOURNAL_BYTES);
            journals.push(Journal(self.words(number, 0, bytes / WORD)));
            if number == valid {
                (self.journal, self.filled) = (number, bytes);
            }
        }
        if let [_, Journal(second)] = &journals[..] {
            self.join(valid, second)?;
        }
        Ok(Left { checkpoint, journals })
    }

    /// A checkpoint was not finished: its journal goes behind the one before, so that the next checkpoint has a place again. Killed in
    /// between, it is there twice; who applies it knows by the positions.
    fn join(&mut self, valid: u64, second: &[u64]) -> io::Result<()> {
        if self.filled + second.len() as u64 * WORD > JOURNAL_BYTES {
            return Err(io::Error::other("its journals are too large"));
        }
        second.iter().for_each(|&word| self.put(word));
        self.complete();
        self.header().journal[place(valid + 1)].store(0, Ordering::Release);
        Ok(())
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned and longer than the header, which consists of atomics only; the file never shrinks.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn word(&self, at: u64) -> *mut u64 {
        debug_assert!(at.is_multiple_of(WORD) && at + WORD <= CHECKPOINTS);
        // SAFETY: below the mapping's end: every caller stays inside a journal, `room` before and `min` after.
        unsafe { self.map.as_mut_ptr().add(at as usize).cast() }
    }

    fn words(&self, journal: u64, from: u64, count: u64) -> Vec<u64> {
        let start = JOURNALS + place(journal) as u64 * JOURNAL_BYTES + from * WORD;
        // SAFETY: inside the mapping (see `word`); nobody else writes: there is one analyzer at a time, and this is its thread.
        (0..count).map(|at| unsafe { self.word(start + at * WORD).read() }).collect()
    }

    fn put(&mut self, word: u64) {
        let at = JOURNALS + place(self.journal) as u64 * JOURNAL_BYTES + self.filled;
        // SAFETY: inside the mapping: `room` was asked before; nobody else writes.
        unsafe { self.word(at).write(word) };
        self.filled += WORD;
    }

    /// There is room for so many events of one ring, for the ring's end, and for a pass.
    pub fn has_room(&self, events: u64) -> bool {
        self.filled + (3 * HEAD_WORDS + 1 + events * EVENT_WORDS) * WORD <= JOURNAL_BYTES
    }

    /// Begins a record of a ring's events. There must be room.
    pub fn begin(&mut self, ring: u32) {
        self.record = (self.filled, ring);
        self.filled += HEAD_WORDS * WORD;
    }

    /// Adds events to the record.
    pub fn add(&mut self, events: &[Event]) {
        for event in events {
            self.put(event.stamp);
            self.put(event.address | u64::from(event.kind) << ADDRESS_BITS);
            self.put(event.size);
            self.put(u64::from(event.stack));
        }
    }

    /// Completes the record: the ring was read up to `position`. From here on it outlives this process.
    pub fn end(&mut self, position: u64) {
        let (start, ring) = self.record;
        let end = self.filled;
        let count = (end - start) / WORD - HEAD_WORDS;
        self.filled = start;
        if count == 0 {
            return;
        }
        self.put(KIND_EVENTS | u64::from(ring) << 8 | (count / EVENT_WORDS) << 32);
        self.put(position);
        self.filled = end;
        self.complete();
    }

    /// Notes that all rings were emptied. There must be room.
    pub fn pass(&mut self, monotonic_ns: u64, cancelled: u64) {
        [KIND_PASS, monotonic_ns, cancelled].into_iter().for_each(|word| self.put(word));
        self.complete();
    }

    /// Notes that a ring holds nonsense. There must be room.
    pub fn ring_given_up(&mut self, ring: u32) {
        [KIND_GIVEN_UP | u64::from(ring) << 8, 0].into_iter().for_each(|word| self.put(word));
        self.complete();
    }

    fn complete(&self) {
        // After a kill the kernel keeps what was stored, in the order of the stores.
        self.header().journal_bytes[place(self.journal)].store(self.filled, Ordering::Release);
    }

    /// The journal has grown so large that a checkpoint is worth its cost.
    pub fn is_checkpoint_due(&self) -> bool {
        let last = self.header().checkpoint_bytes[place(self.header().checkpoint.load(Ordering::Relaxed))]
            .load(Ordering::Relaxed);
        self.filled >= (last.saturating_mul(JOURNAL_SHARE)).clamp(LEAST_JOURNAL, MOST_JOURNAL)
    }

    fn begin_journal(&mut self, number: u64) {
        let header = self.header();
        header.journal[place(number)].store(0, Ordering::Release);
        header.journal_bytes[place(number)].store(0, Ordering::Release);
        header.journal[place(number)].store(number + 1, Ordering::Release);
        (self.journal, self.filled) = (number, 0);
    }

    /// Begins the next journal; what is written to it from now on is not part of the checkpoint that `write` makes.
    ///
    /// # Errors
    /// What `write` or the kernel says: the last checkpoint and both journals stay valid, for whoever opens the vault next. This one must
    /// not make another checkpoint.
    pub fn checkpoint(&mut self, write: impl FnOnce(&mut Piecemeal<'_>) -> io::Result<()>) -> io::Result<()> {
        let number = self.journal + 1;
        self.begin_journal(number);
        let start = CHECKPOINTS + place(number) as u64 * CHECKPOINT_STRIDE;
        let mut piecemeal = Piecemeal { vault: self, start, written: 0, piece: Vec::with_capacity(PIECE) };
        write(&mut piecemeal)?;
        piecemeal.flush()?;
        let bytes = piecemeal.written;
        self.header().checkpoint_bytes[place(number)].store(bytes, Ordering::Relaxed);
        self.header().checkpoint.store(number, Ordering::Release);
        // What is not needed any more gives its memory back.
        self.punch(JOURNALS + place(number - 1) as u64 * JOURNAL_BYTES, JOURNAL_BYTES);
        let old = CHECKPOINTS + place(number - 1) as u64 * CHECKPOINT_STRIDE;
        self.punch(old, self.header().checkpoint_bytes[place(number - 1)].load(Ordering::Relaxed));
        Ok(())
    }

    fn punch(&self, start: u64, bytes: u64) {
        if bytes > 0 {
            // Where it fails the memory is used once more than needed.
            let _ =
                rustix::fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, bytes);
        }
    }

    /// Bytes of the journal that is written.
    pub fn written(&self) -> u64 {
        self.filled
    }

    /// The journal that is written, from byte `from` on.
    pub fn written_since(&self, from: u64) -> Journal {
        Journal(self.words(self.journal, from / WORD, (self.filled - from) / WORD))
    }

    /// Nothing that is kept here is true any more: whoever comes next must not use it.
    pub fn give_up(&self) {
        self.header().magic.store(GIVEN_UP, Ordering::Release);
    }
}

/// Places take turns.
fn place(number: u64) -> usize {
    (number % 2) as usize
}

/// A checkpoint that is being written. Between its pieces the vault takes events.
pub struct Piecemeal<'a> {
    /// For the journal.
    pub vault: &'a mut Vault,
    start: u64,
    written: u64,
    piece: Vec<u8>,
}

impl Piecemeal<'_> {
    /// Takes bytes; true where a piece was full and has been written.
    ///
    /// # Errors
    /// What the kernel says: there is no memory.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() < PIECE {
            return Ok(false);
        }
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.vault.file.write_all_at(&self.piece, self.start + self.written)?;
        self.written += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }
}

/// Writes through a [`Piecemeal`], and calls `between` after each piece.
pub struct PieceWriter<'a, 'b, F> {
    /// Where to.
    pub pieces: &'a mut Piecemeal<'b>,
    /// Empties the rings.
    pub between: F,
}

impl<F: FnMut(&mut Vault)> Write for PieceWriter<'_, '_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pieces.take(bytes)? {
            (self.between)(self.pieces.vault);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Journal {
    /// Tells everything in order. Ends early where it makes no sense.
    pub fn tell(&self, mut take: impl FnMut(Told<'_>)) {
        let mut rest = &self.0[..];
        while let [first, second, behind @ ..] = rest {
            match first & 0xff {
                KIND_EVENTS => {
                    let words = (first >> 32) as usize * EVENT_WORDS as usize;
                    let Some((events, next)) = behind.split_at_checked(words) else { return };
                    take(Told::Events((first >> 8) as u32 & 0xff_ffff, *second, events.as_chunks::<4>().0));
                    rest = next;
                }
                KIND_PASS => {
                    let [cancelled, next @ ..] = behind else { return };
                    take(Told::Pass(*second, *cancelled));
                    rest = next;
                }
                KIND_GIVEN_UP => {
                    take(Told::GivenUp((first >> 8) as u32 & 0xff_ffff));
                    rest = behind;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use avleak_wire::event::{KIND_ALLOC, KIND_FREE};

    fn event(stamp: u64) -> Event {
        let kind = if stamp.is_multiple_of(2) { KIND_ALLOC } else { KIND_FREE };
        Event { stamp, address: (1 << 55) + stamp * 16, kind, size: stamp << 40, stack: stamp as u32 }
    }

    fn again(fd: &OwnedFd) -> (Vault, Option<Left>) {
        Vault::open(fd.try_clone().expect("a descriptor")).expect("a vault")
    }

    /// Stamps of events; (ring, position); (time, cancelled) of passes.
    type Journaled = (Vec<u64>, Vec<(u32, u64)>, Vec<(u64, u64)>);

    /// What a killed analyzer left in its journals.
    fn told(left: &Left) -> Journaled {
        let (mut stamps, mut positions, mut passes) = (Vec::new(), Vec::new(), Vec::new());
        for journal in &left.journals {
            journal.tell(|told| match told {
                Told::Events(ring, position, events) => {
                    for &words in events {
                        let told = event_of(words);
                        assert_eq!(told, event(told.stamp));
                        stamps.push(told.stamp);
                    }
                    positions.push((ring, position));
                }
                Told::Pass(ns, cancelled) => passes.push((ns, cancelled)),
                Told::GivenUp(ring) => panic!("ring {ring}"),
            });
        }
        (stamps, positions, passes)
    }

    fn record(vault: &mut Vault, ring: u32, stamps: std::ops::Range<u64>) {
        vault.begin(ring);
        let events: Vec<Event> = stamps.clone().map(event).collect();
        events.chunks(7).for_each(|some| vault.add(some));
        vault.end(stamps.end);
    }

    #[test]
    fn what_is_complete_outlives_its_writer_and_nothing_else() {
        let fd = create().expect("a vault");
        let (mut vault, left) = again(&fd);
        let file = File::from(fd.try_clone().expect("a descriptor"));
        assert!(left.is_none() && meta(&file).is_none());
        set_meta(&file, b"who").expect("room");
        record(&mut vault, 3, 0..100);
        vault.pass(77, 5);
        record(&mut vault, 4095, 100..101);
        record(&mut vault, 3, 101..101);
        // Killed in the middle of a record.
        vault.begin(1);
        vault.add(&[event(555)]);
        drop(vault);
        let (mut vault, left) = again(&fd);
        assert_eq!(meta(&file).as_deref(), Some(&b"who"[..]));
        let left = left.expect("what was left");
        assert!(left.checkpoint.is_empty());
        assert_eq!(told(&left), ((0..101).collect(), vec![(3, 100), (4095, 101)], vec![(77, 5)]));
        // The next one goes on behind it.
        record(&mut vault, 1, 101..104);
        drop(vault);
        assert_eq!(told(&again(&fd).1.expect("what was left")).0, (0..104).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_remembered_last_is_remembered() {
        let file = File::from(create().expect("a vault"));
        assert_eq!(remembered(&file), None);
        for round in 1..5u8 {
            let bytes = vec![round; usize::from(round) * 1000];
            set_remembered(&file, &bytes).expect("room");
            assert_eq!(remembered(&file), Some(bytes));
        }
        // Killed before it was done: what was kept before is whole.
        file.write_all_at(&[9; 100], REMEMBERED + REMEMBERED_STRIDE).expect("room");
        assert_eq!(remembered(&file), Some(vec![4; 4000]));
    }

    #[test]
    fn a_kill_at_any_point_of_a_checkpoint_loses_nothing() {
        for killed_after in [Some(0), Some(1), Some(3), None] {
            let fd = create().expect("a vault");
            let (mut vault, _) = again(&fd);
            for round in 0..3u64 {
                let first = round * 1000;
                record(&mut vault, 0, first..first + 10);
                let done = vault.checkpoint(|pieces| {
                    for piece in 0..4 {
                        if round == 2 && killed_after == Some(piece) {
                            return Err(io::Error::other("killed"));
                        }
                        if pieces.take(&vec![round as u8; PIECE])? {
                            record(pieces.vault, 0, first + 10 + piece..first + 11 + piece);
                        }
                    }
                    Ok(())
                });
                assert_eq!(done.is_err(), round == 2 && killed_after.is_some());
            }
            drop(vault);
            let (vault, left) = again(&fd);
            let left = left.expect("what was left");
            let (stamps, ..) = told(&left);
            // And whoever opens it after that finds the same, in one journal.
            drop(vault);
            let joined = again(&fd).1.expect("what was left");
            assert_eq!((told(&joined).0, joined.journals.len()), (stamps.clone(), 1));
            match killed_after {
                None => {
                    assert_eq!(left.checkpoint, vec![2; 4 * PIECE]);
                    assert_eq!(stamps, (2010..2014).collect::<Vec<_>>());
                }
                Some(pieces) => {
                    assert_eq!(left.checkpoint, vec![1; 4 * PIECE]);
                    assert_eq!(stamps, (1010..1014).chain(2000..2010 + pieces).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_checkpoint_is_due_when_the_journal_is_large_and_large_beside_it() {
        let fd = create().expect("a vault");
        let (mut vault, _) = again(&fd);
        let mut events = 0;
        while !vault.is_checkpoint_due() {
            assert!(vault.has_room(2048));
            record(&mut vault, 0, 0..2048);
            events += 2048;
        }
        assert_eq!(events * 32 / (1 << 20), 16);
        vault.checkpoint(|pieces| pieces.take(&vec![0; 8 << 20]).map(drop)).expect("room");
        assert!(!vault.is_checkpoint_due());
        (0..(24 << 20) / 65536).for_each(|_| record(&mut vault, 0, 0..2048));
        assert!(!vault.is_checkpoint_due(), "24 MiB beside 8");
        (0..(8 << 20) / 65536).for_each(|_| record(&mut vault, 0, 0..2048));
        assert!(vault.is_checkpoint_due(), "32 MiB beside 8");
    }

    #[test]
    fn a_journal_that_makes_no_sense_ends_early() {
        for words in [vec![], vec![1], vec![1 | 5 << 32, 0, 1, 2, 3], vec![2, 1], vec![9, 9, 9], vec![u64::MAX; 100]] {
            Journal(words).tell(|told| panic!("{told:?}"));
        }
    }
}
