//! Reports of many machines: where they come from, their sum, and their way into a database.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use avleak_tests::avleak::{LIMIT, Outcome, Run};
use avleak_tests::process::Finished;
use avleak_tests::truth::number;
use avleak_tests::{avleak_binary, process, programs, repository, scratch};
use serde_json::Value;

/// Reports of a fleet.
const REPORTS: u64 = 10_000;
/// Ten thousand reports on a busy machine.
const LONG: Duration = Duration::from_secs(600);

fn leaking(options: &str) -> Outcome {
    Run::new([programs::program("leak_batch").into_os_string(), "leak".into()]).env("AVLEAK_OPTIONS", options).finish()
}

fn merge(arguments: &[&str]) -> Finished {
    process::run(Command::new(avleak_binary()).arg("merge").args(arguments), LONG)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn ids(groups: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = groups
        .as_array()
        .into_iter()
        .flatten()
        .filter(|group| group["leak"] == true)
        .filter_map(|group| group["id"].as_str())
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_report_says_where_it_comes_from_and_groups_are_equal_elsewhere() {
    let (here, there) = (leaking("service=live"), leaking("service=vod"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for (outcome, service) in [(&here, "live"), (&there, "vod")] {
        let target = &outcome.report()["target"];
        assert_eq!((target["host"].as_str(), target["service"].as_str()), (Some(&host[..]), Some(service)));
        assert!(target["build_id"].as_str().is_some_and(|id| id.len() == 40), "{target}");
    }
    assert_eq!(ids(&here.report()["groups"]), ids(&there.report()["groups"]));
    let folder = scratch();
    for (name, outcome) in [("a.json", &here), ("b.json", &there)] {
        std::fs::write(folder.path().join(name), outcome.report().to_string()).expect("a report");
    }
    let sum = folder.path().join("sum");
    let done = merge(&[&folder.path().to_string_lossy(), &format!("--json={}", sum.display())]);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    let (text, sum) = (done.text(), json(&sum));
    assert!(text.contains("2 of 2 processes leak") && text.contains("live (1) and vod (1)"), "{text}");
    assert_eq!(ids(&sum["groups"]), ids(&here.report()["groups"]));
    assert_eq!(number(&sum["leaks"]["frames"]), 2 * number(&here.report()["leaks"]["frames"]));
}

/// Writes what many machines would have reported; returns the lost objects of the first group and how many processes leak.
fn generate(folder: &Path, report: &Value) -> (u64, u64) {
    let (mut objects, mut leaking) = (0, 0);
    let mut report = report.clone();
    report.as_object_mut().expect("a report").remove("timeline");
    let clean = report.clone();
    for at in 0..REPORTS {
        let leaks = at % 10 == 3;
        let mut one = if leaks { report.clone() } else { clean.clone() };
        one["target"]["host"] = format!("edge-{}", at % 500).into();
        one["target"]["service"] = if at % 3 == 0 { "vod" } else { "live" }.into();
        one["target"]["pid"] = (1000 + at).into();
        if leaks {
            let count = 1 + at % 97;
            one["groups"][0]["count"] = count.into();
            (objects, leaking) = (objects + count, leaking + 1);
        } else {
            one["groups"] = Value::Array(Vec::new());
            one["verdict"] = "clean".into();
        }
        std::fs::write(folder.join(format!("avleak.{at}.json")), one.to_string()).expect("a report");
    }
    (objects, leaking)
}

#[test]
fn ten_thousand_reports_are_summed_and_read_by_duckdb() {
    let folder = scratch();
    let reports = folder.path().join("reports");
    std::fs::create_dir(&reports).expect("a folder");
    let outcome = leaking("service=live");
    let (objects, leaking) = generate(&reports, outcome.report());
    std::fs::write(reports.join("cut.json"), &outcome.report().to_string()[..500]).expect("half a report");
    let (sum, lines) = (folder.path().join("sum"), folder.path().join("lines"));
    let outputs = [format!("--json={}", sum.display()), format!("--ndjson={}", lines.display())];
    let done = merge(&[&reports.to_string_lossy(), "--quiet", &outputs[0], &outputs[1]]);
    assert_eq!((done.code(), done.text().as_str()), (1, ""), "{}", done.stderr);
    let sum = json(&sum);
    let fields = ["reports", "processes", "leaking"].map(|field| number(&sum[field]));
    assert_eq!(fields, [REPORTS + 1, REPORTS, leaking]);
    assert!(sum["unreadable"][0]["file"].as_str().is_some_and(|file| file.ends_with("cut.json")), "{sum}");
    let id = outcome.report()["groups"][0]["id"].as_str().expect("an id");
    let group = sum["groups"].as_array().into_iter().flatten().find(|group| group["id"] == id).expect("the group");
    assert_eq!((number(&group["count"]), number(&group["processes"])), (objects, leaking));

    // The query of docs/fleet.md.
    let program = format!(
        "import duckdb, json, sys\n\
         groups = duckdb.sql(\"\"\"{}\"\"\".replace('lines.ndjson', sys.argv[1])).fetchall()\n\
         processes = duckdb.sql(f\"select count(*) from read_json('{{sys.argv[1]}}') where record = 'process'\").fetchall()[0][0]\n\
         print(json.dumps([processes, {{row[0]: [int(row[1]), int(row[2])] for row in groups}}]))",
        query()
    );
    let python = repository().join("build/venv/bin/python");
    let done = process::run(Command::new(python).args(["-c", &program]).arg(&lines), LIMIT).expect_success();
    let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(number(&told[0]), REPORTS);
    assert_eq!(told[1][id], serde_json::json!([objects, leaking]), "{told}");
}

/// As the documentation shows it.
fn query() -> String {
    let text = std::fs::read_to_string(repository().join("docs/fleet.md")).expect("docs/fleet.md");
    let start = text.find("```sql\n").expect("a query") + 7;
    text[start..][..text[start..].find("```").expect("its end")].to_string()
}
