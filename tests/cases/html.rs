//! The HTML report in a real Chromium: what a person sees and does there.

use std::path::{Path, PathBuf};
use std::process::Command;

use avleak_tests::avleak::{LIMIT, Outcome, Run};
use avleak_tests::browser::Browser;
use avleak_tests::{avleak_binary, process, programs, scratch};
use serde_json::{Value, json};

/// The rows of groups that are shown, as text.
const ROWS: &str =
    "return [...document.querySelectorAll('tr.group')].map(row => row.innerText.replace(/\\s+/g, ' ')).join('\\n')";

/// `leak_error_path leak` with this HTML file.
fn leaking(page: &Path) -> Outcome {
    let command = [programs::program("leak_error_path").into_os_string(), "leak".into()];
    Run::new(command).options(["--html".as_ref(), page.as_os_str()]).finish()
}

/// Writes `report` and its page into `folder`.
fn page_of(folder: &Path, report: &Value) -> PathBuf {
    let (file, page) = (folder.join("report.json"), folder.join("report.html"));
    std::fs::write(&file, report.to_string()).expect("a report");
    let mut command = Command::new(avleak_binary());
    command.arg("report").arg(&file).arg("--html").arg(&page);
    process::run(&mut command, LIMIT).expect_success();
    page
}

fn assert_quiet(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Types into the search field and lets its delay pass.
fn search(browser: &Browser, words: &str) {
    let script = format!(
        "const field = document.getElementById('search'); field.value = {}; field.dispatchEvent(new Event('input'));",
        json!(words)
    );
    browser.run(&script);
    // The field waits 150 ms for more to be typed; timers fire in the order of their times.
    browser.run("return new Promise(done => setTimeout(done, 200))");
}

#[test]
fn a_leak_is_shown_with_its_place_and_source() {
    let folder = scratch();
    let page = folder.path().join("report.html");
    let outcome = leaking(&page);
    let report = outcome.report();
    let browser = Browser::start();
    browser.open(&page, "");
    assert_eq!(browser.text("return document.querySelector('.banner .reason').textContent"), report["reason"]);
    let frames = report["leaks"]["frames"].as_u64().expect("a number");
    assert!(frames > 0);
    let title = browser.text("return document.querySelector('h1').textContent");
    assert!(title.starts_with(&format!("{frames} frame")), "{title}");
    let counted =
        report["groups"].as_array().expect("groups").iter().filter(|group| group["leak"] == true).count() as u64;
    assert_eq!(browser.number("return document.querySelectorAll('tr.group').length"), counted);
    // The first group is open, and shows the very line.
    let group = &report["groups"][0];
    let own = own_frame(group);
    let (file, line) = (own["file"].as_str().expect("a file"), own["line"].as_u64().expect("a line"));
    let source = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let text = source.lines().nth(line as usize - 1).expect("that line").trim().to_owned();
    let shown = browser.text("return document.querySelector('li.marked .row.hit').textContent");
    assert!(shown.contains(&text) && shown.starts_with(&line.to_string()), "{shown:?} is not line {line}: {text}");
    let paths = browser.number("return document.querySelectorAll('#timeline path.line').length");
    assert_eq!(paths, 5, "frames, payload, made, freed, blocks");
    assert!(browser.number("return document.querySelectorAll('.flame button').length") > 3);
    assert!(browser.number("return document.getElementById('app').scrollHeight") > 1_000);
    assert!(browser.run("return document.getElementById('plain').open") == json!(false));
    assert_quiet(&browser);
}

/// The innermost frame outside FFmpeg.
fn own_frame(group: &Value) -> &Value {
    let stack = group["stack"].as_array().expect("a stack");
    stack.iter().find(|frame| frame["libav"] != true).expect("a frame of the program's own")
}

fn stack_of(group: &mut Value) -> &mut Vec<Value> {
    group["stack"].as_array_mut().expect("a stack")
}

/// A report of one real leak, with as many groups as asked for in its place: counts run up, bytes run down.
fn many(count: u64) -> Value {
    let folder = scratch();
    let mut report = leaking(&folder.path().join("unused.html")).document;
    let group = report["groups"][0].clone();
    let groups = (0..count).map(|n| {
        let mut group = group.clone();
        group["id"] = json!(format!("{:016x}", (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        group["count"] = json!(n + 1);
        group["pinned_bytes"] = json!(count - n);
        group["class"] = json!(if n % 10 == 3 { "possibly_lost" } else { "definitely_lost" });
        group["leak"] = json!(n % 2 == 0);
        let own = stack_of(&mut group).iter_mut().find(|frame| frame["libav"] != true);
        own.expect("a frame of the program's own")["function"] = json!(format!("handler_{}", n % 5_000));
        group
    });
    report["groups"] = groups.collect();
    report
}

#[test]
fn a_hundred_thousand_groups_are_sorted_searched_filtered_and_opened() {
    let folder = scratch();
    let page = page_of(folder.path(), &many(100_000));
    let size = std::fs::metadata(&page).expect("the page").len();
    assert!(size < 5_000_000, "{size} bytes");
    let browser = Browser::start();
    browser.open(&page, "");
    let status = || browser.text("return document.querySelector('.status').textContent");
    let first = || browser.text(ROWS).lines().next().unwrap_or_default().to_owned();
    assert_eq!(status(), "50,000 of 100,000 groups");
    assert!(first().starts_with("1 AVFrame"), "{}", first());

    browser.run("document.querySelector('th[data-key=n] button').click()");
    assert!(first().starts_with("99,999 AVFrame"), "the most numerous leak: {}", first());
    assert_eq!(browser.text("return document.querySelector('th[data-key=n]').getAttribute('aria-sort')"), "descending");
    browser.run("document.getElementById('only').click()");
    assert!(first().starts_with("100,000 AVFrame"), "{}", first());
    assert_eq!(status(), "100,000 groups");
    browser.run("document.querySelector('th[data-key=p] button').click()");
    assert!(first().starts_with("1 AVFrame"), "what pins most: {}", first());

    browser.run("document.querySelector('button.chip.possible').click()");
    assert_eq!(status(), "10,000 of 100,000 groups");
    assert!(browser.text(ROWS).lines().all(|row| row.contains("possibly lost")));
    browser.run("document.querySelector('button.chip.possible').click()");

    // A number of the five thousand: of each twenty groups.
    search(&browser, "handler_4999");
    assert_eq!(status(), "20 of 100,000 groups");
    let id = format!("{:016x}", 77_777_u64.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    search(&browser, &id);
    assert!(first().starts_with("77,777 AVFrame"), "{}", first());
    assert_eq!(status(), "1 of 100,000 groups");
    browser.run("document.querySelector('tr.group .opener').click()");
    assert!(browser.text("return document.querySelector('tr.more').innerText").contains(&id));
    search(&browser, "no such function anywhere");
    assert_eq!(status(), "0 of 100,000 groups");
    browser.run("document.querySelector('td.empty button').click()");
    assert_eq!(status(), "100,000 groups");

    // A link to one of them, in a page that is open and in one that is not.
    let opened = format!("return document.getElementById('g-{id}').nextElementSibling.className");
    browser.open(&page, &format!("#g-{id}"));
    assert_eq!(browser.text(&opened), "more");
    let copy = folder.path().join("copy.html");
    std::fs::copy(&page, &copy).expect("a copy");
    browser.open(&copy, &format!("#g-{id}"));
    assert_eq!(browser.text(&opened), "more");
    assert_quiet(&browser);
}

#[test]
fn names_that_are_markup_stay_text() {
    const EVIL: &str = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let folder = scratch();
    let mut report = leaking(&folder.path().join("unused.html")).document;
    report["reason"] = json!(EVIL);
    report["target"]["argv"] = json!([EVIL]);
    report["completeness"]["notes"] = json!([EVIL]);
    let group = &mut report["groups"][0];
    group["object"] = json!(EVIL);
    group["held_by"] = json!([{"what": EVIL, "offset": 8, "stack": []}]);
    for frame in stack_of(group) {
        frame["function"] = json!(EVIL);
        frame["file"] = json!(EVIL);
        frame["line"] = json!(1);
    }
    let page = page_of(folder.path(), &report);
    let browser = Browser::start();
    browser.open(&page, "");
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })");
    assert_eq!(browser.number("return document.images.length"), 0);
    assert_eq!(browser.number("return document.scripts.length"), 2);
    assert!(browser.text("return document.title").starts_with("avleak: "));
    assert_eq!(browser.text("return document.querySelector('.reason').textContent"), EVIL);
    assert_eq!(browser.text("return document.querySelector('tr.group .fn').textContent"), EVIL);
    assert_quiet(&browser);
}

#[test]
fn each_of_several_processes_can_be_chosen() {
    let folder = scratch();
    let report = leaking(&folder.path().join("unused.html")).document;
    let mut clean = report.clone();
    clean["verdict"] = json!("clean");
    clean["groups"] = json!([]);
    clean["target"]["pid"] = json!(4_000_001);
    let run = json!({
        "schema": "avleak-run/1", "verdict": "leaks", "reason": "1 of 2 processes leaked", "argv": ["make", "check"],
        "exit": {"code": 1, "decided_by": "leaks"}, "leaks": report["leaks"], "processes": [clean, report],
    });
    let page = page_of(folder.path(), &run);
    let browser = Browser::start();
    browser.open(&page, "");
    assert_eq!(browser.number("return document.querySelectorAll('.choice').length"), 2);
    let title = || browser.text("return document.querySelector('#process h2').textContent");
    let rows = || browser.number("return document.querySelectorAll('tr.group').length");
    assert!(
        title().contains("leak_error_path") && !title().contains("4000001"),
        "the one that leaks comes first: {}",
        title()
    );
    assert!(rows() > 0);
    browser.run("document.querySelectorAll('.choice')[1].click()");
    browser.run("return new Promise(done => setTimeout(done, 50))");
    assert!(title().contains("4000001"), "{}", title());
    assert_eq!(rows(), 0);
    assert_quiet(&browser);
}
