//! The formats of a report, read by those who will read them: Go's pprof, a reader of JUnit XML, SARIF's schema, Python's CSV.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use avleak_tests::avleak::{LIMIT, Outcome, Run};
use avleak_tests::process::Finished;
use avleak_tests::{avleak_binary, process, programs, repository, scratch};
use serde_json::Value;

/// On two busy cores it takes minutes, once.
const TO_BUILD_PPROF: Duration = Duration::from_secs(1800);

/// A program that `make setup-tests` installs.
fn tool(name: &str) -> PathBuf {
    let path = repository().join("build/venv/bin").join(name);
    assert!(path.exists(), "{} is missing: `make setup-tests` installs it", path.display());
    path
}

/// Runs a fixture and leaves one file of each format in `folder`.
fn written(folder: &Path, program: &str, mode: &str) -> Outcome {
    let formats = ["pprof", "flamegraph", "folded", "csv", "junit", "sarif", "markdown"];
    let options = formats.iter().map(|format| format!("--{format}={}", folder.join(format).display()));
    let root = format!("--source-root={}", repository().display());
    Run::new([programs::program(program).into_os_string(), mode.into()]).options(options.chain([root])).finish()
}

fn groups(outcome: &Outcome) -> Vec<&Value> {
    outcome.reports.iter().flat_map(|report| report["groups"].as_array().expect("groups")).collect()
}

fn sum<'a>(groups: impl IntoIterator<Item = &'a &'a Value>, field: &str) -> u64 {
    groups.into_iter().map(|group| group[field].as_u64().expect(field)).sum()
}

fn is_leak(group: &&&Value) -> bool {
    group["leak"] == true
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a Python program prints as JSON.
fn python(program: &str, file: &Path) -> Value {
    let done = process::run(Command::new(tool("python")).args(["-c", program]).arg(file), LIMIT).expect_success();
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.text()))
}

fn pprof(arguments: &[&str], files: &[&Path]) -> String {
    let done = process::run(Command::new(pprof_tool()).args(arguments).args(files), LIMIT).expect_success();
    done.text() + &done.stderr
}

/// `go tool pprof` itself: the `go` before it would leave it behind. Go builds it when it is first asked for, from its own
/// sources: nothing is fetched, and nothing written outside the build folder.
pub fn pprof_tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        let mut command = Command::new(tool("go"));
        command.args(["tool", "-n", "pprof"]).env("GOCACHE", repository().join("build/go-cache"));
        command.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "")]);
        process::run(&mut command, TO_BUILD_PPROF).expect_success().text().trim().into()
    })
}

/// `… of 7 total` in the head of `pprof -top`.
fn total(top: &str) -> u64 {
    let line =
        top.lines().find(|line| line.starts_with("Showing nodes")).unwrap_or_else(|| panic!("no total in {top}"));
    let number = line.rsplit(" of ").next().expect("a total").trim_end_matches(" total").trim_end_matches('B');
    number.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn pprof_reads_the_numbers_names_and_lines() {
    let folder = scratch();
    let outcome = written(folder.path(), "leak_batch", "leak");
    let profile = folder.path().join("pprof");
    let all = groups(&outcome);
    let lost = |group: &&&Value| group["class"].as_str().is_some_and(|class| class.ends_with("_lost"));
    let expected = [
        ("inuse_objects", sum(&all, "count")),
        ("inuse_space", sum(&all, "bytes")),
        ("lost_objects", sum(all.iter().filter(lost), "count")),
        ("pinned_space", outcome.report()["leaks"]["pinned_bytes"].as_u64().expect("pinned bytes")),
    ];
    for (index, expected) in expected {
        let top = pprof(&["-top", "-unit=B", &format!("-sample_index={index}")], &[&profile]);
        assert_eq!(total(&top), expected, "{index}: {top}");
        assert!(expected > 0, "{index}");
    }
    // The lines and the build ids are in the profile: this is what it says where neither sources nor binaries are at hand.
    let raw = pprof(&["-raw"], &[&profile]);
    assert!(raw.contains("tests/programs/leak_batch.c:"), "{raw}");
    for module in outcome.report()["modules"].as_array().expect("modules") {
        let (path, build_id) = (module["path"].as_str().expect("a path"), module["build_id"].as_str());
        let line = raw.lines().find(|line| line.contains(path)).unwrap_or_else(|| panic!("{path} is not in {raw}"));
        assert!(line.contains(build_id.expect("a build id")), "{line}");
    }
    let leaks = pprof(&["-top", "-sample_index=lost_objects", "-tagfocus=leak=true"], &[&profile]);
    assert!(leaks.contains("av_frame_alloc") && leaks.contains("one_batch"), "{leaks}");
    assert!(!leaks.contains("av_malloc"), "its wrappers of malloc are dropped: {leaks}");
}

#[test]
fn pprof_subtracts_one_run_from_another() {
    let (first, second, clean) = (scratch(), scratch(), scratch());
    let outcome = written(first.path(), "leak_batch", "leak");
    written(second.path(), "leak_batch", "leak");
    written(clean.path(), "leak_batch", "clean");
    let file = |folder: &tempfile::TempDir| folder.path().join("pprof");
    let base = |base: PathBuf| {
        pprof(&["-top", "-sample_index=lost_objects", "-base", base.to_str().unwrap()], &[&file(&second)])
    };
    assert_eq!(total(&base(file(&first))), 0, "the same leaks, at other addresses");
    let new = base(file(&clean));
    assert!(new.contains("one_batch") && total(&new) >= outcome.report()["leaks"]["frames"].as_u64().unwrap(), "{new}");
}

#[test]
fn pprof_shows_it_in_a_browser() {
    let folder = scratch();
    written(folder.path(), "leak_batch", "leak");
    let server = Command::new(pprof_tool())
        .args(["-http=127.0.0.1:", "-no_browser"])
        .arg(folder.path().join("pprof"))
        .env("PPROF_TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Server(server.expect("pprof"));
    let mut lines = BufReader::new(server.0.stderr.take().expect("its stderr")).lines().map_while(Result::ok);
    let served = lines.find_map(|line| Some(line.split_once("http://")?.1.trim().to_string()));
    let pages: Vec<String> =
        served.iter().flat_map(|address| ["/ui/top", "/ui/flamegraph"].map(|page| get(address, page))).collect();
    assert_eq!(pages.len(), 2, "pprof did not serve");
    for page in pages {
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("one_batch"), "{page}");
    }
}

/// Ends with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn get(address: &str, page: &str) -> String {
    let until = Instant::now() + LIMIT;
    // pprof says where it will listen before it does.
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > until => panic!("{address}: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    write!(stream, "GET {page} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{address}{page}: {error}"));
    String::from_utf8_lossy(&answer).replace("HTTP/1.0 ", "HTTP/1.1 ")
}

#[test]
fn junit_readers_count_what_leaked() {
    let program = "import json, sys, junitparser\n\
        xml = junitparser.JUnitXml.fromfile(sys.argv[1])\n\
        cases = [[s.name, c.name, [type(r).__name__ for r in c.result]] for s in xml for c in s]\n\
        print(json.dumps({'counts': [xml.tests, xml.failures, xml.errors], 'cases': cases}))";
    for (fixture, mode, suites) in [("leak_batch", "leak", 1), ("leak_batch", "clean", 1), ("fork_leaks", "both", 2)] {
        let folder = scratch();
        let outcome = written(folder.path(), fixture, mode);
        let read = python(program, &folder.path().join("junit"));
        let leaks = groups(&outcome).iter().filter(is_leak).count();
        let tests = leaks.max(suites);
        assert_eq!(read["counts"], serde_json::json!([tests, leaks, 0]), "{fixture} {mode}: {read:#}");
        for group in groups(&outcome).iter().filter(is_leak) {
            let id = format!("[{}]", group["id"].as_str().expect("an id"));
            let mut cases = read["cases"].as_array().expect("cases").iter();
            let case = cases.find(|case| case[1].as_str().is_some_and(|name| name.ends_with(&id)));
            assert_eq!(case.map(|case| &case[2]), Some(&serde_json::json!(["Failure"])), "{id}: {read:#}");
        }
    }
}

#[test]
fn sarif_follows_its_schema_and_points_at_the_sources() {
    let folder = scratch();
    for (fixture, mode) in [("leak_batch", "leak"), ("leak_batch", "clean"), ("fork_leaks", "both")] {
        let outcome = written(folder.path(), fixture, mode);
        let document: Value = serde_json::from_str(&read(folder.path(), "sarif")).expect("JSON");
        let faults: Vec<String> = sarif_schema()
            .iter_errors(&document)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{fixture} {mode}: {faults:#?}");
        let log: serde_sarif::sarif::Sarif = serde_json::from_value(document.clone()).expect("SARIF's types");
        let results = log.runs[0].results.as_deref().unwrap_or_default();
        let ids: BTreeSet<&str> = groups(&outcome).iter().filter(is_leak).filter_map(|g| g["id"].as_str()).collect();
        let errors =
            document["runs"][0]["results"].as_array().expect("results").iter().filter(|r| r["level"] == "error");
        let told: BTreeSet<&str> = errors.filter_map(|r| r["partialFingerprints"]["avleakGroup/v1"].as_str()).collect();
        assert_eq!(told, ids, "{fixture} {mode}");
        for result in results {
            let location =
                result.locations.as_ref().and_then(|all| all[0].physical_location.as_ref()).expect("a place");
            let artifact = location.artifact_location.as_ref().expect("a file");
            assert_eq!(artifact.uri_base_id.as_deref(), Some("SRCROOT"));
            let file = repository().join(artifact.uri.as_deref().expect("a path"));
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let line = location.region.as_ref().and_then(|region| region.start_line).expect("a line");
            let line = text.lines().nth(usize::try_from(line).expect("a line") - 1).expect("a line of the file");
            assert!(line.contains("av_"), "{}: {line}", file.display());
        }
    }
}

/// The schema comes with the crate serde-sarif, whose types are made of it.
fn sarif_schema() -> jsonschema::Validator {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Of this platform only: of the others nothing was fetched.
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]);
    command.current_dir(repository());
    let found = process::run(&mut command, LIMIT).expect_success();
    let metadata: Value = serde_json::from_slice(&found.stdout).expect("cargo's metadata");
    let mut packages = metadata["packages"].as_array().expect("packages").iter();
    let package = packages.find(|package| package["name"] == "serde-sarif").expect("serde-sarif is a dependency");
    let path = Path::new(package["manifest_path"].as_str().expect("a path")).with_file_name("src").join("schema.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    // These patterns have a bracket too many, which makes them no regular expressions. avleak writes no language.
    for definition in ["run", "toolComponent"] {
        let language = schema.pointer_mut(&format!("/definitions/{definition}/properties/language"));
        language.and_then(Value::as_object_mut).expect("SARIF has languages").remove("pattern");
    }
    jsonschema::options().should_validate_formats(true).build(&schema).expect("the schema is a JSON Schema")
}

#[test]
fn tables_stacks_and_comments_say_the_same_as_the_json() {
    let folder = scratch();
    let outcome = written(folder.path(), "leak_batch", "leak");
    let program = "import csv, json, sys\n\
        print(json.dumps(list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8'), strict=True))))";
    let rows = python(program, &folder.path().join("csv"));
    let table: BTreeMap<&str, &Value> =
        rows.as_array().expect("rows").iter().map(|row| (row["group"].as_str().expect("an id"), row)).collect();
    assert_eq!(table.len(), groups(&outcome).len());
    for group in groups(&outcome) {
        let row = table[group["id"].as_str().expect("an id")];
        for field in ["class", "object", "leak", "count", "bytes", "pinned_bytes", "outermost", "siblings_allocated"] {
            let expected = group[field].as_str().map_or_else(|| group[field].to_string(), str::to_string);
            assert_eq!(row[field], expected, "{field}: {row:#}");
        }
    }

    let folded = read(folder.path(), "folded");
    let weights =
        folded.lines().map(|line| line.rsplit(' ').next().expect("a weight").parse::<u64>().expect("a weight"));
    assert_eq!(weights.sum::<u64>(), outcome.report()["leaks"]["pinned_bytes"].as_u64().expect("pinned bytes"));
    assert!(folded.lines().all(|line| line.contains(";one_batch;") && line.contains(";[AVFrame ")), "{folded}");

    let program = "import json, sys, xml.etree.ElementTree as tree\n\
        titles = [e.text for e in tree.parse(sys.argv[1]).iter('{http://www.w3.org/2000/svg}title')]\n\
        print(json.dumps(titles))";
    let titles = python(program, &folder.path().join("flamegraph")).to_string();
    assert!(titles.contains("one_batch (") && titles.contains("[AVFrame definitely lost] ("), "{titles}");

    let markdown = read(folder.path(), "markdown");
    assert!(markdown.contains("tests/programs/leak_batch.c:"), "{markdown}");
    for group in groups(&outcome).iter().filter(is_leak) {
        assert!(markdown.contains(group["id"].as_str().expect("an id")), "{markdown}");
    }
}

fn avleak(arguments: &[&str]) -> Finished {
    process::run(Command::new(avleak_binary()).args(arguments), LIMIT)
}

#[test]
fn a_stored_report_gives_the_same_files() {
    let folder = scratch();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let program = programs::program("fork_leaks").display().to_string();
    avleak(&["run", "-q", "--json", &path("json"), "--csv", &path("csv"), "--", &program, "both"]);
    let again = avleak(&["report", &path("json"), "--csv", "-"]).expect_success();
    assert_eq!(again.text(), read(folder.path(), "csv"));
    assert_eq!(again.stderr, "");
    let two = avleak(&["report", &path("json"), "--csv", "-", "--sarif", "-"]);
    assert_eq!((two.code(), two.text().as_str()), (2, ""));
    assert_eq!(two.stderr, "avleak: --csv and --sarif both write to stdout: name a file for one of them\n");
}

#[test]
fn what_cannot_be_written_keeps_the_command_from_being_started() {
    let folder = scratch();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (option, words) in [("--pprof", "ENOENT"), ("--junit", "create the folder")] {
        let done = avleak(&["run", option, &path("no/such/file"), "--", "touch", &path("started")]);
        assert_eq!(done.code(), 2, "{}", done.stderr);
        assert!(done.stderr.contains(words) && done.stderr.contains("the command was not started"), "{}", done.stderr);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
