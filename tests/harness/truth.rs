//! Compares what a fixture says of itself with what avleak says of it: exact, less only what the fixture itself allows.

use serde_json::Value;

use crate::avleak::Outcome;

/// The truth lines in a program's output, in order.
pub fn truths(stdout: &str) -> Vec<Value> {
    let lines = stdout.lines().filter(|line| line.starts_with("{\"truth\""));
    lines.map(|line| serde_json::from_str::<Value>(line).expect("a truth line is JSON")["truth"].take()).collect()
}

/// Fails the test with every difference between the fixture's truths and avleak's reports, or with a wrong exit code.
pub fn check(outcome: &Outcome) {
    let truths = truths(&outcome.finished.text());
    assert!(
        !truths.is_empty(),
        "the program printed no truth:\n{}\n{}",
        outcome.finished.text(),
        outcome.finished.stderr
    );
    let mut faults = faults(&truths, &outcome.reports);
    let verdicts: Vec<&str> = outcome.reports.iter().filter_map(|report| report["verdict"].as_str()).collect();
    let expected = expected_code(&truths[truths.len() - 1], &verdicts);
    if outcome.finished.code() != expected {
        faults.push(format!("avleak exited with {}, expected {expected}", outcome.finished.code()));
    }
    assert!(
        faults.is_empty(),
        "{}\n--- truth\n{}\n--- stderr\n{}\n--- report\n{:#}",
        faults.join("\n"),
        truths.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
        outcome.finished.stderr,
        outcome.document
    );
}

/// Every difference between truths and reports, one sentence each.
pub fn faults(truths: &[Value], reports: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut spoken_of = 0;
    for truth in truths {
        let found: Vec<&Value> = reports.iter().filter(|report| is_of(report, truth)).collect();
        match (truth["unseen"] == true, found.as_slice()) {
            (true, []) => {}
            (true, _) => faults.push(format!("pid {} has a report, but nothing of it can be seen", truth["pid"])),
            (false, [report]) => {
                spoken_of += 1;
                compare(truth, report, &mut faults);
            }
            (false, found) => faults.push(format!("pid {} has {} reports", truth["pid"], found.len())),
        }
    }
    if spoken_of != reports.len() {
        faults.push(format!("{} reports for {spoken_of} processes that used FFmpeg", reports.len()));
    }
    faults
}

/// A report and a truth belong together by pid; and a process that replaced itself has two of each.
fn is_of(report: &Value, truth: &Value) -> bool {
    let replaced = |ended: &Value| ended["exec"] == true;
    report["target"]["pid"] == truth["pid"] && replaced(&report["target"]["ended"]) == replaced(&truth["ended"])
}

/// What `avleak run` exits with: the program's own status where that is not 0, else what the worst verdict says. The last
/// truth is that of the command's own process.
fn expected_code(of_command: &Value, verdicts: &[&str]) -> i32 {
    let ended = &of_command["ended"];
    let own = match (ended["exit"].as_i64(), ended["signal"].as_i64()) {
        (_, Some(signal)) => 128 + signal,
        (exit, None) => exit.unwrap_or(0),
    };
    if own != 0 {
        return i32::try_from(own).expect("an exit status");
    }
    match () {
        () if verdicts.contains(&"leaks") => 1,
        () if verdicts.contains(&"inconclusive") || verdicts.is_empty() => 3,
        () => 0,
    }
}

fn compare(truth: &Value, report: &Value, faults: &mut Vec<String>) {
    let slack = truth["slack_objects"].as_u64().unwrap_or(0);
    let dropped = report["observed"]["events_dropped"].as_u64().unwrap_or(u64::MAX);
    let may_drop = truth["drops_allowed"] == true;
    if dropped > 0 && !may_drop {
        faults.push(format!("observed.events_dropped is {dropped}"));
    }
    let dropped = if may_drop { dropped } else { 0 };
    compare_verdict(truth, report, dropped, faults);
    if report["target"]["ended"] != truth["ended"] {
        faults.push(format!("target.ended is {}, not {}", report["target"]["ended"], truth["ended"]));
    }
    for part in ["observed", "leaks", "totals"] {
        compare_numbers(part, &truth[part], &report[part], if part == "observed" { dropped } else { slack }, faults);
    }
    let outermost: u64 =
        groups(report, "AVFrame").filter(|group| group["leak"] == true).map(|g| number(&g["outermost"])).sum();
    if report["level"] == "normal" && outermost != number(&report["leaks"]["frames"]) {
        faults.push(format!(
            "the leak groups sum up to {outermost} frames, leaks.frames is {}",
            report["leaks"]["frames"]
        ));
    }
    let completeness = &report["completeness"];
    if truth["verdict"] != "not clean" {
        for (name, whole) in
            [("memory", Value::from("ptrace")), ("unreadable_bytes", 0.into()), ("corrupt_rings", 0.into())]
        {
            if completeness[name] != whole {
                faults.push(format!("completeness.{name} is {}", completeness[name]));
            }
        }
    }
    if dropped == 0 && completeness["disagreements"].as_array().is_some_and(|list| !list.is_empty()) {
        faults.push(format!("the two witnesses disagree: {}", completeness["disagreements"]));
    }
}

fn compare_verdict(truth: &Value, report: &Value, dropped: u64, faults: &mut Vec<String>) {
    let verdict = report["verdict"].as_str().unwrap_or("");
    let leaks: u64 = truth["leaks"].as_object().into_iter().flatten().map(|(_, count)| number(count)).sum();
    let fits = match truth["verdict"].as_str() {
        Some("not clean") => verdict != "clean",
        Some(expected) => verdict == expected,
        None if report["level"] != "normal" => true,
        None if leaks > 0 => verdict == "leaks" || dropped > 0 && verdict == "inconclusive",
        None => verdict == "clean" || dropped > 0 && verdict == "inconclusive",
    };
    if !fits {
        let reason = &report["reason"];
        faults.push(format!(
            "the verdict is {verdict} ({reason}), expected {}",
            truth.get("verdict").unwrap_or(&leaks.into())
        ));
    }
}

/// Every number of `truth` against the one at the same place in `report`. Lost and observed ones may be fewer by `slack`;
/// what is hidden shows as still reachable.
fn compare_numbers(place: &str, truth: &Value, report: &Value, slack: u64, faults: &mut Vec<String>) {
    for (name, expected) in truth.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        let found = &report[name];
        if expected.is_object() {
            compare_numbers(&place, expected, found, slack, faults);
            continue;
        }
        let (expected, Some(found)) = (number(expected), found.as_u64()) else {
            faults.push(format!("{place} is missing"));
            continue;
        };
        let fits = if place.contains("still_reachable") {
            (expected..=expected.saturating_add(slack)).contains(&found)
        } else if place.ends_with("bytes") && slack > 0 {
            found <= expected
        } else {
            (expected.saturating_sub(slack)..=expected).contains(&found)
        };
        if !fits {
            faults.push(format!("{place} is {found}, expected {expected} (slack {slack})"));
        }
    }
}

/// The groups of one C type.
pub fn groups<'a>(report: &'a Value, object: &'a str) -> impl Iterator<Item = &'a Value> {
    report["groups"].as_array().into_iter().flatten().filter(move |group| group["object"] == object)
}

/// The functions of a stack, innermost first.
pub fn functions(stack: &Value) -> Vec<&str> {
    stack.as_array().into_iter().flatten().filter_map(|frame| frame["function"].as_str()).collect()
}

/// A number of the report; 0 where it is absent.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair() -> (Value, Value) {
        let truth = json!({
            "pid": 7, "ended": {"exit": 0}, "leaks": {"frames": 3, "packets": 0, "pinned_bytes": 600},
            "observed": {"frames_allocated": 20, "calls": {"av_frame_alloc": 18}},
            "totals": {"definitely_lost": {"frames": 3}, "still_reachable": {"frames": 1}}, "slack_objects": 0,
        });
        let report = json!({
            "level": "normal", "verdict": "leaks", "reason": "", "target": {"pid": 7, "ended": {"exit": 0}},
            "observed": {"frames_allocated": 20, "events_dropped": 0, "calls": {"av_frame_alloc": 18}},
            "leaks": {"frames": 3, "packets": 0, "pinned_bytes": 600},
            "totals": {"definitely_lost": {"frames": 3}, "still_reachable": {"frames": 1}},
            "groups": [{"object": "AVFrame", "leak": true, "outermost": 3}],
            "completeness": {"memory": "ptrace", "unreadable_bytes": 0, "corrupt_rings": 0, "disagreements": []},
        });
        (truth, report)
    }

    #[test]
    fn a_true_report_has_no_faults() {
        let (truth, report) = pair();
        assert_eq!(faults(&[truth], &[report]), Vec::<String>::new());
    }

    #[test]
    fn every_untruth_is_found() {
        for (place, value) in [
            ("/verdict", json!("clean")),
            ("/target/ended", json!({"signal": 9})),
            ("/target/pid", json!(8)),
            ("/observed/frames_allocated", json!(19)),
            ("/observed/events_dropped", json!(1)),
            ("/observed/calls/av_frame_alloc", json!(19)),
            ("/leaks/frames", json!(2)),
            ("/leaks/frames", json!(4)),
            ("/leaks/packets", json!(1)),
            ("/leaks/pinned_bytes", json!(599)),
            ("/totals/definitely_lost/frames", json!(2)),
            ("/totals/still_reachable/frames", json!(2)),
            ("/groups/0/outermost", json!(2)),
            ("/completeness/memory", json!("vm_readv")),
            ("/completeness/unreadable_bytes", json!(4096)),
            ("/completeness/corrupt_rings", json!(1)),
            ("/completeness/disagreements", json!(["one"])),
        ] {
            let (truth, mut report) = pair();
            *report.pointer_mut(place).expect("a place in the report") = value;
            assert!(!faults(&[truth], &[report]).is_empty(), "{place} may be wrong");
        }
        let (truth, report) = pair();
        assert!(!faults(std::slice::from_ref(&truth), &[]).is_empty(), "a report may be missing");
        assert!(!faults(&[truth], &[report.clone(), report]).is_empty(), "a report may be there twice");
    }

    #[test]
    fn slack_is_what_the_fixture_allows_and_no_more() {
        let (mut truth, mut report) = pair();
        truth["slack_objects"] = json!(1);
        report["leaks"]["frames"] = json!(2);
        report["leaks"]["pinned_bytes"] = json!(400);
        report["groups"][0]["outermost"] = json!(2);
        report["totals"] = json!({"definitely_lost": {"frames": 2}, "still_reachable": {"frames": 2}});
        assert_eq!(faults(std::slice::from_ref(&truth), std::slice::from_ref(&report)), Vec::<String>::new());
        report["totals"]["definitely_lost"]["frames"] = json!(1);
        assert!(!faults(&[truth], &[report]).is_empty());
    }

    #[test]
    fn the_exit_code_is_the_programs_own_or_the_verdicts() {
        let ended = |how: Value| json!({"ended": how});
        assert_eq!(expected_code(&ended(json!({"exit": 42})), &["leaks"]), 42);
        assert_eq!(expected_code(&ended(json!({"signal": 11})), &["leaks"]), 139);
        for (verdicts, code) in
            [(&["clean"][..], 0), (&["clean", "leaks"], 1), (&["inconclusive", "clean"], 3), (&[], 3)]
        {
            assert_eq!(expected_code(&ended(json!({"exit": 0})), verdicts), code);
        }
    }
}
