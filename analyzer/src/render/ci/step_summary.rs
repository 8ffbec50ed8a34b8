//! The Markdown that GitHub shows on the page of a workflow run (`$GITHUB_STEP_SUMMARY`).

use super::findings::{Finding, findings, processes};
use crate::render::units::bytes;
use crate::render::{stack, summary};
use crate::report::model::{Report, RunReport, Verdict};
use crate::report::verdict::blind_spots;
use crate::report::words::{contents, counted, ended, grouped};

/// Leak groups that are shown with their stacks, and processes in the table. GitHub refuses a summary of more than 1 MiB.
const SHOWN: usize = 20;
/// Lines of one stack.
const LINES: usize = 24;
/// Characters of one line: C++ has names of any length.
const WIDTH: usize = 200;

/// The summary, with a newline at its end.
pub fn markdown(run: &RunReport) -> String {
    let mut out = format!("### {} avleak: {}\n\n", mark(run.verdict), finding(run));
    let end = run.ended.map_or_else(String::new, |end| format!(", {}", ended(end)));
    let (status, by) = (run.exit.code, &run.exit.decided_by);
    let command = code(&run.argv.join(" "));
    out.push_str(&format!("{command}{end} — {}; exit status {status}, decided by: {by}\n", plain(&run.reason)));
    table(&mut out, &super::summary::worst_first(run));
    let found = findings(run);
    for finding in found.iter().take(SHOWN) {
        group(&mut out, finding);
    }
    if found.len() > SHOWN {
        out.push_str(&format!("\n… and {}.\n", counted((found.len() - SHOWN) as u64, "more leak group")));
    }
    out.push('\n');
    out
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "✅",
        Verdict::Leaks => "❌",
        Verdict::Inconclusive => "⚠️",
    }
}

fn finding(run: &RunReport) -> String {
    match (run.verdict, run.leaks.pinned_bytes) {
        (Verdict::Clean, _) => "no leaks".into(),
        (Verdict::Inconclusive, _) => "inconclusive".into(),
        (Verdict::Leaks, 0) => format!("{} leaked", contents(&run.leaks)),
        (Verdict::Leaks, pinned) => format!("{} leaked, {} pinned", contents(&run.leaks), bytes(pinned)),
    }
}

fn table(out: &mut String, sorted: &[&Report]) {
    if sorted.is_empty() {
        return;
    }
    out.push_str("\n| process | verdict | leaks | seen |\n|---|---|---|---|\n");
    for process in sorted.iter().take(SHOWN) {
        let leaks = match process.verdict {
            Verdict::Leaks => format!("{}, {} pinned", contents(&process.leaks), bytes(process.leaks.pinned_bytes)),
            Verdict::Clean => "none".into(),
            Verdict::Inconclusive => plain(&process.reason),
        };
        let name = code(&format!("{} (pid {})", super::summary::label(&process.target), process.target.pid));
        let seen = summary::seen(&process.observed);
        out.push_str(&format!("| {name} | {} {} | {leaks} | {seen} |\n", mark(process.verdict), process.verdict.key()));
    }
    if sorted.len() > SHOWN {
        out.push_str(&format!("\n… and {} more.\n", processes(sorted.len() - SHOWN)));
    }
    // Each once: fifty processes of one container lack the same right.
    let mut remedies: Vec<&str> = Vec::new();
    for process in sorted.iter().filter(|process| process.verdict == Verdict::Inconclusive) {
        for blind in blind_spots(&process.observed, &process.completeness) {
            if !remedies.contains(&blind.remedy) {
                remedies.push(blind.remedy);
            }
        }
    }
    for remedy in remedies {
        out.push_str(&format!("\n> To be judged: {}.\n", plain(remedy)));
    }
}

fn group(out: &mut String, finding: &Finding) {
    out.push_str(&format!(
        "\n<details><summary><b>{}</b>: {}</summary>\n\n```text\n",
        plain(&finding.title()),
        plain(&finding.sentence())
    ));
    for frame in finding.group.stack.iter().take(LINES) {
        let line = match stack::place(frame) {
            Some(place) => format!("{}  {place}", stack::name(frame)),
            None => stack::name(frame),
        };
        out.push_str(&fenced(&line));
        out.push('\n');
    }
    if finding.group.stack.len() > LINES {
        out.push_str(&format!("… {} more\n", grouped((finding.group.stack.len() - LINES) as u64)));
    }
    out.push_str(&format!("```\n\nGroup {}\n\n</details>\n", code(&finding.group.id)));
}

/// One line that cannot leave its code fence.
fn fenced(line: &str) -> String {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WIDTH).collect();
    line.replace("```", "'''")
}

/// Inline code, also within a table.
fn code(text: &str) -> String {
    format!("`{}`", fenced(text).replace('`', "'").replace('|', "\\|"))
}

/// Running text in which nothing of what a program calls its functions is taken for Markdown or HTML.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Frame, Group};
    use crate::report::sample;
    use crate::report::verdict;

    #[test]
    fn it_names_the_verdict_the_processes_and_the_stack() {
        let text = markdown(&sample::run());
        let run = sample::run();
        assert!(text.starts_with("### ❌ avleak: ") && text.contains("exit status 1"), "{text}");
        for process in &run.processes {
            assert!(text.contains(&format!("(pid {})", process.target.pid)), "{text}");
        }
        let found = findings(&run);
        assert_eq!(text.matches("<details>").count(), found.len());
        assert!(text.contains(&format!("Group `{}`", found[0].group.id)), "{text}");
        let clean = verdict::sum_up(vec!["make".into()], None, 1, vec![sample::clean()]);
        assert!(markdown(&clean).starts_with("### ✅ avleak: no leaks\n"));
    }

    #[test]
    fn names_of_a_program_are_no_markup() {
        let mut leaking = sample::leaking();
        let hostile = "x</details>|`<img src=a>`\n::error::";
        let mut group = leaking.groups.iter().find(|group| group.leak).unwrap().clone();
        group.stack = vec![Frame { function: Some(format!("```\n{hostile}")), ..Frame::default() }];
        group.object = "A|B".into();
        leaking.groups = vec![group];
        leaking.target.argv = vec![hostile.into(), "a|b".into()];
        leaking.target.exe = "/bin/python3".into();
        let run = verdict::sum_up(vec![hostile.into()], None, 1, vec![leaking]);
        let text = markdown(&run);
        assert_eq!(text.matches("```").count(), 2, "{text}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("::error")), "{text}");
        let row = text.lines().find(|line| line.contains("(pid ")).unwrap();
        assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        assert_eq!(
            text.replace("`x</details>", "").matches("</details>").count(),
            2,
            "in the fence, and the end: {text}"
        );
    }

    #[test]
    fn a_hundred_thousand_groups_stay_below_githubs_limit() {
        let mut leaking = sample::leaking();
        let mut group = leaking.groups.iter().find(|group| group.leak).unwrap().clone();
        group.stack = vec![Frame { function: Some("f".repeat(10_000)), ..Frame::default() }; 190];
        leaking.groups = (0..100_000)
            .map(|n| Group {
                id: format!("{n:016x}"),
                stack: if n < 30 { group.stack.clone() } else { Vec::new() },
                ..group.clone()
            })
            .collect();
        let run = verdict::sum_up(vec!["make".into()], None, 1, vec![leaking]);
        let text = markdown(&run);
        assert!(text.len() < 1 << 20, "{}", text.len());
        assert!(text.contains("99,980 more leak groups"));
    }
}
