//! Finds out where a process comes from, while it lives.

use std::fs::File;
use std::io::Read;

use avleak_wire::options;

use crate::report::origin::Origin;
use crate::symbols;

/// Longest name that is kept, bytes: it becomes part of every report.
const LONGEST: usize = 128;
/// Bytes of an environment that are looked through.
const MOST_ENVIRONMENT: u64 = 1 << 20;

/// Of a living thread of the process; `exe` as /proc names it.
pub fn of(tid: i32) -> Origin {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let cgroups = std::fs::read_to_string(format!("/proc/{tid}/cgroup")).unwrap_or_default();
    let environment = environment(tid);
    let theirs = |name: &str| variable(&environment, name).unwrap_or_default();
    let ours = |name: &str| std::env::var(name).unwrap_or_default();
    // Its own word first: one analyzer may serve many, which are told nothing by its environment.
    let named = service_option(&theirs("AVLEAK_OPTIONS"))
        .or_else(|| tidied(&theirs("OTEL_SERVICE_NAME")))
        .or_else(|| service_option(&ours("AVLEAK_OPTIONS")))
        .or_else(|| tidied(&ours("OTEL_SERVICE_NAME")));
    // By /proc: the file may be gone, or another one by now.
    let build_id = File::open(format!("/proc/{tid}/exe")).ok().and_then(|file| symbols::build_id(&file));
    Origin { host: tidied(&host), service: named.or_else(|| systemd_unit(&cgroups)), build_id }
}

/// The environment that the process was started with; empty where it may not be read.
fn environment(tid: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{tid}/environ")) {
        // Where reading fails half way, what was read is as true.
        let _ = file.take(MOST_ENVIRONMENT).read_to_end(&mut bytes);
    }
    bytes
}

fn variable(environment: &[u8], name: &str) -> Option<String> {
    let mut all = environment.split(|&byte| byte == 0);
    let value = all.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn service_option(text: &str) -> Option<String> {
    let mut service = None;
    options::parse(
        text,
        |key, value| {
            if key == "service" {
                service = tidied(value)
            }
        },
        |_| (),
    );
    service
}

/// The innermost unit: `0::/system.slice/stream.service/worker` is part of `stream.service`. A login session is none.
fn systemd_unit(cgroups: &str) -> Option<String> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut parts = paths.flat_map(|path| path.rsplit('/'));
    let unit = parts.find_map(|part| part.strip_suffix(".service").filter(|name| !name.starts_with("user@")))?;
    tidied(unit)
}

fn tidied(name: &str) -> Option<String> {
    let name: String = name.trim().chars().filter(|character| !character.is_control()).collect();
    let end = name.char_indices().map(|(at, character)| at + character.len_utf8()).take_while(|&end| end <= LONGEST);
    let end = end.last().unwrap_or(0);
    (end > 0).then(|| name[..end].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_names_the_service() {
        assert_eq!(service_option("quiet=1:service=live-eu:level=strict").as_deref(), Some("live-eu"));
        assert_eq!(service_option("quiet=1"), None);
    }

    #[test]
    fn a_systemd_unit_is_a_service_and_a_login_is_not() {
        let unit = |text: &str| systemd_unit(text);
        assert_eq!(unit("0::/system.slice/stream.service\n").as_deref(), Some("stream"));
        assert_eq!(
            unit("12:pids:/\n1:name=systemd:/system.slice/stream@2.service/worker\n").as_deref(),
            Some("stream@2")
        );
        assert_eq!(unit("0::/user.slice/user-0.slice/user@0.service/app.slice/vte.scope\n"), None);
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn names_are_bounded_and_without_control_characters() {
        assert_eq!(tidied(" a\u{1b}[31mb\n").as_deref(), Some("a[31mb"));
        assert_eq!(tidied(&"ä".repeat(100)).map(|name| name.len()), Some(128));
        assert_eq!(tidied("\n"), None);
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = b"XOTEL_SERVICE_NAME=no\0OTEL_SERVICE_NAME=live-eu\0OTEL_SERVICE_NAMES=no\0";
        assert_eq!(variable(environment, "OTEL_SERVICE_NAME").as_deref(), Some("live-eu"));
        assert_eq!(variable(environment, "AVLEAK_OPTIONS"), None);
        assert!(!environment_of_this().is_empty());
    }

    fn environment_of_this() -> Vec<u8> {
        environment(std::process::id() as i32)
    }

    #[test]
    fn this_process_has_a_host_and_a_build() {
        let origin = of(std::process::id() as i32);
        assert!(origin.host.is_some());
        // Rust's linker gives build ids where it is told to; what is there is hex.
        assert!(origin.build_id.is_none_or(|id| id.len() >= 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
