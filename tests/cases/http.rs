//! What the analyzer tells over HTTP, as those read it who will: Prometheus, Go's pprof, a browser, and some who mean no good.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use avleak_tests::avleak::{LIMIT, read_report};
use avleak_tests::browser::Browser;
use avleak_tests::process::{self, Running};
use avleak_tests::truth::number;
use avleak_tests::{avleak_binary, avleak_library, programs, repository, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A server under avleak, and where avleak tells of it.
struct Served {
    running: Running,
    pid: i32,
    address: String,
}

fn said(running: &mut Running, word: &str) -> i32 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

/// `avleak run` on any free port, stderr and stdout in one.
fn run() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(avleak_binary());
    command.args(["run", "--quiet", "--http", "127.0.0.1:0"]);
    command
}

/// Where it serves, and so many servers that are ready, whatever comes first.
fn told(running: &mut Running, servers: usize) -> (String, Vec<i32>) {
    let (mut address, mut pids) = (None, Vec::new());
    loop {
        if let (Some(address), true) = (&address, pids.len() == servers) {
            return (String::clone(address), pids);
        }
        let line = running.wait_for_line("");
        let line = line.trim();
        if let Some(url) = line.strip_prefix("avleak: serving http://") {
            address = Some(url.trim_end_matches('/').to_owned());
        }
        pids.extend(line.strip_prefix("ready ").and_then(|pid| pid.parse::<i32>().ok()));
    }
}

/// A process goes on before all that is told of it is there.
fn wait_until_known(address: &str, headers: &[(&str, &str)], pid: i32) {
    let (line, until) = (format!("avleak_live_frames{{pid=\"{pid}\""), Instant::now() + LIMIT);
    while !ask(address, "GET", "/metrics", headers).1.contains(&line) {
        assert!(Instant::now() < until, "nothing is told of {pid}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let mut command = run();
        command.args(options).arg("--").arg(programs::program("live_server"));
        let mut running = process::start(&mut command, LIMIT);
        let (address, pids) = told(&mut running, 1);
        if options.is_empty() {
            wait_until_known(&address, &[], pids[0]);
        }
        Self { running, pid: pids[0], address }
    }

    fn lose(&mut self) -> u64 {
        signal(self.pid, Signal::USR1);
        said(&mut self.running, "lost ") as u64
    }

    fn stop(self) -> process::Finished {
        signal(self.pid, Signal::TERM);
        self.running.finish()
    }

    fn get(&self, path: &str) -> (u16, String) {
        ask(&self.address, "GET", path, &[])
    }

    fn metric(&self, start: &str) -> f64 {
        value(&self.get("/metrics").1, start)
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// Status and body of the answer.
fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, body) = ask_bytes(address, method, path, headers);
    (status, String::from_utf8(body).expect("text"))
}

fn ask_bytes(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build();
    let agent: ureq::Agent = config.into();
    let url = format!("http://{address}{path}");
    let mut answer = if method == "POST" {
        headers.iter().fold(agent.post(&url), |request, (name, value)| request.header(*name, *value)).send_empty()
    } else {
        headers.iter().fold(agent.get(&url), |request, (name, value)| request.header(*name, *value)).call()
    }
    .unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    (answer.status().as_u16(), answer.body_mut().read_to_vec().expect("a body"))
}

/// The value of the first metric whose line begins so.
fn value(text: &str, start: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn a_scrape_neither_checks_nor_stops_and_a_check_does() {
    let mut served = Served::start(&[]);
    let lost = served.lose();
    assert_eq!(served.get("/healthz"), (200, "ok\n".into()));
    let first = served.metric("avleak_frames_allocated_total");
    for _ in 0..20 {
        let (status, text) = served.get("/metrics");
        assert_eq!(status, 200);
        assert_eq!(
            (value(&text, "avleak_checks_total"), value(&text, "avleak_check_stopped_seconds_total")),
            (0.0, 0.0)
        );
        assert!(value(&text, "avleak_live_frames{") >= 21.0 + lost as f64, "{text}");
    }
    // It works on meanwhile.
    let until = Instant::now() + LIMIT;
    while served.metric("avleak_frames_allocated_total") <= first {
        assert!(Instant::now() < until, "no frame was made");
    }
    // Without a check the report is of what is alive, and judges nothing.
    let (status, text) = served.get("/report.json");
    let report: Value = serde_json::from_str(&text).expect("a report");
    assert_eq!((status, &report["verdict"]), (200, &"inconclusive".into()));
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains("not checked yet")), "{}", report["reason"]);
    assert_eq!(served.metric("avleak_checks_total"), 0.0);

    assert_eq!(served.get("/check").0, 405);
    let (status, text) = ask(&served.address, "POST", &format!("/check?pid={}", served.pid), &[]);
    let checked: Value = serde_json::from_str(&text).expect("a report");
    assert_eq!((status, number(&checked["leaks"]["frames"])), (200, lost), "{checked:#}");
    assert!(checked["check"]["stopped_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    // From now on it is what all of them tell of.
    let text = served.get("/metrics").1;
    assert_eq!((value(&text, "avleak_checks_total"), value(&text, "avleak_leaked_frames")), (1.0, lost as f64));
    let of_class = format!("avleak_frames{{class=\"definitely_lost\",pid=\"{}\",process=\"live_server\"", served.pid);
    assert_eq!(value(&text, &of_class), lost as f64);
    let id = checked["groups"][0]["id"].as_str().expect("an id");
    let line =
        text.lines().find(|line| line.starts_with("avleak_group_objects{") && line.contains(id)).expect("a group");
    assert!(
        line.contains("object=\"AVFrame\"") && line.contains("class=\"definitely_lost\"") && line.ends_with(" 3"),
        "{line}"
    );
    let folder = scratch();
    let file = folder.path().join("report.json");
    std::fs::write(&file, served.get("/report.json").1).expect("a file");
    assert_eq!(read_report(&file).expect("a report"), checked);
    assert_eq!(ask(&served.address, "POST", "/check?pid=1", &[]).0, 404);
    served.stop();
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    let mut served = Served::start(&[]);
    served.lose();
    ask(&served.address, "POST", "/check", &[]);
    let folder = scratch();
    let file = folder.path().join("metrics");
    std::fs::write(&file, served.get("/metrics").1).expect("a file");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(std::fs::File::open(&file).expect("the file"));
    let done = process::run(&mut command, LIMIT).expect_success();
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("", ""));
    served.stop();
}

/// They name metrics that are served, too.
#[test]
fn the_rules_for_alerts_are_accepted() {
    let rules = repository().join("docs/prometheus/avleak.rules.yml");
    process::run(Command::new("promtool").args(["check", "rules"]).arg(&rules), LIMIT).expect_success();
    let text = std::fs::read_to_string(rules).expect("the rules");
    let documented = std::fs::read_to_string(repository().join("docs/http.md")).expect("docs/http.md");
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':');
    let metrics = words.filter(|word| word.starts_with("avleak_")).collect::<std::collections::BTreeSet<_>>();
    assert!(metrics.len() >= 5, "{metrics:?}");
    for metric in metrics {
        // The table shortens names after the first of a row.
        let short = metric.strip_prefix("avleak").expect("the prefix");
        assert!(documented.contains(&format!("`{metric}`")) || documented.contains(&format!("`{short}`")), "{metric}");
    }
}

#[test]
fn prometheus_scrapes_a_run() {
    let folder = scratch();
    let token = folder.path().join("token");
    std::fs::write(&token, "a token that is long enough\n").expect("a file");
    let mut served = Served::start(&[
        "--check-interval",
        "500ms",
        "--http-token-file",
        token.to_str().expect("a path"),
        "--alert-file",
        folder.path().join("alerts").to_str().expect("a path"),
    ]);
    let lost = served.lose();
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs:\n- job_name: avleak\n  authorization: {{credentials_file: {}}}\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        token.display(),
        served.address
    );
    std::fs::write(&config, text).expect("a file");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", "prometheus", "--web.listen-address=127.0.0.1:0"]);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    let mut prometheus = process::start(&mut command, LIMIT);
    let line = prometheus.wait_for_line("msg=\"Listening on\"");
    let address = line.trim().rsplit_once("address=").map(|(_, address)| address.to_owned()).expect("an address");
    let wait_for = |query: &str, expected: f64| {
        let until = Instant::now() + Duration::from_secs(60);
        let mut last = String::new();
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
            last = ask(&address, "GET", &format!("/api/v1/query?query={query}"), &[]).1;
            let answer: Value = serde_json::from_str(&last).unwrap_or_default();
            let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
            if value == Some(expected) {
                return;
            }
        }
        panic!("{query} never was {expected}: {last}");
    };
    wait_for("up", 1.0);
    wait_for("avleak_leaked_frames", lost as f64);
    wait_for("sum(avleak_group_objects%7Bclass=%22definitely_lost%22,object=%22AVFrame%22%7D)", lost as f64);
    wait_for("avleak_checks_total%3Ebool+0", 1.0);
    let more = served.lose();
    wait_for("avleak_leaked_frames", more as f64);
    prometheus.signal(prometheus.pid(), Signal::TERM);
    prometheus.finish();
    served.stop();
}

#[test]
fn pprof_reads_the_profile_from_the_server() {
    let mut served = Served::start(&[]);
    let lost = served.lose();
    ask(&served.address, "POST", "/check", &[]);
    let folder = scratch();
    let profile = folder.path().join("heap.pb.gz");
    let (status, bytes) = ask_bytes(&served.address, "GET", "/debug/pprof/heap", &[]);
    assert_eq!((status, &bytes[..2]), (200, &[0x1f, 0x8b][..]), "gzip");
    std::fs::write(&profile, bytes).expect("a file");
    let run = |source: &str| {
        let mut command = Command::new(crate::formats::pprof_tool());
        command.args(["-top", "-cum", "-sample_index=lost_objects", "-tagfocus=class=definitely_lost"]).arg(source);
        command.env("PPROF_TMPDIR", folder.path());
        process::run(&mut command, LIMIT).expect_success().text()
    };
    for source in [format!("http://{}/debug/pprof/heap", served.address), profile.display().to_string()] {
        let text = run(&source);
        assert!(text.contains("av_frame_alloc") && text.contains("lose"), "{text}");
        assert!(text.lines().any(|line| line.contains("av_frame_alloc") && line.contains(&lost.to_string())), "{text}");
    }
    served.stop();
}

/// The page in a browser: live numbers, a check by a click, a stack by another.
#[test]
fn the_page_shows_checks_and_stacks() {
    let folder = scratch();
    let token = folder.path().join("token");
    std::fs::write(&token, "a token that is long enough").expect("a file");
    let mut served = Served::start(&["--http-token-file", token.to_str().expect("a path")]);
    let lost = served.lose();
    let browser = Browser::start();
    let until = |script: &str| {
        let limit = Instant::now() + Duration::from_secs(60);
        while browser.run(script) != true {
            assert!(
                Instant::now() < limit,
                "{script} never came true:\n{}",
                browser.text("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    browser.open_url(&format!("http://{}/", served.address));
    until("return !!document.querySelector('form.token input')");
    // What a page may not see is said in the browser's log, and is no fault here.
    browser.complaints();
    browser.run("document.querySelector('form.token input').value = 'a token that is long enough'; document.querySelector('form.token button').click()");
    until(
        "return document.querySelectorAll('#cards .card').length > 3 && document.querySelectorAll('#timeline path.line').length === 5",
    );
    assert_eq!(browser.text("return document.getElementById('finding').textContent"), "Not checked yet");
    assert_eq!(browser.number("return document.querySelectorAll('tr.group').length"), 0);
    browser.run("document.querySelector('button.check').click()");
    until("return !!document.querySelector('tr.group.leak')");
    assert!(
        browser
            .text("return document.getElementById('finding').textContent")
            .starts_with(&format!("{lost} frames leaked"))
    );
    assert_eq!(browser.text("return document.getElementById('banner').className"), "banner leaks");
    let row = browser.text("return document.querySelector('tr.group.leak').innerText");
    assert!(row.contains(&format!("{lost} AVFrame")) && row.contains("definitely lost"), "{row}");
    browser.run("document.querySelector('tr.group.leak .opener').click()");
    until("return /av_frame_alloc/.test((document.querySelector('tr.more ol.stack') || {}).innerText || '')");
    assert!(browser.text("return document.querySelector('tr.more ol.stack').innerText").contains("live_server.c"));
    // It is still open when the numbers have changed.
    let made = browser.text("return document.querySelectorAll('#cards .card b')[2].textContent");
    until(&format!("return document.querySelectorAll('#cards .card b')[2].textContent !== '{made}'"));
    assert!(browser.run("return !!document.querySelector('tr.more ol.stack')") == true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    served.stop();
}

#[test]
fn who_shows_no_token_or_comes_from_elsewhere_is_told_nothing() {
    let folder = scratch();
    let token = folder.path().join("token");
    std::fs::write(&token, "a token that is long enough").expect("a file");
    let served = Served::start(&["--http-token-file", token.to_str().expect("a path")]);
    let with = |method: &str, path: &str, headers: &[(&str, &str)]| ask(&served.address, method, path, headers).0;
    for path in ["/metrics", "/report.json", "/debug/pprof/heap", "/state.json", "/group.json", "/other"] {
        assert_eq!(with("GET", path, &[]), 401, "{path}");
        assert_eq!(with("GET", path, &[("authorization", "Bearer a token that is long enougH")]), 401, "{path}");
    }
    assert_eq!(with("POST", "/check", &[]), 401);
    let right = ("authorization", "Bearer a token that is long enough");
    assert_eq!(
        (with("GET", "/metrics", &[right]), with("GET", "/healthz", &[]), with("GET", "/", &[])),
        (200, 200, 200)
    );
    assert_eq!(with("GET", "/metrics", &[right, ("host", "evil.example")]), 403);
    assert_eq!(with("POST", "/check", &[right, ("origin", "http://evil.example")]), 403);
    assert!(!ask(&served.address, "GET", "/", &[]).1.contains("live_server"), "the page itself holds nothing");
    served.stop();
}

#[test]
fn slow_and_large_requests_hold_nobody_up() {
    let served = Served::start(&[]);
    // Some connect and say nothing, some say little; fewer than are answered at once.
    let mut slow: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(&served.address).expect("a connection")).collect();
    for socket in slow.iter_mut().step_by(2) {
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: ").expect("a part of a request");
    }
    for _ in 0..20 {
        assert_eq!(served.get("/metrics").0, 200);
    }
    // A head without end is cut off.
    let mut endless = TcpStream::connect(&served.address).expect("a connection");
    endless.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let mut sent = 0_usize;
    let _ = endless.write_all(b"GET / HTTP/1.1\r\n");
    while sent < 16 << 20 && endless.write_all(&[b'a'; 1024]).is_ok() {
        sent += 1024;
    }
    assert!(sent < 16 << 20, "it would have gone on");
    let mut large = TcpStream::connect(&served.address).expect("a connection");
    large.write_all(b"POST /check HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n").expect("a head");
    let mut answer = String::new();
    let _ = large.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Those who never finish are let go.
    let mut rest = Vec::new();
    slow[1].set_read_timeout(Some(LIMIT)).expect("a timeout");
    let _ = slow[1].read_to_end(&mut rest);
    assert_eq!(served.get("/healthz").0, 200);
    served.stop();
}

/// More than are answered at once are sent away, and the next ones are answered again.
#[test]
fn a_crowd_is_sent_away() {
    let served = Served::start(&[]);
    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&served.address).expect("a connection")).collect();
    drop(crowd);
    let until = Instant::now() + LIMIT;
    let is_answered = || {
        let mut socket = TcpStream::connect(&served.address).expect("a connection");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut answer = String::new();
        // Who is sent away may be so before he has asked.
        let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let _ = socket.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    };
    while !is_answered() {
        assert!(Instant::now() < until, "nobody is answered any more");
    }
    served.stop();
}

#[test]
fn what_may_not_be_served_is_said_and_the_command_runs() {
    let run = |options: &[&str], variable: Option<&str>| {
        let mut command = Command::new(avleak_binary());
        command.args(["run", "--quiet"]).args(options).arg("--").arg(programs::program("leak_batch")).arg("clean");
        command.envs(variable.map(|token| ("AVLEAK_HTTP_TOKEN", token)));
        let done = process::run(&mut command, LIMIT);
        assert_eq!(done.code(), 0, "{}", done.stderr);
        assert!(done.text().contains("\"truth\""), "{}", done.text());
        done.stderr
    };
    let text = run(&["--http", "0.0.0.0:0"], None);
    assert!(
        text.contains("http=0.0.0.0:0") && text.contains("AVLEAK_HTTP_TOKEN") && text.contains("not served"),
        "{text}"
    );
    let text = run(&["--http", "0.0.0.0:0"], Some("short"));
    assert!(text.contains("at least 16") && !text.contains("serving"), "{text}");
    assert!(run(&["--http", "0.0.0.0:0"], Some("a token that is long enough")).contains("serving http://0.0.0.0:"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let text = run(&["--http", &address], None);
    assert!(text.contains(&address) && text.contains("EADDRINUSE") && text.contains("another port"), "{text}");
    assert_eq!(run(&[], None), "", "off unless asked for");
}

/// Two processes of one command are told apart, and a bare preload tells of its own.
#[test]
fn several_processes_and_a_bare_preload() {
    let program = programs::program("live_server");
    let mut command = run();
    let script = "\"$1\" & \"$1\" & wait";
    command.args(["--", "sh", "-c", script, "sh"]).arg(&program);
    let mut running = process::start(&mut command, LIMIT);
    let (address, pids) = told(&mut running, 2);
    pids.iter().for_each(|&pid| wait_until_known(&address, &[], pid));
    let text = ask(&address, "GET", "/metrics", &[]).1;
    for pid in &pids {
        assert!(value(&text, &format!("avleak_live_frames{{pid=\"{pid}\",process=\"live_server\"")) >= 21.0, "{text}");
    }
    let one: Value =
        serde_json::from_str(&ask(&address, "GET", &format!("/report.json?pid={}", pids[1]), &[]).1).expect("a report");
    assert_eq!(one["target"]["pid"], pids[1]);
    let both: Value = serde_json::from_str(&ask(&address, "POST", "/check", &[]).1).expect("a report");
    assert_eq!((&both["schema"], both["processes"].as_array().map(Vec::len)), (&"avleak-run/1".into(), Some(2)));
    signal(pids[0], Signal::TERM);
    // The one that ended is told of no longer.
    let until = Instant::now() + LIMIT;
    while ask(&address, "GET", "/metrics", &[]).1.contains(&format!("pid=\"{}\"", pids[0])) {
        assert!(Instant::now() < until, "it is still there");
    }
    signal(pids[1], Signal::TERM);
    running.finish();

    let folder = scratch();
    let mut command = Command::new("sh");
    command.args(["-c", "exec env LD_PRELOAD=\"$1\" \"$2\" 2>&1", "sh"]).arg(avleak_library()).arg(&program);
    command.current_dir(folder.path());
    command
        .env("AVLEAK_OPTIONS", "http=127.0.0.1:0:level=strict")
        .env("AVLEAK_HTTP_TOKEN", "a token that is long enough");
    let mut running = process::start(&mut command, LIMIT);
    let (address, pids) = told(&mut running, 1);
    assert_eq!(ask(&address, "GET", "/metrics", &[]).0, 401);
    let right = [("authorization", "Bearer a token that is long enough")];
    wait_until_known(&address, &right, pids[0]);
    let report: Value = serde_json::from_str(&ask(&address, "POST", "/check", &right).1).expect("a report");
    assert_eq!(report["level"], "strict");
    signal(pids[0], Signal::TERM);
    assert_eq!(running.finish().code(), 0);
    assert!(folder.path().join(format!("avleak.{}.json", pids[0])).exists());
}
