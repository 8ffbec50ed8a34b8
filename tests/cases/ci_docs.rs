//! The blocks of docs/ci.md, run as they stand there: red where the example suite leaks, green where it does not.

use avleak_tests::process::Finished;
use avleak_tests::suite::{Suite, tool};
use avleak_tests::{avleak_binary, avleak_library, programs, repository, scratch};
use serde_json::Value;

/// The block that follows `<!-- tested: NAME -->`, and its language.
fn block(name: &str) -> (String, String) {
    let path = repository().join("docs/ci.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mark = format!("<!-- tested: {name} -->\n```");
    let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("docs/ci.md has no block {name}"));
    let (language, rest) = rest.split_once('\n').expect("a block");
    let (body, _) = rest.split_once("\n```").expect("the end of the block");
    (language.to_owned(), format!("{body}\n"))
}

/// A YAML block, read by a real reader.
fn yaml(name: &str) -> Value {
    let (language, text) = block(name);
    assert_eq!(language, "yaml");
    let folder = scratch();
    let file = folder.path().join("block.yml");
    std::fs::write(&file, text).expect("a file");
    let mut command = std::process::Command::new(tool("python3"));
    command.args(["-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1])), default=str))"]);
    let done = avleak_tests::process::run(command.arg(&file), avleak_tests::avleak::LIMIT).expect_success();
    serde_json::from_str(&done.text()).expect("JSON of the block")
}

/// The lines that can be run here: those that install packages cannot.
fn runnable(lines: Vec<&str>) -> Vec<&str> {
    let installs = |line: &&str| ["apt-get", "pip install"].iter().any(|word| line.contains(word));
    let (left_out, kept): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(installs);
    assert!(!left_out.is_empty() && kept.iter().any(|line| line.contains("tools/avleak/")), "{left_out:?} {kept:?}");
    kept
}

/// Runs the lines as the steps of one job, up to the first that fails.
fn job(suite: &Suite, lines: &[&str], times: u32) -> Finished {
    lines.iter().map(|line| suite.run(line, times)).reduce(|a, b| if a.code() == 0 { b } else { a }).expect("a line")
}

fn assert_red_and_green(suite: &Suite, lines: &[&str]) {
    let red = job(suite, lines, 3);
    assert_eq!(red.code(), 1, "{lines:?}\n{}\n{}", red.text(), red.stderr);
    assert!(red.stderr.contains("exit status 1, decided by: leaks"), "{}", red.stderr);
    let green = job(suite, lines, 0);
    assert_eq!(green.code(), 0, "{lines:?}\n{}\n{}", green.text(), green.stderr);
    assert!(green.stderr.contains("exit status 0, decided by: clean"), "{}", green.stderr);
}

#[test]
fn github() {
    let workflow = yaml("github");
    let jobs = workflow["jobs"].as_object().expect("jobs");
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["c", "go", "python"]);
    for (name, job) in jobs {
        let lines = job["steps"].as_array().expect("steps").iter().filter_map(|step| step["run"].as_str()).collect();
        let mut suite = Suite::new(name);
        let root = suite.path().to_str().expect("a path in UTF-8").to_owned();
        suite = suite.env("GITHUB_ACTIONS", "true").env("GITHUB_WORKSPACE", &root);
        suite = suite.env("GITHUB_STEP_SUMMARY", &format!("{root}/summary.md"));
        for (variable, value) in job["env"].as_object().into_iter().flatten() {
            suite = suite.env(variable, value.as_str().expect("text"));
        }
        assert_red_and_green(&suite, &runnable(lines));
        let summary = std::fs::read_to_string(suite.path().join("summary.md")).expect("a step summary");
        assert!(summary.contains("### ❌ avleak: ") && summary.contains("### ✅ avleak: no leaks"), "{summary}");
    }
}

#[test]
fn gitlab() {
    let pipeline = yaml("gitlab");
    let job = &pipeline["leaks"];
    let lines = job["script"].as_array().expect("a script").iter().filter_map(Value::as_str).collect();
    let suite = Suite::new("c");
    let root = suite.path().to_str().expect("a path in UTF-8").to_owned();
    let suite = suite.env("GITLAB_CI", "true").env("CI_PROJECT_DIR", &root);
    assert_red_and_green(&suite, &runnable(lines));
    let report = job["artifacts"]["reports"]["codequality"].as_str().expect("the report's name");
    assert!(suite.path().join(report).is_file(), "the job uploads {report}, which avleak does not write");
    for path in job["artifacts"]["paths"].as_array().expect("paths").iter().filter_map(Value::as_str) {
        assert!(suite.path().join(path).is_file(), "the job uploads {path}, which nobody writes");
    }
}

#[test]
fn make() {
    let (language, text) = block("make");
    assert_eq!(language, "make");
    let suite = Suite::new("c");
    std::fs::write(suite.path().join("Makefile"), text).expect("a Makefile");
    let red = suite.run("make leak-check", 3);
    assert_eq!(red.code(), 2, "make's own status over a failed line: {}", red.stderr);
    assert!(red.stderr.contains("exit status 1, decided by: leaks"), "{}", red.stderr);
    let green = suite.run("make leak-check", 0);
    assert_eq!(green.code(), 0, "{}", green.stderr);
    assert!(green.stderr.contains("exit status 0, decided by: clean"), "{}", green.stderr);
}

/// Where the image has the two files, avleak finds its library.
#[test]
fn docker() {
    let (language, text) = block("docker");
    assert_eq!(language, "dockerfile");
    let root = scratch();
    let copies: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
    assert_eq!(copies.len(), 2, "{text}");
    for copy in copies {
        let (from, to) = copy.split_once(' ').expect("from and to");
        let built = [avleak_binary(), avleak_library()];
        let name = from.strip_prefix("tools/avleak/").expect("a file of avleak's");
        let file = built.iter().find(|file| file.ends_with(name)).unwrap_or_else(|| panic!("{name} is not built"));
        let to = root.path().join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("the folder");
        std::fs::copy(file, to).expect("the copy");
    }
    let mut command = std::process::Command::new(root.path().join("usr/local/bin/avleak"));
    command.args(["ci", "--"]).arg(programs::program("leak_batch")).arg("leak").env_remove("AVLEAK_LIB");
    let done = avleak_tests::process::run(&mut command, avleak_tests::avleak::LIMIT);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("exit status 1, decided by: leaks"), "{}", done.stderr);
}
