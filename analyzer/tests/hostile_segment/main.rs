//! A process that scribbles over its own segment while the analyzer reads it: headers, indices, events, stack nodes, module names.
//!
//! Whatever it writes, the analyzer does not panic, comes to an end and a report, and does not allocate without bound. Scripts are random
//! mutations of those in `corpus/`, which are the ones that once found something and some to begin with. `AVLEAK_FUZZ_SECONDS` says how
//! long (a few seconds, minutes in `make test-all`), `AVLEAK_FUZZ_SEED` where to begin. A script that fails is printed, in hexadecimal;
//! as a file in `corpus/` it becomes a test.

mod memory;
mod script;
mod target;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use avleak::check::{self, Order, Reach, Subject};
use avleak::render::format::{Format, RenderOptions};
use avleak::render::load::AnyReport;
use avleak::report::model::{Level, Report, Verdict};
use avleak::session::drain::Drain;
use avleak::session::segment::Segment;
use avleak::session::vault::{self, Vault};
use avleak::target::threads::ThreadState;
use script::Script;
use target::Target;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// What one script may make the analyzer allocate, bytes. The tables by stack id take 48 MiB where one id is the greatest possible.
const MOST_BYTES: u64 = 512 << 20;
/// How long one script may keep it busy: generous, for a busy machine. What is without end would take for ever.
const LONGEST: Duration = Duration::from_secs(120);
/// A longer script is cut.
const LONGEST_SCRIPT: usize = 4096;

/// The allocator's counters are the process's: one script at a time.
static ONE: Mutex<()> = Mutex::new(());

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile_segment/corpus")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    digits.as_chunks::<2>().0.iter().map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// An ELF file whose tables claim to be enormous; it is sparse, so that they even are.
fn hostile_elf(folder: &Path) -> String {
    let path = folder.join("libavutil.so.57");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 30).unwrap();
    let mut header = [0u8; 64];
    header[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &3u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(40, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(58, &64u16.to_le_bytes());
    put(60, &4u16.to_le_bytes());
    put(62, &3u16.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    // (name, type, offset, size, link, entry size): none, symbols, their names, section names.
    let sections: [[u64; 6]; 4] = [
        [0, 0, 0, 0, 0, 0],
        [1, 2, 1 << 20, (1 << 30) - 16, 2, 24],
        [1, 3, 3 << 30, 1 << 30, 0, 0],
        [1, 3, 8 << 30, 1 << 20, 0, 0],
    ];
    for (number, [name, kind, offset, size, link, entry]) in sections.into_iter().enumerate() {
        let at = 64 + number as u64 * 64;
        file.write_all_at(&(name as u32).to_le_bytes(), at).unwrap();
        file.write_all_at(&(kind as u32).to_le_bytes(), at + 4).unwrap();
        file.write_all_at(&offset.to_le_bytes(), at + 24).unwrap();
        file.write_all_at(&size.to_le_bytes(), at + 32).unwrap();
        file.write_all_at(&(link as u32).to_le_bytes(), at + 40).unwrap();
        file.write_all_at(&entry.to_le_bytes(), at + 56).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

/// What scripts share.
struct Field {
    heap: Vec<u64>,
    target: Target,
    hostile_elf: String,
    _folder: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Words that point into themselves, so that there is something to find.
        let mut heap = vec![0u64; 1 << 17];
        let base = heap.as_ptr() as u64;
        for at in (0..heap.len()).step_by(7) {
            heap[at] = base + (at as u64 * 2654435761) % (8 << 17);
        }
        let target = Target::with_memory_of_this();
        Self { heap, target, hostile_elf: hostile_elf(folder.path()), _folder: folder }
    }

    fn run(&self, bytes: &[u8]) -> Report {
        let descriptor = script::segment();
        let file = File::from(descriptor.try_clone().unwrap());
        let mut script = Script::new(bytes, &file, self.heap.as_ptr() as u64, &self.hostile_elf);
        // What is there before the analyzer comes.
        while script.step() == Some(false) {}
        let segment = Segment::map(descriptor).expect("magic and version are never touched");
        let start = |segment: Arc<Segment>, kept| {
            Drain::start(segment, PathBuf::from("/proc/self/exe"), None, "drain".into(), kept).unwrap()
        };
        let vault = bytes.get(1).filter(|byte| *byte % 3 == 0).map(|_| vault::create().unwrap());
        let kept =
            |vault: &Option<OwnedFd>| vault.as_ref().map(|vault| Vault::open(vault.try_clone().unwrap()).unwrap());
        let drain = start(segment, kept(&vault));
        while let Some(pause) = script.step() {
            if pause {
                let sleeping = &drain.segment().header().consumer_sleeping;
                sleeping.store(0, Ordering::SeqCst);
                let _ = rustix::thread::futex::wake(sleeping, rustix::thread::futex::Flags::empty(), 1);
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        let mut drained = drain.finish().unwrap_or_else(|panic| panic!("the drain: {panic}"));
        if vault.is_some() {
            // Another analyzer comes in place of this one.
            drop(drained);
            let again = Segment::map(OwnedFd::from(file.try_clone().unwrap())).expect("as before");
            drained = start(again, kept(&vault)).finish().unwrap_or_else(|panic| panic!("the second drain: {panic}"));
        }
        let tid = self.target.pid();
        let held = bytes.first().is_some_and(|byte| byte % 4 != 0);
        let reach = if held {
            let thread = ThreadState::from_values(tid, 0, &[self.heap.as_ptr() as u64; 18], vec![1 << 40]);
            Reach::Held { threads: vec![thread], all_stopped: true }
        } else {
            Reach::Gone("a test".into())
        };
        let subject = Subject {
            pid: tid,
            exe: "hostile".into(),
            argv: vec!["hostile".into()],
            origin: Default::default(),
            ended: None,
            drained,
            reach,
            writable_before: Vec::new(),
            untraced: None,
            notes: Vec::new(),
            known: Default::default(),
        };
        let order = Order {
            level: Level::Draconian,
            names_peaks: true,
            progress: &|_, _| (),
            cancel: &AtomicBool::new(false),
            release: &|| (),
            found: &|_| (),
            stopped_at: Instant::now(),
        };
        let report = check::run(subject, &order);
        let any = AnyReport::Process(Box::new(report.clone()));
        for format in Format::ALL {
            assert!(format == Format::Folded || !format.render(&any, &RenderOptions::default()).is_empty());
        }
        report
    }
}

/// The script that runs, and since when: for the watchdog.
static CURRENT: Mutex<Option<(Instant, Vec<u8>)>> = Mutex::new(None);

fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::Relaxed) {
        return;
    }
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let current = CURRENT.lock().unwrap();
            if let Some((since, bytes)) = &*current
                && since.elapsed() > LONGEST
            {
                eprintln!("this script keeps the analyzer busy for more than {LONGEST:?}:\n{}", hex(bytes));
                std::process::abort();
            }
        }
    });
}

/// Runs one script; panics with it where it does harm. What it cost: milliseconds and bytes.
fn survive(field: &Field, bytes: &[u8]) -> (Report, Duration, u64) {
    watch();
    let since = Instant::now();
    *CURRENT.lock().unwrap() = Some((since, bytes.to_vec()));
    let before = memory::now();
    memory::take_peak();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| field.run(bytes)));
    let peak = memory::take_peak().saturating_sub(before);
    *CURRENT.lock().unwrap() = None;
    let Ok(report) = outcome else { panic!("the analyzer panics at this script:\n{}", hex(bytes)) };
    assert!(peak <= MOST_BYTES, "this script makes the analyzer allocate {peak} bytes:\n{}", hex(bytes));
    (report, since.elapsed(), peak)
}

/// xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 20) as usize % limit.max(1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut script = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(script.len() + 1);
        match random.below(5) {
            0 => {
                let count = random.below(40);
                let more = random.bytes(count);
                script.splice(at..at, more);
            }
            1 => {
                let end = (at + random.below(16)).min(script.len());
                script.drain(at..end);
            }
            2 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let end = (from + random.below(200)).min(other.len());
                script.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                if let Some(byte) = script.get_mut(at) {
                    *byte = (random.next() >> 32) as u8;
                }
            }
        }
    }
    script.truncate(LONGEST_SCRIPT);
    script
}

fn read_corpus() -> Vec<(String, Vec<u8>)> {
    let mut scripts: Vec<_> = std::fs::read_dir(corpus())
        .expect("the corpus")
        .flatten()
        .map(|file| (file.file_name().display().to_string(), unhex(&std::fs::read_to_string(file.path()).unwrap())))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "the corpus is gone");
    scripts
}

#[test]
fn what_once_did_harm_does_none() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let field = Field::new();
    for (name, bytes) in read_corpus() {
        let (report, took, peak) = survive(&field, &bytes);
        println!("{name}: {:?}, {took:?}, {} KiB", report.verdict, peak / 1024);
    }
}

#[test]
fn a_ring_that_holds_nonsense_is_never_called_clean() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let field = Field::new();
    // Ring 0 is said to hold all events there can be and more; a moment before that, one allocation.
    let (report, ..) = survive(&field, &[4, 0, 0, 64, 9, 4, 64, 5, 0, 12, 7, 0, 19, 12]);
    assert_eq!((report.verdict, report.completeness.corrupt_rings), (Verdict::Inconclusive, 1));
}

#[test]
fn whatever_is_written_over_the_segment_is_survived() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("AVLEAK_FUZZ_SECONDS").unwrap_or(3);
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = number("AVLEAK_FUZZ_SEED").unwrap_or_else(clock);
    println!("AVLEAK_FUZZ_SEED={seed}");
    let (field, mut random) = (Field::new(), Random(seed | 1));
    // What takes long is changed more seldom.
    let (mut corpus, mut greedy, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    for (_, script) in read_corpus() {
        let (_, took, _) = survive(&field, &script);
        corpus.extend(std::iter::repeat_n(script, if took < Duration::from_millis(100) { 16 } else { 1 }));
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut most, mut longest) = (0u64, 0, Duration::ZERO);
    while Instant::now() < until {
        let script = mutate(&mut random, &corpus);
        let (_, took, peak) = survive(&field, &script);
        if took > longest {
            slow.clone_from(&script);
        }
        if peak > most {
            greedy = script;
        }
        (runs, most, longest) = (runs + 1, most.max(peak), longest.max(took));
    }
    println!("{runs} scripts; at most {longest:?}, by\n{}\nand {} MiB, by\n{}", hex(&slow), most >> 20, hex(&greedy));
    assert!(runs > 0);
}
