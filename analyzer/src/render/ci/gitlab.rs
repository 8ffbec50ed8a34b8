//! GitLab's code-quality report: <https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format>.

use serde::Serialize;

use super::findings::{Finding, findings};
use super::workspace::Workspace;
use crate::report::model::{Class, RunReport};

/// One entry of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// What a person reads.
    pub description: String,
    /// The rule: `avleak-definitely-lost` and the like.
    pub check_name: String,
    /// The leak group's id: by it GitLab tells new from known.
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
    findings(run).iter().map(|finding| issue(finding, workspace)).collect()
}

fn issue(finding: &Finding, workspace: &Workspace) -> Issue {
    let group = &finding.group;
    let (path, begin) = match workspace.place(&group.stack) {
        Some(place) => (place.path, place.line),
        None => {
            (finding.processes.first().map_or_else(String::new, |process| program(&process.target.exe, workspace)), 1)
        }
    };
    Issue {
        description: format!("{}: {}", finding.title(), finding.sentence()),
        check_name: format!("avleak-{}", group.class.key().replace('_', "-")),
        fingerprint: group.id.clone(),
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
    fn severity_follows_what_a_leak_costs() {
        assert_eq!(severity(Class::IndirectlyLost, 1), "critical");
        assert_eq!(severity(Class::DefinitelyLost, 0), "major");
        assert_eq!(severity(Class::PossiblyLost, 1 << 20), "minor");
        assert_eq!(severity(Class::StillReachable, 1 << 20), "info");
    }
}
