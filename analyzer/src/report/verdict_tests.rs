//! Tests of the verdict: full tables.

use super::*;
use crate::report::sample;

const CLASSES: [Class; 5] =
    [Class::DefinitelyLost, Class::IndirectlyLost, Class::PossiblyLost, Class::StillReachable, Class::Unclassified];

/// Which of [`CLASSES`] count, for an FFmpeg object that is outermost, one that is not, and a block that is no object.
#[test]
fn every_level_class_kind_and_place_is_judged() {
    let table = [
        (Level::Normal, [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
        (Level::Strict, [1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]),
        (Level::Draconian, [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]),
    ];
    for (level, outermost, inner, block) in table {
        for (i, class) in CLASSES.into_iter().enumerate() {
            for kind in [ObjectKind::Frame, ObjectKind::Packet, ObjectKind::BufferRef, ObjectKind::CodecContext] {
                assert_eq!(
                    judge(level, class, kind, true),
                    outermost[i] == 1,
                    "{level:?} {class:?} {kind:?} outermost"
                );
                assert_eq!(judge(level, class, kind, false), inner[i] == 1, "{level:?} {class:?} {kind:?} held");
            }
            for kind in [ObjectKind::Plain, ObjectKind::Payload, ObjectKind::LibavBlock] {
                for place in [true, false] {
                    assert_eq!(judge(level, class, kind, place), block[i] == 1, "{level:?} {class:?} {kind:?} {place}");
                }
            }
        }
    }
}

fn seen() -> Observed {
    Observed { frames_allocated: 6001, frames_freed: 6001, threads: 2, ..Observed::default() }
}

fn complete() -> Completeness {
    sample::complete()
}

#[test]
fn leaks_are_said_only_where_not_all_of_them_may_be_events_that_were_dropped() {
    let leaks = Totals { frames: 3, buffer_refs: 9, blocks: 12, ..Totals::default() };
    for (dropped, corrupt_rings, expected) in [
        (0, 0, Verdict::Leaks),
        (11, 0, Verdict::Leaks),
        (12, 0, Verdict::Inconclusive),
        (u64::MAX, 0, Verdict::Inconclusive),
        (0, 1, Verdict::Inconclusive),
    ] {
        let observed = Observed { events_dropped: dropped, ..seen() };
        let completeness = Completeness { corrupt_rings, ..complete() };
        let judged = verdict(Level::Normal, &leaks, &observed, &completeness);
        assert_eq!(judged.verdict, expected, "{dropped} dropped, {corrupt_rings} corrupt: {}", judged.reason);
        assert_eq!(judged.reason.contains("may be among"), expected == Verdict::Inconclusive, "{}", judged.reason);
    }
}

#[test]
fn clean_is_said_only_when_everything_was_seen() {
    let none = Totals::default();
    let judged = verdict(Level::Normal, &none, &seen(), &complete());
    assert_eq!(judged.verdict, Verdict::Clean);
    assert_eq!(judged.reason, "no FFmpeg object is lost: 6,001 frames allocated, 6,001 freed, 0 events dropped");

    let calls = |n: u64| [("av_frame_alloc".to_string(), n)].into();
    let blind = [
        ("no FFmpeg object was seen", Observed { frames_allocated: 0, ..seen() }, complete()),
        ("1 event was dropped", Observed { events_dropped: 1, ..seen() }, complete()),
        ("2 event rings were corrupt", seen(), Completeness { corrupt_rings: 2, ..complete() }),
        ("4,096 bytes of memory could not be read", seen(), Completeness { unreadable_bytes: 4096, ..complete() }),
        ("the process's memory could not be read", seen(), Completeness { memory: MemoryMeans::None, ..complete() }),
        (
            "6,004 calls of av_frame_alloc were seen but only 6,001 frames among the allocations",
            Observed { calls: calls(6004), ..seen() },
            complete(),
        ),
    ];
    for (what, observed, completeness) in blind {
        let spots = blind_spots(&observed, &completeness);
        assert_eq!(spots.len(), 1, "{spots:?}");
        assert_eq!(spots[0].what, what);
        let judged = verdict(Level::Normal, &none, &observed, &completeness);
        assert_eq!(judged.verdict, Verdict::Inconclusive, "{what}");
        assert_eq!(judged.reason, format!("no leak was found, but not everything was seen: {what}"));
        // One of the two may be one whose end was dropped.
        let leaks = Totals { frames: 2, blocks: 2, ..none };
        let judged = verdict(Level::Normal, &leaks, &observed, &completeness);
        let (expected, begin) = match completeness.memory {
            _ if completeness.corrupt_rings > 0 => (Verdict::Inconclusive, "2 frames: lost as far as was seen, but"),
            MemoryMeans::None => {
                (Verdict::Leaks, "2 frames: lost by the last check before the end, and never given back;")
            }
            _ => (Verdict::Leaks, "2 frames: lost; not everything was seen"),
        };
        assert_eq!(judged.verdict, expected, "{what}");
        assert!(judged.reason.starts_with(begin), "{}", judged.reason);
        assert!(judged.reason.ends_with(what), "{}", judged.reason);
    }
}

#[test]
fn a_call_in_flight_in_each_thread_hides_nothing() {
    let in_flight = Observed { calls: [("av_frame_alloc".to_string(), 6003)].into(), ..seen() };
    assert_eq!(blind_spots(&in_flight, &complete()), []);
}

#[test]
fn contexts_alone_are_use_enough() {
    let contexts_only = Observed { objects_allocated: 1, ..Observed::default() };
    assert_eq!(verdict(Level::Normal, &Totals::default(), &contexts_only, &complete()).verdict, Verdict::Clean);
    assert_eq!(
        verdict(Level::Normal, &Totals::default(), &Observed::default(), &complete()).verdict,
        Verdict::Inconclusive
    );
}

#[test]
fn any_number_in_leaks_is_a_leak() {
    let none = Totals::default();
    let some = [
        Totals { frames: 1, ..none },
        Totals { packets: 1, ..none },
        Totals { buffer_refs: 1, ..none },
        Totals { contexts: 1, ..none },
        Totals { blocks: 1, ..none },
        Totals { pinned_bytes: 1, ..none },
    ];
    for leaks in some {
        assert_eq!(verdict(Level::Normal, &leaks, &seen(), &complete()).verdict, Verdict::Leaks, "{leaks:?}");
    }
}

#[test]
fn the_reason_names_the_level() {
    let leaks = Totals { frames: 30, packets: 2, blocks: 32, ..Totals::default() };
    let reason = |level, leaks: &Totals| verdict(level, leaks, &seen(), &complete()).reason;
    assert_eq!(reason(Level::Normal, &leaks), "30 frames and 2 packets: lost");
    assert_eq!(reason(Level::Strict, &leaks), "30 frames and 2 packets: lost or possibly lost");
    assert_eq!(reason(Level::Draconian, &leaks), "30 frames and 2 packets: still alive at the end");
    let all: std::collections::BTreeSet<String> =
        [Level::Normal, Level::Strict, Level::Draconian].map(|level| reason(level, &Totals::default())).into();
    assert_eq!(all.len(), 3);
}

#[test]
fn exit_statuses() {
    let exit = |n| Some(Ended::Exit(n));
    let signal = |n| Some(Ended::Signal(n));
    let (clean, leaks, unsure) = (Some(Verdict::Clean), Some(Verdict::Leaks), Some(Verdict::Inconclusive));
    let table = [
        (exit(0), clean, 1, 0, "clean"),
        (exit(0), leaks, 1, 1, "leaks"),
        (exit(0), leaks, 42, 42, "leaks"),
        (exit(0), leaks, 0, 0, "leaks"),
        (exit(0), unsure, 1, 3, "inconclusive"),
        (exit(0), unsure, 42, 3, "inconclusive"),
        (exit(0), None, 1, 2, "avleak"),
        (exit(7), clean, 1, 7, "program"),
        (exit(7), leaks, 1, 7, "program"),
        (exit(7), unsure, 1, 7, "program"),
        (exit(7), None, 1, 7, "program"),
        (exit(255), leaks, 1, 255, "program"),
        (exit(-1), leaks, 1, 255, "program"),
        (exit(256), leaks, 1, 1, "leaks"),
        (signal(9), clean, 1, 137, "program"),
        (signal(9), leaks, 1, 137, "program"),
        (signal(11), unsure, 42, 139, "program"),
        (signal(15), None, 1, 143, "program"),
        (Some(Ended::Exec(true)), leaks, 1, 1, "leaks"),
        (Some(Ended::Exec(true)), clean, 1, 0, "clean"),
        (None, clean, 1, 0, "clean"),
        (None, leaks, 9, 9, "leaks"),
        (None, unsure, 9, 3, "inconclusive"),
        (None, None, 9, 2, "avleak"),
    ];
    for (ended, verdict, error_exitcode, code, by) in table {
        let status = exit_status(ended, verdict, error_exitcode);
        assert_eq!((status.code, status.decided_by.as_str()), (code, by), "{ended:?} {verdict:?} {error_exitcode}");
    }
}

#[test]
fn a_run_is_as_bad_as_its_worst_process() {
    let (clean, leaks, unsure) = (sample::clean(), sample::leaking(), sample::inconclusive());
    let sum = |processes: &[&Report]| {
        sum_up(vec!["make".into()], Some(Ended::Exit(0)), 1, processes.iter().map(|&p| p.clone()).collect())
    };
    assert_eq!(sum(&[]).verdict, Verdict::Inconclusive);
    assert_eq!(sum(&[]).exit.code, 3);
    assert_eq!(sum(&[&clean, &clean]).verdict, Verdict::Clean);
    assert_eq!(sum(&[&clean, &clean]).reason, "of 2 processes that used FFmpeg, none leaked");
    assert_eq!(sum(&[&clean, &unsure]).verdict, Verdict::Inconclusive);
    let all = sum(&[&clean, &unsure, &leaks, &leaks]);
    assert_eq!((all.verdict, all.exit.code), (Verdict::Leaks, 1));
    assert_eq!(all.reason, "of 4 processes that used FFmpeg, 2 leaked");
    assert_eq!(all.leaks.frames, 2 * leaks.leaks.frames);
    assert_eq!(all.leaks.pinned_bytes, 2 * leaks.leaks.pinned_bytes);
    assert_eq!(sum(&[&leaks]).reason, leaks.reason);
}
