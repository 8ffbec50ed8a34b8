use super::*;
use crate::board::living::Living;
use crate::board::state::Last;
use crate::report::model::{Check, Totals, Verdict};
use crate::session::drain::Numbers;

/// As a server that holds 20 frames, and has lost `lost` of another stack.
pub fn process(lost: u64) -> Process {
    let living = |key: &str, object: &str, count, bytes, place: &str| Living {
        key: key.into(),
        object: object.into(),
        count,
        bytes,
        place: place.into(),
        callers: " ← pump ← main".into(),
    };
    Process {
        pid: 812,
        process: "live_server".into(),
        numbers: Some(Numbers { frames: 20 + lost, frames_allocated: 1000, ..Numbers::default() }),
        living: vec![
            living("aa", "AVFrame", 20, 9_000, "hold (src/server.c:12)"),
            living("bb", "AVFrame", lost, 900, "lose (src/server.c:90)"),
            living("cc", "payload", 23, 4_000_000, "hold (src/server.c:13)"),
        ],
        living_is_all: true,
        ..Process::default()
    }
}

pub fn row(key: &str, object: &str, class: &str, count: u64, pinned: u64, age_s: f64) -> Row {
    let lost = class.ends_with("lost");
    let (leak, place) = (lost && object == "AVFrame", format!("place of {key}"));
    let (class, age) = (class.to_string(), [0.0, age_s]);
    let (id, key, object) = (format!("{key}-{class}"), key.into(), object.into());
    let callers = " ← pump ← main".into();
    Row { id, key, object, class, leak, lost, count, pinned, age, place, callers, series: Vec::new(), growth: None }
}

pub fn checked(mut process: Process, started: &str, groups: Vec<Row>) -> Process {
    let leaks = Totals { frames: 3, pinned_bytes: 3_000_000, ..Totals::default() };
    let check = Check { started: started.into(), duration_s: 0.4, stopped_ms: 2.14, scans: 4 };
    process.checks += 1;
    process.last = Some(Last {
        verdict: Verdict::Leaks,
        reason: "3 frames are lost".into(),
        finding: "3 frames leaked, 2.86 MiB pinned".into(),
        leaks,
        check,
        goroutines: None,
        groups,
        more_groups: 0,
    });
    process
}

pub fn groups() -> Vec<Row> {
    vec![
        row("bb", "AVFrame", "definitely lost", 3, 3_000_000, 65.0),
        row("aa", "AVFrame", "still reachable", 20, 0, 600.0),
        row("dd", "AVBufferRef", "indirectly lost", 3, 3_000_000, 65.0),
        row("ee", "AVCodecContext", "still reachable", 2, 0, 700.0),
    ]
}

fn names(model: &Model) -> Vec<String> {
    model.entries().iter().map(|entry| format!("{} {}", entry.identity.0, entry.live)).collect()
}

#[test]
fn before_a_check_there_are_live_frames_and_after_it_what_is_lost() {
    let mut model = Model::default();
    assert!(model.entries().is_empty());
    model.see(process(3), 0.0);
    assert_eq!(names(&model), ["aa 20", "bb 3"]);
    assert!(model.entries().iter().all(|entry| entry.judged.is_none() && entry.is_current));
    model.see(checked(process(3), "10:00", groups()), 1.0);
    assert_eq!(names(&model), ["aa 20", "bb 3", "ee 2"]);
    let entries = model.entries();
    let expected = Judged { lost: 3, leak: true, pinned: 3_000_000, oldest_s: 65.0 };
    assert_eq!((entries[1].judged, entries[2].is_current), (Some(expected), false));
    model.everything = true;
    assert_eq!(names(&model), ["cc 23", "aa 20", "bb 3", "dd 3", "ee 2"]);
    // Between checks live counts go on.
    model.everything = false;
    model.see(checked(process(6), "10:00", groups()), 2.0);
    assert_eq!(names(&model), ["aa 20", "bb 6", "ee 2"]);
    assert_eq!((model.entries()[1].change, model.entries()[2].change), (3, 0));
}

#[test]
fn each_order_is_of_its_column() {
    let mut model = Model::default();
    for at in 0..30 {
        model.see(checked(process(3 + at), "10:00", groups()), at as f64);
    }
    let mut first = |sort| {
        model.sort = sort;
        names(&model)[0].split(' ').next().map(str::to_owned)
    };
    let firsts = Sort::ALL.map(&mut first);
    assert_eq!(
        firsts.each_ref().map(|first| first.as_deref()),
        [Some("bb"), Some("bb"), Some("bb"), Some("bb"), Some("ee")]
    );
    model.sort = Sort::Live;
    model.see(checked(process(3), "10:00", groups()), 31.0);
    assert_eq!(names(&model), ["aa 20", "bb 3", "ee 2"]);
    model.reversed = true;
    assert_eq!(names(&model), ["ee 2", "bb 3", "aa 20"]);
    assert_eq!(Sort::ALL.map(Sort::next), [Sort::Growth, Sort::Lost, Sort::Pinned, Sort::Age, Sort::Live]);
}

#[test]
fn a_stack_that_comes_new_has_changed_and_one_that_goes_is_gone() {
    let mut model = Model::default();
    let mut before = process(3);
    before.living.remove(1);
    model.see(before.clone(), 0.0);
    model.see(process(3), 1.0);
    assert_eq!(model.entries()[1].change, 3);
    model.zero();
    assert_eq!(model.entries()[1].change, 0);
    model.see(before.clone(), 2.0);
    assert_eq!(names(&model), ["aa 20"]);
    // What was lost is lost, even where nothing is told of it.
    model.see(checked(before, "10:01", groups()), 3.0);
    assert_eq!(names(&model), ["aa 20", "ee 2", "bb 0"]);
}

#[test]
fn rows_are_found_by_place_and_by_type() {
    let mut model = Model::default();
    model.see(checked(process(3), "10:00", groups()), 0.0);
    model.filter = "SERVER.C:90".into();
    assert_eq!(names(&model), ["bb 3"]);
    model.filter = "pump".into();
    assert_eq!(names(&model), ["aa 20", "bb 3", "ee 2"]);
    model.filter = "codec".into();
    assert_eq!(names(&model), ["ee 2"]);
    model.filter = "nothing of that kind".into();
    assert!(model.entries().is_empty());
    assert!(model.entry(&("aa".into(), "AVFrame".into())).is_some());
}

#[test]
fn a_rate_is_of_two_looks_and_of_one_program() {
    let mut model = Model::default();
    let made = |frames_allocated| Process {
        numbers: Some(Numbers { frames_allocated, ..Numbers::default() }),
        ..Process::default()
    };
    model.see(made(100), 0.0);
    assert_eq!(model.made_per_s, None);
    model.see(made(150), 2.0);
    assert_eq!(model.made_per_s, Some(25.0));
    // After a check a state comes at once.
    model.see(made(150), 2.0);
    assert_eq!(model.made_per_s, Some(25.0));
    model.see(made(10), 3.0);
    assert_eq!(model.made_per_s, None);
    for at in 0..2_000 {
        model.see(made(10), f64::from(at) + 4.0);
    }
    assert_eq!(model.looks.len(), MOST_LOOKS);
}

/// The monitor saw more checks than this screen.
#[test]
fn what_the_monitor_knows_goes_before() {
    let mut model = Model::default();
    let mut rows = groups();
    rows[0].growth = Some(120.0);
    model.see(checked(process(3), "10:00", rows), 0.0);
    model.sort = Sort::Growth;
    assert_eq!((names(&model)[0].as_str(), model.entries()[0].growth), ("bb 3", Some(120.0)));
}
