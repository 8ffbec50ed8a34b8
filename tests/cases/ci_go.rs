//! The scripts for Go packages with libav: what they build and run, which flags they understand, that they always conclude.

use std::path::Path;

use avleak_tests::process::Finished;
use avleak_tests::suite::Suite;

fn check(suite: &Suite, line: &str, times: u32) -> Finished {
    suite.run(&format!("{line} tools/avleak/run_tests_leak_check.sh"), times)
}

fn last_line(done: &Finished) -> String {
    done.text().lines().last().unwrap_or_default().to_owned()
}

/// A banner, one last line with the mark, and a status that goes with it.
fn assert_concluded(done: &Finished, good: bool, words: &[&str]) {
    let (text, last) = (done.text(), last_line(done));
    let all = format!("{text}\n{}", done.stderr);
    assert!(last.starts_with(if good { "✓ " } else { "✗ " }), "{all}");
    assert_eq!(done.code(), i32::from(!good), "{all}");
    assert_eq!(text.matches('✓').count() + text.matches('✗').count(), 1, "{all}");
    for word in words {
        assert!(last.contains(word), "{word:?} is not in: {last}\n{all}");
    }
}

fn go_suite() -> Suite {
    Suite::new("go")
}

#[test]
fn green_without_the_leak_red_with_it() {
    let suite = go_suite();
    let green = check(&suite, "", 0);
    assert_concluded(&green, true, &["tests passed, no leaks (level normal)"]);
    assert!(green.text().starts_with("=== Go tests under avleak\n    level      normal\n"), "{}", green.text());
    for package in ["ok   example.org/media/still", "ok   example.org/media/thumb"] {
        assert!(green.text().contains(package), "{}", green.text());
    }
    let red = check(&suite, "", 3);
    assert_concluded(&red, false, &["FFmpeg objects leaked"]);
    assert!(red.text().contains("ok   example.org/media/thumb"), "the tests themselves saw nothing: {}", red.text());
    assert!(red.stderr.contains("3 AVFrame definitely lost"), "{}", red.stderr);
    assert!(red.stderr.contains("▸ picture") && red.stderr.contains("thumb/thumb.c:"), "{}", red.stderr);
    // Without its test the leak is not there.
    let other = suite.run("tools/avleak/run_tests_leak_check.sh 'TestSize|TestFrames'", 3);
    assert_concluded(&other, true, &[]);
    assert!(other.text().contains("    tests      TestSize|TestFrames\n"), "{}", other.text());
}

#[test]
fn levels_and_flags_are_honoured() {
    let suite = go_suite();
    let done = check(&suite, "HEAPCHECK=strict GO_TEST_FLAGS=-v", 0);
    assert_concluded(&done, true, &["level strict"]);
    assert!(done.text().contains("--- PASS: TestTooSmall"), "{}", done.text());
    let line = "HEAPCHECK=draconian GO_TEST_FLAGS=\"-test.v -count 2 -run 'TestSize' -timeout=30s -tags 'a b'\"";
    let done = check(&suite, line, 0);
    assert_concluded(&done, true, &["level draconian"]);
    assert_eq!(done.text().matches("--- PASS: TestSize").count(), 2, "{}", done.text());
    assert!(!done.text().contains("TestTooSmall"), "{}", done.text());
    // Left out, with a word: tcmalloc under avleak would hide what both look for.
    let done = check(&suite, "LD_PRELOAD=libdl.so.2 GO_PACKAGES=./thumb", 0);
    assert_concluded(&done, true, &[]);
    assert!(done.text().contains("left out   LD_PRELOAD=libdl.so.2"), "{}", done.text());
}

#[test]
fn failing_tests_are_told_from_leaks() {
    let suite = go_suite();
    let extra = "package still\n\nimport \"testing\"\n\nfunc TestWrong(t *testing.T) { t.Fatal(\"wrong\") }\n";
    std::fs::write(suite.path().join("still/wrong_test.go"), extra).expect("a test");
    assert_concluded(&check(&suite, "", 0), false, &["tests failed: example.org/media/still"]);
    let both = check(&suite, "", 3);
    assert_concluded(&both, false, &["tests failed: example.org/media/still; and FFmpeg objects leaked"]);
    std::fs::write(suite.path().join("still/wrong_test.go"), "package still\n\nfunc nonsense( {\n").expect("a test");
    let done = check(&suite, "", 0);
    assert_concluded(&done, false, &["example.org/media/still could not be built"]);
    assert!(done.stderr.contains("wrong_test.go:3"), "{}", done.stderr);
}

#[test]
fn profiles_are_what_gos_own_tool_reads() {
    let suite = go_suite();
    let done = suite.run("HEAPPROFILE=out/leaks tools/avleak/run_tests_with_avleak.sh", 3);
    assert_concluded(&done, false, &["avleak failed", "exit status 2"]);
    assert!(done.stderr.contains("out/leaks.pb.gz: ENOENT"), "the folder is missing: {}", done.stderr);
    let done = suite.run("mkdir out && HEAPPROFILE=out/leaks tools/avleak/run_tests_with_avleak.sh", 3);
    assert_concluded(&done, false, &["FFmpeg objects leaked"]);
    assert!(done.text().contains("    profile    out/leaks.pb.gz\n"), "{}", done.text());
    let top = suite.run("go tool pprof -sample_index=lost_objects -top out/leaks.pb.gz", 0).expect_success();
    let row = top.text().lines().find(|line| line.ends_with(" av_frame_alloc")).map(str::to_owned).unwrap_or_default();
    assert_eq!(row.split_whitespace().next(), Some("3"), "{}", top.text());
    let named = suite.run("tools/avleak/run_tests_with_avleak.sh TestSize", 3);
    assert_concluded(&named, true, &[]);
    assert!(suite.path().join("avleak-tests.pb.gz").is_file(), "the name without HEAPPROFILE");
}

/// The ends of a Go process that skip every exit handler.
#[test]
fn a_go_process_is_judged_however_it_ends() {
    let suite = go_suite();
    let extra = "package thumb\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\n\
        func TestExit(t *testing.T) { Make(3, 3); Make(3, 3); Make(640, 360); os.Exit(5) }\n\
        func TestPanic(t *testing.T) { Make(3, 3); Make(3, 3); Make(640, 360); panic(\"on purpose\") }\n\
        func TestElsewhere(t *testing.T) { Make(3, 3); Make(3, 3); Make(640, 360); go func() { panic(1) }(); select {} }\n";
    std::fs::write(suite.path().join("thumb/ends_test.go"), extra).expect("a test");
    for test in ["TestExit", "TestPanic", "TestElsewhere"] {
        let done = suite.run(&format!("GO_PACKAGES=./thumb tools/avleak/run_tests_leak_check.sh {test}"), 0);
        assert_concluded(&done, false, &["tests failed: example.org/media/thumb; and FFmpeg objects leaked"]);
        // One line, but two calls: two groups.
        assert!(done.stderr.contains("avleak ci: 2 frames leaked"), "{test}: {}", done.stderr);
        assert_eq!(done.stderr.matches(" 1 AVFrame definitely lost").count(), 2, "{test}: {}", done.stderr);
    }
}

#[test]
fn nothing_wrong_is_silently_green() {
    let suite = go_suite();
    for (line, words) in [
        ("HEAPCHECK=minimal", ["HEAPCHECK=minimal", "draconian"]),
        ("GO=/nonexistent/go", ["/nonexistent/go", "install Go"]),
        ("AVLEAK=/nonexistent/avleak", ["/nonexistent/avleak", "AVLEAK"]),
        ("AVLEAK_LIB=/nonexistent/libavleak.so", ["avleak failed", "exit status 2"]),
        ("GO_TEST_FLAGS=-frobnicate", ["-frobnicate", "-test.NAME"]),
        ("GO_TEST_FLAGS=thumb", ["thumb", "GO_PACKAGES"]),
        ("GO_TEST_FLAGS=-run", ["-run", "value"]),
        ("GO_TEST_FLAGS=\"'\"", ["GO_TEST_FLAGS", "quote"]),
        ("GO_TEST_FLAGS=-json", ["-json", "test2json"]),
        ("GO_TEST_FLAGS=-test.nonsense", ["tests failed", "thumb"]),
        ("GO_PACKAGES=./nowhere/...", ["go list", "./nowhere"]),
        ("GO_PACKAGES=./still", ["inconclusive", "--allow-inconclusive"]),
        ("AVLEAK_FLAGS=--nonsense", ["avleak failed", "2"]),
    ] {
        assert_concluded(&check(&suite, line, 0), false, &words);
    }
    let done = suite.run("tools/avleak/run_tests_leak_check.sh -v", 0);
    assert_concluded(&done, false, &["-v", "GO_TEST_FLAGS"]);
    let done = check(&suite, "GO_PACKAGES=./still AVLEAK_FLAGS=--allow-inconclusive", 0);
    assert_concluded(&done, true, &["not everything was seen"]);
}

#[test]
fn an_interrupted_check_says_so_and_leaves_nothing() {
    let suite = go_suite();
    let extra = "package thumb\n\nimport (\n\t\"syscall\"\n\t\"testing\"\n)\n\n\
        func TestInterrupt(t *testing.T) { syscall.Kill(0, syscall.SIGINT); select {} }\n";
    std::fs::write(suite.path().join("thumb/interrupt_test.go"), extra).expect("a test");
    let temporary = suite.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let line = format!(
        "TMPDIR='{}' GO_PACKAGES=./thumb exec setsid -w tools/avleak/run_tests_leak_check.sh TestInterrupt",
        temporary.display()
    );
    let done = suite.run(&line, 0);
    assert_concluded(&done, false, &[]);
    let left: Vec<_> = std::fs::read_dir(&temporary).expect("the folder").flatten().map(|entry| entry.path()).collect();
    assert!(left.iter().all(|path| !is_work(path)), "{left:?}");
}

fn is_work(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("avleak-go"))
}
