//! JUnit XML: a test suite for each process, as Jenkins, GitLab and their kin read it.
//!
//! A process that leaks has one failed test case for each leak group, named by object, class, place and group id, so that CI
//! servers tell new failures from known ones; one that is clean has a single passed one, one that is inconclusive a single
//! error. Why not a single test case with a failure for each group: readers show only its first failure.

use super::load::AnyReport;
use super::{brief, stack, summary};
use crate::report::model::{Group, Report, Verdict};
use crate::report::words::{counted, grouped};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::io;

/// Leak groups of one process that become test cases; the rest is said in one more. CI servers choke on more.
const CASES: usize = 1000;

/// One test case to write.
struct Case {
    name: String,
    /// Element, its `type`, its `message`, its text; `None` passed.
    problem: Option<(&'static str, String, String, String)>,
}

/// The document.
pub fn junit(report: &AnyReport) -> Vec<u8> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    match document(&mut writer, report) {
        Ok(()) => {
            let mut bytes = writer.into_inner();
            bytes.push(b'\n');
            bytes
        }
        Err(error) => unreachable!("a vector takes every byte: {error}"),
    }
}

fn document(writer: &mut Writer<Vec<u8>>, report: &AnyReport) -> io::Result<()> {
    let mut suites: Vec<(&Report, Vec<Case>)> = report.processes().iter().map(|p| (p, cases(p))).collect();
    // Nobody used FFmpeg, or a survivor spoiled the verdict: that must not look like a pass.
    let (verdict, reason, _) = brief::outcome(report);
    let unexplained = verdict == Verdict::Inconclusive
        && !report.processes().iter().any(|process| process.verdict == Verdict::Inconclusive);
    let own = unexplained.then(|| inconclusive(reason, reason));
    let all = || suites.iter().flat_map(|(_, cases)| cases).chain(&own);
    let totals = counts(all());
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let root = writer
        .create_element("testsuites")
        .with_attribute(("name", "avleak"))
        .with_attributes(totals.iter().map(|(name, number)| (*name, number.as_str())));
    root.write_inner_content(|writer| {
        for (process, cases) in &mut suites {
            let name = format!("avleak: {}", summary::program(&process.target));
            suite(writer, &name, Some(process), cases)?;
        }
        if let Some(case) = own {
            suite(writer, "avleak", None, &[case])?;
        }
        Ok(())
    })?;
    Ok(())
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case>) -> [(&'static str, String); 3] {
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for case in cases {
        tests += 1;
        match case.problem.as_ref().map(|problem| problem.0) {
            Some("failure") => failures += 1,
            Some(_) => errors += 1,
            None => {}
        }
    }
    [("tests", tests), ("failures", failures), ("errors", errors)].map(|(name, n): (_, u64)| (name, n.to_string()))
}

fn suite(writer: &mut Writer<Vec<u8>>, name: &str, process: Option<&Report>, cases: &[Case]) -> io::Result<()> {
    let name = brief::clean(name);
    let counts = counts(cases.iter());
    let mut element = writer
        .create_element("testsuite")
        .with_attribute(("name", name.as_str()))
        .with_attributes(counts.iter().map(|(name, number)| (*name, number.as_str())))
        .with_attribute(("skipped", "0"));
    if let Some(process) = process {
        let time = format!("{:.3}", process.target.duration_s.max(0.0));
        let started = brief::clean(&process.target.started);
        element = element
            .with_attribute(("time", time.as_str()))
            .with_attribute(("timestamp", started.trim_end_matches('Z')));
    }
    element.write_inner_content(|writer| {
        for case in cases {
            let element = writer
                .create_element("testcase")
                .with_attribute(("classname", name.replace(": ", ".").as_str()))
                .with_attribute(("name", case.name.as_str()))
                .with_attribute(("time", "0"));
            match &case.problem {
                None => element.write_empty()?,
                Some((kind, class, message, text)) => element.write_inner_content(|writer| {
                    writer
                        .create_element(*kind)
                        .with_attribute(("type", class.as_str()))
                        .with_attribute(("message", message.as_str()))
                        .write_text_content(BytesText::new(text))?;
                    Ok(())
                })?,
            };
        }
        if let Some(process) = process {
            writer.create_element("system-out").write_text_content(BytesText::new(&about(process)))?;
        }
        Ok(())
    })?;
    Ok(())
}

fn cases(process: &Report) -> Vec<Case> {
    let leaks: Vec<&Group> = process.groups.iter().filter(|group| group.leak).collect();
    match process.verdict {
        Verdict::Inconclusive => vec![inconclusive(&process.reason, &about(process))],
        Verdict::Clean => vec![Case { name: "no leaks".to_string(), problem: None }],
        Verdict::Leaks => {
            let mut cases: Vec<Case> =
                leaks.iter().take(CASES).enumerate().map(|(i, group)| leak(i + 1, group, process)).collect();
            let rest = leaks.get(CASES..).unwrap_or_default();
            // Also where only totals are known: a report that leaks must fail.
            if !rest.is_empty() || cases.is_empty() {
                let objects: u64 = rest.iter().map(|group| group.count).sum();
                let message = match rest.len() as u64 {
                    0 => brief::clean(&process.reason),
                    groups => format!("{} more objects in {}", grouped(objects), counted(groups, "group")),
                };
                let text = format!("{message}\n{}", about(process));
                let problem = ("failure", "leak".to_string(), message, text);
                cases.push(Case { name: "more leaks".to_string(), problem: Some(problem) });
            }
            cases
        }
    }
}

fn inconclusive(reason: &str, text: &str) -> Case {
    let problem = ("error", "inconclusive".to_string(), brief::clean(reason), brief::clean_text(text));
    Case { name: "no leaks".to_string(), problem: Some(problem) }
}

fn leak(number: usize, group: &Group, process: &Report) -> Case {
    let function = brief::blamed(group).map_or_else(|| "an unrecorded stack".to_string(), stack::name);
    // Without numbers that change from run to run, but the id, which does not.
    let name = format!("{} {} in {function} [{}]", group.object, group.class.phrase(), group.id);
    let class = format!("{} {}", group.object, group.class.phrase());
    let text = format!("\n{}", brief::block(number, group, process.target.duration_s));
    Case {
        name: brief::clean(&name),
        problem: Some(("failure", brief::clean(&class), brief::line(group), brief::clean_text(&text))),
    }
}

/// What belongs to no test case: who was judged, and what was not seen.
fn about(process: &Report) -> String {
    let mut text = format!("{}: {}\n", summary::process(&process.target), process.reason);
    text += &format!("command: {}\n", process.target.argv.join(" "));
    for note in process.completeness.disagreements.iter().chain(&process.completeness.notes) {
        text += &format!("note: {note}\n");
    }
    brief::clean_text(&text)
}

#[cfg(test)]
#[path = "junit_tests.rs"]
mod tests;
