//! pprof: all groups as a gzipped `profile.proto`, for `go tool pprof` and everything else that reads it.
//!
//! One sample a group, with the labels `class`, `object`, `leak` and `group` (its stable id), and `process` where there are
//! several. The sample types are [`SAMPLE_TYPES`]. Names, lines and inlined frames are in the profile: nobody has to symbolize
//! it again. FFmpeg's own malloc wrappers are named as frames to drop, so that "flat" is the function that makes the object.

use super::brief;
use super::folded::Weight;
use super::load::AnyReport;
use super::pprof_proto as proto;
use super::stack;
use crate::report::model::{Class, Frame, Group, Module, Report};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::HashMap;
use std::io::Write;

/// What the values of a sample are: type and unit, in this order.
///
/// `inuse_objects` and `inuse_space` are the objects of every group and their own blocks' bytes; `lost_objects` those that are
/// definitely, indirectly or possibly lost; `pinned_space` the bytes of the buffers that outermost lost objects keep alive.
pub const SAMPLE_TYPES: [(&str, &str); 4] =
    [("inuse_objects", "count"), ("inuse_space", "bytes"), ("lost_objects", "count"), ("pinned_space", "bytes")];

/// FFmpeg's wrappers of malloc: pprof drops what matches the whole name, as Go's heap profiles do with runtime's.
const DROP: &str = "av_(malloc|mallocz|calloc|realloc|realloc_f|malloc_array|mallocz_array|realloc_array|reallocp|reallocp_array|memdup|strdup|strndup|fast_malloc|fast_mallocz|fast_realloc)";

/// The profile of a report, gzipped.
pub fn pprof(report: &AnyReport) -> Vec<u8> {
    let bytes = Builder::profile(report).encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    match gzip.write_all(&bytes).and_then(|()| gzip.finish()) {
        Ok(compressed) => compressed,
        Err(error) => unreachable!("a vector takes every byte: {error}"),
    }
}

/// Tables in which everything has a number, each thing once.
#[derive(Default)]
struct Builder {
    profile: proto::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, Vec<Frame>), u64>,
}

/// The mappings of one process.
struct Mappings<'a> {
    /// By name: number, and the module where only one has that name.
    by_name: HashMap<&'a str, (u64, Option<&'a Module>)>,
}

impl Builder {
    fn profile(report: &AnyReport) -> proto::Profile {
        let mut builder = Self::default();
        // The first string is the empty one, by the format's rule.
        builder.string("");
        let processes = report.processes();
        for (kind, unit) in SAMPLE_TYPES {
            let kind = builder.value_type(kind, unit);
            builder.profile.sample_type.push(kind);
        }
        builder.profile.period_type = Some(builder.value_type("space", "bytes"));
        builder.profile.period = 1;
        builder.profile.drop_frames = builder.string(DROP);
        let default = match Weight::fitting(processes.iter().flat_map(|process| &process.groups)) {
            Weight::Pinned => "pinned_space",
            Weight::Count => "lost_objects",
        };
        builder.profile.default_sample_type = builder.string(default);
        for process in processes {
            builder.process(process, processes.len() > 1);
        }
        builder.profile
    }

    fn process(&mut self, report: &Report, several: bool) {
        let title = brief::title(report);
        let said = format!("avleak {}: {title}: {} at level {}", report.avleak, report.reason, report.level.key());
        let comment = self.string(&said);
        self.profile.comment.push(comment);
        let nanos = |seconds: f64| (seconds.max(0.0) * 1e9) as i64;
        let checked = humantime::parse_rfc3339(&report.check.started)
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_nanos()).ok())
            .unwrap_or(0);
        self.profile.time_nanos = self.profile.time_nanos.max(checked);
        self.profile.duration_nanos = self.profile.duration_nanos.max(nanos(report.target.duration_s));
        let mappings = self.mappings(report);
        for group in &report.groups {
            let location_id = self.stack(&group.stack, &mappings);
            let mut label = vec![
                self.label("class", group.class.key()),
                self.label("object", &group.object),
                self.label("leak", if group.leak { "true" } else { "false" }),
                self.label("group", &group.id),
            ];
            if several {
                label.push(self.label("process", &title));
            }
            self.profile.sample.push(proto::Sample { location_id, value: values(group), label });
        }
    }

    /// The executable comes first: pprof takes the first mapping for the main program.
    fn mappings<'a>(&mut self, report: &'a Report) -> Mappings<'a> {
        let mut names: Vec<&str> = Vec::new();
        let frames = report.groups.iter().flat_map(|group| &group.stack);
        let mut known = std::collections::HashSet::new();
        for name in frames.filter_map(|frame| frame.module.as_deref()) {
            if known.insert(name) {
                names.push(name);
            }
        }
        let executable = report.target.exe.rsplit('/').next().unwrap_or_default();
        names.sort_by_key(|name| *name != executable);
        let mut by_name = HashMap::new();
        for name in names {
            let mut found = report.modules.iter().filter(|module| module.name == name);
            // Of two of one name nobody knows which it is: then neither's build id is claimed.
            let module = found.next().filter(|_| found.next().is_none());
            let id = self.profile.mapping.len() as u64 + 1;
            let build_id = module.and_then(|module| module.build_id.as_deref()).unwrap_or_default();
            let mapping = proto::Mapping {
                id,
                memory_start: module.map_or(0, |module| module.start),
                memory_limit: module.map_or(0, |module| module.end),
                file_offset: 0,
                filename: self.string(module.map_or(name, |module| &module.path)),
                build_id: self.string(build_id),
                has_functions: true,
                has_filenames: true,
                has_line_numbers: true,
                has_inline_frames: true,
            };
            self.profile.mapping.push(mapping);
            by_name.insert(name, (id, module));
        }
        Mappings { by_name }
    }

    /// Innermost first: one location for each address, that is for a frame and those inlined into it.
    fn stack(&mut self, stack: &[Frame], mappings: &Mappings<'_>) -> Vec<u64> {
        // A stack that was cut may end with an inlined frame: then the rest is one address too.
        stack.split_inclusive(|frame| !frame.inlined).map(|frames| self.location(frames, mappings)).collect()
    }

    fn location(&mut self, frames: &[Frame], mappings: &Mappings<'_>) -> u64 {
        let outer = frames.last();
        let module = outer.and_then(|frame| frame.module.as_deref()).and_then(|name| mappings.by_name.get(name));
        let mapping_id = module.map_or(0, |(id, _)| *id);
        let key = (mapping_id, frames.to_vec());
        if let Some(known) = self.locations.get(&key) {
            return *known;
        }
        let bias = module.and_then(|(_, module)| *module).map_or(0, |module| module.bias);
        let line = frames
            .iter()
            .map(|frame| proto::Line { function_id: self.function(frame), line: i64::from(frame.line.unwrap_or(0)) })
            .collect();
        let id = self.profile.location.len() as u64 + 1;
        let address = bias.wrapping_add(outer.map_or(0, |frame| frame.offset));
        self.profile.location.push(proto::Location { id, mapping_id, address, line });
        self.locations.insert(key, id);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let name = self.string(&stack::name(frame));
        let filename = self.string(frame.file.as_deref().unwrap_or_default());
        let next = self.profile.function.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            self.profile.function.push(proto::Function { id, name, system_name: name, filename, start_line: 0 });
        }
        id
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.string(kind), unit: self.string(unit) }
    }

    fn label(&mut self, key: &str, value: &str) -> proto::Label {
        proto::Label { key: self.string(key), str: self.string(value) }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_string());
        self.strings.insert(text.to_string(), number);
        number
    }
}

/// In the order of [`SAMPLE_TYPES`].
fn values(group: &Group) -> Vec<i64> {
    let lost = matches!(group.class, Class::DefinitelyLost | Class::IndirectlyLost | Class::PossiblyLost);
    let lost_objects = if lost { group.count } else { 0 };
    [group.count, group.bytes, lost_objects, Weight::Pinned.of(group)]
        .map(|value| i64::try_from(value).unwrap_or(i64::MAX))
        .to_vec()
}

#[cfg(test)]
#[path = "pprof_tests.rs"]
mod tests;
