//! GitHub's annotations: workflow commands that its runner finds in what a step prints.
//!
//! Form and escapes are those of `@actions/core` (toolkit, packages/core/src/command.ts). The runner reads them on stdout and
//! stderr alike (runner, ScriptHandler.cs).

use super::findings::{Finding, findings, processes};
use super::workspace::Workspace;
use crate::report::model::{Report, RunReport, Verdict};
use crate::report::verdict::blind_spots;
use crate::report::words::{counted, listed};

/// GitHub shows so many annotations of a kind from one step, and drops the rest silently.
const SHOWN: usize = 10;

/// A line for each leak group and for each process that could not be judged, with a newline at its end; at most ten a kind,
/// the last of them for the rest.
pub fn annotations(run: &RunReport, workspace: &Workspace) -> String {
    let leaks: Vec<String> = findings(run).iter().map(|finding| leak(finding, workspace)).collect();
    let mut warnings: Vec<String> =
        run.processes.iter().filter(|process| process.verdict == Verdict::Inconclusive).map(unjudged).collect();
    if run.verdict == Verdict::Inconclusive && warnings.is_empty() {
        warnings.push(command("warning", &[("title", "avleak: inconclusive")], &run.reason));
    }
    let mut out = capped(leaks, "error", |rest| counted(rest as u64, "more leak group"));
    out.push_str(&capped(warnings, "warning", |rest| format!("{} more that could not be judged", processes(rest))));
    out
}

fn leak(finding: &Finding, workspace: &Workspace) -> String {
    let title = format!("avleak: {}", finding.title());
    let text = format!("{}. Group {}", finding.sentence(), finding.group.id);
    match workspace.place(&finding.group.stack) {
        Some(place) => {
            let line = place.line.to_string();
            command("error", &[("file", &place.path), ("line", &line), ("title", &title)], &text)
        }
        None => command("error", &[("title", &title)], &text),
    }
}

fn unjudged(process: &Report) -> String {
    let remedies: Vec<String> = blind_spots(&process.observed, &process.completeness)
        .into_iter()
        .map(|blind| blind.remedy.to_string())
        .collect();
    let text = match remedies.as_slice() {
        [] => process.reason.clone(),
        remedies => format!("{}. Remedy: {}", process.reason, listed(remedies)),
    };
    let title = format!("avleak: {} is inconclusive", crate::render::summary::process(&process.target));
    command("warning", &[("title", &title)], &text)
}

fn capped(mut lines: Vec<String>, kind: &str, tell: impl Fn(usize) -> String) -> String {
    if lines.len() > SHOWN {
        let rest = lines.split_off(SHOWN - 1);
        let text = format!("and {}: see the summary in the log", tell(rest.len()));
        lines.push(command(kind, &[("title", "avleak")], &text));
    }
    lines.concat()
}

fn command(kind: &str, properties: &[(&str, &str)], message: &str) -> String {
    let properties: Vec<String> =
        properties.iter().map(|(name, value)| format!("{name}={}", escape_property(value))).collect();
    format!("::{kind} {}::{}\n", properties.join(","), escape(message))
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use std::path::Path;

    fn nowhere() -> Workspace {
        Workspace::new(Path::new("/nonexistent"), Path::new("/nonexistent"))
    }

    /// What the runner makes of a line (runner, ActionCommand.cs, TryParseV2).
    fn parse(line: &str) -> (String, Vec<(String, String)>, String) {
        let unescape = |text: &str| {
            let text = text.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",");
            text.replace("%25", "%")
        };
        let (head, data) = line.strip_prefix("::").unwrap().split_once("::").unwrap();
        let (kind, properties) = head.split_once(' ').unwrap();
        let properties = properties.split(',').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), unescape(value))
        });
        (kind.to_owned(), properties.collect(), unescape(data))
    }

    #[test]
    fn what_could_end_a_command_is_escaped() {
        let line = command("error", &[("file", "a,b:c%d.c"), ("title", "x\ny::z")], "100% of\r\n:: this, ::set-env");
        assert_eq!(line, "::error file=a%2Cb%3Ac%25d.c,title=x%0Ay%3A%3Az::100%25 of%0D%0A:: this, ::set-env\n");
        let (kind, properties, message) = parse(line.trim_end());
        assert_eq!(kind, "error");
        assert_eq!(properties, [("file".into(), "a,b:c%d.c".into()), ("title".into(), "x\ny::z".into())]);
        assert_eq!(message, "100% of\r\n:: this, ::set-env");
    }

    #[test]
    fn a_leak_is_shown_at_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = sample::run();
        run.processes = vec![sample::leaking()];
        let (file, line) = {
            let frame = crate::render::stack::own_frame(&findings(&run)[0].group.stack).cloned().unwrap();
            (frame.file.unwrap(), frame.line.unwrap())
        };
        let source = folder.path().join(file.trim_start_matches('/'));
        std::fs::create_dir_all(source.parent().unwrap()).unwrap();
        std::fs::write(&source, "").unwrap();
        let workspace = Workspace::new(folder.path(), folder.path());
        let text = annotations(&run, &workspace);
        let (kind, properties, message) = parse(text.lines().next().unwrap());
        assert_eq!(kind, "error");
        assert_eq!(properties[0], ("file".into(), file), "{text}");
        assert_eq!(properties[1], ("line".into(), line.to_string()), "{text}");
        assert!(properties[2].1.starts_with("avleak: ") && message.starts_with("allocated by"), "{text}");
    }

    #[test]
    fn no_more_than_ten_of_a_kind_and_the_last_counts_the_rest() {
        let mut run = sample::run();
        let mut leaking = sample::leaking();
        let group = leaking.groups.iter().find(|group| group.leak).unwrap().clone();
        leaking.groups =
            (0..25).map(|n| crate::report::model::Group { id: format!("{n:016x}"), ..group.clone() }).collect();
        run.processes = std::iter::once(leaking).chain((0..11).map(|_| sample::inconclusive())).collect();
        let text = annotations(&run, &nowhere());
        let (errors, warnings): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("::error "));
        assert_eq!((errors.len(), warnings.len()), (10, 10), "{text}");
        assert!(errors[9].contains("16 more leak groups"), "{}", errors[9]);
        assert!(warnings[9].contains("2 processes more that"), "{}", warnings[9]);
        assert!(!errors[0].contains("file="), "a file outside the repository cannot be shown: {}", errors[0]);
    }

    #[test]
    fn a_run_without_ffmpeg_is_a_warning_and_a_clean_one_nothing() {
        let empty = crate::report::verdict::sum_up(vec!["make".into()], None, 1, Vec::new());
        let text = annotations(&empty, &nowhere());
        assert!(text.starts_with("::warning title=avleak%3A inconclusive::no process used FFmpeg"), "{text}");
        let clean = crate::report::verdict::sum_up(vec!["make".into()], None, 1, vec![sample::clean()]);
        assert_eq!(annotations(&clean, &nowhere()), "");
    }
}
