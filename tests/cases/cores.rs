//! Processes that are no more, checked by their core files: as if they had been traced.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Outcome, Run, read_report};
use avleak_tests::cores::{self, Crashed, gcore, kernel_writes_cores, left_in};
use avleak_tests::golang::default_toolchain;
use avleak_tests::process::{Finished, Running};
use avleak_tests::truth::{self, number};
use avleak_tests::{avleak_binary, avleak_library, media, process, programs, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn crash(how: &str, twin: &str, threads: &str) -> Vec<String> {
    let (program, media) = (programs::program("crash"), media("sample.mp4"));
    [program.to_str(), media.to_str(), Some(how), Some(twin), Some(threads)]
        .map(|word| word.expect("a path").to_string())
        .to_vec()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn avleak<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    process::run(Command::new(avleak_binary()).args(arguments), LIMIT)
}

/// Exit status and report of `avleak core`.
fn looked_at(core: &Path, session: &Path, options: &[&str]) -> (i32, Value) {
    let folder = scratch();
    let json = folder.path().join("core.json");
    let mut command = Command::new(avleak_binary());
    command.arg("core").arg(core).arg("--session").arg(session).args(["--quiet", "--json"]).arg(&json).args(options);
    let done = process::run(&mut command, LIMIT);
    let report = read_report(&json).unwrap_or_else(|why| panic!("{why}: {} {}", done.code(), done.stderr));
    assert_eq!(report["completeness"]["memory"], "core", "{report:#}");
    (done.code(), report)
}

/// What `avleak core` says that cannot do it: one line.
fn refused(core: &Path, session: &Path) -> String {
    let done = avleak([OsStr::new("core"), core.as_os_str(), OsStr::new("--session"), session.as_os_str()]);
    assert_eq!((done.code(), done.text().as_str()), (2, ""), "{}", done.stderr);
    assert!(done.stderr.starts_with("avleak: ") && done.stderr.lines().count() == 1, "{}", done.stderr);
    done.stderr
}

/// What two reports of one program have in common: its groups by id and class.
fn groups(report: &Value) -> BTreeMap<String, Value> {
    let groups = report["groups"].as_array().expect("groups").iter();
    let entry = |group: &Value| {
        let names = [
            "object",
            "class",
            "count",
            "outermost",
            "leak",
            "pinned_bytes",
            "bytes",
            "exclusive",
            "format",
            "width",
            "pts_first",
        ];
        let essence: Vec<Value> = names.iter().map(|name| group[*name].clone()).collect();
        (format!("{} {}", group["id"], group["class"]), Value::from(essence))
    };
    groups.map(entry).collect()
}

/// The same program traced; its own core, where the kernel writes one, goes with its folder.
fn traced(command: &[String]) -> Outcome {
    let folder = scratch();
    Run::new(command).current_dir(folder.path()).finish()
}

/// The core gives what tracing the same program gives: groups, classes, totals, verdict.
fn assert_as_traced(command: &[String], crashed: &Crashed) -> Value {
    let traced = traced(command);
    let (code, report) = looked_at(&crashed.core, &crashed.session(), &[]);
    let traced = traced.report();
    assert_eq!(traced["completeness"]["memory"], "ptrace", "{traced:#}");
    let (was, is) = (groups(traced), groups(&report));
    assert_eq!(is, was, "--- notes of the core's\n{:#}", report["completeness"]);
    for class in ["definitely_lost", "indirectly_lost", "possibly_lost", "still_reachable"] {
        assert_eq!(report["totals"][class], traced["totals"][class], "{class}");
    }
    assert_eq!(report["leaks"], traced["leaks"]);
    assert_eq!((&report["verdict"], &report["target"]["ended"]), (&traced["verdict"], &traced["target"]["ended"]));
    assert_eq!(code, if report["verdict"] == "leaks" { 1 } else { 0 });
    let truths = truth::truths(&crashed.finished.text());
    assert_eq!(report["totals"]["definitely_lost"]["frames"], truths[0]["totals"]["definitely_lost"]["frames"]);
    assert_eq!(report["totals"]["still_reachable"]["frames"], truths[0]["totals"]["still_reachable"]["frames"]);
    report
}

#[test]
fn the_kernels_core_gives_what_tracing_gives() {
    if !kernel_writes_cores() {
        // The next test has gdb write it.
        return;
    }
    for (how, twin, threads) in
        [("abort", "leak", "2"), ("abort", "clean", "2"), ("segv", "leak", "0"), ("abort", "leak", "24")]
    {
        let command = crash(how, twin, threads);
        let crashed = cores::by_kernel(&words(&command), "", &[]);
        let report = assert_as_traced(&command, &crashed);
        assert_eq!(report["verdict"], if twin == "leak" { "leaks" } else { "clean" });
        // The report beside it has no classes, and says what has.
        let bare = read_report(&crashed.left(".json")).expect("the report of the bare preload");
        assert_eq!((&bare["verdict"], &bare["completeness"]["memory"]), (&"inconclusive".into(), &"none".into()));
        assert_eq!(bare["post_mortem"]["dumped_core"], true, "{bare:#}");
        assert_eq!(bare["post_mortem"]["session"], crashed.session().to_str().expect("a path"));
        assert_eq!(bare["target"]["ended"], report["target"]["ended"]);
        assert_eq!(number(&bare["observed"]["frames_allocated"]), number(&report["observed"]["frames_allocated"]));
    }
}

#[test]
fn gdbs_core_gives_what_tracing_gives() {
    for (twin, threads) in [("leak", "20"), ("clean", "3")] {
        let command = crash("abort", twin, threads);
        let crashed = cores::by_gdb(&words(&command), "");
        let traced = traced(&command);
        let (_, report) = looked_at(&crashed.core, &crashed.session(), &[]);
        assert_eq!(groups(&report), groups(traced.report()), "{:#}", report["completeness"]);
        assert_eq!(report["verdict"], if twin == "leak" { "leaks" } else { "clean" });
    }
}

#[test]
fn options_are_those_of_a_check() {
    let crashed = cores::by_gdb(&words(&crash("segv", "leak", "1")), "");
    let session = crashed.session();
    assert_eq!(looked_at(&crashed.core, &session, &["--error-exitcode", "9"]).0, 9);
    assert_eq!(looked_at(&crashed.core, &session, &["--level", "draconian"]).1["level"], "draconian");
    let (folder, core, session) = (scratch(), crashed.core.as_os_str(), session.as_os_str());
    let text = avleak([OsStr::new("core"), core, OsStr::new("--session"), session]);
    assert!(text.text().contains("7 frames leaked") && text.text().contains("from the core file"), "{}", text.text());
    let full = avleak([
        OsStr::new("core"),
        core,
        OsStr::new("--session"),
        session,
        OsStr::new("--json"),
        OsStr::new("/dev/full"),
    ]);
    assert!(full.code() == 2 && full.stderr.contains("/dev/full") && full.stderr.contains("ENOSPC"), "{}", full.stderr);
    drop(folder);
}

#[test]
fn a_session_is_left_where_there_may_be_a_core() {
    let run = |how: &str, options: &str| {
        let folder = scratch();
        let command = crash(how, "leak", "0");
        let mut program = Command::new(&command[0]);
        program
            .args(&command[1..])
            .current_dir(folder.path())
            .env("LD_PRELOAD", avleak_library())
            .env("TMPDIR", folder.path());
        program.env("AVLEAK_ANALYZER", avleak_binary()).env("AVLEAK_OPTIONS", format!("ptrace=0:{options}"));
        let done = process::start_marked(&mut program, LIMIT, folder.path().to_str().expect("a path")).finish();
        let report = read_report(&left_in(folder.path(), ".json")[0]).expect("a report");
        (left_in(folder.path(), ".session").len(), report, done)
    };
    assert_eq!(run("exit", "").0, 0);
    assert_eq!(run("exit", "session=1").0, 1);
    let (sessions, report, _) = run("kill", "");
    assert_eq!((sessions, &report["target"]["ended"]["signal"]), (0, &9.into()), "a SIGKILL leaves no core");
    if kernel_writes_cores() {
        assert_eq!(run("abort", "session=0").0, 0);
    }
    // Where it cannot be written that is said, and the report is written all the same.
    let (sessions, report, done) = run("exit", "session=1:report_dir=.:quiet=1");
    assert_eq!((sessions, done.stderr.as_str()), (1, ""), "{report:#}");
}

/// A process that waits, with the library preloaded and these options.
fn waiting(folder: &Path, options: &str) -> (Running, i32) {
    let command = crash("wait", "leak", "2");
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).current_dir(folder).env("LD_PRELOAD", avleak_library()).env("TMPDIR", folder);
    program.env("AVLEAK_ANALYZER", avleak_binary()).env("AVLEAK_OPTIONS", options);
    let mut running = process::start_marked(&mut program, LIMIT, folder.to_str().expect("a path"));
    let pid = said(&mut running, "ready ");
    (running, pid)
}

fn said(running: &mut Running, word: &str) -> i32 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// `avleak check PID --session FILE`.
fn save(pid: i32, session: &Path) -> Finished {
    let done = avleak([
        OsStr::new("check"),
        pid.to_string().as_ref(),
        OsStr::new("--quiet"),
        OsStr::new("--session"),
        session.as_os_str(),
    ]);
    assert!(session.is_file(), "{}", done.stderr);
    done
}

#[test]
fn the_core_of_a_process_that_lives_is_judged_by_a_session_of_later() {
    let folder = scratch();
    let (mut running, pid) = waiting(folder.path(), "ptrace=0:quiet=1");
    let (core, session) = (folder.path().join("core.of"), folder.path().join("later.session"));
    gcore(pid, &core);
    // What comes after the core is none of its business.
    std::thread::sleep(std::time::Duration::from_millis(50));
    signal(pid, Signal::USR1);
    assert_eq!(said(&mut running, "lost "), 10);
    save(pid, &session);
    let (code, report) = looked_at(&core, &session, &[]);
    assert_eq!((code, number(&report["leaks"]["frames"])), (1, 7), "{report:#}");
    assert!(report["target"]["ended"].is_null(), "{:#}", report["target"]);
    assert!(report["completeness"]["notes"].to_string().contains("saved after the core was written"), "{report:#}");
    // The other way round what was given back in between would look lost.
    let core = folder.path().join("core.later");
    gcore(pid, &core);
    let message = refused(&core, &session);
    assert!(message.contains("before the core") && message.contains("gcore"), "{message}");
    signal(pid, Signal::TERM);
    running.finish();
}

#[test]
fn a_stopped_process_may_be_saved_before_its_core() {
    let folder = scratch();
    let (running, pid) = waiting(folder.path(), "ptrace=0:quiet=1");
    let (core, session) = (folder.path().join("core.of"), folder.path().join("stopped.session"));
    signal(pid, Signal::STOP);
    save(pid, &session);
    gcore(pid, &core);
    signal(pid, Signal::CONT);
    let (code, report) = looked_at(&core, &session, &[]);
    assert_eq!((code, number(&report["leaks"]["frames"])), (1, 7), "{report:#}");
    assert_eq!(number(&report["totals"]["still_reachable"]["frames"]), 9, "{:#}", report["totals"]);
    assert!(report["completeness"]["notes"].to_string().contains("SIGSTOP"), "{report:#}");
    signal(pid, Signal::TERM);
    running.finish();
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let one = cores::by_gdb(&words(&crash("abort", "leak", "0")), "");
    let other = cores::by_gdb(&words(&crash("abort", "leak", "0")), "");
    let message = refused(&one.core, &other.session());
    assert!(message.contains("not of the same process") && message.contains("pid"), "{message}");
    // The same pid is not enough.
    let bytes = std::fs::read(other.session()).expect("the session");
    let (pid, wanted) = (pid_of(&other.session()), pid_of(&one.session()));
    let forged = with_pid(bytes, &pid, &wanted);
    let file = one.folder.path().join("forged.session");
    std::fs::write(&file, forged).expect("a file");
    let message = refused(&one.core, &file);
    assert!(message.contains("not of the same process") && message.contains("lie at"), "{message}");
}

fn pid_of(session: &Path) -> String {
    let name = session.file_name().expect("a name").to_string_lossy().into_owned();
    name.trim_start_matches("avleak.").trim_end_matches(".session").to_string()
}

/// The session says that it is of another pid, as one whose pid came again.
fn with_pid(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    let head = u32::from_le_bytes(*bytes[12..].first_chunk().expect("a length")) as usize;
    let text = String::from_utf8(bytes[24..24 + head].to_vec()).expect("JSON");
    let forged = text.replace(&format!("\"pid\":{old}"), &format!("\"pid\":{new}"));
    let end = bytes.len() - 4;
    let rest = bytes[24 + head..end].to_vec();
    bytes.truncate(24);
    bytes.extend(forged.bytes());
    bytes.extend(rest);
    let total = bytes.len() as u64 + 4;
    bytes[12..16].copy_from_slice(&(forged.len() as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&total.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

#[test]
fn what_cannot_be_read_is_named_with_the_remedy() {
    let crashed = cores::by_gdb(&words(&crash("abort", "leak", "0")), "");
    let (session, folder) = (crashed.session(), crashed.folder.path());
    let says = |core: &Path, session: &Path, parts: &[&str]| {
        let message = refused(core, session);
        assert!(parts.iter().all(|part| message.contains(part)), "{message} lacks one of {parts:?}");
    };
    let whole = std::fs::read(&crashed.core).expect("the core");
    let cut = folder.join("core.cut");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("a file");
    says(&cut, &session, &["core.cut", "cut off", "ulimit -c"]);
    let cut = folder.join("cut.session");
    let bytes = std::fs::read(&session).expect("the session");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).expect("a file");
    says(&crashed.core, &cut, &["cut.session", "cut off", "copy it again"]);
    says(&session, &session, &["no core file"]);
    says(&crashed.core, &crashed.core, &["no session file"]);
    says(Path::new("/nonexistent/core"), &session, &["/nonexistent/core", "ENOENT", "core_pattern"]);
    says(&crashed.core, Path::new("/nonexistent/x.session"), &["x.session", "ENOENT"]);
    says(Path::new("/bin/true"), &session, &["a program or a library"]);
    let folder = folder.to_path_buf();
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("the folder's mode");
        std::fs::set_permissions(&crashed.core, std::fs::Permissions::from_mode(0o600)).expect("the core's mode");
        let binary = folder.join("avleak");
        std::fs::copy(avleak_binary(), &binary).expect("a copy");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]).arg(&binary);
        let done = process::run(command.arg("core").arg(&crashed.core).arg("--session").arg(&session), LIMIT);
        assert!(
            done.code() == 2 && done.stderr.contains("EACCES") && done.stderr.contains("as root"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn a_session_that_cannot_be_saved_leaves_nothing() {
    let folder = scratch();
    let (running, pid) = waiting(folder.path(), "ptrace=0:quiet=1");
    for (file, errno) in [("/dev/full", "ENOSPC"), ("/nonexistent/x.session", "ENOENT"), ("/tmp", "EISDIR")] {
        let done = avleak(["check", &pid.to_string(), "--quiet", "--session", file]);
        assert!(done.code() == 2 && done.stderr.contains(file) && done.stderr.contains(errno), "{}", done.stderr);
    }
    let done = avleak([
        "check",
        &pid.to_string(),
        "--quiet",
        "--session",
        folder.path().join("a.session").to_str().expect("a path"),
    ]);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert!(left_in(folder.path(), ".tmp").is_empty());
    signal(pid, Signal::TERM);
    running.finish();
}

#[test]
fn go_is_marked_in_a_core_too() {
    if !kernel_writes_cores() {
        return;
    }
    let program = default_toolchain().program("frames", "", &[]);
    for how in ["segv", "panic"] {
        let command = [program.to_str().expect("a path"), "end", how, "300"];
        let script = format!("ulimit -c unlimited; exec {} end {how} 300", command[0]);
        let crashed = cores::by_kernel(&["sh", "-c", &script], "", &[("GOTRACEBACK", "crash")]);
        let (_, report) = looked_at(&crashed.core, &crashed.session(), &[]);
        let lost = number(&report["totals"]["definitely_lost"]["frames"]);
        assert!((291..=300).contains(&lost), "{how}: {:#} {:#}", report["totals"], report["completeness"]);
        assert!(report["go"]["goroutines"].as_u64().is_some_and(|count| count > 0), "{:#}", report["go"]);
    }
}
