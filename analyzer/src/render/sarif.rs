//! SARIF 2.1.0: each leak group as a result at the line that asked for the object, for code scanning.
//!
//! What the verdict counts is an error; other outermost lost FFmpeg objects (possibly lost ones, at level normal) are warnings;
//! the rest is no result. Rules are class and object. `partialFingerprints` are the group's id, and a hash of the names on its stack. Relative source paths start
//! from `SRCROOT`.

use super::ci::gitlab::fingerprint;
use super::load::AnyReport;
use super::stack::{self, Whose};
use super::{brief, summary, units};
use crate::report::model::{Class, Frame, FreeSite, Group, Report, Verdict};
use crate::report::words::grouped;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Results at most; GitHub shows this many of a run and refuses more than five times as many.
const RESULTS: usize = 5000;
/// Where the schema is published.
const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The document, on one line. `source_root`: the absolute folder that relative source paths start from.
pub fn sarif(report: &AnyReport, source_root: Option<&Path>) -> Vec<u8> {
    let root = source_root.and_then(Path::to_str).map(|root| root.trim_end_matches('/'));
    let mut rules = Rules::default();
    // Written out one by one: as values, 5,000 of them take gigabytes.
    let mut results: Vec<String> = Vec::new();
    let mut left_out = 0_u64;
    for process in report.processes() {
        let paths = Paths { process };
        for group in process.groups.iter().filter(|group| group.leak || group.outermost > 0) {
            if results.len() < RESULTS {
                results.push(result(&paths, group, rules.index(group)).to_string());
            } else {
                left_out += 1;
            }
        }
    }
    let mut run = json!({
        "tool": { "driver": {
            "name": "avleak",
            "semanticVersion": version(report),
            "rules": rules.list,
        } },
        "invocations": [invocation(report, left_out)],
    });
    if let Some(root) = root {
        run["originalUriBaseIds"] = json!({ "SRCROOT": { "uri": format!("file://{}/", encoded(root)) } });
    }
    // The run is an object that is not empty: its first brace makes room for the results.
    let (results, run) = (results.join(","), run.to_string());
    let run = run.trim_start_matches('{');
    let mut bytes =
        format!(r#"{{"$schema":"{SCHEMA}","version":"2.1.0","runs":[{{"results":[{results}],{run}]}}"#).into_bytes();
    bytes.push(b'\n');
    bytes
}

fn version(report: &AnyReport) -> String {
    report.processes().first().map_or_else(|| env!("CARGO_PKG_VERSION").to_string(), |process| process.avleak.clone())
}

/// The rules that results name, in the order of their first use.
#[derive(Default)]
struct Rules {
    list: Vec<Value>,
    known: HashMap<(Class, String), usize>,
}

impl Rules {
    fn index(&mut self, group: &Group) -> usize {
        let list = &mut self.list;
        *self.known.entry((group.class, group.object.clone())).or_insert_with(|| {
            list.push(rule(group.class, &group.object));
            list.len() - 1
        })
    }
}

fn rule_id(class: Class, object: &str) -> String {
    let object: String =
        object.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    format!("{}.{object}", class.key())
}

fn rule(class: Class, object: &str) -> Value {
    let object_clean = brief::clean(object);
    let (means, remedy) = match class {
        Class::DefinitelyLost => ("nothing points to it any more", "free it on every path, error paths too"),
        Class::IndirectlyLost => ("only lost memory points to it", "free the object that holds it"),
        Class::PossiblyLost => {
            ("it is only reached by pointers into its middle", "check whether something still frees it")
        }
        Class::StillReachable => ("it was alive at the end", "free it before the process ends"),
        Class::Unclassified => ("it was alive, and memory could not be read", "give avleak the right to trace"),
    };
    let short = format!("{object_clean} {}", class.phrase());
    let full = format!("{short}: {means}.");
    json!({
        "id": rule_id(class, object),
        "name": rule_id(class, object).split(['.', '_']).map(capitalized).collect::<String>(),
        "shortDescription": { "text": short },
        "fullDescription": { "text": full },
        "help": { "text": format!("{full} To mend it: {remedy}.") },
        "defaultConfiguration": { "level": "error" },
        "properties": { "tags": ["leak", "memory", "ffmpeg"], "precision": if class == Class::PossiblyLost { "medium" } else { "high" } },
    })
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// What avleak did: SARIF's place for that not everything was seen.
fn invocation(report: &AnyReport, left_out: u64) -> Value {
    let mut notifications = Vec::new();
    let mut note = |level: &str, text: String| {
        notifications.push(json!({ "level": level, "message": { "text": brief::clean(&text) } }));
    };
    let (verdict, reason, _) = brief::outcome(report);
    if verdict == Verdict::Inconclusive {
        note("error", format!("inconclusive: {reason}"));
    }
    for process in report.processes() {
        let title = brief::title(process);
        if process.verdict == Verdict::Inconclusive && matches!(report, AnyReport::Run(_)) {
            note("error", format!("{title}: inconclusive: {}", process.reason));
        }
        for text in process.completeness.disagreements.iter().chain(&process.completeness.notes) {
            note("note", format!("{title}: {text}"));
        }
    }
    if left_out > 0 {
        note("warning", format!("{} more groups are in the JSON report only", grouped(left_out)));
    }
    let exit = match report {
        AnyReport::Process(report) => report.exit.as_ref(),
        AnyReport::Run(run) => Some(&run.exit),
    };
    let mut invocation =
        json!({ "executionSuccessful": verdict != Verdict::Inconclusive, "toolExecutionNotifications": notifications });
    if let Some(exit) = exit {
        invocation["exitCode"] = exit.code.into();
    }
    invocation
}

/// A source file: what is relative starts from the root.
fn source(file: &str) -> Value {
    match file.strip_prefix('/') {
        Some(_) => json!({ "uri": format!("file://{}", encoded(file)) }),
        None => json!({ "uri": encoded(file.trim_start_matches("./")), "uriBaseId": "SRCROOT" }),
    }
}

/// How places of one process are written.
struct Paths<'a> {
    process: &'a Report,
}

impl Paths<'_> {
    /// File and line; the module and the address in it where there is no file; nothing for code in no module.
    fn physical(&self, frame: &Frame) -> Option<Value> {
        if let Some(file) = &frame.file {
            let mut location = json!({ "artifactLocation": source(file) });
            if let Some(line) = frame.line {
                location["region"] = json!({ "startLine": line });
            }
            return Some(location);
        }
        let name = frame.module.as_ref()?;
        let path = self.process.modules.iter().find(|module| module.name == *name).map_or(name, |module| &module.path);
        let address = json!({ "kind": "instruction", "fullyQualifiedName": brief::clean(&stack::name(frame)), "relativeAddress": frame.offset });
        let scheme = if path.starts_with('/') { "file://" } else { "" };
        Some(json!({ "artifactLocation": { "uri": format!("{scheme}{}", encoded(path)) }, "address": address }))
    }

    fn location(&self, frame: &Frame, message: Option<&str>) -> Value {
        let mut location = Map::new();
        if let Some(physical) = self.physical(frame) {
            location.insert("physicalLocation".into(), physical);
        }
        let name = brief::clean(&stack::name(frame));
        location.insert("logicalLocations".into(), json!([{ "fullyQualifiedName": name, "kind": "function" }]));
        if let Some(message) = message {
            location.insert("message".into(), json!({ "text": brief::clean(message) }));
        }
        Value::Object(location)
    }

    fn stack(&self, message: &str, frames: &[Frame]) -> Value {
        let frames: Vec<Value> = frames
            .iter()
            .map(|frame| {
                let mut value = json!({ "location": self.location(frame, None) });
                if let Some(module) = &frame.module {
                    value["module"] = brief::clean(module).into();
                }
                value
            })
            .collect();
        json!({ "message": { "text": message }, "frames": frames })
    }
}

fn result(paths: &Paths<'_>, group: &Group, rule: usize) -> Value {
    let blamed = place(&group.stack);
    let mut stacks = vec![paths.stack("allocated here", &group.stack)];
    for site in group.freed_elsewhere.iter().filter(|site| !site.stack.is_empty()) {
        stacks.push(paths.stack(&freed(site, group), &site.stack));
    }
    let mut result = json!({
        "ruleId": rule_id(group.class, &group.object),
        "ruleIndex": rule,
        "level": if group.leak { "error" } else { "warning" },
        "message": { "text": message(group) },
        "locations": blamed.map(|frame| paths.location(frame, None)).into_iter().collect::<Vec<_>>(),
        "partialFingerprints": {
            "avleakGroup/v1": brief::clean(&group.id),
            // The group's id changes with every build; by this a service knows the leak again in the next commit.
            "avleakStack/v1": fingerprint(group, 0),
        },
        "properties": {
            "class": group.class.key(),
            "object": brief::clean(&group.object),
            "count": group.count,
            "bytes": group.bytes,
            "pinnedBytes": group.pinned_bytes,
            "process": brief::clean(&summary::process(&paths.process.target)),
        },
    });
    if group.count > 0 {
        result["occurrenceCount"] = group.count.into();
    }
    if !group.stack.is_empty() {
        result["stacks"] = Value::Array(stacks);
        result["codeFlows"] = json!([code_flow(paths, group)]);
    }
    let related: Vec<Value> = group
        .freed_elsewhere
        .iter()
        .filter_map(|site| Some((place(&site.stack)?, freed(site, group))))
        .map(|(frame, message)| paths.location(frame, Some(&message)))
        .enumerate()
        .map(|(id, mut location)| {
            location["id"] = id.into();
            location
        })
        .collect();
    if !related.is_empty() {
        result["relatedLocations"] = Value::Array(related);
    }
    result
}

/// The way to the allocation, outermost first, through what has source lines (all frames, where none has).
fn code_flow(paths: &Paths<'_>, group: &Group) -> Value {
    let told = |frame: &&Frame| stack::whose(frame) == Whose::Own && frame.file.is_some();
    let mut steps: Vec<&Frame> = group.stack.iter().rev().filter(told).collect();
    if steps.is_empty() {
        steps = group.stack.iter().rev().collect();
    }
    let locations: Vec<Value> =
        steps.iter().map(|frame| json!({ "location": paths.location(frame, Some(&stack::name(frame))) })).collect();
    json!({ "message": { "text": "the calls that led to the allocation" }, "threadFlows": [{ "locations": locations }] })
}

/// Where a person can go and mend it: the program's innermost frame with a file, else any with one, else whom [`brief::blamed`]
/// names.
fn place(frames: &[Frame]) -> Option<&Frame> {
    let own = || frames.iter().find(|frame| stack::whose(frame) == Whose::Own && frame.file.is_some());
    (stack::own_frame(frames).filter(|frame| frame.file.is_some()))
        .or_else(own)
        .or_else(|| stack::own_frame(frames))
        .or_else(|| frames.iter().find(|frame| frame.file.is_some()))
        .or_else(|| frames.iter().rev().find(|frame| stack::whose(frame) == Whose::Libav))
        .or(frames.first())
}

fn message(group: &Group) -> String {
    let mut text = brief::line(group);
    if group.pinned_bytes > 0 {
        text += &format!("; {} pinned", units::bytes(group.pinned_bytes));
    }
    if let Some(site) = group.freed_elsewhere.first() {
        text += &format!("; {}", freed(site, group));
        if let Some(frame) = place(&site.stack) {
            text += &format!(", in {}", brief::site(frame));
        }
    }
    brief::clean(&format!("{text}."))
}

fn freed(site: &FreeSite, group: &Group) -> String {
    format!("{} of {} siblings are freed elsewhere", grouped(site.count), grouped(group.siblings_allocated))
}

/// Percent-encoded as a URI's path wants it (RFC 3986: pchar and `/`). A `:` could end a scheme, so it is encoded too.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
        out
    })
}
