//! Tests of all formats: golden files, many groups, hostile names.

use super::*;
use crate::render::golden::golden;
use crate::report::model::{Class, Verdict};
use crate::report::sample;
use crate::report::verdict::sum_up;

fn documents() -> [(&'static str, AnyReport); 4] {
    let process = |report| AnyReport::Process(Box::new(report));
    [
        ("leaks", process(sample::leaking())),
        ("clean", process(sample::clean())),
        ("inconclusive", process(sample::inconclusive())),
        ("run", AnyReport::Run(Box::new(sample::run()))),
    ]
}

fn text(format: Format, report: &AnyReport) -> String {
    let options = RenderOptions { source_root: Some("/src/stream".into()), ..RenderOptions::default() };
    String::from_utf8(format.render(report, &options)).unwrap()
}

/// JSON has golden files of its own, pprof is no text, and a flame graph is mostly inferno's script.
#[test]
fn golden_formats() {
    for (name, report) in documents() {
        for format in [Format::Folded, Format::Csv, Format::Ndjson, Format::Junit, Format::Markdown] {
            golden(&format!("{name}.{}", format.extension()), &text(format, &report));
        }
        let sarif: serde_json::Value = serde_json::from_str(&text(Format::Sarif, &report)).unwrap();
        golden(&format!("{name}.sarif"), &format!("{sarif:#}\n"));
    }
}

#[test]
fn every_format_has_a_name_and_an_extension_of_its_own() {
    for (i, format) in Format::ALL.into_iter().enumerate() {
        for other in &Format::ALL[..i] {
            assert_ne!(format.name(), other.name());
            assert_ne!(format.extension(), other.extension());
        }
    }
}

#[test]
fn sources_below_the_root_are_relative_and_others_are_not() {
    let mut report = sample::leaking();
    for group in &mut report.groups {
        for frame in frames(group) {
            let file = frame.file.take();
            frame.file = file.map(|file| match file.as_str() {
                "src/cache.cpp" => "/src/streaming/cache.cpp".to_string(),
                file => format!("/src/stream/{file}"),
            });
        }
    }
    let report = AnyReport::Process(Box::new(report));
    for format in [Format::Junit, Format::Sarif, Format::Markdown] {
        let text = text(format, &report);
        assert!(text.contains("src/decode.c") && !text.contains("/src/stream/src/decode.c"), "{text}");
        assert!(text.contains("/src/streaming/cache.cpp"), "{text}");
    }
    let root = RenderOptions { source_root: Some("/".into()), ..RenderOptions::default() };
    assert!(matches!(below(&report, &root), Cow::Borrowed(_)));
}

/// 100,000 leak groups: every format ends, and those whose readers have limits keep to them.
#[test]
fn many_groups_stay_bounded() {
    let mut report = sample::leaking();
    let group = report.groups[0].clone();
    report.groups = (0..100_000_u64)
        .map(|number| {
            let mut group = group.clone();
            group.id = format!("{number:016x}");
            group.stack[1].function = Some(format!("decode_{number}"));
            group.stack[1].offset += number * 16;
            group
        })
        .collect();
    let report = AnyReport::Process(Box::new(report));
    let files: Vec<(Format, Vec<u8>)> =
        Format::ALL.into_iter().map(|format| (format, format.render(&report, &RenderOptions::default()))).collect();
    let size = |wanted| files.iter().find(|(format, _)| *format == wanted).map(|(_, bytes)| bytes).unwrap();
    let lines = |wanted| size(wanted).iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines(Format::Csv), 100_001);
    assert_eq!(lines(Format::Folded), 100_000);
    let markdown = String::from_utf8(size(Format::Markdown).clone()).unwrap();
    assert!(markdown.chars().count() <= crate::render::markdown::LONGEST);
    assert!(markdown.contains("99,950 more groups"), "{}", &markdown[..9000]);
    let junit = String::from_utf8(size(Format::Junit).clone()).unwrap();
    assert_eq!(junit.matches("<testcase ").count(), 1001);
    assert!(junit.contains("2,970,000 more objects in 99,000 groups"));
    let sarif: serde_json::Value = serde_json::from_slice(size(Format::Sarif)).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 5000);
    assert!(sarif.to_string().contains("95,000 more groups"));
    // A frame narrower than a tenth of a percent is not drawn: all of these are.
    assert!(size(Format::Flamegraph).len() < 100_000);
    assert!(size(Format::Pprof).len() < 10_000_000);
}

/// Names come from the target: what each format forbids must not come through.
#[test]
fn hostile_names_stay_names() {
    let nasty = "]]></failure><!--\u{0}\u{1b}[31m\r\n=cmd|' /C calc'!A0\"`</details>|@everyone\u{202e}\u{fffe};x 7";
    let mut report = sample::leaking();
    for group in &mut report.groups {
        group.object = nasty.to_string();
        for frame in frames(group) {
            frame.function = Some(nasty.to_string());
            frame.module = Some(nasty.to_string());
            frame.file = Some(nasty.to_string());
        }
    }
    report.target.exe = format!("/bin/{nasty}");
    report.completeness.notes.push(nasty.to_string());
    let run = sum_up(vec![nasty.to_string()], None, 1, vec![report.clone(), report.clone()]);
    for report in [AnyReport::Process(Box::new(report)), AnyReport::Run(Box::new(run))] {
        for format in Format::ALL.into_iter().filter(|format| !format.is_binary()) {
            let text = text(format, &report);
            // JSON escapes them, which is its way.
            let forbidden = |letter: &char| letter.is_control() && !matches!(letter, '\n' | '\r');
            assert_eq!(text.chars().find(forbidden), None, "{}", format.name());
        }
        let junit = text(Format::Junit, &report);
        let mut reader = quick_xml::Reader::from_str(&junit);
        while !matches!(reader.read_event().unwrap(), quick_xml::events::Event::Eof) {}
        assert!(!junit.contains("<!--"), "{junit}");
        let markdown = text(Format::Markdown, &report);
        // In the middle of a line it stands in a code span or a fence; a line that begins with it would end the fold.
        let ends = markdown.lines().filter(|line| line.trim_start().starts_with("</details>")).count();
        assert_eq!(ends, 2 * report.processes().len(), "{markdown}");
        assert!(
            !markdown.split("<summary>").skip(1).any(|part| part.split("</summary>").nth(1).is_none()),
            "{markdown}"
        );
        // In a fence or a code span nobody is mentioned.
        let mut fenced = false;
        let outside = markdown.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        });
        for line in outside {
            // Names with backquotes stand in spans of two.
            let outside_spans = line.split("``").step_by(2);
            assert!(
                !outside_spans.flat_map(|text| text.split('`').step_by(2)).any(|text| text.contains("@everyone")),
                "{line}"
            );
        }
        let folded = text(Format::Folded, &report);
        assert!(folded.lines().all(|line| line.rsplit(' ').next().unwrap().parse::<u64>().is_ok()), "{folded}");
    }
}

#[test]
fn the_empty_and_the_smallest_report_have_every_form() {
    let mut bare = sample::leaking();
    bare.groups.truncate(1);
    let group = &mut bare.groups[0];
    (group.stack, group.refs, group.freed_elsewhere) = (vec![], vec![], vec![]);
    let nobody = sum_up(vec!["true".into()], None, 1, vec![]);
    for report in [AnyReport::Process(Box::new(bare)), AnyReport::Run(Box::new(nobody))] {
        for format in Format::ALL {
            let bytes = format.render(&report, &RenderOptions::default());
            assert!(!bytes.is_empty() || [Format::Folded, Format::Ndjson].contains(&format), "{}", format.name());
        }
    }
}

/// Whoever reads the file must learn that not everything was seen.
#[test]
fn inconclusive_never_looks_like_a_pass() {
    for (name, report) in documents() {
        if name == "clean" {
            continue;
        }
        assert!(!text(Format::Junit, &report).contains(r#"failures="0" errors="0">"#) || name == "run", "{name}");
        assert!(!text(Format::Markdown, &report).starts_with("### ✅"), "{name}");
    }
    let mut survived = sum_up(vec!["daemon".into()], None, 1, vec![sample::clean()]);
    survived.verdict = Verdict::Inconclusive;
    survived.reason = "daemon (pid 7) outlived the command".into();
    let survived = AnyReport::Run(Box::new(survived));
    let junit = text(Format::Junit, &survived);
    assert!(junit.contains(r#"<testsuites name="avleak" tests="2" failures="0" errors="1">"#), "{junit}");
    assert!(junit.contains("daemon (pid 7) outlived the command"), "{junit}");
    let sarif: serde_json::Value = serde_json::from_str(&text(Format::Sarif, &survived)).unwrap();
    assert_eq!(sarif["runs"][0]["invocations"][0]["executionSuccessful"], false);
}

#[test]
fn what_is_no_leak_at_this_level_is_a_warning_at_most() {
    let mut report = sample::leaking();
    report.groups[0].leak = false;
    report.groups[0].class = Class::PossiblyLost;
    let report = AnyReport::Process(Box::new(report));
    let sarif: serde_json::Value = serde_json::from_str(&text(Format::Sarif, &report)).unwrap();
    let levels: Vec<_> = sarif["runs"][0]["results"].as_array().unwrap().iter().map(|r| r["level"].clone()).collect();
    assert_eq!(levels, ["warning", "error"]);
    assert_eq!(text(Format::Folded, &report).lines().count(), 1);
}
