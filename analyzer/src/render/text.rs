//! The terminal report: a verdict first, then each leak group, then what stands behind the verdict.

use super::flow::{Line, Page, width};
use super::style::{ColorChoice, Role, Style};
use super::summary;
use super::units::bytes;
use super::{gate, goroutines, group, post_mortem};
use crate::render::load::AnyReport;
use crate::report::model::{Group, Level, Report, RunReport, Verdict};
use crate::report::words::{contents, counted, ended, grouped};
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Leak groups that are shown without `--all`.
pub const GROUPS: usize = 20;
/// Processes of a run that its table lists without `--all`.
const PROCESSES: usize = 20;

/// How the text is laid out.
#[derive(Debug, Clone, Copy, Default)]
pub struct TextOptions {
    /// Coloured or plain.
    pub style: Style,
    /// Columns of the terminal: long names and paths are shortened to fit. `None`: nothing needs to fit (a file, a CI log),
    /// and nothing is shortened.
    pub width: Option<usize>,
    /// Every group, every frame, every line.
    pub all: bool,
}

impl TextOptions {
    /// For a stream of this process: coloured and fitted if it is a terminal.
    pub fn for_stream(color: ColorChoice, all: bool, stream: &(impl AsFd + IsTerminal)) -> Self {
        let columns = || rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
        let width = if stream.is_terminal() { columns().filter(|&n| n > 0) } else { None };
        Self { style: Style::for_stream(color, stream), width, all }
    }
}

/// Either document.
pub fn any(report: &AnyReport, options: &TextOptions) -> String {
    match report {
        AnyReport::Process(report) => process(report, options),
        AnyReport::Run(report) => run(report, options),
    }
}

/// The report of one process, with a newline at its end.
pub fn process(report: &Report, options: &TextOptions) -> String {
    let mut page = Page::new(options.style, options.width);
    write_process(&mut page, report, options);
    page.finish()
}

/// The report of a command: a line for each process where there are several, then each one's report.
pub fn run(report: &RunReport, options: &TextOptions) -> String {
    let mut page = Page::new(options.style, options.width);
    match report.processes.as_slice() {
        // The command is the process: a summary of one would only repeat it.
        [only] if only.target.argv == report.argv && only.target.ended == report.ended => {
            write_process(&mut page, only, options);
        }
        processes => {
            write_run(&mut page, report, options.all);
            // Of clean processes the table has said all, unless there is something to be known.
            let told = |p: &&Report| options.all || p.verdict != Verdict::Clean || !summary::is_complete(p);
            for process in worst_first(processes).into_iter().filter(told) {
                page.blank();
                page.line(0, &Line::of(Role::Dim, "─".repeat(page.wrap().min(100))));
                write_process(&mut page, process, options);
            }
        }
    }
    page.finish()
}

fn write_run(page: &mut Page, report: &RunReport, all: bool) {
    let mut line = Line::of(Role::Strong, "avleak: ")
        .join(summary::finding(report.verdict, &report.leaks))
        .and(Role::Plain, " — ");
    line.push(Role::Plain, report.argv.join(" "));
    if let Some(end) = report.ended {
        line.push(Role::Plain, format!(", {}", ended(end)));
    }
    page.words(0, 8, &line);
    page.words(8, 8, &Line::of(Role::Plain, &report.reason));
    if report.processes.is_empty() {
        let remedy = "check that the command runs FFmpeg and is linked dynamically: a static, musl or setuid program does not \
                      load libavleak.so";
        page.words(8, 12, &Line::of(Role::Strong, "do: ").and(Role::Plain, remedy));
    }
    let processes = worst_first(&report.processes);
    let shown = if all { processes.len() } else { processes.len().min(PROCESSES) };
    let name = |p: &Report| format!("{} (pid {})", summary::program(&p.target), p.target.pid);
    let widest = processes[..shown].iter().map(|p| width(&name(p))).max().unwrap_or(0).min(page.wrap() / 3);
    for process in &processes[..shown] {
        let role = match process.verdict {
            Verdict::Leaks => Role::Bad,
            Verdict::Clean => Role::Good,
            Verdict::Inconclusive => Role::Warn,
        };
        let found = match (process.verdict, process.leaks.pinned_bytes) {
            (Verdict::Leaks, 0) => contents(&process.leaks),
            (Verdict::Leaks, pinned) => format!("{}, {} pinned", contents(&process.leaks), bytes(pinned)),
            _ if process.observed.events_dropped > 0 => summary::dropped(&process.observed),
            _ => summary::seen(&process.observed),
        };
        let name = super::flow::shorten(&name(process), widest);
        let gap = " ".repeat(widest.saturating_sub(width(&name)) + 1);
        let mut pieces = vec![Line::of(role, format!("{:<14}", process.verdict.key())).and(Role::Plain, name + &gap)];
        pieces.extend(found.split(' ').map(|word| Line::of(Role::Plain, word)));
        page.flow(2, 18 + widest, " ", &pieces);
    }
    if processes.len() > shown {
        let rest = &processes[shown..];
        let clean = rest.iter().filter(|p| p.verdict == Verdict::Clean).count() as u64;
        let text =
            format!("… and {} more, {} of them clean (--all lists them)", grouped(rest.len() as u64), grouped(clean));
        page.line(2, &Line::of(Role::Dim, text));
    }
    gate::write(page, report.gate.as_ref(), 8, false);
    let (code, by) = (report.exit.code, &report.exit.decided_by);
    page.line(8, &Line::of(Role::Dim, format!("exit status {code}, decided by: {by}")));
}

fn worst_first(processes: &[Report]) -> Vec<&Report> {
    let rank = |verdict| match verdict {
        Verdict::Leaks => 0,
        Verdict::Inconclusive => 1,
        Verdict::Clean => 2,
    };
    let mut sorted: Vec<&Report> = processes.iter().collect();
    sorted.sort_by_key(|process| rank(process.verdict));
    sorted
}

fn write_process(page: &mut Page, report: &Report, options: &TextOptions) {
    summary::headline(page, report);
    match report.verdict {
        Verdict::Clean if !options.all => {
            let mut facts = format!("{}, {}", summary::seen(&report.observed), summary::dropped(&report.observed));
            let alive = &report.totals.still_reachable;
            if alive.frames > 0 {
                facts.push_str(&format!("; {} still reachable", counted(alive.frames, "frame")));
            }
            page.words(8, 8, &Line::of(Role::Plain, facts));
            gate::write(page, report.gate.as_ref(), 8, false);
            if goroutines::any(report) {
                page.blank();
                goroutines::write(page, report, options.all);
            }
            return summary::completeness(page, report);
        }
        Verdict::Clean => page.words(8, 8, &Line::of(Role::Plain, &report.reason)),
        Verdict::Inconclusive => summary::inconclusive(page, report),
        Verdict::Leaks => summary::caveat(page, report),
    }
    page.blank();
    write_groups(page, report, options);
    gate::write(page, report.gate.as_ref(), 1, true);
    summary::totals(page, report);
    if goroutines::any(report) {
        goroutines::write(page, report, options.all);
        page.blank();
    }
    post_mortem::write(page, report);
    summary::observed(page, report);
    summary::completeness(page, report);
}

fn write_groups(page: &mut Page, report: &Report, options: &TextOptions) {
    let full =
        |group: &Group| group.leak || options.all || (report.level == Level::Draconian && !gate::lets_through(group));
    let shown: Vec<&Group> = report.groups.iter().filter(|group| full(group)).collect();
    let limit = if options.all { shown.len() } else { GROUPS };
    for (i, group) in shown.iter().take(limit).enumerate() {
        group::write(page, i + 1, group, report.target.duration_s, options.all);
        page.blank();
    }
    if shown.len() > limit {
        let more = shown.len() - limit;
        let noun = if more == 1 { "group" } else { "groups" };
        let text = format!("… and {} more {noun}, see the JSON or --all", grouped(more as u64));
        page.line(1, &Line::of(Role::Warn, text));
        page.blank();
    }
    let rest: Vec<&Group> = report.groups.iter().filter(|group| !full(group) && !gate::lets_through(group)).collect();
    summary::not_counted(page, report.level, &rest, options.all);
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
