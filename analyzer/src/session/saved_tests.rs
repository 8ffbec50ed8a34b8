use super::*;
use crate::kind::ObjectKind;
use crate::live::Rings;
use avleak_wire::event::{Event, KIND_ALLOC};
use avleak_wire::layout as wire;

/// A session of two live blocks, one of them a frame by its kind.
fn drained() -> Drained {
    let mut header = vec![0; wire::PAGE as usize];
    header[..8].copy_from_slice(&wire::MAGIC.to_le_bytes());
    header[8..12].copy_from_slice(&u32::from(wire::MAJOR).to_le_bytes());
    let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(std::mem::offset_of!(wire::Header, node_count), 3);
    put(std::mem::offset_of!(wire::Header, pid), 77);
    let mut nodes = [0; 48];
    nodes[16..24].copy_from_slice(&0x1234u64.to_le_bytes());
    nodes[32..40].copy_from_slice(&0x5678u64.to_le_bytes());
    nodes[40..44].copy_from_slice(&1u32.to_le_bytes());
    let segment = Segment::restore(&[(0, &header[..]), (wire::NODES_OFFSET, &nodes[..])]).expect("a segment");
    let mut live = LiveSet::new();
    for (address, stack, kind) in [(0x1000, 1, ObjectKind::Plain), (0x2000, 2, ObjectKind::Frame)] {
        let event = Event { stamp: address, address, kind: KIND_ALLOC, size: 64, stack };
        live.apply(event, Rings::One, |_, _| kind);
    }
    let reading = |stamp| super::super::clock::Reading { stamp, monotonic_ns: stamp };
    let mut types = StackTypes::new(segment.clone(), "/bin/server".into(), None);
    types.recall(&[(2, 64, ObjectKind::Frame, crate::typing::Doubt::None)]);
    Drained {
        live,
        types,
        segment,
        clock: Clock::between(reading(1), reading(1_000_000_001)),
        now: 1_000_000_001,
        armed_realtime_ns: 5,
        dropped: 0,
        cancelled: 3,
        corrupt_rings: 0,
        threads: 2,
        calls: [1; 10],
        waited_s: 0.5,
        timeline: Timeline::default(),
    }
}

fn head() -> Head {
    Head {
        avleak: "9.9.9".into(),
        pid: 1077,
        exe: b"/bin/server".to_vec(),
        argv: vec!["server".into(), "-x".into()],
        origin: Origin::default(),
        writable_before: vec![(0x1000, 0x9000)],
        ended: Some(Ended::Signal(6)),
        identity: Identity::default(),
        moment: Moment::Ended,
        saved_ns: 12,
    }
}

fn file() -> Vec<u8> {
    bytes(&head(), &mut drained(), &Known::default()).expect("bytes")
}

fn read(bytes: &[u8]) -> Result<Saved, SavedError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("avleak.1077.session");
    std::fs::write(&path, bytes).expect("a file");
    Saved::read(&path)
}

fn error(bytes: &[u8]) -> String {
    read(bytes).err().map_or_else(|| "it was taken".into(), |error| error.to_string())
}

#[test]
fn a_session_comes_back_as_it_was() {
    let saved = read(&file()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&saved.head, &saved.known, saved.inner_pid()), (&head(), &Known::default(), 77));
    assert_eq!(saved.stamp_before(0.5), 500_000_001);
    let (mut again, mut was) = (saved.develop("/bin/server".into(), None), drained());
    assert_eq!(again.live.blocks(), was.live.blocks());
    assert_eq!(again.segment.stack(2), was.segment.stack(2));
    assert_eq!(again.segment.stack(2).len(), 2);
    assert_eq!(
        (again.now, again.cancelled, again.threads, again.calls),
        (was.now, was.cancelled, was.threads, was.calls)
    );
    // No file tells what stack 2 makes.
    assert_eq!(again.types.kind_of(2, 64), ObjectKind::Frame);
    assert_eq!(was.types.kind_of(2, 64), ObjectKind::Frame);
}

#[test]
fn what_is_no_session_or_another_versions_is_refused_naming_both() {
    assert!(error(b"").contains("no session file") && error(&[7; 4096]).contains("no session file"));
    let mut other = file();
    other[8..12].copy_from_slice(&7u32.to_le_bytes());
    let message = error(&other);
    assert!(message.contains("format 7, written by avleak 9.9.9"), "{message}");
    assert!(message.contains(env!("CARGO_PKG_VERSION")) && message.contains(&format!("reads format {FORMAT}")));
    other.truncate(30);
    assert!(error(&other).contains("of an unknown version"));
    assert!(Saved::read(Path::new("/nonexistent")).is_err_and(|error| error.to_string().contains("ENOENT")));
    assert!(Saved::read(Path::new("/tmp")).is_err_and(|error| error.to_string().contains("EISDIR")));
}

#[test]
fn one_that_is_cut_off_or_damaged_is_refused() {
    let file = file();
    for length in [24, 100, file.len() / 2, file.len() - 1] {
        let message = error(&file[..length]);
        assert!(message.contains(&format!("{length} of {} bytes", file.len())), "{message}");
    }
    for at in (24..file.len()).step_by(97) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(error(&damaged).contains("damaged"), "{at}");
    }
}

/// Whoever writes such a file can get the checksum right too.
#[test]
fn lengths_that_lie_are_harmless() {
    let file = file();
    let head_bytes = u32::from_le_bytes(*file[12..].first_chunk().expect("a length")) as usize;
    for at in (FIXED + head_bytes..file.len() - 12).step_by(3) {
        let mut lying = file.clone();
        lying[at..at + 8].fill(0xff);
        let end = lying.len() - CRC;
        let crc = crc32fast::hash(&lying[..end]);
        lying[end..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(saved) = read(&lying) {
            drop(saved.develop("/bin/server".into(), None));
        }
    }
}
