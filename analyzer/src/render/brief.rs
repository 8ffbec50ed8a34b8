//! A leak group, a process and a report said in a line or a block of plain text: what the machine formats quote.

use super::flow::{Line, Page};
use super::load::AnyReport;
use super::stack::{self, Whose};
use super::style::Style;
use super::units::bytes;
use super::{group, summary};
use crate::report::model::{Frame, Group, Report, Totals, Verdict};
use crate::report::words::{contents, objects};

/// `server (pid 812)`.
pub(crate) fn title(report: &Report) -> String {
    format!("{} (pid {})", summary::program(&report.target), report.target.pid)
}

/// `34 frames leaked, 361 MiB pinned`; `no leaks`; `inconclusive`.
pub(crate) fn finding(verdict: Verdict, leaks: &Totals) -> String {
    match (verdict, leaks.pinned_bytes) {
        (Verdict::Leaks, 0) => format!("{} leaked", contents(leaks)),
        (Verdict::Leaks, pinned) => format!("{} leaked, {} pinned", contents(leaks), bytes(pinned)),
        (Verdict::Clean, _) => "no leaks".to_string(),
        (Verdict::Inconclusive, _) => "inconclusive".to_string(),
    }
}

/// Verdict, reason and sum of a whole document.
pub(super) fn outcome(report: &AnyReport) -> (Verdict, &str, &Totals) {
    match report {
        AnyReport::Process(report) => (report.verdict, &report.reason, &report.leaks),
        AnyReport::Run(run) => (run.verdict, &run.reason, &run.leaks),
    }
}

/// `30 AVFrame definitely lost`.
pub(super) fn what(group: &Group) -> String {
    format!("{} {}", objects(group.count, &group.object), group.class.phrase())
}

/// The frame to blame: the program's innermost one, else FFmpeg's outermost, else the outermost.
pub(crate) fn blamed(group: &Group) -> Option<&Frame> {
    blamed_of(&group.stack)
}

/// As [`blamed`], of a stack.
pub(crate) fn blamed_of(stack: &[Frame]) -> Option<&Frame> {
    stack::own_frame(stack)
        .or_else(|| stack.iter().rev().find(|frame| stack::whose(frame) == Whose::Libav))
        .or(stack.last())
}

/// ` ← take ← main`: the program's own functions outside the one to blame, `most` of them; empty where there are none. Where several stacks
/// go through one function that allocates for others, these tell them apart.
pub(crate) fn callers(stack: &[Frame], most: usize) -> String {
    stack::own_frames(stack).skip(1).take(most).map(stack::name).map(|name| format!(" ← {name}")).collect()
}

/// `decode_one (src/decode.c:88)`.
pub(crate) fn site(frame: &Frame) -> String {
    let name = stack::name(frame);
    match stack::place(frame) {
        Some(place) => format!("{name} ({place})"),
        None => name,
    }
}

/// `30 AVFrame definitely lost, allocated in decode_one (src/decode.c:88)`.
pub(crate) fn line(group: &Group) -> String {
    let place = blamed(group).map_or_else(|| "a stack that was not recorded".to_string(), site);
    clean(&format!("{}, allocated in {place}", what(group)))
}

/// The group as the text report shows it, without colour and at no width.
pub(super) fn block(number: usize, group: &Group, duration_s: f64) -> String {
    let mut page = Page::new(Style::PLAIN, None);
    group::write(&mut page, number, group, duration_s, false);
    page.finish()
}

/// The group as lines of at most `width` columns, for whoever paints them itself. `all`: whole stacks.
pub(crate) fn lines(number: usize, group: &Group, duration_s: f64, width: usize, all: bool) -> Vec<Line> {
    let mut page = Page::new(Style::PLAIN, Some(width));
    group::write(&mut page, number, group, duration_s, all);
    page.into_lines()
}

/// On one line and without control characters, which no format wants and XML forbids: each becomes U+FFFD, a newline a space.
pub(crate) fn clean(text: &str) -> String {
    clean_text(text).replace('\n', " ")
}

/// As [`clean`], but newlines stay.
pub(super) fn clean_text(text: &str) -> String {
    // The last ones turn the reading direction round: a name could pose as another.
    let forbidden = |letter: char| {
        (letter.is_control() && letter != '\n')
            || matches!(letter, '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|letter| if forbidden(letter) { '\u{fffd}' } else { letter }).collect()
}
