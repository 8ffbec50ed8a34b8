//! `avleak serve --socket`: one server for processes that come and go; and what is left of processes whose ids come again.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use avleak_tests::avleak::{LIMIT, read_report};
use avleak_tests::process::{self, Running};
use avleak_tests::truth::{self, number};
use avleak_tests::{avleak_binary, avleak_library, programs, scratch};
use rustix::process::Signal;
use serde_json::Value;

/// A server, where processes register, where it tells of them, and where its reports are.
struct Server {
    running: Running,
    socket: String,
    address: String,
    reports: PathBuf,
}

impl Server {
    fn start(socket: &str, folder: &Path, options: &[&str]) -> Self {
        let reports = folder.join("reports");
        std::fs::create_dir_all(&reports).expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(avleak_binary());
        command
            .args(["serve", "--http", "127.0.0.1:0", "--socket", socket, "--report-dir"])
            .arg(&reports)
            .args(options);
        let mut running = process::start(&mut command, LIMIT);
        let address = running.wait_for_line("serving http://").trim().to_owned();
        let address = address.rsplit_once("http://").expect("an address").1.trim_end_matches('/').to_owned();
        running.wait_for_line(&format!("AVLEAK_SOCKET={socket}"));
        Self { running, socket: socket.to_owned(), address, reports }
    }

    /// A process that registers here.
    fn target(&self, service: &str) -> (Running, u32) {
        let mut command = Command::new(programs::program("live_server"));
        command.env("LD_PRELOAD", avleak_library()).env("AVLEAK_SOCKET", &self.socket);
        command.env("AVLEAK_OPTIONS", format!("service={service}:patience_ms=3000")).env("AVLEAK_PATIENCE_MS", "10000");
        let mut running = process::start(&mut command, LIMIT);
        running.wait_for_line("ready ");
        let pid = running.pid();
        (running, pid)
    }

    /// Empty where the analyzer that was asked is killed meanwhile.
    fn get(&self, path: &str) -> String {
        let answer = ureq::get(format!("http://{}{path}", self.address)).call();
        answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok()).unwrap_or_default()
    }

    fn check(&self) {
        let url = format!("http://{}/check", self.address);
        ureq::post(&url).send_empty().unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// The value of the metric of a process.
    fn metric(&self, name: &str, pid: u32) -> Option<f64> {
        let (start, of) = (format!("{name}{{"), format!("pid=\"{pid}\""));
        let text = self.get("/metrics");
        let line = text.lines().find(|line| line.starts_with(&start) && line.contains(&of))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn report(&self, pid: u32) -> PathBuf {
        self.reports.join(format!("avleak.{pid}.json"))
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lose(running: &mut Running, pid: u32) {
    running.signal(pid, Signal::USR1);
    running.wait_for_line("lost ");
}

fn name(of: &str) -> String {
    format!("@avleak-test-{}-{of}", std::process::id())
}

/// Whom it watched, however it was restarted, has its report; one port tells of all.
#[test]
fn one_server_for_many_processes_that_come_and_go() {
    let folder = scratch();
    let server = Server::start(&name("many"), folder.path(), &[]);
    let (mut first, pid) = server.target("live");
    let (second, other) = server.target("vod");
    until("not both are told of", || {
        [pid, other].iter().all(|&pid| server.metric("avleak_live_frames", pid).is_some())
    });
    let text = server.get("/metrics");
    for (pid, service) in [(pid, "live"), (other, "vod")] {
        let labels = format!("avleak_live_frames{{pid=\"{pid}\",process=\"live_server\",service=\"{service}\"}}");
        assert!(text.contains(&labels), "no {labels} in\n{text}");
    }
    lose(&mut first, pid);
    first.signal(pid, Signal::TERM);
    let truths = truth::truths(&first.finish().text());
    until("no report", || server.report(pid).exists());
    let report = read_report(&server.report(pid)).expect("a report");
    let faults = truth::faults(&truths, std::slice::from_ref(&report));
    assert!(faults.is_empty(), "{}\n{report:#}", faults.join("\n"));
    assert_eq!(report["target"]["service"], "live");
    // Started anew: the same server goes on with it.
    let (again, pid) = server.target("live");
    until("the second one is not told of", || server.metric("avleak_live_frames", pid).is_some());
    for (running, pid) in [(second, other), (again, pid)] {
        running.signal(pid, Signal::TERM);
        running.finish();
        until("no report", || server.report(pid).exists());
    }
    server.running.signal(server.running.pid(), Signal::TERM);
    assert_eq!(server.running.finish().code(), 0);
}

/// The analyzer of the server is killed: the process lives on, what was lost before is found, and no counter falls.
#[test]
fn an_analyzer_that_is_killed_is_followed_by_one_that_knows_what_it_knew() {
    let folder = scratch();
    let server = Server::start(&name("killed"), folder.path(), &[]);
    let (mut target, pid) = server.target("live");
    until("it is not told of", || server.metric("avleak_live_frames", pid).is_some());
    lose(&mut target, pid);
    server.check();
    server.check();
    let checks = || server.metric("avleak_checks_total", pid).unwrap_or(0.0);
    assert_eq!(checks(), 2.0);
    let made = server.metric("avleak_frames_allocated_total", pid).expect("a number");
    let children = crate::faults::children_of(server.running.pid());
    assert!(crate::faults::kill_analyzer(server.running.pid()), "no analyzer among {children:?}");
    until("nobody goes on with it", || server.metric("avleak_live_frames", pid).is_some());
    assert_eq!(checks(), 2.0, "the checks before were forgotten");
    assert!(server.metric("avleak_frames_allocated_total", pid) >= Some(made));
    lose(&mut target, pid);
    target.signal(pid, Signal::TERM);
    let truths = truth::truths(&target.finish().text());
    until("no report", || server.report(pid).exists());
    let report = read_report(&server.report(pid)).expect("a report");
    // On a machine that is too busy events are dropped while there is no analyzer; then the report says so.
    if number(&report["observed"]["events_dropped"]) == 0 {
        let faults = truth::faults(&truths, std::slice::from_ref(&report));
        assert!(faults.is_empty(), "{}\n{report:#}", faults.join("\n"));
    }
    server.running.signal(server.running.pid(), Signal::TERM);
    let done = server.running.finish();
    assert!(done.text().contains("was started again once"), "{}", done.text());
}

/// Whoever still runs is checked as it runs, reported, and goes on.
#[test]
fn a_server_that_is_asked_to_end_waits_and_then_reports_those_that_run() {
    let folder = scratch();
    let server = Server::start(&name("ends"), folder.path(), &["--wait", "24h"]);
    let (mut target, pid) = server.target("live");
    until("it is not told of", || server.metric("avleak_live_frames", pid).is_some());
    lose(&mut target, pid);
    let mut running = server.running;
    running.signal(running.pid(), Signal::TERM);
    running.wait_for_line("asked to end: waiting for live_server");
    running.signal(running.pid(), Signal::TERM);
    assert_eq!(running.finish().code(), 0);
    let report = read_report(&server.reports.join(format!("avleak.{pid}.json"))).expect("a report");
    assert_eq!(report["verdict"], "leaks", "{}", report["reason"]);
    assert_eq!(number(&report["leaks"]["frames"]), 3, "{report:#}");
    // Nobody watches it any more, and it does not mind.
    lose(&mut target, pid);
    target.signal(pid, Signal::TERM);
    assert_eq!(target.finish().code(), 0);
}

#[test]
fn a_socket_may_be_a_file_and_a_name_is_one_servers() {
    let folder = scratch();
    let path = folder.path().join("socket");
    // As a server that was killed leaves it.
    drop(UnixListener::bind(&path).expect("a listener"));
    let server = Server::start(path.to_str().expect("UTF-8"), folder.path(), &[]);
    let (target, pid) = server.target("live");
    until("it is not told of", || server.metric("avleak_live_frames", pid).is_some());
    let mut second = Command::new(avleak_binary());
    let second = process::run(second.args(["serve", "--socket"]).arg(&path), LIMIT);
    assert_eq!(second.code(), 2);
    assert!(second.stderr.contains("EADDRINUSE (another avleak listens there"), "{}", second.stderr);
    target.signal(pid, Signal::TERM);
    target.finish();
    until("no report", || server.report(pid).exists());
    server.running.signal(server.running.pid(), Signal::TERM);
    server.running.finish();
    assert!(!path.exists());
    let mut nameless = Command::new(avleak_binary());
    let nameless = process::run(nameless.args(["serve", "--socket", "avleak"]), LIMIT);
    assert!(nameless.code() == 2 && nameless.stderr.contains("@NAME"), "{}", nameless.stderr);
}

/// A tracer that is killed is followed by another one, which holds whom the first one held.
#[test]
fn a_tracer_that_is_killed_is_followed_by_another() {
    let folder = scratch();
    let server = Server::start(&name("tracer"), folder.path(), &[]);
    let (mut target, pid) = server.target("live");
    until("it is not told of", || server.metric("avleak_live_frames", pid).is_some());
    // One that dies at once is taken for forbidden.
    std::thread::sleep(Duration::from_secs(11));
    let tracer = || {
        let word = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_tracer = |pid: &u32| word(pid).split(|&byte| byte == 0).nth(1) == Some(b"tracer");
        crate::faults::children_of(server.running.pid()).into_iter().find(is_tracer)
    };
    let first = tracer().expect("a tracer");
    server.running.signal(first, Signal::KILL);
    let traced_by = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse::<u32>().ok())
    };
    until("nobody traces it again", || tracer().is_some_and(|next| next != first && traced_by() == Some(next)));
    lose(&mut target, pid);
    target.signal(pid, Signal::TERM);
    target.finish();
    until("no report", || server.report(pid).exists());
    let report = read_report(&server.report(pid)).expect("a report");
    assert_eq!(
        (&report["completeness"]["memory"], number(&report["leaks"]["frames"])),
        (&"ptrace".into(), 3),
        "{report:#}"
    );
    server.running.signal(server.running.pid(), Signal::TERM);
    assert!(server.running.finish().text().contains("the tracer process ended and was started again"));
}

/// Whoever connects and says nothing holds up nobody.
#[test]
fn a_silent_client_keeps_nobody_waiting() {
    let folder = scratch();
    let path = folder.path().join("socket");
    let server = Server::start(path.to_str().expect("UTF-8"), folder.path(), &[]);
    let silent: Vec<_> =
        (0..20).map(|_| std::os::unix::net::UnixStream::connect(&path).expect("a connection")).collect();
    let (target, pid) = server.target("live");
    until("it is not told of", || server.metric("avleak_live_frames", pid).is_some());
    drop(silent);
    target.signal(pid, Signal::TERM);
    target.finish();
    server.running.signal(server.running.pid(), Signal::TERM);
    assert_eq!(server.running.finish().code(), 0);
}

/// A container in which the process is number 2 at each start, and whose end is the end of all that is in it.
fn in_container(folder: &Path, script: &str) -> process::Finished {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    command.arg(programs::program("leak_batch")).current_dir(folder).env("LEAK", "leak").env("TMPDIR", folder);
    command.env("LIBRARY", avleak_library()).env("AVLEAK_ANALYZER", avleak_binary());
    command.env("AVLEAK_PATIENCE_MS", "20000").env("AVLEAK_OPTIONS", "reports_kept=2");
    process::run(&mut command, LIMIT)
}

/// Its first process ends as soon as the program has, and the kernel kills the rest, the analyzer with it: by then the report is there.
#[test]
fn a_container_that_ends_with_its_program_leaves_a_report_of_each_start() {
    let folder = scratch();
    let script = "LD_PRELOAD=$LIBRARY \"$1\" leak & wait $!";
    for start in 1..=4 {
        let done = in_container(folder.path(), script);
        assert_eq!(done.code(), 0, "{}", done.stderr);
        let entries = std::fs::read_dir(folder.path()).expect("the folder").flatten();
        let names: Vec<String> = entries.map(|entry| entry.file_name().display().to_string()).collect();
        let newest = read_report(&folder.path().join("avleak.2.json")).unwrap_or_else(|why| {
            panic!("{why}: {names:?}\n{}\n{}", done.text(), done.stderr);
        });
        assert_eq!((newest["verdict"].as_str(), number(&newest["target"]["pid"])), (Some("leaks"), 2), "{newest:#}");
        // Two earlier ones stay, and no half-written file does.
        assert_eq!(names.len(), start.min(3), "{names:?}");
    }
}

/// The host's disk is full when the report is to be written: the earlier one stays, this one goes elsewhere, and its verdict is said.
#[test]
fn a_full_disk_costs_no_report() {
    let folder = scratch();
    std::fs::create_dir(folder.path().join("small")).expect("a folder");
    // The mount is the container's own. The program's id is one of these.
    let script = "mount -t tmpfs -o size=64k none small; for i in 2 3 4 5 6 7 8 9; do echo earlier >small/avleak.$i.json; done; \
                  head -c 1000000 /dev/zero >small/filler; \
                  AVLEAK_OPTIONS=report_dir=small LD_PRELOAD=$LIBRARY \"$1\" leak & wait $!; cat small/avleak.*; ls -A small";
    let done = in_container(folder.path(), script);
    let count = |part: &str| done.text().lines().filter(|line| line.contains(part)).count();
    assert_eq!((count("earlier"), count("avleak.")), (8, 8), "{}", done.text());
    let line = done.stderr.lines().find(|line| line.contains("ENOSPC")).unwrap_or_else(|| panic!("{}", done.stderr));
    let (_, elsewhere) = line.split_once("; report: ").expect("where the report is");
    assert!(line.contains("leaks: ") && elsewhere.starts_with(folder.path().to_str().expect("UTF-8")), "{line}");
    assert_eq!(read_report(Path::new(elsewhere)).expect("a report")["verdict"], "leaks");
}

/// systemd stops a service by a signal to every process of it, avleak's too.
#[test]
fn avleak_outlives_the_service_that_it_is_part_of() {
    for under_run in [false, true] {
        let folder = scratch();
        let mark = folder.path().to_str().expect("UTF-8").to_owned();
        let program = programs::program("live_server");
        let mut command = if under_run {
            let mut command = Command::new(avleak_binary());
            command.args(["run", "--quiet", "--json", "avleak.json", "--"]).arg(program);
            command
        } else {
            let mut command = Command::new(program);
            command.env("LD_PRELOAD", avleak_library()).env("AVLEAK_ANALYZER", avleak_binary());
            command
        };
        command.current_dir(folder.path()).env("TMPDIR", folder.path()).env("AVLEAK_PATIENCE_MS", "20000");
        let mut running = process::start_marked(&mut command, LIMIT, &mark);
        let ready = running.wait_for_line("ready ");
        let server: u32 = ready.trim().trim_start_matches("ready ").parse().expect("a process id");
        lose(&mut running, server);
        let all = process::marked(&mark);
        assert!(all.len() >= 4, "the program, keeper, analyzer and tracer: {all:?}");
        // The program last: the others have theirs by the time it ends.
        for &pid in all.iter().filter(|&&pid| pid != server).chain([&server]) {
            running.signal(pid, Signal::TERM);
        }
        let done = running.finish();
        let truths = truth::truths(&done.text());
        let name = if under_run { "avleak.json".into() } else { format!("avleak.{server}.json") };
        let report: Value =
            read_report(&folder.path().join(name)).unwrap_or_else(|why| panic!("{why}\n{}", done.stderr));
        if number(&report["observed"]["events_dropped"]) == 0 {
            let faults = truth::faults(&truths, std::slice::from_ref(&report));
            assert!(faults.is_empty(), "{}\n{report:#}", faults.join("\n"));
        }
    }
}
