//! Tests that `docs/report.schema.json` and the report model say the same.

use crate::report::sample;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../docs/report.schema.json")).unwrap()
}

fn errors(document: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema()).unwrap();
    validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn documents() -> Vec<Value> {
    let reports = [sample::leaking(), sample::clean(), sample::inconclusive(), sample::full()];
    let mut all: Vec<Value> = reports.iter().map(|r| serde_json::to_value(r).unwrap()).collect();
    all.push(serde_json::to_value(sample::run()).unwrap());
    let mut with_python = sample::leaking();
    let caller = with_python.groups[0].stack.last_mut().unwrap();
    (caller.python, caller.module, caller.offset) = (true, None, 0);
    all.push(serde_json::to_value(with_python).unwrap());
    all
}

#[test]
fn the_schema_is_one() {
    assert!(jsonschema::draft202012::meta::is_valid(&schema()));
}

#[test]
fn what_the_model_writes_is_valid() {
    for document in documents() {
        assert_eq!(errors(&document), Vec::<String>::new(), "{}", document["reason"]);
    }
}

/// Every field present in every object, so that removing and spoiling reaches all of them.
#[test]
fn every_field_is_required_or_known_to_be_optional_and_has_a_type() {
    let optional = [
        "ended",
        "format",
        "width",
        "height",
        "nb_samples",
        "pts_first",
        "pts_last",
        "function",
        "module",
        "file",
        "line",
        "inlined",
        "libav",
        "interior",
        "memory_reason",
        "timeline",
        "post_mortem",
        "last_check",
        "dumped_core",
        "session",
        "peak_frames",
        "peak_payload",
        "build_id",
        "host",
        "service",
        "suppressed_by",
        "baseline",
        "moved_from",
        "real_path",
        "go",
        "created_by",
    ];
    let whole = serde_json::to_value(sample::full()).unwrap();
    let mut paths = Vec::new();
    pointers(&whole, String::new(), &mut paths);
    let mut tried = BTreeSet::new();
    for path in paths {
        let (parent, field) = path.rsplit_once('/').unwrap();
        let kind = path.split('/').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join("/");
        // One of each kind is enough, but for frames: not every frame has every field.
        if field.parse::<usize>().is_ok() || parent.ends_with("/calls") || !tried.insert(kind) {
            continue;
        }
        let mut removed = whole.clone();
        removed.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
        // Under `gate` names come again that are optional elsewhere.
        let known = match parent {
            "/go/runtimes/0" | "/go/runtimes/1" => ["version", "reason"].contains(&field),
            _ => optional.contains(&field),
        };
        let known = known && (!path.starts_with("/gate/") || path == "/gate/baseline");
        let may_go = path == "/exit"
            || path == "/gate"
            || known && !(field == "file" && whole.pointer(&format!("{parent}/line")).is_some());
        assert_eq!(errors(&removed).is_empty(), may_go, "{path} removed");

        for wrong in [json!(null), json!([[]]), json!({"an x": 1})] {
            let mut spoiled = whole.clone();
            *spoiled.pointer_mut(&path).unwrap() = wrong.clone();
            assert!(!errors(&spoiled).is_empty(), "{path} = {wrong}");
        }
    }
    assert!(tried.len() > 90, "{}", tried.len());
}

fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, child)| (i.to_string(), child)).collect(),
        _ => vec![],
    };
    for (name, child) in children {
        let path = format!("{at}/{name}");
        out.push(path.clone());
        pointers(child, path, out);
    }
}

#[test]
fn broken_documents_are_rejected() {
    let cases = [
        ("/schema", json!("avleak-report/2")),
        ("/verdict", json!("dirty")),
        ("/level", json!("lax")),
        ("/reason", json!("")),
        ("/target/pid", json!(-1)),
        ("/target/started", json!("yesterday")),
        ("/target/started", json!("2025-13-41T12:00:00Z")),
        ("/target/ended", json!({"exit": 0, "signal": 9})),
        ("/target/ended", json!({"fled": 1})),
        ("/target/duration_s", json!(-0.5)),
        ("/observed/frames_allocated", json!(1.5)),
        ("/observed/events_dropped", json!(-1)),
        ("/observed/calls", json!({"av frame": 1})),
        ("/observed/calls", json!({"av_frame_alloc": -1})),
        ("/leaks/frames", json!("30")),
        ("/totals/possibly_lost", json!({})),
        ("/groups/0/id", json!("A2DAA7CA8B6C7332")),
        ("/groups/0/id", json!("a2daa7")),
        ("/groups/0/class", json!("lost")),
        ("/groups/0/count", json!(0)),
        ("/groups/0/stack/0/module", json!("/usr/lib/libavutil.so.57")),
        ("/groups/0/stack/0/libav", json!(false)),
        ("/groups/0/stack/1/line", json!(0)),
        ("/groups/0/freed_elsewhere/0/count", json!(0)),
        ("/modules/0/name", json!("/usr/bin/server")),
        ("/modules/0/build_id", json!("9F")),
        ("/modules/0/start", json!(-1)),
        ("/completeness/memory", json!("guess")),
        ("/check/scans", json!(-1)),
    ];
    for (path, wrong) in cases {
        let mut document = serde_json::to_value(sample::leaking()).unwrap();
        *document.pointer_mut(path).unwrap_or_else(|| panic!("{path} is not in the sample")) = wrong.clone();
        assert!(!errors(&document).is_empty(), "{path} = {wrong}");
    }
    for path in ["", "/target", "/observed", "/groups/0", "/groups/0/stack/0", "/completeness", "/leaks"] {
        let mut document = serde_json::to_value(sample::leaking()).unwrap();
        document.pointer_mut(path).unwrap()["misspelt"] = json!(1);
        assert!(!errors(&document).is_empty(), "{path}/misspelt");
    }
    let mut run = serde_json::to_value(sample::run()).unwrap();
    for (path, wrong) in
        [("/exit/code", json!(256)), ("/exit/decided_by", json!("luck")), ("/processes/1/verdict", json!(1))]
    {
        let kept = std::mem::replace(run.pointer_mut(path).unwrap(), wrong.clone());
        assert!(!errors(&run).is_empty(), "{path} = {wrong}");
        *run.pointer_mut(path).unwrap() = kept;
    }
    assert!(errors(&run).is_empty());
    assert!(!errors(&json!({})).is_empty() && !errors(&json!([])).is_empty());
}

/// Both ways: the schema names every field that the model writes, and the model writes every field that the schema names.
#[test]
fn the_schema_and_the_model_name_the_same_fields() {
    let schema = schema();
    let (mut written, mut undescribed) = (BTreeSet::new(), Vec::new());
    for document in documents() {
        let root = if document["schema"] == "avleak-run/1" { "run" } else { "report" };
        walk(&document, &schema["$defs"][root], &schema, root, &mut written);
    }
    let mut named = BTreeSet::new();
    for (kind, definition) in schema["$defs"].as_object().unwrap() {
        for (field, description) in definition["properties"].as_object().into_iter().flatten() {
            named.insert(format!("{kind}.{field}"));
            if description["description"].as_str().is_none() && description["$ref"].as_str().is_none() {
                undescribed.push(format!("{kind}.{field}"));
            }
        }
    }
    assert_eq!(undescribed, Vec::<String>::new());
    assert_eq!(written, named);
}

fn walk(value: &Value, schema: &Value, root: &Value, kind: &str, written: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let kind = reference.strip_prefix("#/$defs/").unwrap();
        return walk(value, &root["$defs"][kind], root, kind, written);
    }
    match value {
        Value::Object(map) if schema["properties"].is_object() => {
            for (field, child) in map {
                let inner = &schema["properties"][field];
                assert!(!inner.is_null(), "the schema lacks {kind}.{field}");
                written.insert(format!("{kind}.{field}"));
                walk(child, inner, root, &format!("{kind}.{field}"), written);
            }
        }
        Value::Array(list) => list.iter().for_each(|child| walk(child, &schema["items"], root, kind, written)),
        _ => {}
    }
}
