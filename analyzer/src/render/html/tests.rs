//! Tests of the page as a file; tests/cases/html.rs opens it in a browser.

use super::*;
use crate::report::model::{Frame, Group};
use crate::report::sample;

fn page(report: crate::report::model::Report) -> String {
    html(&AnyReport::Process(Box::new(report)))
}

/// The data that the scripts read.
fn embedded(page: &str) -> serde_json::Value {
    let start = "<script type=\"application/json\" id=\"data\">";
    let from = page.find(start).unwrap() + start.len();
    let to = from + page[from..].find("</script>").unwrap();
    serde_json::from_str(&page[from..to]).unwrap()
}

#[test]
fn a_page_says_the_verdict_without_scripts_too() {
    for report in [sample::leaking(), sample::clean(), sample::inconclusive(), sample::full()] {
        let reason = escape::text(&report.reason);
        let text = text::process(&report, &TextOptions::default());
        let page = page(report);
        assert!(page.starts_with("<!DOCTYPE html>"));
        assert!(page.contains(&reason), "{reason}");
        assert!(page.contains(&escape::text(&text)));
    }
}

/// Nothing is loaded from anywhere, and the policy allows exactly the style and script that are there.
#[test]
fn a_page_needs_nothing_but_itself() {
    let page = page(sample::leaking());
    for outside in
        ["http:", "https:", "url(", "@import", " src=", "<link rel=\"stylesheet", "javascript:", "innerHTML", "eval("]
    {
        let found = page.replace("http://www.w3.org/", "").contains(outside);
        assert!(!found, "{outside}");
    }
    let script = &page[page.find("<script>").unwrap() + 8..page.rfind("</script>").unwrap()];
    let style = &page[page.find("<style>").unwrap() + 7..page.find("</style>").unwrap()];
    assert!(page.contains(&format!("script-src '{}'", hash(script))));
    assert!(page.contains(&format!("style-src '{}'", hash(style))));
    // An attribute would need 'unsafe-inline'.
    assert!(!page.contains(" style=\"") && !page.contains(" onload=") && !page.contains(" onclick="));
}

#[test]
fn what_a_report_holds_never_becomes_markup() {
    const EVIL: &str = "</script><img src=x onerror=alert(1)><!--\"'";
    let evil = || EVIL.to_string();
    let mut report = sample::full();
    report.reason = evil();
    report.target.exe = evil();
    report.target.argv = vec![evil()];
    report.completeness.notes = vec![evil()];
    report.completeness.disagreements = vec![evil()];
    report.completeness.memory_reason = Some(evil());
    report.observed.calls.insert(evil(), 3);
    for group in &mut report.groups {
        group.object = evil();
        group.format = Some(evil());
        group.held_by.iter_mut().for_each(|holder| holder.what = evil());
        let refs = group.refs.iter_mut().map(|holder| &mut holder.stack);
        let sites = group.freed_elsewhere.iter_mut().map(|site| &mut site.stack);
        for frame in refs.chain(sites).chain([&mut group.stack]).flatten() {
            *frame = Frame { function: Some(evil()), module: Some(evil()), file: Some(evil()), ..frame.clone() };
        }
    }
    let page = page(report);
    assert!(!page.contains("<img"), "an element got through");
    assert_eq!(page.matches("</script>").count(), 2, "the data and the script end once each");
    assert_eq!(page.matches("<!--").count(), 0);
    let data = embedded(&page);
    assert!(data["t"]["strings"].as_array().unwrap().iter().any(|text| text == EVIL));
}

/// A report of `count` groups, each of its own stack, among 5,000 functions.
fn many(count: usize) -> crate::report::model::Report {
    let mut report = sample::leaking();
    report.groups = (0..count)
        .map(|n| {
            let frame = |depth: usize| {
                let which = (n * 31 + depth * 17) % 5_000;
                sample::own(
                    &format!("module_{depth}::function_{which}"),
                    &format!("src/file_{}.c", which % 300),
                    7 + which as u32,
                )
            };
            let stack: Vec<Frame> =
                [sample::ffmpeg("av_frame_alloc", "libavutil.so.57")].into_iter().chain((0..6).map(frame)).collect();
            Group {
                id: format!("{:016x}", (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                count: 1 + (count - n) as u64 % 97,
                pinned_bytes: (count - n) as u64 * 4_321,
                bytes: 440 * (1 + n as u64 % 97),
                age_max_s: n as f64 / 13.0,
                stack,
                ..sample::plain_group()
            }
        })
        .collect();
    report
}

#[test]
fn a_hundred_thousand_groups_stay_below_five_megabytes() {
    let report = many(100_000);
    let whole: u64 = report.groups.iter().map(|group| group.count).sum();
    let page = page(report);
    assert!(page.len() < 5_000_000, "{}", page.len());
    let data = embedded(&page);
    let process = &data["p"][0];
    let full = process["g"].as_array().unwrap();
    assert!(full.len() >= 500, "{}", full.len());
    let packed = process["npacked"].as_u64().unwrap();
    let (decoded, objects) = unpack(process["packed"].as_str().unwrap());
    assert_eq!(decoded, packed);
    let rest = process["rest"].as_array().unwrap();
    let groups = full.len() as u64 + packed + rest.iter().map(|sum| sum[2].as_u64().unwrap()).sum::<u64>();
    assert_eq!(groups, 100_000, "every group is whole, packed or in a sum");
    let of_full: u64 = full.iter().map(|group| group["n"].as_u64().unwrap()).sum();
    assert_eq!(of_full + objects + rest.iter().map(|sum| sum[3].as_u64().unwrap()).sum::<u64>(), whole);
}

/// Groups and objects in a packed column, read as page.js reads it.
fn unpack(packed: &str) -> (u64, u64) {
    let bytes = STANDARD.decode(packed).unwrap();
    let mut rest = bytes.as_slice();
    let (mut groups, mut objects) = (0, 0);
    while !rest.is_empty() {
        assert!(rest[8] & 7 < 5);
        rest = &rest[9..];
        for field in 0..8 {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let byte = rest[0];
                rest = &rest[1..];
                value |= u64::from(byte & 127) << shift;
                shift += 7;
                if byte < 128 {
                    break;
                }
            }
            objects += if field == 1 { value } else { 0 };
        }
        groups += 1;
    }
    (groups, objects)
}

#[test]
fn what_finds_no_room_is_summed_up() {
    let report = many(3_000);
    let whole: u64 = report.groups.iter().map(|group| group.count).sum();
    let tight = data::Budget { whole: 2_000, packed: 20_000, names: 1_000, sources: 0, samples: 64 };
    let page = with_budget(&AnyReport::Process(Box::new(report)), tight);
    let process = &embedded(&page)["p"][0];
    let (packed, objects) = unpack(process["packed"].as_str().unwrap());
    let sums = process["rest"].as_array().unwrap();
    let full = process["g"].as_array().unwrap();
    assert!(!full.is_empty() && packed > 0 && sums.len() == 1, "{} {packed} {sums:?}", full.len());
    let of_full: u64 = full.iter().map(|group| group["n"].as_u64().unwrap()).sum();
    assert_eq!(of_full + objects + sums[0][3].as_u64().unwrap(), whole);
}

/// Of several processes each has its most important groups whole, however many the first one has.
#[test]
fn processes_share_the_room() {
    let mut run = sample::run();
    run.processes = (0..8)
        .map(|pid| {
            let mut report = many(10_000);
            report.target.pid = pid;
            report
        })
        .collect();
    let page = html(&AnyReport::Run(Box::new(run)));
    assert!(page.len() < 5_000_000, "{}", page.len());
    let data = embedded(&page);
    for process in data["p"].as_array().unwrap() {
        assert!(process["g"].as_array().unwrap().len() >= 100, "{}", process["g"].as_array().unwrap().len());
        assert!(process["npacked"].as_u64().unwrap() > 5_000, "{}", process["npacked"]);
    }
}

#[test]
fn a_timeline_is_thinned_where_there_are_many() {
    let mut report = sample::full();
    let mut long = sample::timeline();
    long.samples = long.samples.iter().cycle().take(200).copied().collect();
    let whole: u64 = long.samples.iter().map(|sample| sample.allocations).sum();
    report.timeline = Some(long);
    let mut run = sample::run();
    run.processes = vec![report; 40];
    let data = embedded(&html(&AnyReport::Run(Box::new(run))));
    let samples: usize =
        data["p"].as_array().unwrap().iter().map(|p| p["line"]["allocs"].as_array().unwrap().len()).sum();
    assert!(samples <= data::BUDGET.samples, "{samples}");
    let line = &data["p"][0]["line"];
    let sum: u64 = line["allocs"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, whole);
}

/// A command of which no process used FFmpeg: the page has its text, and data of no process.
#[test]
fn a_run_without_processes_has_a_page() {
    let mut run = sample::run();
    run.processes.clear();
    let page = html(&AnyReport::Run(Box::new(run)));
    assert_eq!(embedded(&page)["p"].as_array().map(Vec::len), Some(0));
    assert!(page.contains("<details id=\"plain\" open>") && page.contains("avleak: "));
}

#[test]
fn source_lines_are_embedded_where_the_file_is_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.c");
    std::fs::write(&file, "one\ntwo </script>\nAVFrame *f = av_frame_alloc();\nfour\n").unwrap();
    let mut report = sample::leaking();
    report.groups[0].stack.insert(1, sample::own("take", file.to_str().unwrap(), 3));
    let page = page(report);
    let data = embedded(&page);
    let lines = data["src"].as_object().unwrap().values().next().unwrap();
    assert_eq!(
        (lines[0].as_u64(), lines[1].as_u64()),
        (Some(1), Some(1)),
        "the file is younger than the sample's check"
    );
    assert!(lines[2].as_str().unwrap().contains("two </script>\nAVFrame *f"));
    assert_eq!(page.matches("</script>").count(), 2);
}
