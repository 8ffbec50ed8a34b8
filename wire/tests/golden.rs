//! The layout and encodings of the wire, as numbers: what `docs/wire-format.md` promises. A failure here means that the format
//! changed: raise MAJOR or MINOR, and change the document with it.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use avleak_wire::event::*;
use avleak_wire::layout::*;
use avleak_wire::registration::*;
use avleak_wire::ring::{Mapped, Producer};
use avleak_wire::young::*;

/// Each field of a structure must lie where the golden table says, and the table must name all of them.
macro_rules! offsets {
    ($type:ident { $($field:ident $offset:literal,)* }) => {{
        $(assert_eq!(offset_of!($type, $field), $offset, concat!(stringify!($type), ".", stringify!($field)));)*
        // A new field does not compile here until the table has it.
        let _ = |$type { $($field: _),* }: $type| ();
    }};
}

#[test]
fn versions_and_limits() {
    assert_eq!(MAGIC.to_le_bytes(), *b"avleak\0\x01");
    assert_eq!((MAJOR, MINOR), (5, 0));
    assert_eq!((PAGE, MAX_MODULES, MAX_NODES, MAX_RINGS, RING_EVENTS), (4096, 4096, 4_194_304, 4096, 2048));
    assert_eq!((MODULE_PATH_BYTES, BUILD_ID_BYTES), (424, 32));
    assert_eq!((YOUNG_SLOTS, DEATH_SLOTS), (512, 1024));
    assert_eq!((NAPPING, ASLEEP), (1, 2));
    assert_eq!((CLOCK_TSC, CLOCK_MONOTONIC), (1, 2));
    assert_eq!((FLAG_ARMED_BY_CALL, FLAG_FORKED_CHILD, FLAG_NO_WIPEONFORK), (1, 2, 4));
    assert_eq!((MODULE_LIBAVUTIL, MODULE_FFMPEG, MODULE_SELF, MODULE_LOADER, MODULE_VDSO), (1, 2, 4, 8, 16));
}

#[test]
fn the_parts_of_a_segment() {
    assert_eq!(MODULES_OFFSET, 0x1000);
    assert_eq!(NODES_OFFSET, 0x20_1000);
    assert_eq!((TEXTS_OFFSET, TEXT_BYTES), (0x420_1000, 0x40_0000));
    assert_eq!(RINGS_OFFSET, 0x460_1000);
    assert_eq!((EVENTS_IN_RING, YOUNG_IN_RING, DEATHS_IN_RING), (0x1000, 0x1_1000, 0x1_5000));
    assert_eq!(RING_STRIDE, 0x1_9000);
    assert_eq!(SEGMENT_BYTES, 0x1D60_1000);
}

#[test]
fn the_header() {
    offsets!(Header {
        magic 0,
        version 8,
        clock 12,
        pid 16,
        flags 20,
        armed_stamp 24,
        armed_monotonic_ns 32,
        armed_realtime_ns 40,
        stamp_hz 48,
        private_start 56,
        private_bytes 64,
        module_count 72,
        node_count 76,
        ring_count 80,
        consumer_sleeping 84,
        dropped_without_ring 88,
        nodes_exhausted 96,
        modules_exhausted 104,
        stacks_truncated 112,
        slots_patched 120,
        slots_refused 128,
        unwind_failures 136,
        threads_seen 144,
        stacks_without_room 152,
        verified_stacks 156,
        verify_differences 160,
        ring_slots 164,
        text_bytes 168,
        texts_exhausted 172,
        python_version 176,
        python_readable 180,
        python_type 184,
    });
    assert_eq!(size_of::<Header>(), 192);
}

#[test]
fn module_records_and_stack_nodes() {
    offsets!(ModuleRecord {
        base 0,
        start 8,
        end 16,
        loaded_stamp 24,
        unloaded_stamp 32,
        flags 40,
        build_id_len 44,
        path_len 48,
        reserved 52,
        build_id 56,
        path 88,
    });
    assert_eq!(size_of::<ModuleRecord>(), 512);
    offsets!(StackNode { pc 0, parent 8, module 12, });
    assert_eq!(size_of::<StackNode>(), 16);
    assert_eq!(NODE_PYTHON, u32::MAX);
    offsets!(TextHead { file_len 0, name_len 4, });
    assert_eq!((size_of::<TextHead>(), TEXT_FILE_BYTES, TEXT_NAME_BYTES), (8, 512, 256));
}

#[test]
fn the_header_of_a_ring() {
    offsets!(RingHeader {
        head 0,
        busy 8,
        owner_tid 12,
        owners 16,
        reserved 20,
        cancelled 24,
        dropped 32,
        waited_ns 40,
        calls 48,
        padding 176,
        tail 256,
    });
    assert_eq!(size_of::<RingHeader>(), 264);
    assert_eq!(
        API_NAMES,
        [
            "av_frame_alloc",
            "av_frame_free",
            "av_frame_clone",
            "av_frame_ref",
            "av_frame_unref",
            "av_frame_move_ref",
            "av_buffer_ref",
            "av_buffer_unref",
            "av_packet_alloc",
            "av_packet_free",
        ]
    );
}

#[test]
fn kinds_of_events() {
    assert_eq!((KIND_ALLOC, KIND_FREE, KIND_FREE_BY_REALLOC), (1, 2, 3));
    assert_eq!((KIND_API_FRAME_ALLOC, KIND_API_FRAME_FREE), (16, 17));
    assert_eq!((KIND_API_PACKET_ALLOC, KIND_API_PACKET_FREE), (19, 20));
    assert_eq!(FREE_UNMAPS, 1);
}

/// Event number 0x1_0000_0002 of a ring, with a different byte in every place that counts.
const EVENT: Event = Event {
    stamp: 0x0102_0304_0506_0708,
    address: 0x00aa_bbcc_ddee_ff10,
    kind: KIND_FREE_BY_REALLOC,
    size: 0x1112_1314_1516_1718,
    stack: 0x0021_2223,
};
const EVENT_INDEX: u64 = 0x1_0000_0002;
#[rustfmt::skip]
const EVENT_BYTES: [u8; 32] = [
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
    0x10, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x03,
    0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
    0x23, 0x22, 0x21, 0x00, 0x03, 0x00, 0x00, 0x00,
];

fn bytes_of(cell: &EventCell) -> Vec<u8> {
    cell.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
}

const YOUNG: Young = Young {
    stamp: 0x0102_0304_0506_0708,
    address: 0x00aa_bbcc_ddee_ff10,
    size: 0x1112_1314_1516_1718,
    stack: 0x0021_2223,
    mark: OBJECT | 0x0506_0708,
};
#[rustfmt::skip]
const YOUNG_BYTES: [u8; 32] = [
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
    0x10, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x01,
    0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
    0x23, 0x22, 0x21, 0x00, 0x08, 0x07, 0x06, 0x45,
];

#[test]
fn the_bytes_of_a_young_cell() {
    assert_eq!((WAYS, OBJECT, CLAIMED), (4, 1 << 30, 1 << 63));
    let cell = EventCell([const { AtomicU64::new(0) }; 4]);
    cell.fill(YOUNG);
    assert_eq!(bytes_of(&cell), YOUNG_BYTES);
    assert!(cell.claim(tag_of(YOUNG.address)));
    assert_eq!(bytes_of(&cell)[15], 0x81);
    cell.empty();
    assert_eq!(bytes_of(&cell)[8..16], [0; 8]);
}

#[test]
fn the_bytes_of_a_death_cell() {
    assert_eq!((size_of::<DeathCell>(), align_of::<DeathCell>(), BY_REALLOC), (16, 16, u32::MAX));
    let cell = DeathCell([const { AtomicU64::new(0) }; 2]);
    cell.take(0x0031_3233_0021_2223);
    // 32 go through the ring, the others are cancelled, but for number 65.
    let cancelled = (0..70).filter(|_| cell.count()).count();
    assert_eq!(cancelled, 37);
    let bytes: Vec<u8> = cell.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    assert_eq!(bytes, [0x23, 0x22, 0x21, 0, 0x33, 0x32, 0x31, 0, 37, 0, 0, 0, 0, 33, 0, 0]);
    assert_eq!(cell.read(), Some((0x0021_2223, 0x0031_3233, 37)));
}

#[test]
fn the_bytes_of_an_event() {
    assert_eq!((size_of::<EventCell>(), align_of::<EventCell>()), (32, 32));
    let cell = EventCell([const { AtomicU64::new(0) }; 4]);
    cell.store(EVENT, EVENT_INDEX);
    assert_eq!(bytes_of(&cell), EVENT_BYTES);
    assert_eq!(cell.load(EVENT_INDEX), Some(EVENT));
}

#[test]
#[allow(unsafe_code, reason = "test memory in place of a mapping")]
fn the_bytes_of_a_ring() {
    #[repr(C, align(4096))]
    struct Page([AtomicU64; 512]);
    let pages: Box<[Page]> = (0..RING_STRIDE / PAGE).map(|_| Page([const { AtomicU64::new(0) }; 512])).collect();
    // SAFETY: RING_STRIDE bytes, page-aligned, that outlive the view; atomics, so that reading them beside it is no data race.
    let producer = Producer::over(unsafe { Mapped::new(pages.as_ptr().cast_mut().cast()) });
    producer.header().head.store(EVENT_INDEX, Ordering::Relaxed);
    let mut known_tail = EVENT_INDEX;
    producer.begin();
    producer.push(EVENT, &mut known_tail).unwrap();
    let word = |page: usize, offset: usize| pages[page].0[offset / 8].load(Ordering::Relaxed);
    assert_eq!(word(0, 0), EVENT_INDEX + 1, "head");
    assert_eq!(word(0, 8), 1, "busy in the low half; no owner was written");
    // Slot 2: the events begin on the second page, and the index is taken modulo 2048.
    let event: Vec<u8> = (0..4).flat_map(|at| word(1, 2 * 32 + at * 8).to_le_bytes()).collect();
    assert_eq!(event, EVENT_BYTES);
    producer.end();
    assert_eq!(word(0, 8), 2, "busy: another even number");
    producer.young(3).fill(YOUNG);
    let young: Vec<u8> = (0..4).flat_map(|at| word(0x11, 3 * 32 + at * 8).to_le_bytes()).collect();
    assert_eq!(young, YOUNG_BYTES);
    // The first death of a pair goes through the ring: it takes a cell and is counted there.
    assert!(!producer.cancels(0x0021_2223, BY_REALLOC));
    let pairs = (0..4 * 512).map(|at| pages[0x15 + at / 512].0[at % 512].load(Ordering::Relaxed));
    assert_eq!(pairs.filter(|&word| word != 0).collect::<Vec<_>>(), [0xffff_ffff_0021_2223, 1 << 40]);
    producer.header().tail.store(77, Ordering::Relaxed);
    assert_eq!(word(0, 256), 77, "tail");
}

#[test]
fn the_bytes_of_registration() {
    let hello = Hello {
        magic: MAGIC,
        major: 0x0102,
        minor: 0x0304,
        pid: 0x0506_0708,
        segment_bytes: 0x1112_1314_1516_1718,
        reserved: 0x2122_2324_2526_2728,
    };
    #[rustfmt::skip]
    let hello_bytes = [
        b'a', b'v', b'l', b'e', b'a', b'k', 0x00, 0x01,
        0x02, 0x01, 0x04, 0x03, 0x08, 0x07, 0x06, 0x05,
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
    ];
    assert_eq!(hello.encode(), hello_bytes);
    assert_eq!(Hello::decode(&hello_bytes), hello);

    let answer = Answer { magic: MAGIC, status: 0x0102_0304, reserved: 0x0506_0708 };
    #[rustfmt::skip]
    let answer_bytes = [
        b'a', b'v', b'l', b'e', b'a', b'k', 0x00, 0x01,
        0x04, 0x03, 0x02, 0x01, 0x08, 0x07, 0x06, 0x05,
    ];
    assert_eq!(answer.encode(), answer_bytes);
    assert_eq!(Answer::decode(&answer_bytes), answer);

    assert_eq!((ANSWER_TRACED, ANSWER_UNTRACED, ANSWER_WRONG_VERSION, ANSWER_REFUSED), (1, 2, 3, 4));
    assert_eq!((PATIENCE_MS, PATIENCE_VARIABLE), (100, c"AVLEAK_PATIENCE_MS"));
}

/// The document says the same sizes and offsets.
#[test]
fn the_document_is_up_to_date() {
    let document = include_str!("../../docs/wire-format.md");
    for fact in [
        format!("version {MAJOR}.{MINOR}"),
        format!("{MODULES_OFFSET:#x}"),
        format!("{NODES_OFFSET:#x}"),
        format!("{RINGS_OFFSET:#x}"),
        format!("{RING_STRIDE:#x}"),
        format!("{SEGMENT_BYTES:#x}"),
        format!("{EVENTS_IN_RING:#x}"),
        format!("{YOUNG_IN_RING:#x}"),
        format!("{DEATHS_IN_RING:#x}"),
    ] {
        assert!(document.contains(&fact), "docs/wire-format.md does not say {fact}");
    }
}
