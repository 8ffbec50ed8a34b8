//! The door of a process under watch: a socket at which anybody who may can ask for a check of it while it lives.
//!
//! An abstract unix socket named after the process (`@avleak-of-PID`), one JSON line each way. Who asks must be root or the analyzer's own
//! user; who is asked must be root, the asker's user, or the process's.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};

use crate::report::model::{Level, Report};

/// The names of all doors begin so.
const PREFIX: &str = "avleak-of-";
/// A question is shorter.
const LONGEST_QUESTION: u64 = 4096;
/// How long whoever opens the door may take to ask.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an analyzer may take to say that it has understood.
const NOTICE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take: the largest processes take seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);
/// The line by which an analyzer says that it has understood.
const UNDERSTOOD: &str = "understood\n";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What counts as a leak.
    pub level: Level,
    /// Objects that are younger are not judged, seconds.
    pub hold_s: f64,
    /// Only what was not lost at the last check.
    pub increased: bool,
    /// The session's file is to follow the report.
    #[serde(default)]
    pub session: bool,
}

impl Question {
    /// In place of one that could not be read.
    const NONE: Self = Self { level: Level::Normal, hold_s: 0.0, increased: false, session: false };
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The report.
    Report(Box<Report>),
    /// Why there is none, a line.
    Error(String),
}

/// An open door. Dropping it closes it.
#[derive(Debug)]
pub struct Door {
    listener: OwnedFd,
}

impl Drop for Door {
    fn drop(&mut self) {
        // Its thread wakes up and ends.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// Somebody asks.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub question: Question,
    /// Where the answer goes.
    connection: UnixStream,
}

impl Asked {
    /// Answers.
    pub fn answer(self, answer: &Answer) {
        self.answer_with(answer, None);
    }

    /// Answers, with the session's file behind the line.
    pub fn answer_with(mut self, answer: &Answer, session: Option<&[u8]>) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            // Who asked may have gone.
            let _ = self.connection.write_all(&line).and_then(|()| self.connection.write_all(session.unwrap_or(&[])));
        }
    }
}

fn address(pid: i32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{PREFIX}{pid}"))
}

/// Opens the door of a process; `None` where that cannot be: then it is watched as before, and cannot be asked.
pub fn open<T: Send + 'static>(
    pid: i32,
    sender: Sender<T>,
    wrap: impl Fn(Asked) -> T + Send + 'static,
) -> Option<Door> {
    let listener = UnixListener::bind_addr(&address(pid).ok()?).ok()?;
    let door = Door { listener: listener.as_fd().try_clone_to_owned().ok()? };
    let thread = std::thread::Builder::new().name(format!("door-{pid}"));
    thread
        .spawn(move || {
            let own = rustix::process::geteuid().as_raw();
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                if let Some(asked) = asked(connection, own)
                    && sender.send(wrap(asked)).is_err()
                {
                    return;
                }
            }
        })
        .ok()?;
    Some(door)
}

fn asked(connection: UnixStream, own: u32) -> Option<Asked> {
    let peer = rustix::net::sockopt::socket_peercred(connection.as_fd()).ok()?.uid.as_raw();
    let _ = connection.set_read_timeout(Some(PATIENCE));
    let _ = connection.set_write_timeout(Some(PATIENCE));
    if peer != 0 && peer != own {
        let refusal = Asked { question: Question::NONE, connection };
        refusal.answer(&Answer::Error(format!(
            "the analyzer of this process runs as user {own}: ask as that user or as root"
        )));
        return None;
    }
    let mut line = String::new();
    BufReader::new((&connection).take(LONGEST_QUESTION)).read_line(&mut line).ok()?;
    match serde_json::from_str(&line) {
        Ok(question) => {
            (&connection).write_all(UNDERSTOOD.as_bytes()).ok()?;
            Some(Asked { question, connection })
        }
        Err(error) => {
            let question = Question::NONE;
            let text =
                format!("the analyzer did not understand the question ({error}): are both of one version of avleak?");
            Asked { question, connection }.answer(&Answer::Error(text));
            None
        }
    }
}

/// Asks about a process. Returns the report, and the session's file where that was asked for.
///
/// # Errors
/// A line: it cannot be asked, or why there is no report.
pub fn ask(pid: i32, question: &Question) -> Result<(Report, Vec<u8>), String> {
    let cannot = |error: std::io::Error| format!("cannot ask about pid {pid}: {}", crate::render::errno::name(&error));
    let mut connection =
        address(pid).and_then(|address| UnixStream::connect_addr(&address)).map_err(|_| nobody(pid))?;
    let peer = rustix::net::sockopt::socket_peercred(connection.as_fd()).map_err(|error| cannot(error.into()))?;
    let (peer, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
    if peer != 0 && peer != own && owner(pid) != Some(peer) {
        return Err(format!("who answers for pid {pid} is user {peer}, who has nothing to do with it: not asked"));
    }
    let mut line = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let _ = connection.set_write_timeout(Some(NOTICE_PATIENCE));
    let _ = connection.set_read_timeout(Some(NOTICE_PATIENCE));
    // Who refuses may have answered and gone before it was asked.
    let written = connection.write_all(&line);
    let mut reader = BufReader::new(&connection);
    let mut text = String::new();
    let mut read = reader.read_line(&mut text);
    if read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
        return Err(format!("the analyzer of pid {pid} does not answer: is it stopped?"));
    }
    if text == UNDERSTOOD {
        text.clear();
        let _ = connection.set_read_timeout(Some(ANSWER_PATIENCE));
        read = reader.read_line(&mut text);
    }
    if text.is_empty() {
        written.map_err(cannot)?;
        read.map_err(cannot)?;
    }
    match serde_json::from_str(&text) {
        Ok(Answer::Report(report)) => {
            let mut session = Vec::new();
            if question.session {
                reader.read_to_end(&mut session).map_err(cannot)?;
            }
            Ok((*report, session))
        }
        Ok(Answer::Error(line)) => Err(format!("pid {pid}: {line}")),
        Err(_) if text.is_empty() => Err(format!("pid {pid} ended, or its analyzer did, before there was an answer")),
        Err(error) => {
            Err(format!("the answer about pid {pid} makes no sense ({error}): are both of one version of avleak?"))
        }
    }
}

fn owner(pid: i32) -> Option<u32> {
    rustix::fs::stat(format!("/proc/{pid}")).ok().map(|stat| stat.st_uid)
}

/// Why nobody answers for a process, and what to do.
fn nobody(pid: i32) -> String {
    let Some(tid) = crate::target::threads::live_thread(pid) else {
        return format!("there is no process {pid}");
    };
    match crate::target::maps::read_maps(tid) {
        Err(_) => format!("cannot look at pid {pid}: ask as the user that it runs as, or as root"),
        Ok(maps) => {
            let has = |prefix: &str| {
                let mut names = maps.iter().filter_map(|mapping| mapping.path()?.file_name());
                names.any(|name| name.to_string_lossy().starts_with(prefix))
            };
            if !has("libavleak.so") {
                format!(
                    "pid {pid} runs without libavleak.so: start it by `avleak run`, or with LD_PRELOAD set to that library"
                )
            } else if maps.iter().any(|mapping| mapping.is_memfd() && mapping.name == "/memfd:avleak") {
                format!("the analyzer of pid {pid} has ended, or runs in another network namespace: ask there")
            } else {
                format!("pid {pid} has not used FFmpeg yet: there is nothing to check")
            }
        }
    }
}

/// The processes with a door, ascending.
///
/// # Errors
/// Where the kernel does not tell.
pub fn all() -> Result<Vec<i32>, String> {
    let table = std::fs::read_to_string("/proc/net/unix")
        .map_err(|error| format!("cannot read /proc/net/unix: {}", crate::render::errno::name(&error)))?;
    let pid = |line: &str| line.rsplit_once(&format!(" @{PREFIX}"))?.1.parse().ok();
    let mut pids: Vec<i32> = table.lines().filter_map(pid).collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// As of an analyzer that was stopped: connections come, and nobody takes them.
    #[test]
    fn who_does_not_answer_is_not_waited_for_long() {
        let pid = -(std::process::id() as i32) - 1;
        let _listener = UnixListener::bind_addr(&address(pid).unwrap()).unwrap();
        let question = Question::NONE;
        assert_eq!(ask(pid, &question), Err(format!("the analyzer of pid {pid} does not answer: is it stopped?")));
    }

    #[test]
    fn who_asks_is_answered_until_the_door_is_closed() {
        let pid = std::process::id() as i32;
        let (sender, asked) = crossbeam_channel::unbounded();
        let door = open(pid, sender, |asked| asked).expect("a door");
        assert!(all().unwrap().contains(&pid));
        let question = Question { level: Level::Strict, hold_s: 1.5, increased: true, session: true };
        let expected = question.clone();
        let answering = std::thread::spawn(move || {
            let first: Asked = asked.recv().unwrap();
            assert_eq!(first.question, expected);
            first.answer_with(&Answer::Report(Box::new(sample::leaking())), Some(b"a\nb"));
            asked.recv().unwrap().answer(&Answer::Error("busy".into()));
            asked
        });
        assert_eq!(ask(pid, &question), Ok((sample::leaking(), b"a\nb".to_vec())));
        assert_eq!(ask(pid, &question), Err(format!("pid {pid}: busy")));
        let _asked = answering.join().unwrap();
        drop(door);
        // Its thread may still be on its way out.
        while UnixStream::connect_addr(&address(pid).unwrap()).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            ask(pid, &question),
            Err(format!(
                "pid {pid} runs without libavleak.so: start it by `avleak run`, or with LD_PRELOAD set to that library"
            ))
        );
        assert_eq!(ask(i32::MAX, &question), Err(format!("there is no process {}", i32::MAX)));
    }

    #[test]
    fn nonsense_is_answered_by_a_line() {
        let pid = -(std::process::id() as i32);
        let (sender, _asked) = crossbeam_channel::unbounded();
        let _door = open(pid, sender, |asked| asked).expect("a door");
        let mut connection = UnixStream::connect_addr(&address(pid).unwrap()).unwrap();
        connection.write_all(b"{\"level\": \"lax\"}\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("{\"error\":\"the analyzer did not understand the question"), "{text}");
    }
}
