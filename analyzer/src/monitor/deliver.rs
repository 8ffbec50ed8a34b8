//! Brings alerts to whom they are for: a line in a file, the report beside it, a command.
//!
//! The command is a program, started as it is named: no shell reads it or what it is told, which comes from names in a program that is
//! watched. It is told in its environment (`AVLEAK_ALERT_…`) and on stdin.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::fs::MemfdFlags;

use super::alert::{Alert, Reason};
use super::settings::Settings;
use crate::render::{errno, json};
use crate::report::model::Report;
use crate::target::child;

/// Reports of so many alerts of one process id lie there; then the oldest is replaced.
const REPORTS: u64 = 16;
/// Alerts that wait for the command before them.
const WAITING: usize = 64;
/// A command that takes longer is killed.
const LONGEST_COMMAND: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whom to tell a line: whoever started avleak.
pub type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Where alerts go.
pub struct Delivery {
    settings: Settings,
    commands: Option<Sender<Box<Alert>>>,
    say: Say,
}

impl Delivery {
    /// As the settings say.
    pub fn new(settings: Settings, say: Say) -> Self {
        let commands = settings.command.clone().and_then(|program| {
            let (sender, alerts) = bounded(WAITING);
            let for_thread = say.clone();
            let thread = std::thread::Builder::new().name("alerts".into());
            match thread.spawn(move || run_commands(&program, &alerts, &for_thread)) {
                Ok(_) => Some(sender),
                Err(error) => {
                    say(format!("alert_command will not be run: cannot start a thread for it: {error}"));
                    None
                }
            }
        });
        Self { settings, commands, say }
    }

    /// Tells of the alerts of one check. The text of each goes to whoever started avleak too.
    pub fn deliver(&self, alerts: Vec<Alert>, report: &Report) {
        if alerts.is_empty() {
            return;
        }
        let file = Path::new(&self.settings.file);
        let beside = report_path(file, report.target.pid);
        let written = match json::write(&beside, report) {
            Ok(()) => Some(beside.display().to_string()),
            Err(error) => {
                (self.say)(error.to_string());
                None
            }
        };
        for mut alert in alerts {
            alert.report.clone_from(&written);
            if let Err(error) = append(file, &line(&alert)) {
                (self.say)(format!("cannot add an alert to {}: {}", file.display(), errno::name(&error)));
            }
            (self.say)(format!("alert: {}", alert.message));
            if let Some(Err(TrySendError::Full(lost))) =
                self.commands.as_ref().map(|commands| commands.try_send(Box::new(alert)))
            {
                (self.say)(format!("alert_command is still busy with {WAITING} alerts: not told: {}", lost.message));
            }
        }
    }
}

/// `avleak.812.alert-3.json` beside the file of alerts: the first that is not there, or the oldest. An earlier process may have had the same id.
fn report_path(file: &Path, pid: u32) -> PathBuf {
    let paths = (1..=REPORTS).map(|number| file.with_file_name(format!("avleak.{pid}.alert-{number}.json")));
    let written = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    // None comes before all times, and the first of equals is taken.
    paths.min_by_key(written).unwrap_or_else(|| file.with_file_name(format!("avleak.{pid}.alert-1.json")))
}

fn line(alert: &Alert) -> Vec<u8> {
    // Numbers that are none become null; nothing else can go wrong.
    let mut line = serde_json::to_vec(alert).unwrap_or_default();
    line.push(b'\n');
    line
}

/// One write to the end of the file as it is named now: logs are rotated, and several processes may write here.
fn append(file: &Path, line: &[u8]) -> std::io::Result<()> {
    // A FIFO that nobody reads would hold up the checks.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).custom_flags(nonblocking).open(file)?.write_all(line)
}

/// Runs the command for each alert, one at a time, until nobody sends any more.
fn run_commands(program: &str, alerts: &Receiver<Box<Alert>>, say: &Say) {
    for alert in alerts {
        if let Err(why) = run_command(program, &alert) {
            say(format!("alert_command {program}: {why}"));
        }
    }
}

fn run_command(program: &str, alert: &Alert) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot be run: {}", errno::name(&error));
    // A file, not a pipe: a command that does not read is not waited for.
    let mut told =
        File::from(rustix::fs::memfd_create("avleak-alert", MemfdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?);
    told.write_all(&line(alert)).and_then(|()| told.rewind()).map_err(cannot)?;
    let mut command = Command::new(program);
    command.stdin(told).stdout(Stdio::null()).stderr(Stdio::null()).envs(environment(alert));
    child::receiving_requests_to_end(&mut command);
    let mut child = command.spawn().map_err(cannot)?;
    let until = Instant::now() + LONGEST_COMMAND;
    loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{status}")),
            None if Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("ran for more than {} s and was killed", LONGEST_COMMAND.as_secs()));
            }
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// What is told in the environment.
fn environment(alert: &Alert) -> Vec<(&'static str, String)> {
    let reasons: Vec<&str> = alert.reasons.iter().copied().map(Reason::key).collect();
    let mut told = vec![
        ("AVLEAK_ALERT_MESSAGE", alert.message.clone()),
        ("AVLEAK_ALERT_REASONS", reasons.join(",")),
        ("AVLEAK_ALERT_PID", alert.pid.to_string()),
        ("AVLEAK_ALERT_PROCESS", alert.process.clone()),
        ("AVLEAK_ALERT_COUNT", alert.count.to_string()),
        ("AVLEAK_ALERT_PINNED_BYTES", alert.pinned_bytes.to_string()),
        ("AVLEAK_ALERT_LOST_FRAMES", alert.leaks.frames.to_string()),
    ];
    if let Some(about) = &alert.group {
        told.push(("AVLEAK_ALERT_GROUP", about.id.clone()));
        told.push(("AVLEAK_ALERT_OBJECT", about.object.clone()));
        told.extend(about.class.map(|class| ("AVLEAK_ALERT_CLASS", class.key().to_owned())));
    }
    told.extend(alert.growth.map(|growth| ("AVLEAK_ALERT_PER_HOUR", format!("{:.1}", growth.per_hour))));
    told.extend(alert.report.clone().map(|report| ("AVLEAK_ALERT_REPORT", report)));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_alerts_are_kept_up_to_a_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = || report_path(&folder.path().join("alerts.ndjson"), 812);
        let began = std::time::SystemTime::UNIX_EPOCH;
        for number in 1..=20_u64 {
            let expected = format!("avleak.812.alert-{}.json", (number - 1) % REPORTS + 1);
            assert_eq!(path(), folder.path().join(expected));
            let file = File::create(path()).expect("a report");
            file.set_modified(began + Duration::from_secs(number)).expect("its time");
        }
        assert_eq!(report_path(Path::new("alerts"), 1), Path::new("avleak.1.alert-1.json"));
    }

    #[test]
    fn a_fifo_without_a_reader_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        let error = append(&fifo, b"line\n").expect_err("nobody reads");
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    }

    #[test]
    fn lines_are_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("alerts.ndjson");
        append(&file, b"one\n").and_then(|()| append(&file, b"two\n")).expect("two lines");
        assert_eq!(std::fs::read(&file).expect("the file"), b"one\ntwo\n");
    }
}
