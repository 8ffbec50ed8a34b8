//! Made-up reports that tests render, validate and judge; their numbers fit together as a real report's do.

use super::gated::{BaselineStatus, BaselineSummary, Gate, GoneGroup, InBaseline, SuppressionPlace, SuppressionUse};
use super::golang::{Go, GoRuntime, GoroutineGroup};
use super::groups::{self, GroupId};
use super::model::*;
use super::origin::Origin;
use super::post_mortem::{Grown, LastCheck, PostMortem};
use super::timeline::{Peak, PeakStack, Sample, Span, Timeline};
use super::verdict;

/// A frame of the program's own.
pub(crate) fn own(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        function: Some(function.to_string()),
        module: Some("server".to_string()),
        file: Some(file.to_string()),
        line: Some(line),
        offset: 0x1000 + u64::from(line) * 16,
        ..Frame::default()
    }
}

/// A frame of FFmpeg's, without debug info.
pub(crate) fn ffmpeg(function: &str, module: &str) -> Frame {
    Frame {
        function: Some(function.to_string()),
        module: Some(module.to_string()),
        offset: 0x2b_4f0,
        libav: true,
        ..Frame::default()
    }
}

/// A frame of the C library's start-up code.
pub(crate) fn system(function: &str) -> Frame {
    Frame {
        function: Some(function.to_string()),
        module: Some("libc.so.6".to_string()),
        offset: 0x27_249,
        ..Frame::default()
    }
}

/// Nothing missing.
pub(crate) fn complete() -> Completeness {
    Completeness {
        memory: MemoryMeans::Ptrace,
        unreadable_bytes: 0,
        corrupt_rings: 0,
        incomplete_stacks: 0,
        untyped_stacks: 0,
        memory_reason: None,
        hidden_libraries: 0,
        disagreements: vec![],
        notes: vec![],
    }
}

/// One AVFrame shell, definitely lost, of an empty stack.
pub(crate) fn plain_group() -> Group {
    Group {
        id: GroupId::of("AVFrame", Class::DefinitelyLost, []).to_string(),
        class: Class::DefinitelyLost,
        object: "AVFrame".to_string(),
        leak: true,
        outermost: 1,
        count: 1,
        bytes: 440,
        pinned_bytes: 0,
        exclusive: false,
        format: None,
        width: None,
        height: None,
        nb_samples: None,
        pts_first: None,
        pts_last: None,
        age_min_s: 1.0,
        age_max_s: 1.0,
        rate_per_minute: 0.0,
        rate_per_1000_frames: 0.0,
        stack: vec![],
        freed_elsewhere: vec![],
        siblings_allocated: 0,
        refs: vec![],
        held_by: vec![],
        suppressed_by: None,
        baseline: None,
    }
}

fn keyed(mut group: Group) -> Group {
    let keys = group.stack.iter().map(|f| f.offset + u64::from(f.line.unwrap_or(0)));
    group.id = GroupId::of(&group.object, group.class, keys).to_string();
    group
}

fn start() -> [Frame; 2] {
    [system("__libc_start_call_main"), system("__libc_start_main_impl")]
}

fn stack(inner: &[Frame], outer: &[Frame]) -> Vec<Frame> {
    [inner, outer].concat()
}

fn in_pump() -> Vec<Frame> {
    stack(&[own("session_pump", "src/server.c", 214), own("main", "src/server.c", 402)], &start())
}

fn receive() -> Vec<Frame> {
    let inner = [
        ffmpeg("av_buffer_pool_get", "libavutil.so.57"),
        ffmpeg("avcodec_default_get_buffer2", "libavcodec.so.59"),
        ffmpeg("ff_get_buffer", "libavcodec.so.59"),
        ffmpeg("ff_thread_get_buffer", "libavcodec.so.59"),
        ffmpeg("avcodec_send_packet", "libavcodec.so.59"),
        own("decode_one", "src/decode.c", 74),
    ];
    stack(&inner, &in_pump())
}

/// 30 decoded pictures that an error path forgot.
fn forgotten() -> Group {
    let free = stack(
        &[
            ffmpeg("av_frame_free", "libavutil.so.57"),
            own("session_release", "src/server.c", 230),
            own("session_pump", "src/server.c", 219),
            own("main", "src/server.c", 402),
        ],
        &start(),
    );
    keyed(Group {
        outermost: 30,
        count: 30,
        bytes: 30 * 440,
        pinned_bytes: 30 * 12_441_600,
        format: Some("yuv420p".to_string()),
        width: Some(3840),
        height: Some(2160),
        pts_first: Some(12),
        pts_last: Some(870),
        age_min_s: 3.1,
        age_max_s: 840.6,
        rate_per_minute: 2.13,
        rate_per_1000_frames: 14.9,
        stack: stack(&[ffmpeg("av_frame_alloc", "libavutil.so.57"), own("decode_one", "src/decode.c", 88)], &in_pump()),
        freed_elsewhere: vec![FreeSite { stack: free, count: 970, lifetime_median_ms: 33.4 }],
        siblings_allocated: 1000,
        refs: vec![
            RefHolder { class: Class::IndirectlyLost, count: 90, stack: receive() },
            RefHolder {
                class: Class::StillReachable,
                count: 6,
                stack: stack(
                    &[
                        ffmpeg("av_buffer_ref", "libavutil.so.57"),
                        ffmpeg("av_frame_ref", "libavutil.so.57"),
                        own("thumbnail_keep", "src/thumbnail.c", 41),
                    ],
                    &in_pump(),
                ),
            },
        ],
        ..plain_group()
    })
}

/// 4 clones in a lost C++ object of the program's.
fn cached() -> Group {
    let cache = own("cache::Session::remember(AVFrame const*)", "src/cache.cpp", 51);
    let clear = own("cache::Session::~Session()", "src/cache.cpp", 23);
    let evict = own("cache::Session::evict(unsigned long)", "src/cache.cpp", 77);
    let free = |site: &Frame| stack(&[ffmpeg("av_frame_free", "libavutil.so.57"), site.clone()], &in_pump());
    let session = stack(
        &[system("operator new(unsigned long)"), own("cache::open(std::string const&)", "src/cache.cpp", 12)],
        &in_pump(),
    );
    keyed(Group {
        class: Class::IndirectlyLost,
        outermost: 4,
        count: 4,
        bytes: 4 * 440,
        pinned_bytes: 4 * 1_382_400,
        exclusive: true,
        format: Some("yuv420p".to_string()),
        width: Some(1280),
        height: Some(720),
        pts_first: Some(300),
        pts_last: Some(303),
        age_min_s: 512.0,
        age_max_s: 512.2,
        rate_per_minute: 0.28,
        rate_per_1000_frames: 2.0,
        stack: stack(
            &[ffmpeg("av_frame_alloc", "libavutil.so.57"), ffmpeg("av_frame_clone", "libavutil.so.57"), cache],
            &in_pump(),
        ),
        freed_elsewhere: vec![
            FreeSite { stack: free(&evict), count: 981, lifetime_median_ms: 4_200.0 },
            FreeSite { stack: free(&clear), count: 15, lifetime_median_ms: 310.0 },
        ],
        siblings_allocated: 1000,
        refs: vec![RefHolder { class: Class::IndirectlyLost, count: 12, stack: receive() }],
        held_by: vec![
            Holder { what: "block of 96 bytes".to_string(), offset: 0x18, interior: false, stack: session },
            Holder { what: "block of 32 bytes".to_string(), offset: 0x8, interior: false, stack: vec![] },
        ],
        ..plain_group()
    })
}

fn others() -> Vec<Group> {
    let group = |object: &str, class, count, bytes, stack| {
        keyed(Group {
            leak: false,
            outermost: 0,
            object: object.to_string(),
            class,
            count,
            bytes,
            stack,
            ..plain_group()
        })
    };
    let context =
        || stack(&[ffmpeg("avcodec_alloc_context3", "libavcodec.so.59"), own("open", "src/decode.c", 20)], &start());
    vec![
        group(
            "block",
            Class::DefinitelyLost,
            1,
            96,
            stack(&[own("cache::open(std::string const&)", "src/cache.cpp", 12)], &in_pump()),
        ),
        group("AVBufferRef", Class::IndirectlyLost, 102, 102 * 24, receive()),
        group("block", Class::IndirectlyLost, 1, 32, in_pump()),
        group("AVCodecContext", Class::StillReachable, 1, 944, context()),
        group("AVFrame", Class::StillReachable, 3, 3 * 440, in_pump()),
        group("libav block", Class::StillReachable, 214, 765_000, context()),
    ]
}

/// Of a program that ld.so loaded at these addresses; the last one has no build id.
fn modules() -> Vec<Module> {
    let module = |name: &str, path: &str, build_id: Option<&str>, start: u64, pages: u64| Module {
        name: name.to_string(),
        path: path.to_string(),
        real_path: (name == "libavutil.so.57").then(|| format!("{path}.28.100")),
        build_id: build_id.map(str::to_string),
        start,
        end: start + pages * 4096,
        bias: start,
    };
    let lib = "/usr/lib/x86_64-linux-gnu";
    vec![
        module(
            "server",
            "/srv/stream/bin/server",
            Some("1f0c6b8a4e2d905577e0a1b2c3d4e5f60718293a"),
            0x5555_5555_4000,
            16,
        ),
        module("libc.so.6", &format!("{lib}/libc.so.6"), Some("be1f9e9f40f5c1a5"), 0x7fff_f520_0000, 480),
        module("libavcodec.so.59", &format!("{lib}/libavcodec.so.59"), Some("59aa01"), 0x7fff_f600_0000, 4000),
        module("libavutil.so.57", &format!("{lib}/libavutil.so.57"), None, 0x7fff_f7c0_0000, 300),
    ]
}

fn report(
    level: Level,
    leaks: Totals,
    totals: ClassTotals,
    groups: Vec<Group>,
    observed: Observed,
    completeness: Completeness,
) -> Report {
    let judged = verdict::verdict(level, &leaks, &observed, &completeness);
    Report {
        schema: SCHEMA.to_string(),
        avleak: "0.1.0".to_string(),
        verdict: judged.verdict,
        reason: judged.reason,
        level,
        target: Target {
            pid: 812,
            exe: "/srv/stream/bin/server".to_string(),
            argv: vec!["server".to_string(), "--port".to_string(), "8554".to_string()],
            ended: Some(Ended::Exit(0)),
            started: "2025-03-01T12:00:00Z".to_string(),
            duration_s: 843.7,
            origin: Origin {
                host: Some("edge-7".to_string()),
                service: Some("live".to_string()),
                build_id: Some("9f8e7d6c5b4a39281706f5e4d3c2b1a098765432".to_string()),
            },
        },
        observed,
        leaks,
        totals,
        modules: if groups.is_empty() { vec![] } else { modules() },
        groups,
        completeness,
        check: Check { started: "2025-03-01T12:14:03Z".to_string(), duration_s: 0.21, stopped_ms: 12.4, scans: 1 },
        timeline: None,
        go: None,
        post_mortem: None,
        exit: None,
        gate: None,
    }
}

fn seen(allocated: u64, freed: u64) -> Observed {
    Observed {
        frames_allocated: allocated,
        frames_freed: freed,
        packets_allocated: 1505,
        packets_freed: 1505,
        objects_allocated: 9 * allocated,
        allocations: 118_204,
        frees: 117_748,
        cancelled_young: 98_102,
        threads: 5,
        peak_blocks: 3_110,
        calls: [("av_frame_alloc", 1003), ("av_frame_clone", 1000), ("av_frame_free", 1966), ("av_packet_alloc", 1)]
            .map(|(name, n)| (name.to_string(), n))
            .into(),
        ..Observed::default()
    }
}

/// Two leak groups, and what stays beside them.
pub(crate) fn leaking() -> Report {
    let mut all = vec![cached(), forgotten()];
    all.extend(others());
    groups::sort(&mut all);
    let pinned = 30 * 12_441_600;
    let cached = 4 * 1_382_400;
    let leaks = Totals { frames: 34, blocks: 34, bytes: 34 * 440, pinned_bytes: pinned + cached, ..Totals::default() };
    let totals = ClassTotals {
        definitely_lost: Totals {
            frames: 30,
            blocks: 31,
            bytes: 30 * 440 + 96,
            pinned_bytes: pinned,
            ..Totals::default()
        },
        indirectly_lost: Totals {
            frames: 4,
            buffer_refs: 102,
            blocks: 107,
            bytes: 4 * 440 + 102 * 24 + 32,
            pinned_bytes: cached,
            ..Totals::default()
        },
        possibly_lost: Totals::default(),
        still_reachable: Totals {
            frames: 3,
            contexts: 1,
            blocks: 218,
            bytes: 944 + 3 * 440 + 765_000,
            ..Totals::default()
        },
        unclassified: Totals::default(),
    };
    report(Level::Normal, leaks, totals, all, seen(2013, 1976), complete())
}

/// Nothing lost.
pub(crate) fn clean() -> Report {
    let totals = ClassTotals {
        still_reachable: Totals { blocks: 14, bytes: 2_310, ..Totals::default() },
        ..ClassTotals::default()
    };
    report(Level::Normal, Totals::default(), totals, vec![], seen(6001, 6001), complete())
}

/// Nothing found, not everything seen.
pub(crate) fn inconclusive() -> Report {
    let observed = Observed { events_dropped: 312, ..seen(6001, 5990) };
    let note = "the process is PID 1 of its container: no analyzer could be started beside it".to_string();
    let completeness = Completeness {
        memory: MemoryMeans::None,
        disagreements: vec!["av_frame_free was called on 3 frames that no allocation was seen of".to_string()],
        notes: vec![note],
        ..complete()
    };
    let totals = ClassTotals {
        unclassified: Totals { frames: 11, blocks: 530, bytes: 1_048_576, ..Totals::default() },
        ..ClassTotals::default()
    };
    report(Level::Normal, Totals::default(), totals, vec![], observed, completeness)
}

/// 34 frames that gather over the run, on a floor of three.
pub(crate) fn timeline() -> Timeline {
    let samples = (0..12_u64).map(|at| {
        let kept = 3 + at * 34 / 11;
        let payload = |frames: u64| frames * 12_441_600;
        Sample {
            frames: Span { min: kept, max: kept + 5, last: kept + 1 },
            blocks: Span { min: 400 + kept * 9, max: 3_000, last: 420 + kept * 9 },
            payload_bytes: Span { min: payload(kept), max: payload(kept + 9), last: payload(kept + 8) },
            allocations: 9_850 + at,
            frees: 9_812,
        }
    });
    let peak = |value, bytes| Peak {
        value,
        at_s: 839.5,
        taken_at: value,
        by_stack: vec![PeakStack { count: 42, bytes, stack: forgotten().stack }],
    };
    Timeline {
        interval_s: 70.31,
        samples: samples.collect(),
        peak_frames: Some(peak(42, 42 * 440)),
        peak_payload: Some(peak(46 * 12_441_600, 46 * 12_441_600)),
    }
}

/// Every optional field present, nothing empty, and much not seen.
pub(crate) fn full() -> Report {
    let mut report = leaking();
    report.level = Level::Strict;
    report.observed = Observed { events_dropped: 1, ..report.observed };
    report.completeness = Completeness {
        memory: MemoryMeans::VmReadv,
        unreadable_bytes: 8192,
        corrupt_rings: 0,
        incomplete_stacks: 14,
        untyped_stacks: 0,
        memory_reason: Some("only parts of it were asked for".to_string()),
        hidden_libraries: 0,
        disagreements: vec!["2 frames were freed that were never seen".to_string()],
        notes: vec!["no line numbers for libavcodec.so.59: install libavcodec59-dbgsym".to_string()],
    };
    report.target.ended = Some(Ended::Signal(9));
    report.exit = Some(ExitStatus { code: 137, decided_by: "program".to_string() });
    let audio = keyed(Group {
        class: Class::PossiblyLost,
        nb_samples: Some(1024),
        format: Some("fltp".to_string()),
        pts_first: Some(-1024),
        count: 2,
        stack: vec![Frame { inlined: true, ..own("take", "src/audio.h", 9) }, own("mix", "src/audio.c", 90)],
        held_by: vec![
            Holder { what: "stack of thread 815".to_string(), offset: 0x1f0, interior: false, stack: vec![] },
            Holder { what: "AVCodecContext".to_string(), offset: 0x20, interior: true, stack: in_pump() },
        ],
        ..plain_group()
    });
    report.groups.push(audio);
    report.timeline = Some(timeline());
    report.go = Some(go());
    report.post_mortem = Some(post_mortem());
    let_through(&mut report);
    groups::sort(&mut report.groups);
    let judged = verdict::verdict(report.level, &report.leaks, &report.observed, &report.completeness);
    (report.verdict, report.reason) = (judged.verdict, judged.reason);
    report
}

/// A check before the end, a group that grew, a core and a session.
fn post_mortem() -> PostMortem {
    PostMortem {
        last_check: Some(LastCheck {
            started: "2026-03-14T15:08:51.123Z".to_string(),
            before_end_s: 12.5,
            lost: 34,
            freed_since: 1,
        }),
        grew: vec![Grown {
            group: "0123456789abcdef".to_string(),
            class: Class::StillReachable,
            object: "AVFrame".to_string(),
            count: 120,
            per_hour: 40.2,
            checks: 48,
            checks_ago: 2,
            stack: in_pump(),
        }],
        dumped_core: Some(true),
        session: Some("/var/log/avleak/avleak.812.session".to_string()),
    }
}

/// A runtime that was searched, one that was not, and goroutines that wait with a frame each.
fn go() -> Go {
    let waits = GoroutineGroup {
        state: "chan receive".to_string(),
        count: 12,
        example: 34,
        frames: 12,
        packets: 1,
        age_min_s: 0.5,
        age_max_s: 70.0,
        stack: vec![own("main.park", "server/park.go", 31)],
        created_by: Some(own("main.accept", "server/main.go", 12)),
    };
    let judged = GoRuntime {
        module: "server".to_string(),
        version: Some("go1.27".to_string()),
        judged: true,
        reason: None,
        objects_reached: 4096,
        heap_bytes: 8_388_608,
    };
    let other = GoRuntime {
        module: "plugin.so".to_string(),
        version: Some("go1.19".to_string()),
        reason: Some("the layout of its heap is not known".to_string()),
        ..GoRuntime::default()
    };
    Go { runtimes: vec![judged, other], goroutines: 40, holding: vec![waits] }
}

/// Half of the leaks are suppressed, the rest has grown.
fn let_through(report: &mut Report) {
    let (cached, forgotten): (Vec<_>, Vec<_>) = report.groups.iter_mut().filter(|g| g.leak).partition(|g| g.count == 4);
    for group in cached {
        group.leak = false;
        group.suppressed_by = Some("the session cache".to_string());
    }
    for group in forgotten {
        let moved_from = Some("0123456789abcdef".to_string());
        group.baseline = Some(match group.count {
            30 => InBaseline { status: BaselineStatus::Grown, allowed: 27, seen: 30, moved_from },
            seen => InBaseline { status: BaselineStatus::New, allowed: 0, seen, moved_from: None },
        });
    }
    let suppressed = Totals { frames: 4, blocks: 4, bytes: 4 * 440, pinned_bytes: 4 * 1_382_400, ..Totals::default() };
    report.leaks =
        Totals { frames: 32, blocks: 32, bytes: 32 * 440, pinned_bytes: 30 * 12_441_600, ..Totals::default() };
    let place = |name: &str, line| SuppressionPlace { name: name.to_string(), file: "ci/leaks.supp".to_string(), line };
    report.gate = Some(Gate {
        suppressed,
        known: Totals::default(),
        used: vec![SuppressionUse { suppression: place("the session cache", 3), groups: 1, count: 4, bytes: 4 * 440 }],
        unused: vec![place("leak:libx264", 11)],
        baseline: Some(BaselineSummary {
            path: "ci/baseline.toml".to_string(),
            slack_percent: 2.5,
            known: 0,
            moved: 0,
            new: 1,
            grown: 1,
            gone: vec![GoneGroup {
                id: "fedcba9876543210".to_string(),
                object: "AVPacket".to_string(),
                count: 2,
                at: "demux demux.c:71 in server".to_string(),
            }],
        }),
        notes: vec!["ci/leaks.supp: 1 suppression was passed over, of other tools or errors (race)".to_string()],
    });
}

/// A test command with three processes.
pub(crate) fn run() -> RunReport {
    let mut probe = clean();
    probe.target =
        Target { pid: 815, exe: "/usr/bin/ffprobe".to_string(), argv: vec!["ffprobe".to_string()], ..probe.target };
    let mut killed = inconclusive();
    killed.target.pid = 820;
    killed.target.exe = "/srv/stream/bin/transcode-worker".to_string();
    killed.target.ended = Some(Ended::Signal(9));
    let argv = ["make", "check"].map(str::to_string).to_vec();
    let mut run = verdict::sum_up(argv, Some(Ended::Exit(0)), 1, vec![leaking(), probe, killed]);
    run.gate = full().gate;
    run
}
