//! The door of a process under watch: a socket at which anybody who may can ask for a check of it, or how it stands, while it lives.
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

use crate::board::state::Process;
use crate::report::model::{Group, Level, Report};

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

/// What is asked for. A check as the first version asked for one, so that a new `avleak check` can ask an old analyzer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Request {
    /// A check of one's own.
    Check(Question),
    /// For `avleak top`.
    Look {
        /// At what.
        look: Look,
    },
}

/// What `avleak top` asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// How the process stands: it is neither checked nor stopped for that.
    State,
    /// The same after a check, at the level of the watch, which is kept for whoever looks next.
    Check,
    /// All that is known of these groups.
    Groups {
        /// Of the allocation stack, see [`crate::board::living::key`].
        key: String,
        /// C type of the objects.
        object: String,
    },
}

/// A check that is asked for.
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

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The report.
    Report(Box<Report>),
    /// How the process stands.
    State(Box<Process>),
    /// Groups, and seconds from arming to when they were so.
    Groups {
        /// They.
        groups: Vec<Group>,
        /// Seconds.
        duration_s: f64,
    },
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
    /// For what.
    pub request: Request,
    /// Where the answer goes.
    connection: UnixStream,
}

impl Asked {
    /// Whether the session's file is to follow the answer.
    pub fn wants_session(&self) -> bool {
        matches!(self.request, Request::Check(Question { session: true, .. }))
    }

    /// Answers.
    pub fn answer(self, answer: &Answer) {
        self.answer_with(answer, None);
    }

    /// Answers, with the session's file behind the line.
    pub fn answer_with(self, answer: &Answer, session: Option<&[u8]>) {
        send(self.connection, answer, session.unwrap_or(&[]));
    }
}

fn send(mut connection: UnixStream, answer: &Answer, behind: &[u8]) {
    if let Ok(mut line) = serde_json::to_vec(answer) {
        line.push(b'\n');
        // Who asked may have gone.
        let _ = connection.write_all(&line).and_then(|()| connection.write_all(behind));
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
        let line = format!("the analyzer of this process runs as user {own}: ask as that user or as root");
        send(connection, &Answer::Error(line), &[]);
        return None;
    }
    let mut line = String::new();
    BufReader::new((&connection).take(LONGEST_QUESTION)).read_line(&mut line).ok()?;
    match serde_json::from_str(&line) {
        Ok(request) => {
            (&connection).write_all(UNDERSTOOD.as_bytes()).ok()?;
            Some(Asked { request, connection })
        }
        Err(error) => {
            let text =
                format!("the analyzer did not understand the question ({error}): are both of one version of avleak?");
            send(connection, &Answer::Error(text), &[]);
            None
        }
    }
}

/// Asks for a check of a process. Returns the report, and the session's file where that was asked for.
///
/// # Errors
/// A line: it cannot be asked, or why there is no report.
pub fn ask(pid: i32, question: &Question) -> Result<(Report, Vec<u8>), String> {
    match request(pid, &Request::Check(question.clone()))? {
        (Answer::Report(report), session) => Ok((*report, session)),
        _ => Err(other_answer(pid)),
    }
}

/// Asks how a process stands, after a check of it or without.
///
/// # Errors
/// As of [`ask`].
pub fn state(pid: i32, checked: bool) -> Result<Process, String> {
    let look = if checked { Look::Check } else { Look::State };
    match request(pid, &Request::Look { look })? {
        (Answer::State(state), _) => Ok(*state),
        _ => Err(other_answer(pid)),
    }
}

/// Asks for the groups of `object` whose stack is `key`; with them comes how long after arming they were so, in seconds.
///
/// # Errors
/// As of [`ask`].
pub fn groups(pid: i32, key: &str, object: &str) -> Result<(Vec<Group>, f64), String> {
    match request(pid, &Request::Look { look: Look::Groups { key: key.into(), object: object.into() } })? {
        (Answer::Groups { groups, duration_s }, _) => Ok((groups, duration_s)),
        _ => Err(other_answer(pid)),
    }
}

fn other_answer(pid: i32) -> String {
    format!("the answer about pid {pid} is to another question: are both of one version of avleak?")
}

/// The answer, and what is behind its line.
fn request(pid: i32, request: &Request) -> Result<(Answer, Vec<u8>), String> {
    let cannot = |error: std::io::Error| format!("cannot ask about pid {pid}: {}", crate::render::errno::name(&error));
    let mut connection =
        address(pid).and_then(|address| UnixStream::connect_addr(&address)).map_err(|_| nobody(pid))?;
    let peer = rustix::net::sockopt::socket_peercred(connection.as_fd()).map_err(|error| cannot(error.into()))?;
    let (peer, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
    if peer != 0 && peer != own && owner(pid) != Some(peer) {
        return Err(format!("who answers for pid {pid} is user {peer}, who has nothing to do with it: not asked"));
    }
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
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
        Ok(Answer::Error(line)) => Err(format!("pid {pid}: {line}")),
        Ok(answer) => {
            let mut behind = Vec::new();
            if matches!(request, Request::Check(Question { session: true, .. })) {
                reader.read_to_end(&mut behind).map_err(cannot)?;
            }
            Ok((answer, behind))
        }
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
        // Kernel threads have no mappings, and root may be one in a container only.
        Err(error) if rustix::process::geteuid().is_root() => format!("cannot look at pid {pid}: {error}"),
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
        let question = Question { level: Level::Normal, hold_s: 0.0, increased: false, session: false };
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
            assert_eq!(first.request, Request::Check(expected));
            first.answer_with(&Answer::Report(Box::new(sample::leaking())), Some(b"a\nb"));
            asked.recv().unwrap().answer(&Answer::Error("busy".into()));
            let look: Asked = asked.recv().unwrap();
            assert_eq!(look.request, Request::Look { look: Look::State });
            look.answer(&Answer::State(Box::new(Process { pid: 812, checks: 3, ..Process::default() })));
            let groups: Asked = asked.recv().unwrap();
            let wanted = Look::Groups { key: "0a".into(), object: "AVFrame".into() };
            assert_eq!(groups.request, Request::Look { look: wanted });
            groups.answer(&Answer::Groups { groups: vec![sample::plain_group()], duration_s: 2.5 });
            asked.recv().unwrap().answer(&Answer::Groups { groups: Vec::new(), duration_s: 0.0 });
            asked
        });
        assert_eq!(ask(pid, &question), Ok((sample::leaking(), b"a\nb".to_vec())));
        assert_eq!(ask(pid, &question), Err(format!("pid {pid}: busy")));
        assert_eq!(state(pid, false), Ok(Process { pid: 812, checks: 3, ..Process::default() }));
        assert_eq!(groups(pid, "0a", "AVFrame"), Ok((vec![sample::plain_group()], 2.5)));
        assert_eq!(state(pid, true), Err(other_answer(pid)));
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
