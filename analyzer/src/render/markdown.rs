//! Markdown for a comment under a pull request: verdict, a table of leak groups, each group's details folded.
//!
//! Written for GitHub (GitLab renders the same); at most [`LONGEST`] characters, whatever the report.

use super::flow::shorten;
use super::load::AnyReport;
use super::units::bytes;
use super::{brief, stack, summary};
use crate::report::model::{Group, Report, Verdict};
use crate::report::words::{counted, ended, grouped};
use std::borrow::Cow;

/// Characters at most. GitHub refuses a comment of more than 65,536; the rest is for whoever adds to it.
pub const LONGEST: usize = 60_000;
/// Kept for the last lines.
const RESERVE: usize = 1_500;
/// Rows of a table, details of groups, lines of notes at most.
const ROWS: usize = 50;
const DETAILS: usize = 25;
const NOTES: usize = 10;
/// Characters of one group's details, and of one name, at most.
const DETAIL: usize = 6_000;
const NAME: usize = 100;

/// The comment.
pub fn markdown(report: &AnyReport) -> String {
    let mut page = Comment::default();
    let (verdict, reason, leaks) = brief::outcome(report);
    page.add(&format!("### {} avleak: {}\n\n", mark(verdict), escaped(&brief::finding(verdict, leaks))));
    match report {
        AnyReport::Process(report) => {
            page.add(&format!("{}\n\n", subject(report)));
        }
        AnyReport::Run(run) => {
            let end = run.ended.map(|end| format!(", {}", ended(end))).unwrap_or_default();
            page.add(&format!("{}{end} · {}\n\n", code(&run.argv.join(" ")), escaped(reason)));
            processes(&mut page, &run.processes);
        }
    }
    if verdict == Verdict::Inconclusive && matches!(report, AnyReport::Process(_)) {
        page.add(&format!("{}\n\n", escaped(reason)));
    }
    let leaking: Vec<(&Report, &Group)> = report
        .processes()
        .iter()
        .flat_map(|process| process.groups.iter().filter(|group| group.leak).map(move |group| (process, group)))
        .collect();
    table(&mut page, &leaking, report.processes().len() > 1);
    details(&mut page, &leaking);
    notes(&mut page, report.processes());
    page.text
}

/// Text that never grows beyond its limit.
#[derive(Default)]
struct Comment {
    text: String,
    length: usize,
}

impl Comment {
    /// Adds all of it, or nothing where it does not fit.
    fn add(&mut self, text: &str) -> bool {
        self.add_up_to(text, LONGEST - RESERVE)
    }

    fn add_last(&mut self, text: &str) {
        self.add_up_to(text, LONGEST);
    }

    fn add_up_to(&mut self, text: &str, limit: usize) -> bool {
        let length = text.chars().count();
        let fits = self.length + length <= limit;
        if fits {
            self.text += text;
            self.length += length;
        }
        fits
    }
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Leaks => "❌",
        Verdict::Clean => "✅",
        Verdict::Inconclusive => "⚠️",
    }
}

/// Who was judged, and what was seen of it.
fn subject(report: &Report) -> String {
    let end = report.target.ended.map(|end| format!(", {}", ended(end))).unwrap_or_default();
    format!(
        "{} (pid {}){end} · level {} · {} · {}",
        code(summary::program(&report.target)),
        report.target.pid,
        report.level.key(),
        summary::seen(&report.observed),
        summary::dropped(&report.observed),
    )
}

fn processes(page: &mut Comment, processes: &[Report]) {
    if processes.is_empty() {
        return;
    }
    page.add("| | process | found |\n|---|---|---|\n");
    for process in processes.iter().take(ROWS) {
        page.add(&format!(
            "| {} | {} (pid {}) | {} |\n",
            mark(process.verdict),
            code(summary::program(&process.target)),
            process.target.pid,
            escaped(&brief::finding(process.verdict, &process.leaks))
        ));
    }
    if processes.len() > ROWS {
        page.add(&format!("| | and {} more | |\n", processes.len() - ROWS));
    }
    page.add("\n");
}

fn table(page: &mut Comment, leaking: &[(&Report, &Group)], several: bool) {
    if leaking.is_empty() {
        return;
    }
    page.add("| # | leaked | pinned | allocated in | siblings freed in | group |\n|--:|---|--:|---|---|---|\n");
    let mut shown = 0;
    for (number, (process, group)) in leaking.iter().enumerate().take(ROWS) {
        let freed = group.freed_elsewhere.first().map(|site| {
            let frame = stack::own_frame(&site.stack).or(site.stack.first());
            let place = frame.map_or_else(|| "an unrecorded stack".to_string(), |frame| code(&brief::site(frame)));
            format!("{place}, {} of {}", grouped(site.count), grouped(group.siblings_allocated))
        });
        let whose = if several { format!(" ({})", process.target.pid) } else { String::new() };
        let row = format!(
            "| {} | {}{whose} | {} | {} | {} | {} |\n",
            number + 1,
            escaped(&brief::what(group)),
            if group.pinned_bytes > 0 { bytes(group.pinned_bytes) } else { "–".to_string() },
            brief::blamed(group).map_or_else(|| "–".to_string(), |frame| code(&brief::site(frame))),
            freed.unwrap_or_else(|| "never".to_string()),
            code(&group.id),
        );
        shown += usize::from(page.add(&row));
    }
    page.add("\n");
    if shown < leaking.len() {
        page.add(&format!("… and {}, see the JSON report.\n\n", counted((leaking.len() - shown) as u64, "more group")));
    }
}

fn details(page: &mut Comment, leaking: &[(&Report, &Group)]) {
    for (number, (process, group)) in leaking.iter().enumerate().take(DETAILS) {
        let place = brief::blamed(group).map(brief::site).unwrap_or_default();
        let summary = format!("{}. {} in", number + 1, html(&brief::what(group)));
        let block = fenced(&cut(&brief::block(number + 1, group, process.target.duration_s)));
        let place = html(&shorten(&brief::clean(&place), NAME));
        // A blank line before the block: without it GitHub takes it for HTML.
        page.add(&format!("<details><summary>{summary} <code>{place}</code></summary>\n\n{block}\n</details>\n"));
    }
}

fn notes(page: &mut Comment, processes: &[Report]) {
    let all: Vec<String> = processes
        .iter()
        .flat_map(|process| {
            let notes = process.completeness.disagreements.iter().chain(&process.completeness.notes);
            notes.map(move |note| match processes {
                [_] => note.clone(),
                _ => format!("{}: {note}", brief::title(process)),
            })
        })
        .collect();
    if all.is_empty() {
        return;
    }
    page.add_last("\nTo be known:\n\n");
    for note in all.iter().take(NOTES) {
        page.add_last(&format!("- {}\n", escaped(&shorten(&brief::clean(note), 300))));
    }
    if all.len() > NOTES {
        page.add_last(&format!("- and {} more in the JSON report\n", all.len() - NOTES));
    }
}

/// Whole lines, as many as fit.
fn cut(text: &str) -> Cow<'_, str> {
    let text = text.trim_end();
    if text.chars().count() <= DETAIL {
        return text.into();
    }
    let mut kept = String::new();
    let mut length = 0;
    for line in text.lines() {
        length += line.chars().count() + 1;
        if length > DETAIL {
            break;
        }
        kept += line;
        kept.push('\n');
    }
    (kept + "…").into()
}

/// A block that no line of it can end: its fence is longer than any run of backticks in it.
fn fenced(text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", brief::clean_text(text))
}

fn longest_run(text: &str) -> usize {
    text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0)
}

/// A name as code, also in a cell of a table; a code span mentions nobody and links nothing.
fn code(text: &str) -> String {
    let text = shorten(&brief::clean(text), NAME);
    let ticks = "`".repeat(longest_run(&text) + 1);
    let gap = if text.starts_with('`') || text.ends_with('`') || text.is_empty() { " " } else { "" };
    format!("{ticks}{gap}{}{gap}{ticks}", text.replace('|', "\\|"))
}

/// Text in which nothing is markup, a mention or a link.
fn escaped(text: &str) -> String {
    brief::clean(text).chars().fold(String::new(), |mut out, letter| {
        match letter {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '@' => out += "&#64;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
        out
    })
}

/// Text inside an HTML element.
fn html(text: &str) -> String {
    brief::clean(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('@', "&#64;")
}
