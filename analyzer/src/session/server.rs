//! Where processes register: takes a segment over a unix socket, starts its drain, has the process traced, answers.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use avleak_wire::layout::{MAGIC, MAJOR};
use avleak_wire::registration::{ANSWER_REFUSED, ANSWER_TRACED, ANSWER_UNTRACED, ANSWER_WRONG_VERSION, Answer, Hello};
use crossbeam_channel::Sender;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::drain::Drain;
use super::segment::{Segment, SegmentError};
use crate::address::TargetRange;

/// How long a process may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(1);

/// A process that registered.
pub struct Session {
    /// In the analyzer's pid namespace.
    pub pid: i32,
    /// Its executable, as /proc names it.
    pub exe: PathBuf,
    /// Its command line.
    pub argv: Vec<String>,
    /// The target's root folder as seen from here, where it is not ours.
    pub root: Option<PathBuf>,
    /// Why it is not traced; `None` where it is.
    pub untraced: Option<String>,
    /// Refers to the process itself, not to a later one with the same id.
    pub pidfd: Option<OwnedFd>,
    /// What was writable when it registered, ascending; everything where that is not known.
    pub writable_before: Vec<TargetRange>,
    /// The drain.
    pub drain: Drain,
}

/// What the server tells.
pub enum ServerEvent {
    /// A process registered.
    Registered(Box<Session>),
    /// A process was refused, or could not be taken: one line.
    Refused(String),
    /// The one connection of `serve --descriptor` ended without a segment.
    Closed,
}

/// How a registered process is traced: asks the tracer. `Err`: why not.
pub type Trace = Arc<dyn Fn(i32) -> Result<(), String> + Send + Sync>;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for processes on the socket {name}: {source}")]
pub struct ServerError {
    name: String,
    source: std::io::Error,
}

/// Listens on a fresh abstract socket (chroot and changed uids do not cut it off); returns the value for AVLEAK_SOCKET.
///
/// # Errors
/// Where no socket can be made or no thread started.
pub fn listen(trace: Trace, events: Sender<ServerEvent>) -> Result<String, ServerError> {
    use std::hash::BuildHasher;
    let random = std::collections::hash_map::RandomState::new().hash_one(std::process::id());
    let name = format!("@avleak-{}-{random:016x}", std::process::id());
    let error = |source| ServerError { name: name.clone(), source };
    let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).map_err(error)?;
    let listener = UnixListener::bind_addr(&address).map_err(error)?;
    std::thread::Builder::new()
        .name("avleak-server".into())
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                let event = receive(connection, &trace);
                if events.send(event).is_err() {
                    return;
                }
            }
        })
        .map_err(error)?;
    Ok(name)
}

/// Takes the one process at the other end of `connection`.
pub fn receive(connection: UnixStream, trace: &Trace) -> ServerEvent {
    let _ = connection.set_read_timeout(Some(HELLO_PATIENCE));
    let _ = connection.set_write_timeout(Some(HELLO_PATIENCE));
    let answer = |mut connection: &UnixStream, status| {
        // A process that did not wait has its answer lost; it goes on watched.
        let _ = connection.write_all(&Answer { magic: MAGIC, status, reserved: 0 }.encode());
    };
    let Some((hello, descriptor)) = hello(&connection) else { return ServerEvent::Closed };
    let credentials = rustix::net::sockopt::socket_peercred(connection.as_fd());
    let pid = credentials.as_ref().map_or(0, |peer| peer.pid.as_raw_nonzero().get());
    if pid == 0 {
        answer(&connection, ANSWER_REFUSED);
        return ServerEvent::Refused(format!(
            "a process (pid {} in its own namespace) registered from a pid namespace that is not visible here; run avleak inside it",
            hello.pid
        ));
    }
    if hello.magic != MAGIC || hello.major != MAJOR {
        answer(&connection, ANSWER_WRONG_VERSION);
        let theirs = SegmentError::Version { theirs: hello.major };
        return ServerEvent::Refused(format!("pid {pid}: {theirs}"));
    }
    let segment = match Segment::map(descriptor) {
        Ok(segment) => segment,
        Err(error) => {
            answer(&connection, ANSWER_REFUSED);
            return ServerEvent::Refused(format!("pid {pid}: {error}"));
        }
    };
    // The leader may be a zombie already: its files are empty.
    let tid = crate::target::threads::live_thread(pid).unwrap_or(pid);
    let exe = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
    let argv = std::fs::read(format!("/proc/{tid}/cmdline"))
        .map(|bytes| {
            let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
            text.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        })
        .unwrap_or_default();
    let root = foreign_root(tid);
    // The process waits for the answer: this is its memory as avleak armed.
    let mut writable_before: Vec<TargetRange> = crate::target::maps::read_maps(tid)
        .map(|maps| maps.iter().filter(|mapping| mapping.writable).map(|mapping| mapping.range).collect())
        .unwrap_or_default();
    if writable_before.is_empty() {
        writable_before.push(TargetRange { start: 0, end: u64::MAX });
    }
    let pidfd = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    // The drain first: events come while the process is being seized.
    let drain = match Drain::start(segment, exe.clone(), root.clone(), format!("drain-{pid}")) {
        Ok(drain) => drain,
        Err(error) => {
            answer(&connection, ANSWER_REFUSED);
            return ServerEvent::Refused(format!("pid {pid}: cannot start a thread to drain its events: {error}"));
        }
    };
    let untraced = trace(pid).err();
    answer(&connection, if untraced.is_none() { ANSWER_TRACED } else { ANSWER_UNTRACED });
    ServerEvent::Registered(Box::new(Session { pid, exe, argv, root, untraced, pidfd, writable_before, drain }))
}

/// /proc/PID/root, where the process sees another root folder than we do.
fn foreign_root(pid: i32) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    let theirs = rustix::fs::stat(&path).ok()?;
    let ours = rustix::fs::stat("/").ok()?;
    (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino).then_some(path)
}

fn hello(connection: &UnixStream) -> Option<(Hello, OwnedFd)> {
    let mut bytes = [0; Hello::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.next().and_then(|mut list| list.next());
    if received.bytes != Hello::BYTES {
        return None;
    }
    Some((Hello::decode(&bytes), descriptor?))
}
