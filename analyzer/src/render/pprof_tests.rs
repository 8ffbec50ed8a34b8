//! Tests of profiles: read back, and followed from number to name.

use super::*;
use crate::report::sample;
use flate2::read::GzDecoder;
use std::io::Read;

fn decoded(report: &AnyReport) -> proto::Profile {
    let mut bytes = Vec::new();
    GzDecoder::new(pprof(report).as_slice()).read_to_end(&mut bytes).unwrap();
    proto::Profile::decode(bytes.as_slice()).unwrap()
}

fn process(report: Report) -> AnyReport {
    AnyReport::Process(Box::new(report))
}

struct Names(proto::Profile);

impl Names {
    fn text(&self, number: i64) -> &str {
        &self.0.string_table[usize::try_from(number).unwrap()]
    }

    /// Innermost first, functions inlined at one address joined by `<`.
    fn stack(&self, sample: &proto::Sample) -> Vec<String> {
        let function = |line: &proto::Line| {
            let function = &self.0.function[line.function_id as usize - 1];
            assert_eq!(function.id, line.function_id);
            format!("{}:{}", self.text(function.name), line.line)
        };
        let location = |id: &u64| {
            let location = &self.0.location[*id as usize - 1];
            assert_eq!(location.id, *id);
            location.line.iter().map(function).collect::<Vec<_>>().join(" < ")
        };
        sample.location_id.iter().map(location).collect()
    }

    fn labels(&self, sample: &proto::Sample) -> Vec<(&str, &str)> {
        sample.label.iter().map(|label| (self.text(label.key), self.text(label.str))).collect()
    }
}

#[test]
fn every_group_is_a_sample_with_its_stack_and_labels() {
    let report = sample::leaking();
    let names = Names(decoded(&process(report.clone())));
    assert_eq!(names.0.string_table[0], "");
    assert_eq!(names.0.sample.len(), report.groups.len());
    let first = &names.0.sample[0];
    assert_eq!(first.value, [30, 13_200, 30, 373_248_000]);
    assert_eq!(names.stack(first)[..3], ["av_frame_alloc:0", "decode_one:88", "session_pump:214"]);
    let id = report.groups[0].id.as_str();
    assert_eq!(
        names.labels(first),
        [("class", "definitely_lost"), ("object", "AVFrame"), ("leak", "true"), ("group", id)]
    );
    let lost: i64 = names.0.sample.iter().map(|sample| sample.value[2]).sum();
    let totals = report.totals;
    assert_eq!(lost as u64, totals.definitely_lost.blocks + totals.indirectly_lost.blocks);
    let pinned: i64 = names.0.sample.iter().map(|sample| sample.value[3]).sum();
    assert_eq!(pinned as u64, report.leaks.pinned_bytes);
}

#[test]
fn inlined_functions_share_an_address() {
    let names = Names(decoded(&process(sample::full())));
    let audio = names.0.sample.iter().map(|sample| names.stack(sample)).find(|stack| stack[0].contains("take"));
    assert_eq!(audio.unwrap(), ["take:9 < mix:90"]);
    let mut cut = sample::full();
    cut.groups.iter_mut().for_each(|group| group.stack.truncate(1));
    let names = Names(decoded(&process(cut)));
    assert!(names.0.sample.iter().any(|sample| names.stack(sample) == ["take:9"]));
}

#[test]
fn mappings_have_addresses_and_build_ids_and_the_program_is_first() {
    let report = sample::leaking();
    let names = Names(decoded(&process(report.clone())));
    let mapping = &names.0.mapping[0];
    assert_eq!(names.text(mapping.filename), "/srv/stream/bin/server");
    assert_eq!(names.text(mapping.build_id), "1f0c6b8a4e2d905577e0a1b2c3d4e5f60718293a");
    assert_eq!((mapping.memory_start, mapping.memory_limit), (0x5555_5555_4000, 0x5555_5556_4000));
    let location = &names.0.location[names.0.sample[0].location_id[1] as usize - 1];
    assert_eq!((location.mapping_id, location.address), (1, 0x5555_5555_4000 + 0x1000 + 88 * 16));
    assert_eq!(names.0.time_nanos, 1_740_831_243_000_000_000);
    assert_eq!(names.0.duration_nanos, 843_700_000_000);

    let mut twice = report;
    let other = crate::report::model::Module { build_id: Some("00".into()), ..twice.modules[0].clone() };
    twice.modules.push(other);
    let names = Names(decoded(&process(twice)));
    assert_eq!(names.text(names.0.mapping[0].build_id), "", "which of the two it is, nobody knows");
}

#[test]
fn several_processes_are_told_apart() {
    let run = sample::run();
    let names = Names(decoded(&AnyReport::Run(Box::new(run))));
    assert!(names.labels(&names.0.sample[0]).contains(&("process", "server (pid 812)")));
    assert_eq!(names.0.comment.len(), 3);
}

#[test]
fn what_is_shown_first_is_what_there_is() {
    let default = |report| {
        let names = Names(decoded(&process(report)));
        names.text(names.0.default_sample_type).to_string()
    };
    assert_eq!(default(sample::leaking()), "pinned_space");
    let mut shells = sample::leaking();
    shells.groups.iter_mut().for_each(|group| group.pinned_bytes = 0);
    assert_eq!(default(shells), "lost_objects");
}
