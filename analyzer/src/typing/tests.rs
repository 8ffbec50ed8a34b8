//! Typing real stacks, those of other builds, and hostile ones.

use avleak_wire::layout::{MODULE_FFMPEG, MODULE_SELF};

use super::*;
use crate::address::TargetRange;
use crate::target::memory::SavedMemory;

/// `name` lies in libav, `?` is a static function of it, `(name)` lies outside.
fn frames(stack: &str) -> Vec<TypingFrame<'_>> {
    let frame = |text| match text {
        "?" => TypingFrame { module_flags: MODULE_FFMPEG, symbol: None },
        "(?)" => TypingFrame { module_flags: 0, symbol: None },
        name if name.starts_with('(') => TypingFrame { module_flags: 0, symbol: Some(name.trim_matches(['(', ')'])) },
        name => TypingFrame { module_flags: MODULE_FFMPEG, symbol: Some(name) },
    };
    stack.split_whitespace().map(frame).collect()
}

fn typed(stack: &str, size: u64) -> (ObjectKind, Doubt) {
    let typing = type_stack(&frames(stack), size);
    (typing.kind, typing.doubt)
}

#[test]
fn real_stacks_are_typed_as_checked_by_hand() {
    let fixture = include_str!("../../testdata/typing_stacks.txt");
    let mut kinds = std::collections::BTreeSet::new();
    let mut checked = 0;
    for line in fixture.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().expect("four words");
        let (kind, doubt, size, stack) = (word(), word(), word(), word());
        let (got, in_doubt) = typed(stack, size.parse().expect("bytes"));
        assert_eq!((format!("{got:?}").as_str(), format!("{in_doubt:?}").as_str()), (kind, doubt), "{line}");
        kinds.insert(got);
        checked += 1;
    }
    assert!(checked > 90 && kinds.len() == 22, "{checked} stacks of {kinds:?}");
}

#[test]
fn what_the_program_allocates_inside_ffmpegs_callbacks_is_its_own() {
    let plain = |stack, size| assert_eq!(typed(stack, size), (ObjectKind::Plain, Doubt::None), "{stack}");
    plain("(get_buffer) avcodec_default_get_buffer2 ? avcodec_send_packet (main)", 24);
    plain("(pool_alloc) av_buffer_pool_get (main)", 88);
    plain("(strdup) av_frame_alloc (main)", 472);
    // The program's own use of the helpers.
    plain("av_malloc av_mallocz (main) av_frame_alloc (main)", 472);
    plain("av_malloc", 8);
    plain("", 8);
    // A buffer that the program makes by FFmpeg inside a callback is FFmpeg's.
    assert_eq!(
        typed("av_malloc av_mallocz av_buffer_create (pool_alloc) av_buffer_pool_get (main)", 24).0,
        ObjectKind::BufferRef
    );
}

#[test]
fn maker_and_caller_are_named() {
    let typing = type_stack(
        &frames("av_malloc av_mallocz ? avfilter_graph_alloc_filter avfilter_graph_create_filter (main)"),
        168,
    );
    assert_eq!((typing.maker, typing.caller), (Some(3), Some(5)));
    let typing = type_stack(&frames("av_malloc ? ? (start_thread)"), 168);
    assert_eq!((typing.kind, typing.maker, typing.caller), (ObjectKind::LibavBlock, None, Some(3)));
    assert_eq!(type_stack(&frames("av_malloc av_frame_alloc"), 472).caller, None);
}

#[test]
fn builds_that_keep_static_names_are_typed_like_stripped_ones() {
    for (named, stripped, size) in [
        (
            "av_malloc av_mallocz pool_alloc_buffer av_buffer_pool_get (main)",
            "av_malloc av_mallocz ? av_buffer_pool_get (main)",
            88,
        ),
        (
            "av_malloc av_mallocz ff_filter_alloc avfilter_graph_alloc_filter",
            "av_malloc av_mallocz ? avfilter_graph_alloc_filter",
            168,
        ),
        (
            "av_malloc av_mallocz init_context_defaults avcodec_alloc_context3",
            "av_malloc av_mallocz ? avcodec_alloc_context3",
            944,
        ),
        (
            "av_malloc av_memdup init_thread ff_frame_thread_init avcodec_open2",
            "av_malloc av_memdup ? ? avcodec_open2",
            944,
        ),
        (
            "av_malloc av_mallocz add_side_data_from_buf av_frame_new_side_data",
            "av_malloc av_mallocz ? av_frame_new_side_data",
            40,
        ),
        ("av_malloc av_mallocz av_dict_set.part.0 av_dict_set", "av_malloc av_mallocz av_dict_set", 16),
        ("av_malloc ff_frame_pool_get avcodec_send_packet", "av_malloc ? avcodec_send_packet", 90),
    ] {
        assert_eq!(typed(named, size), typed(stripped, size), "{named}");
    }
}

#[test]
fn other_builds_and_versions_are_typed() {
    use Doubt as D;
    use ObjectKind as K;
    for (stack, size, kind, doubt) in [
        // Compilers that inline exported functions.
        ("av_malloc av_frame_clone (main)", 472, K::Frame, D::Frame),
        ("av_malloc av_mallocz av_packet_clone (main)", 104, K::Packet, D::None),
        ("av_malloc av_mallocz av_buffer_alloc (main)", 24, K::Payload, D::PayloadOrRef),
        ("av_malloc av_mallocz av_buffer_pool_get (main)", 48, K::Buffer, D::None),
        // avutil 56: entry and AVBuffer are both 40 bytes.
        ("av_malloc av_mallocz av_buffer_create av_buffer_pool_get (main)", 40, K::Buffer, D::None),
        ("av_malloc av_mallocz av_buffer_pool_get (main)", 40, K::PoolEntry, D::EntryOrBuffer),
        // avutil ≥ 60: side data by static functions.
        ("av_malloc av_mallocz ? ? av_frame_ref av_frame_clone (main)", 40, K::SideData, D::None),
        ("av_malloc av_mallocz ? av_frame_side_data_new (main)", 40, K::SideData, D::None),
        // Arrays beside a frame with more than eight planes, of a frame's size.
        ("av_malloc av_calloc av_frame_ref av_frame_clone (main)", 472, K::LibavBlock, D::None),
        ("av_malloc av_malloc_array av_frame_clone (main)", 472, K::LibavBlock, D::None),
    ] {
        assert_eq!(typed(stack, size), (kind, doubt), "{stack}");
    }
}

/// A block at 0x1000 with `words`, and the AVClass `name` at 0x2000.
fn check(kind: ObjectKind, doubt: Doubt, size: u64, words: &[u64], memory: &mut SavedMemory) -> ObjectKind {
    let mut words = words.to_vec();
    words.resize(size.div_ceil(8) as usize, 0);
    memory.insert_words(0x1000, &words);
    confirm(Typing { kind, doubt, maker: None, caller: None }, TargetRange::with_len(0x1000, size), memory)
}

#[test]
fn the_class_at_a_blocks_start_tells_contexts_from_what_is_made_beside_them() {
    let classed = |name: &str, guess| {
        let mut memory = SavedMemory::default();
        memory.insert_words(0x2000, &[0x3000]);
        memory.insert(0x3000, [name.as_bytes(), &[0; 64]].concat());
        check(guess, Doubt::Class, 944, &[0x2000], &mut memory)
    };
    assert_eq!(classed("AVCodecContext", ObjectKind::CodecContext), ObjectKind::CodecContext);
    assert_eq!(classed("libx264", ObjectKind::CodecContext), ObjectKind::LibavBlock);
    assert_eq!(classed("SWScaler", ObjectKind::LibavBlock), ObjectKind::SwsContext);
    assert_eq!(classed("AVFilter", ObjectKind::FilterContext), ObjectKind::FilterContext);
    let mut nothing = SavedMemory::default();
    assert_eq!(check(ObjectKind::CodecContext, Doubt::Class, 944, &[0], &mut nothing), ObjectKind::LibavBlock);
    let block = TargetRange::with_len(0x9000, 944);
    let typing = Typing { kind: ObjectKind::CodecContext, doubt: Doubt::Class, maker: None, caller: None };
    assert_eq!(confirm(typing, block, &nothing), ObjectKind::CodecContext, "unreadable: the stack's answer stands");
}

#[test]
fn a_frame_in_doubt_points_to_itself() {
    let mut words = vec![0; 59];
    let mut memory = SavedMemory::default();
    assert_eq!(check(ObjectKind::Frame, Doubt::Frame, 472, &words, &mut memory), ObjectKind::LibavBlock);
    words[12] = 0x1000;
    let mut memory = SavedMemory::default();
    assert_eq!(check(ObjectKind::Frame, Doubt::Frame, 472, &words, &mut memory), ObjectKind::Frame);
}

#[test]
fn content_tells_things_of_one_size_apart() {
    use Doubt as D;
    use ObjectKind as K;
    let with_buffer = || {
        let mut memory = SavedMemory::default();
        memory.insert_words(0x7000, &[0x8000, 24, 1, 0x5000, 0, 0]);
        memory.insert(0x8000, vec![9; 24]);
        memory.insert_words(0x6000, &[0x0000_0005_0000_0001, 0, 0, 0, 0]);
        memory
    };
    for (kind, doubt, size, words, expected) in [
        (K::Payload, D::PayloadOrRef, 24, vec![0x7000, 0x8000, 24], K::BufferRef),
        (K::Payload, D::PayloadOrRef, 24, vec![7, 7, 7], K::Payload),
        (K::Payload, D::PayloadOrRef, 48, vec![0x8000, 24, 1, 0x5000, 0, 0], K::Buffer),
        (K::Payload, D::PayloadOrRef, 48, vec![7; 6], K::Payload),
        (K::Payload, D::PayloadOrRef, 40, vec![0x8000, 24 | 1 << 32, 0x5000, 0, 0], K::Buffer),
        (K::Payload, D::PayloadOrRef, 40, vec![0; 5], K::Payload),
        (K::PoolEntry, D::EntryOrBuffer, 40, vec![0x8000, 4096 | 1 << 32, 0x5000, 0x7000, 0], K::Buffer),
        (K::PoolEntry, D::EntryOrBuffer, 40, vec![0x8000, 0, 0x5000, 0x7000, 0], K::PoolEntry),
        (K::PoolEntry, D::EntryOrBuffer, 40, vec![0x8000, 0x7f12_3456_7890, 0x5000, 0x7000, 0], K::PoolEntry),
        (K::DictionaryPart, D::DictionaryOrEntries, 16, vec![1, 0x7f12_3456_7890], K::Dictionary),
        (K::DictionaryPart, D::DictionaryOrEntries, 16, vec![0x5512_3456_7890, 0x7f12_3456_7890], K::DictionaryPart),
        (K::ParserContext, D::Parser, 13968, vec![0x8000, 0x7000], K::LibavBlock),
        (K::ParserContext, D::Parser, 336, vec![0x8000, 0], K::LibavBlock),
        (K::ParserContext, D::Parser, 120, vec![0x8000, 0x7000], K::LibavBlock),
    ] {
        assert_eq!(check(kind, doubt, size, &words, &mut with_buffer()), expected, "{doubt:?} {size} {words:x?}");
    }
    let mut memory = with_buffer();
    // Five codec ids: H.264 alone.
    memory.insert_words(0x7000, &[27, 0, 0]);
    assert_eq!(check(K::ParserContext, D::Parser, 336, &[0x8000, 0x7000], &mut memory), K::ParserContext);
}

#[test]
fn hostile_stacks_and_memory_are_survived() {
    use Doubt as D;
    let deep = "? ".repeat(100_000);
    assert_eq!(typed(&deep, u64::MAX).0, ObjectKind::LibavBlock);
    let long = "av_".repeat(10_000);
    assert_eq!(typed(&format!("av_malloc {long}"), 0).0, ObjectKind::LibavBlock);
    let memory = SavedMemory::default();
    for doubt in [D::Class, D::Frame, D::Parser, D::EntryOrBuffer, D::PayloadOrRef, D::DictionaryOrEntries] {
        let typing = Typing { kind: ObjectKind::Payload, doubt, maker: None, caller: None };
        for start in [0, 0x1000, u64::MAX - 3] {
            assert_eq!(confirm(typing, TargetRange::with_len(start, 40), &memory), ObjectKind::Payload);
        }
    }
}

#[test]
fn addresses_are_looked_up_only_inside_libav() {
    use crate::symbols::Module;
    let mut symbolizer = Symbolizer::new(None);
    // No file: every function is nameless, and asking for it leaves a note.
    let module = |index: u32, flags, path: &str| Module {
        index,
        base: u64::from(index) << 20,
        flags,
        path: path.into(),
        ..Module::default()
    };
    symbolizer.add_module(module(1, MODULE_SELF, "/nowhere/libavleak.so"));
    symbolizer.add_module(module(2, MODULE_FFMPEG, "/nowhere/libavcodec.so"));
    symbolizer.add_module(module(3, 0, "/nowhere/server"));
    let stack = [(Some(1), 0x10_0010), (Some(2), 0x20_0010), (Some(2), 0x20_0020), (Some(3), 0x30_0010), (None, 5)];
    let typing = type_addresses(&mut symbolizer, &stack, 100);
    assert_eq!((typing.kind, typing.caller), (ObjectKind::LibavBlock, Some(3)));
    assert!(symbolizer.notes().iter().all(|n| n.contains("libavcodec")), "{:?}", symbolizer.notes());
    assert_eq!(type_addresses(&mut symbolizer, &stack[3..], 100).kind, ObjectKind::Plain);
}
