//! Suppressions made of a report: one ready-to-paste entry, in Valgrind's syntax, for each group that counts.

use super::kinship::label;
use crate::render::stack::own_frame;
use crate::report::model::{Class, Frame, Group, Report};
use std::collections::BTreeSet;

/// Frames of an entry at most: Valgrind itself reads no more than 24 lines.
const MOST_FRAMES: usize = 20;

/// The entries for all groups of these reports that count, each once; empty where none counts.
pub fn suppressions<'a>(reports: impl IntoIterator<Item = &'a Report>) -> String {
    let mut written = BTreeSet::new();
    let mut text = String::new();
    for group in reports.into_iter().flat_map(|report| &report.groups).filter(|group| group.leak) {
        if written.insert(&group.id) {
            text.push_str(&entry(group));
        }
    }
    text
}

/// One entry.
fn entry(group: &Group) -> String {
    let at = own_frame(&group.stack).or(group.stack.first()).map_or_else(|| "an unknown place".to_string(), label);
    let name = line_of(&format!("{} {} at {at}", group.object, group.class.phrase()));
    if group.stack.is_empty() {
        return format!("# {name} (group {}) has no stack: no suppression can name it\n", group.id);
    }
    let kind = match group.class {
        Class::DefinitelyLost => "definite",
        Class::IndirectlyLost => "indirect",
        Class::PossiblyLost => "possible",
        Class::StillReachable | Class::Unclassified => "reachable",
    };
    // Valgrind has malloc at the top, avleak does not: `...` takes either.
    let mut text =
        format!("# group {}\n{{\n   {name}\n   Memcheck:Leak\n   match-leak-kinds: {kind}\n   ...\n", group.id);
    for frame in relevant(&group.stack) {
        text.push_str(&format!("   {}\n", line_of(&pattern(frame))));
    }
    text.push_str("}\n");
    text
}

/// Without the start-up code and runtime beyond the outermost frame of the program's own.
fn relevant(stack: &[Frame]) -> &[Frame] {
    let outermost = (0..stack.len()).rev().find(|&at| own_frame(&stack[at..=at]).is_some());
    let end = outermost.map_or(stack.len(), |at| at + 1);
    &stack[..end.min(MOST_FRAMES)]
}

fn pattern(frame: &Frame) -> String {
    match (&frame.function, &frame.module) {
        // A line of the file loses the blanks at its end.
        (Some(function), _) if !function.trim().is_empty() && function.trim_end() != function => {
            format!("fun:{}*", function.trim_end())
        }
        (Some(function), _) if !function.trim().is_empty() => format!("fun:{function}"),
        (_, Some(module)) => format!("obj:*{module}"),
        (_, None) => format!("obj:{UNKNOWN}"),
    }
}

/// What Valgrind calls code that lies in no module.
const UNKNOWN: &str = "???";

/// A name from the target as one line that reads back as what it was: control characters become wildcards.
fn line_of(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::apply::Rules;
    use crate::gate::suppression_file::Suppressions;
    use crate::report::model::Verdict;
    use crate::report::sample;
    use std::path::Path;

    #[test]
    fn golden() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/generated.supp");
        let text = suppressions([&sample::leaking()]);
        if std::env::var_os("AVLEAK_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap());
    }

    fn silenced(mut report: Report) -> (Verdict, Vec<String>) {
        let mut all = Suppressions::default();
        all.add("g", suppressions([&report]).as_bytes()).unwrap();
        let rules = Rules { suppressions: Some(all), baseline: None };
        let gate = rules.apply(std::slice::from_mut(&mut report)).unwrap_or_default();
        (report.verdict, gate.unused.into_iter().map(|place| place.name).collect())
    }

    #[test]
    fn what_is_generated_suppresses_what_it_was_generated_for_and_nothing_else() {
        assert_eq!(silenced(sample::leaking()), (Verdict::Clean, vec![]));
        let mut report = sample::leaking();
        let text = suppressions([&report]);
        // Another caller: another leak.
        for group in &mut report.groups {
            for frame in group.stack.iter_mut().filter(|frame| frame.function.as_deref() == Some("session_pump")) {
                frame.function = Some("other_pump".into());
            }
        }
        let mut all = Suppressions::default();
        all.add("g", text.as_bytes()).unwrap();
        Rules { suppressions: Some(all), baseline: None }.apply(std::slice::from_mut(&mut report));
        assert_eq!(report.leaks.frames, 34);
    }

    #[test]
    fn names_that_a_target_thought_up_do_no_harm() {
        let names = [
            "a\n}\nleak:*",
            "{",
            "}",
            "...",
            "  x ",
            "operator*",
            "f(char?)",
            "a\u{7f}b",
            "",
            "# c",
            "_ZN5cache4openEv",
        ];
        for name in names {
            let mut report = sample::leaking();
            for group in &mut report.groups {
                group.object = format!("AVFrame{name}");
                for frame in &mut group.stack {
                    frame.function = Some(name.to_string());
                }
            }
            assert_eq!(silenced(report).0, Verdict::Clean, "{name:?}");
        }
        let mut report = sample::leaking();
        for group in &mut report.groups {
            for frame in &mut group.stack {
                (frame.function, frame.module) = (None, None);
            }
        }
        assert_eq!(silenced(report).0, Verdict::Clean);
    }

    #[test]
    fn a_group_without_a_stack_is_said_to_be_one() {
        let mut report = sample::leaking();
        report.groups[0].stack.clear();
        let text = suppressions([&report, &report]);
        assert_eq!(text.matches("has no stack").count(), 1, "{text}");
        assert_eq!(text.matches("Memcheck:Leak").count(), 1, "each once: {text}");
    }
}
