//! The one summary at the end of a CI job's log: which process has which verdict, then each leak once.

use super::findings::{Finding, findings, processes};
use crate::render::flow::{Line, Page, shorten, width};
use crate::render::style::Role;
use crate::render::text::TextOptions;
use crate::render::units::bytes;
use crate::render::{group, summary};
use crate::report::model::{Report, RunReport, Target, Verdict};
use crate::report::words::{contents, counted, ended, grouped};

/// Processes and leak groups that are listed without `all`.
const SHOWN: usize = 20;
/// Inconclusive processes whose remedies are told: as a rule they all lack the same.
const EXPLAINED: usize = 3;
/// Characters of a process's name in the table.
const LABEL: usize = 40;

/// The summary, with a newline at its end.
pub fn text(run: &RunReport, options: &TextOptions) -> String {
    let mut page = Page::new(options.style, options.width);
    let mut line = Line::of(Role::Strong, "avleak ci: ")
        .join(summary::finding(run.verdict, &run.leaks))
        .and(Role::Plain, format!(" — {}", run.argv.join(" ")));
    if let Some(end) = run.ended {
        line.push(Role::Plain, format!(", {}", ended(end)));
    }
    page.words(0, 8, &line);
    page.words(2, 2, &Line::of(Role::Plain, &run.reason));
    let sorted = worst_first(run);
    if sorted.is_empty() {
        let remedy = "check that the tests use FFmpeg in processes that load libavleak.so: static, musl and setuid programs do not; \
                      --allow-inconclusive lets a suite without FFmpeg pass";
        page.words(2, 6, &Line::of(Role::Strong, "do: ").and(Role::Plain, remedy));
    } else {
        table(&mut page, &sorted, options.all);
    }
    let unjudged = sorted.iter().filter(|process| process.verdict == Verdict::Inconclusive);
    for process in unjudged.take(if options.all { usize::MAX } else { EXPLAINED }) {
        page.blank();
        page.line(2, &Line::of(Role::Warn, summary::process(&process.target)));
        summary::inconclusive(&mut page, process);
    }
    let found = findings(run);
    let shown = if options.all { found.len() } else { found.len().min(SHOWN) };
    for (number, finding) in found.iter().take(shown).enumerate() {
        page.blank();
        leak(&mut page, number + 1, finding, options.all);
    }
    if found.len() > shown {
        page.blank();
        let more = counted((found.len() - shown) as u64, "more leak group");
        page.line(2, &Line::of(Role::Warn, format!("… and {more}, see --json or --all")));
    }
    page.blank();
    let status = format!("exit status {}, decided by: {}", run.exit.code, run.exit.decided_by);
    page.line(2, &Line::of(Role::Strong, status));
    page.finish()
}

fn leak(page: &mut Page, number: usize, finding: &Finding, all: bool) {
    let one = finding.processes.len() == 1;
    let duration = finding.processes.first().filter(|_| one).map_or(0.0, |process| process.target.duration_s);
    group::write(page, number, &finding.group, duration, all);
    let pids: Vec<String> =
        finding.processes.iter().take(SHOWN).map(|process| process.target.pid.to_string()).collect();
    let more = finding.processes.len() - pids.len();
    let names = match finding.processes.as_slice() {
        [only] => format!("in {} (pid {})", label(&only.target), only.target.pid),
        several if more > 0 => {
            format!("in {}: pids {} and {} more", processes(several.len()), pids.join(", "), grouped(more as u64))
        }
        several => format!("in {}: pids {}", processes(several.len()), pids.join(", ")),
    };
    page.words(5, 7, &Line::of(Role::Plain, names));
}

fn table(page: &mut Page, sorted: &[&Report], all: bool) {
    page.blank();
    let shown = if all { sorted.len() } else { sorted.len().min(SHOWN) };
    let name = |process: &Report| format!("{} (pid {})", label(&process.target), process.target.pid);
    let limit = page.limit().map_or(usize::MAX, |limit| limit / 2);
    let names: Vec<String> = sorted[..shown].iter().map(|process| shorten(&name(process), limit)).collect();
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0).max("process".len());
    let row = |name: &str| format!("{name}{}  ", " ".repeat(widest.saturating_sub(width(name))));
    page.line(2, &Line::of(Role::Strong, format!("{}{:<12}  leaks", row("process"), "verdict")));
    for (process, name) in sorted.iter().zip(&names) {
        let (role, found) = match process.verdict {
            Verdict::Leaks if process.leaks.pinned_bytes == 0 => (Role::Bad, contents(&process.leaks)),
            Verdict::Leaks => {
                (Role::Bad, format!("{}, {} pinned", contents(&process.leaks), bytes(process.leaks.pinned_bytes)))
            }
            Verdict::Clean => (Role::Good, format!("none ({})", summary::seen(&process.observed))),
            Verdict::Inconclusive => (Role::Warn, format!("unknown ({})", summary::seen(&process.observed))),
        };
        let start = Line::of(Role::Plain, row(name)).and(role, format!("{:<12}  ", process.verdict.key()));
        let mut pieces: Vec<Line> = found.split(' ').map(|word| Line::of(Role::Plain, word)).collect();
        if let Some(first) = pieces.first_mut() {
            *first = start.join(std::mem::take(first));
        }
        page.flow(2, widest + 18, " ", &pieces);
    }
    if sorted.len() > shown {
        let rest = &sorted[shown..];
        let of = |verdict| grouped(rest.iter().filter(|process| process.verdict == verdict).count() as u64);
        let text = format!(
            "… and {} more: {} leaking, {} inconclusive, {} clean (--all lists them)",
            processes(rest.len()),
            of(Verdict::Leaks),
            of(Verdict::Inconclusive),
            of(Verdict::Clean)
        );
        page.line(2, &Line::of(Role::Dim, text));
    }
}

/// The processes, those first that somebody must look at.
pub(super) fn worst_first(run: &RunReport) -> Vec<&Report> {
    let mut sorted: Vec<&Report> = run.processes.iter().collect();
    sorted.sort_by_key(|process| match process.verdict {
        Verdict::Leaks => 0,
        Verdict::Inconclusive => 1,
        Verdict::Clean => 2,
    });
    sorted
}

/// The program and the start of its arguments: of ten `python3.11` the name alone tells nothing.
pub(super) fn label(target: &Target) -> String {
    let mut label = summary::program(target).to_string();
    for word in target.argv.iter().skip(1) {
        // Of a path the end tells more.
        let word = word.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(word);
        label.push(' ');
        label.push_str(word);
        if width(&label) > LABEL {
            return label.chars().take(LABEL - 1).chain(std::iter::once('…')).collect();
        }
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::report::verdict;

    fn plain(run: &RunReport) -> String {
        text(run, &TextOptions::default())
    }

    #[test]
    fn a_leak_of_many_processes_stands_once_below_the_table() {
        let mut run = sample::run();
        run.processes = vec![sample::clean(), sample::leaking(), sample::leaking()];
        let shown = plain(&run);
        let group = &findings(&run)[0].group;
        assert_eq!(shown.matches(&format!("group {}", group.id)).count(), 1, "{shown}");
        assert!(shown.contains("in 2 processes: pids "), "{shown}");
        let rows: Vec<&str> = shown.lines().skip_while(|line| !line.contains("verdict")).skip(1).take(3).collect();
        let verdicts: Vec<bool> = rows.iter().map(|row| row.contains(" leaks ")).collect();
        assert_eq!(verdicts, [true, true, false], "{shown}");
        assert!(rows[2].contains("clean") && rows[2].contains("none ("), "{shown}");
        assert!(shown.trim_end().ends_with("exit status 1, decided by: leaks"), "{shown}");
    }

    #[test]
    fn what_could_not_be_judged_comes_with_a_remedy() {
        let run = verdict::sum_up(vec!["make".into()], None, 1, vec![sample::inconclusive(), sample::clean()]);
        let shown = plain(&run);
        assert!(shown.starts_with("avleak ci: INCONCLUSIVE — make\n"), "{shown}");
        assert!(shown.contains("why: ") && shown.contains("do: ") && shown.contains("unknown ("), "{shown}");
        let none = plain(&verdict::sum_up(vec!["make".into()], None, 1, Vec::new()));
        assert!(none.contains("no process used FFmpeg") && none.contains("--allow-inconclusive"), "{none}");
        assert!(none.contains("exit status 3, decided by: inconclusive"), "{none}");
    }

    #[test]
    fn a_thousand_processes_fit_a_screen() {
        let many = (0..1000).map(|_| sample::clean()).collect();
        let shown = plain(&verdict::sum_up(vec!["make".into()], None, 1, many));
        assert!(shown.lines().count() < 40, "{shown}");
        assert!(shown.contains("980 processes more: 0 leaking, 0 inconclusive, 980 clean"), "{shown}");
    }

    #[test]
    fn a_process_is_told_by_its_arguments() {
        let mut target = sample::clean().target;
        target.exe = "/usr/bin/python3.11".into();
        target.argv = ["python", "-m", "pytest", "/very/long/path/tests/test_thumbnails.py", "-k", "seek"]
            .map(str::to_owned)
            .into();
        assert_eq!(label(&target), "python3.11 -m pytest test_thumbnails.py…");
        target.argv = vec!["python".into()];
        assert_eq!(label(&target), "python3.11");
    }
}
