//! GitLab's code-quality report: <https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format>.

use std::collections::HashMap;

use serde::Serialize;

use super::findings::{Finding, findings};
use super::workspace::Workspace;
use crate::render::stack;
use crate::report::groups::GroupId;
use crate::report::model::{Class, Group, RunReport};

/// One entry of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// What a person reads.
    pub description: String,
    /// The rule: `avleak-definitely-lost` and the like.
    pub check_name: String,
    /// By it GitLab tells a new leak from a known one: [`fingerprint`].
    pub fingerprint: String,
    /// `info`, `minor`, `major`, `critical` or `blocker`.
    pub severity: &'static str,
    /// Where.
    pub location: Location,
}

/// A place in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Relative to the root of the repository; the program's name where no file of the repository is known.
    pub path: String,
    /// Where in the file.
    pub lines: Lines,
}

/// Lines of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// From 1.
    pub begin: u32,
}

/// The whole report; empty, not absent, where nothing leaked: GitLab compares it with the one before.
pub fn issues(run: &RunReport, workspace: &Workspace) -> Vec<Issue> {
    let mut findings = findings(run);
    // Two leaks of one function are told apart by their order in the file.
    findings.sort_by_key(|finding| workspace.place(&finding.group.stack).map(|place| (place.path, place.line)));
    let mut seen = HashMap::new();
    findings
        .iter()
        .map(|finding| {
            let number = seen.entry(fingerprint(&finding.group, 0)).and_modify(|n| *n += 1).or_insert(0);
            issue(finding, workspace, *number)
        })
        .collect()
}

/// What stays the same from one commit to the next: type, class, and the names in the stack, without lines and addresses. (A
/// group's id does not: it is made of build ids.) `number`: how many of the same names came before.
pub fn fingerprint(group: &Group, number: usize) -> String {
    let frames = group.stack.iter().filter(|frame| frame.libav).chain(stack::own_frames(&group.stack));
    let names: Vec<String> = frames
        .map(|frame| {
            let file = frame.file.as_deref().and_then(|file| file.rsplit('/').next()).unwrap_or_default();
            // The number in a library's name is that of its version.
            let module = frame.module.as_deref().and_then(|module| module.split(".so").next()).unwrap_or_default();
            format!("{} {file} {module}", frame.function.as_deref().unwrap_or_default())
        })
        .collect();
    GroupId::of(&format!("{}\n{}\n{number}", group.object, names.join("\n")), group.class, []).to_string()
}

fn issue(finding: &Finding, workspace: &Workspace, number: usize) -> Issue {
    let group = &finding.group;
    let (path, begin) = match workspace.place(&group.stack) {
        Some(place) => (place.path, place.line),
        None => {
            let name = finding.processes.first().map(|process| program(&process.target.exe, workspace));
            (name.unwrap_or_default(), 1)
        }
    };
    Issue {
        description: format!("{}: {}. Group {}", finding.title(), finding.sentence(), group.id),
        check_name: format!("avleak-{}", group.class.key().replace('_', "-")),
        fingerprint: fingerprint(group, number),
        severity: severity(group.class, group.pinned_bytes),
        location: Location { path, lines: Lines { begin } },
    }
}

fn program(exe: &str, workspace: &Workspace) -> String {
    let name = exe.rsplit('/').next().unwrap_or(exe);
    workspace.relative(exe.as_ref()).unwrap_or_else(|| name.to_owned())
}

/// Pinned buffers take a server down; an empty struct takes longer.
fn severity(class: Class, pinned_bytes: u64) -> &'static str {
    match class {
        Class::DefinitelyLost | Class::IndirectlyLost if pinned_bytes > 0 => "critical",
        Class::DefinitelyLost | Class::IndirectlyLost => "major",
        Class::PossiblyLost => "minor",
        Class::StillReachable | Class::Unclassified => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use std::path::Path;

    #[test]
    fn every_group_is_an_issue_with_all_that_gitlab_wants() {
        let mut run = sample::run();
        run.processes = vec![sample::leaking(), sample::leaking()];
        let nowhere = Path::new("/nonexistent");
        let issues = issues(&run, &Workspace::new(nowhere, nowhere));
        let groups = sample::leaking().groups.iter().filter(|group| group.leak).count();
        assert_eq!(issues.len(), groups);
        let value = serde_json::to_value(&issues).unwrap();
        for entry in value.as_array().unwrap() {
            assert!(entry["description"].as_str().is_some_and(|text| text.contains("lost: allocated by")), "{entry}");
            assert!(entry["check_name"].as_str().is_some_and(|name| name.starts_with("avleak-")), "{entry}");
            assert!(entry["fingerprint"].as_str().is_some_and(|id| id.len() == 16), "{entry}");
            assert!(entry["location"]["path"].as_str().is_some_and(|path| !path.is_empty() && !path.starts_with('/')));
            assert!(entry["location"]["lines"]["begin"].as_u64().is_some_and(|line| line > 0), "{entry}");
        }
        let mut prints: Vec<&str> = issues.iter().map(|issue| issue.fingerprint.as_str()).collect();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), issues.len(), "GitLab drops a second issue of one fingerprint");
    }

    #[test]
    fn a_fingerprint_outlives_a_build_and_tells_two_leaks_of_a_function_apart() {
        let mut leaking = sample::leaking();
        let group =
            leaking.groups.iter().find(|group| group.leak && stack::own_frame(&group.stack).is_some()).unwrap().clone();
        let mut rebuilt = group.clone();
        rebuilt.id = "00000000000000aa".into();
        for frame in &mut rebuilt.stack {
            frame.offset += 64;
            frame.line = frame.line.map(|line| line + 3);
        }
        assert_eq!(fingerprint(&group, 0), fingerprint(&rebuilt, 0));
        let mut renamed = group.clone();
        renamed.stack.iter_mut().for_each(|frame| frame.function = Some("other".into()));
        assert_ne!(fingerprint(&group, 0), fingerprint(&renamed, 0));
        leaking.groups = vec![rebuilt, group];
        let run = RunReport { processes: vec![leaking], ..sample::run() };
        let nowhere = Path::new("/nonexistent");
        let issues = issues(&run, &Workspace::new(nowhere, nowhere));
        assert_eq!(issues.len(), 2);
        assert_ne!(issues[0].fingerprint, issues[1].fingerprint, "GitLab would drop one");
    }

    #[test]
    fn severity_follows_what_a_leak_costs() {
        assert_eq!(severity(Class::IndirectlyLost, 1), "critical");
        assert_eq!(severity(Class::DefinitelyLost, 0), "major");
        assert_eq!(severity(Class::PossiblyLost, 1 << 20), "minor");
        assert_eq!(severity(Class::StillReachable, 1 << 20), "info");
    }
}
