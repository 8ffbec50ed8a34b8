//! Baselines in CI: each example suite is red with its leak, green with the leak in the baseline, red again when it grows.

use avleak_tests::process::Finished;
use avleak_tests::suite::Suite;

fn assert_status(done: &Finished, code: i32, when: &str) {
    assert_eq!(done.code(), code, "{when}:\n{}\n{}", done.text(), done.stderr);
}

/// `command`: how the suite is run under `avleak ci` with `$OPTIONS`, leaving report.json.
fn red_then_green_then_red(suite: &Suite, command: &str, times: u32) {
    let run = |options: &str, times| suite.run(&format!("OPTIONS='{options}'; {command}"), times);
    assert_status(&run("", times), 1, "with the leak");
    suite.run("tools/avleak/avleak baseline save report.json -o leaks.baseline", 0).expect_success();
    assert_status(&run("--baseline=leaks.baseline", times), 0, "with the leak in the baseline");
    let grown = run("--baseline=leaks.baseline", times + 4);
    assert_status(&grown, 1, "with a grown leak");
    assert!(grown.stderr.contains("decided by: leaks"), "{}", grown.stderr);
    assert_status(&run("--baseline=leaks.baseline", 0), 0, "without the leak");
}

#[test]
fn c() {
    let suite = Suite::new("c").with_cmake();
    let command = "tools/avleak/avleak ci --json report.json $OPTIONS -- ctest --test-dir build-ci";
    red_then_green_then_red(&suite, command, 3);
    // The next commit's build: the ids are others, the leak is the same.
    let source = suite.path().join("test_encode.c");
    let text = std::fs::read_to_string(&source).expect("the source");
    std::fs::write(&source, format!("// One more line.\n{text}")).expect("the source");
    suite.run("cmake --build build-ci", 0).expect_success();
    assert_status(&suite.run(&format!("OPTIONS=--baseline=leaks.baseline; {command}"), 3), 0, "built anew");
}

#[test]
fn pytest() {
    let command = "tools/avleak/avleak ci --json report.json $OPTIONS -- pytest -q -p no:cacheprovider";
    red_then_green_then_red(&Suite::new("python"), command, 8);
}

#[test]
fn go() {
    let command = "AVLEAK_FLAGS=$OPTIONS AVLEAK_JSON=report.json tools/avleak/run_tests_leak_check.sh";
    red_then_green_then_red(&Suite::new("go"), command, 3);
}
