//! What is let through, on real leaks: suppressions, baselines, differences; and files that are none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Outcome, Run, read_report};
use avleak_tests::process::Finished;
use avleak_tests::truth::number;
use avleak_tests::{avleak_binary, process, programs, scratch};
use serde_json::Value;

/// avleak with these arguments.
fn avleak(arguments: &[&str]) -> Finished {
    process::run(Command::new(avleak_binary()).args(arguments), LIMIT)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `leak_sites` with so many losses at each place, under avleak with these options.
fn sites(first: u32, second: u32, options: &[&str]) -> Outcome {
    let program = programs::program("leak_sites");
    let words: [OsString; 3] = [program.into(), first.to_string().into(), second.to_string().into()];
    Run::new(words).options(options).finish()
}

/// The same, built anew: other lines, other addresses, another build id, the same name.
fn rebuilt(folder: &Path, first: u32, second: u32, options: &[&str]) -> Outcome {
    let flags = ["-DREBUILT", "-Wl,--build-id", "-lavcodec", "-lavutil"];
    let built = programs::special("leak_sites", "leak_sites_rebuilt", &flags);
    let program = folder.join("leak_sites");
    if !program.exists() {
        std::fs::copy(built, &program).expect("a copy of the program");
    }
    let words: [OsString; 3] = [program.into(), first.to_string().into(), second.to_string().into()];
    Run::new(words).options(options).finish()
}

fn saved(folder: &Path, name: &str, outcome: &Outcome) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(&outcome.document).expect("JSON")).expect("a file");
    path
}

fn written(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path
}

fn frames(report: &Value) -> u64 {
    number(&report["leaks"]["frames"])
}

#[test]
fn suppressed_leaks_do_not_count_and_others_do() {
    let folder = scratch();
    let outcome = sites(3, 0, &[]);
    assert_eq!((outcome.finished.code(), frames(outcome.report())), (1, 3));

    let lsan = written(folder.path(), "lsan.supp", "# ours\nleak:^first_place$\nleak:nothing_like_it\n");
    let option = format!("--suppressions={}", text(&lsan));
    let outcome = sites(3, 0, &[&option]);
    let report = outcome.report();
    assert_eq!((outcome.finished.code(), frames(report)), (0, 0), "{}", report["reason"]);
    assert_eq!(number(&report["gate"]["suppressed"]["frames"]), 3);
    assert_eq!(report["gate"]["unused"][0]["name"], "leak:nothing_like_it");
    let group = report["groups"].as_array().expect("groups").iter().find(|group| group["suppressed_by"].is_string());
    assert_eq!(group.expect("the group")["class"], "definitely_lost");

    let outcome = sites(3, 2, &[&option]);
    assert_eq!((outcome.finished.code(), frames(outcome.report())), (1, 2));

    let valgrind = "{\n second\n Memcheck:Leak\n match-leak-kinds: definite\n fun:posix_memalign\n fun:av_malloc\n ...\n \
                    obj:*/fixtures/leak_sites\n ...\n fun:second_*\n}\n";
    let valgrind = written(folder.path(), "valgrind.supp", valgrind);
    let both = [option, format!("--suppressions={}", text(&valgrind))];
    let outcome = sites(3, 2, &[&both[0], &both[1]]);
    assert_eq!((outcome.finished.code(), frames(outcome.report())), (0, 0), "{:#}", outcome.report()["gate"]);
}

#[test]
fn generated_suppressions_silence_what_they_were_made_of() {
    let folder = scratch();
    let file = folder.path().join("generated.supp");
    let outcome = sites(3, 2, &[&format!("--gen-suppressions={}", text(&file))]);
    assert_eq!(outcome.finished.code(), 1);
    let generated = std::fs::read_to_string(&file).expect("the suppressions");
    assert_eq!(generated.matches("Memcheck:Leak").count(), 2, "{generated}");
    let outcome = sites(5, 5, &[&format!("--suppressions={}", text(&file))]);
    assert_eq!((outcome.finished.code(), outcome.report()["verdict"].as_str()), (0, Some("clean")));
    let stored = saved(folder.path(), "r.json", &sites(1, 0, &[]));
    let done = avleak(&["report", text(&stored), "--gen-suppressions"]);
    assert!(done.text().contains("fun:first_place"), "{}", done.text());
    let done = avleak(&["report", text(&stored), "--suppressions", text(&file)]);
    assert!(done.text().starts_with("avleak: no leaks"), "{}", done.text());
}

#[test]
fn green_without_red_with_green_in_the_baseline_red_when_it_grows() {
    let folder = scratch();
    assert_eq!(sites(0, 0, &[]).finished.code(), 0);
    let before = sites(3, 0, &[]);
    assert_eq!(before.finished.code(), 1);
    let (report, baseline) = (saved(folder.path(), "r.json", &before), folder.path().join("b.toml"));
    let done = avleak(&["baseline", "save", text(&report), "-o", text(&baseline)]);
    assert_eq!((done.code(), done.text().contains("1 group, 3 objects")), (0, true), "{}{}", done.text(), done.stderr);
    let option = format!("--baseline={}", text(&baseline));

    for known in [3, 1] {
        let outcome = sites(known, 0, &[&option]);
        assert_eq!((outcome.finished.code(), frames(outcome.report())), (0, 0), "{known}");
        assert_eq!(number(&outcome.report()["gate"]["known"]["frames"]), u64::from(known));
    }
    let gone = sites(0, 0, &[&option]);
    assert_eq!((gone.finished.code(), gone.report()["gate"]["baseline"]["gone"][0]["count"].as_u64()), (0, Some(3)));
    let grown = sites(4, 0, &[&option]);
    assert_eq!((grown.finished.code(), &grown.report()["groups"][0]["baseline"]["status"]), (1, &"grown".into()));
    assert_eq!(sites(4, 0, &[&option, "--slack=34"]).finished.code(), 0);
    let new = sites(3, 1, &[&option]);
    assert_eq!((new.finished.code(), frames(new.report())), (1, 1));
    assert_eq!(new.report()["groups"][0]["baseline"]["status"], "new");

    // On stored reports the same is said.
    let check = |outcome: &Outcome| {
        let file = saved(folder.path(), "checked.json", outcome);
        let out = folder.path().join("judged.json");
        let done = avleak(&["baseline", "check", "--baseline", text(&baseline), "--json", text(&out), text(&file)]);
        read_report(&out).unwrap_or_else(|why| panic!("{why}"));
        (done.code(), done.text())
    };
    assert_eq!(check(&before).0, 0);
    let (code, shown) = check(&sites(3, 1, &[]));
    assert!(code == 1 && shown.contains("new: not in the baseline") && shown.contains("1 new"), "{shown}");

    // And where the program was built anew.
    let moved = rebuilt(folder.path(), 3, 0, &[&option]);
    assert_eq!(moved.finished.code(), 0, "{:#}", moved.report()["gate"]);
    assert_eq!(number(&moved.report()["gate"]["baseline"]["moved"]), 1);
    assert_eq!(rebuilt(folder.path(), 4, 0, &[&option]).finished.code(), 1);
    let other = rebuilt(folder.path(), 0, 3, &[&option]);
    assert_eq!((other.finished.code(), frames(other.report())), (1, 3), "{:#}", other.report()["gate"]);

    // Notes stay when it is saved again.
    let text_of = |path: &Path| std::fs::read_to_string(path).expect("the baseline");
    let noted = text_of(&baseline).replace("count = 3\n", "count = 3 # ticket 7\n");
    std::fs::write(&baseline, noted).expect("the baseline");
    let second = saved(folder.path(), "second.json", &sites(2, 6, &[]));
    let done = avleak(&["baseline", "save", text(&report), text(&second), "-o", text(&baseline)]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    let again = text_of(&baseline);
    assert!(again.contains("count = 3 # ticket 7\n") && again.contains("count = 6\n"), "{again}");
}

#[test]
fn processes_of_one_command_are_counted_together() {
    let folder = scratch();
    let program = programs::program("leak_sites");
    let both = |times: &str| {
        let script = format!("for i in {times}; do \"$0\" 2 0; done; exit 0");
        let words: [OsString; 4] = ["sh".into(), "-c".into(), script.into(), program.clone().into()];
        words
    };
    let report = saved(folder.path(), "r.json", &Run::new(both("1 2")).finish());
    let baseline = folder.path().join("b.toml");
    assert_eq!(avleak(&["baseline", "save", text(&report), "-o", text(&baseline)]).code(), 0);
    let option = format!("--baseline={}", text(&baseline));
    let same = Run::new(both("1 2")).options([&option]).finish();
    assert_eq!(
        (same.finished.code(), number(&same.document["gate"]["known"]["frames"])),
        (0, 4),
        "{:#}",
        same.document["gate"]
    );
    assert_eq!(Run::new(both("1 2 3")).options([&option]).finish().finished.code(), 1);
}

#[test]
fn differences_of_real_reports() {
    let folder = scratch();
    let a = saved(folder.path(), "a.json", &sites(3, 1, &[]));
    let b = saved(folder.path(), "b.json", &sites(5, 0, &[]));
    let same = avleak(&["diff", text(&a), text(&a)]);
    assert_eq!(same.code(), 0, "{}", same.text());
    let done = avleak(&["diff", text(&a), text(&b)]);
    let shown = done.text();
    assert_eq!(done.code(), 1, "{shown}");
    for words in ["1 grown and 1 gone", "3 → 5 AVFrame definitely lost", "first_place", "per 1,000 frames"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert_eq!(avleak(&["diff", "--quiet", "--slack", "70", text(&a), text(&b)]).code(), 0);
    let done = avleak(&["diff", "--json", text(&b), text(&a)]);
    let diff: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(
        (done.code(), diff["schema"].as_str(), diff["summary"]["new"].as_u64()),
        (1, Some("avleak-diff/1"), Some(1))
    );
    assert_eq!(
        (diff["groups"][1]["change"].as_str(), diff["groups"][1]["b"]["count"].as_u64()),
        (Some("shrunk"), Some(3))
    );
    let c = saved(folder.path(), "c.json", &rebuilt(folder.path(), 3, 1, &[]));
    let done = avleak(&["diff", text(&a), text(&c)]);
    assert!(done.code() == 0 && done.text().contains("2 moved"), "{}", done.text());
    let nothing = Run::new(["true"]).finish();
    let nothing = saved(folder.path(), "nothing.json", &nothing);
    assert_eq!(avleak(&["diff", text(&nothing), text(&nothing)]).code(), 3);
}

#[test]
fn files_that_are_none_are_said_so_before_the_command_runs() {
    let folder = scratch();
    let file = |name: &str, content: &str| written(folder.path(), name, content);
    let table = [
        ("--suppressions", file("a.supp", "leak:x\nleek:y\n"), "a.supp:2: unknown kind `leek`"),
        (
            "--suppressions",
            file("b.supp", "{\n x\n Memcheck:Leak\n fun:f\n"),
            "b.supp:1: a suppression that never ends",
        ),
        ("--suppressions", folder.path().join("none.supp"), "none.supp: ENOENT"),
        ("--suppressions", folder.path().to_path_buf(), "EISDIR"),
        ("--baseline", file("a.toml", "format = \"avleak-baseline/1\"\n[group.x]\ncount = 1\n"), "a.toml:2:"),
        ("--baseline", file("b.toml", "format = \"avleak-baseline/7\"\n"), "avleak-baseline/7 cannot be read"),
        ("--baseline", file("c.toml", "{\"schema\": \"avleak-report/1\"}"), "looks like a report"),
        ("--baseline", file("d.toml", "format = \"avleak-baseline/1\"\ncount ="), "d.toml:2:8: "),
    ];
    let ran = folder.path().join("ran");
    for (option, path, words) in &table {
        let done = avleak(&["run", option, text(path), "--", "touch", text(&ran)]);
        let lines: Vec<&str> = done.stderr.lines().collect();
        assert!(done.code() == 2 && lines.len() == 1 && lines[0].starts_with("avleak: "), "{words}: {}", done.stderr);
        assert!(lines[0].contains(words) && lines[0].ends_with("the command was not started"), "{words}: {}", lines[0]);
        assert!(!ran.exists(), "the command ran: {words}");
    }
    let report = saved(folder.path(), "r.json", &sites(1, 0, &[]));
    let cut = file("cut.json", &std::fs::read_to_string(&report).expect("a report")[..900]);
    let newer = std::fs::read_to_string(&report).expect("a report").replace("avleak-report/1", "avleak-report/2");
    let newer = file("newer.json", &newer);
    for (bad, words) in
        [(&cut, "cut.json:"), (&newer, "avleak-report/2 cannot be read"), (&table[0].1, "it is not JSON")]
    {
        for arguments in [
            ["diff", text(&report), text(bad)].as_slice(),
            &["diff", text(bad), text(&report)],
            &["baseline", "save", text(bad), "-o", text(&folder.path().join("new.toml"))],
        ] {
            let done = avleak(arguments);
            assert!(done.code() == 2 && done.stderr.contains(words), "{arguments:?}: {}", done.stderr);
        }
        assert!(!folder.path().join("new.toml").exists());
    }
    // A baseline that cannot be read is not written over.
    let (_, broken, _) = &table[7];
    let done = avleak(&["baseline", "save", text(&report), "-o", text(broken)]);
    assert_eq!((done.code(), std::fs::read_to_string(broken).expect("it").ends_with("count =")), (2, true));
    // A folder that is no place for a file is known before, too.
    let done = avleak(&["run", "--gen-suppressions=/nonexistent/x.supp", "--", "touch", text(&ran)]);
    assert!(done.code() == 2 && !ran.exists() && done.stderr.contains("--gen-suppressions"), "{}", done.stderr);
}

#[test]
fn what_ffmpeg_is_known_to_leave_is_let_through_by_default() {
    let words = ["ffmpeg", "-nostdin", "-v", "error", "-i", "/etc/hostname", "-f", "null", "-"];
    let outcome = Run::new(words).level("draconian").finish();
    assert_eq!(
        outcome.report()["gate"]["used"][0]["suppression"]["file"],
        "(built in)",
        "{:#}",
        outcome.report()["gate"]
    );
    assert_eq!(outcome.report()["verdict"], "clean");
    let outcome = Run::new(words).level("draconian").options(["--no-default-suppressions"]).finish();
    assert_eq!(outcome.report()["verdict"], "leaks");
}
