//! Where processes register: takes a segment over a unix socket; starts its drain, has the process traced, answers.
//!
//! The two halves are in two processes: the keeper receives ([`listen`], [`receive`]) and keeps what it received, so that a segment outlives
//! the analyzer, which does the rest ([`register`]), once more where it was killed in the middle of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use avleak_wire::layout::{MAGIC, MAJOR};
use avleak_wire::registration::{ANSWER_REFUSED, ANSWER_TRACED, ANSWER_UNTRACED, ANSWER_WRONG_VERSION, Answer, Hello};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};

use super::drain::Drain;
use super::identity::Identity;
use super::origin;
use super::place::{Place, SocketFile};
use super::saved::{self, Head, Moment};
use super::segment::{Segment, SegmentError};
use super::vault::{self, Vault};
use crate::address::TargetRange;
use crate::golang::files::Files;
use crate::report::model::Ended;
use crate::report::origin::Origin;
use crate::target::maps::{self, Mapping};
use crate::target::threads;

/// How long a process may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(1);
/// So many may be waited for at the same time.
const MOST_SILENT: usize = 32;
/// After an accept failed: out of descriptors, perhaps.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A process that said hello.
pub struct Arrived {
    /// In avleak's pid namespace.
    pub pid: i32,
    /// Its end waits for an answer on this.
    pub connection: UnixStream,
    /// Its segment.
    pub segment: OwnedFd,
    /// Refers to the process itself, not to a later one with the same id.
    pub pidfd: Option<OwnedFd>,
}

/// What came over a connection.
pub enum Arrival {
    /// A process.
    Hello(Arrived),
    /// One that was refused: a line.
    Refused(String),
    /// Nothing.
    Closed,
}

/// A process whose segment the keeper has.
pub struct Registered {
    /// The keeper's number for it: pids come again.
    pub number: u64,
    /// What it said.
    pub arrived: Arrived,
    /// Where its session is kept for another analyzer.
    pub vault: Option<OwnedFd>,
}

/// A session under way.
pub struct Session {
    /// See [`Registered::number`].
    pub number: u64,
    /// In the analyzer's pid namespace.
    pub pid: i32,
    /// Its executable, as /proc names it.
    pub exe: PathBuf,
    /// Its command line.
    pub argv: Vec<String>,
    /// Host, service, build.
    pub origin: Origin,
    /// The target's root folder as seen from here, where it is not ours.
    pub root: Option<PathBuf>,
    /// Why it is not traced; `None` where it is.
    pub untraced: Option<String>,
    /// Refers to the process itself, not to a later one with the same id.
    pub pidfd: Option<OwnedFd>,
    /// What was writable when it registered, ascending; everything where that is not known.
    pub writable_before: Vec<TargetRange>,
    /// What its core file would be known by.
    pub identity: Identity,
    /// Its vault, for what its check finds.
    pub shelf: Option<File>,
    /// The drain.
    pub drain: Drain,
}

impl Session {
    /// What its file begins with.
    pub fn head(&self, ended: Option<Ended>) -> Head {
        Head {
            avleak: env!("CARGO_PKG_VERSION").into(),
            pid: self.pid,
            exe: self.exe.as_os_str().as_bytes().to_vec(),
            argv: self.argv.clone(),
            origin: self.origin.clone(),
            writable_before: self.writable_before.iter().map(|range| (range.start, range.end)).collect(),
            ended,
            identity: self.identity.clone(),
            moment: Moment::Ended,
            saved_ns: saved::now_ns(),
        }
    }
}

/// What came of a registration.
pub enum ServerEvent {
    /// A process is watched.
    Registered(Box<Session>),
    /// It could not be taken.
    Refused {
        /// Which.
        number: u64,
        /// Why: one line.
        line: String,
    },
}

/// How a registered process is traced: asks the tracer. `Err`: why not.
pub type Trace = Arc<dyn Fn(i32) -> Result<(), String> + Send + Sync>;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for processes on the socket {name}: {} ({})", crate::render::errno::name(.source), remedy(.source))]
pub struct ServerError {
    name: String,
    source: std::io::Error,
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another avleak listens there, or a file has that name: choose another one",
        Some(libc::ENOENT) => "create its folder first",
        _ => "choose another name",
    }
}

/// Listens, until the process ends. `take` is told of everybody who comes, until it says false.
///
/// # Errors
/// Where no socket can be made or no thread started.
pub fn listen(
    place: &Place,
    take: impl Fn(Arrival) -> bool + Clone + Send + 'static,
) -> Result<Option<SocketFile>, ServerError> {
    let error = |source| ServerError { name: place.name().to_owned(), source };
    let (listener, file) = place.bind().map_err(error)?;
    std::thread::Builder::new().name("avleak-server".into()).spawn(move || accept(&listener, &take)).map_err(error)?;
    Ok(file)
}

fn accept(listener: &UnixListener, take: &(impl Fn(Arrival) -> bool + Clone + Send + 'static)) {
    let silent = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            std::thread::sleep(AFTER_FAILURE);
            continue;
        };
        // Who says nothing holds up nobody else; unless there are many of those.
        let at_once = silent.fetch_add(1, Ordering::AcqRel);
        let (take_it, one) = (take.clone(), silent.clone());
        let receive_it = move |connection| {
            let arrival = receive(connection);
            one.fetch_sub(1, Ordering::AcqRel);
            take_it(arrival)
        };
        if at_once >= MOST_SILENT {
            if !receive_it(connection) {
                return;
            }
            continue;
        }
        let spawned = std::thread::Builder::new().name("avleak-hello".into()).spawn(move || receive_it(connection));
        if spawned.is_err() {
            // Whoever came sees its connection closed.
            silent.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn answer(mut connection: &UnixStream, status: u32) {
    // A process that did not wait has its answer lost; it goes on watched.
    let _ = connection.write_all(&Answer { magic: MAGIC, status, reserved: 0 }.encode());
}

/// Receives the one process at the other end of `connection`.
pub fn receive(connection: UnixStream) -> Arrival {
    let _ = connection.set_read_timeout(Some(HELLO_PATIENCE));
    let _ = connection.set_write_timeout(Some(HELLO_PATIENCE));
    let Some((hello, segment)) = hello(&connection) else { return Arrival::Closed };
    let credentials = rustix::net::sockopt::socket_peercred(connection.as_fd());
    let pid = credentials.as_ref().map_or(0, |peer| peer.pid.as_raw_nonzero().get());
    if pid == 0 {
        answer(&connection, ANSWER_REFUSED);
        return Arrival::Refused(format!(
            "a process (pid {} in its own namespace) registered from a pid namespace that is not visible here; run avleak inside it",
            hello.pid
        ));
    }
    if hello.magic != MAGIC || hello.major != MAJOR {
        answer(&connection, ANSWER_WRONG_VERSION);
        let theirs = SegmentError::Version { theirs: hello.major };
        return Arrival::Refused(format!("pid {pid}: {theirs}"));
    }
    let pidfd = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    Arrival::Hello(Arrived { pid, connection, segment, pidfd })
}

/// What is found out about a process at its registration, and cannot be found out again later.
#[derive(Serialize, Deserialize)]
struct Facts {
    exe: Vec<u8>,
    argv: Vec<String>,
    origin: Origin,
    root: Option<Vec<u8>>,
    writable_before: Vec<(u64, u64)>,
    identity: Identity,
    untraced: Option<String>,
}

impl Facts {
    /// With the mappings of the process.
    fn of(pid: i32) -> (Self, Vec<Mapping>) {
        // The leader may be a zombie already: its files are empty.
        let tid = threads::live_thread(pid).unwrap_or(pid);
        let exe = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
        let argv = std::fs::read(format!("/proc/{tid}/cmdline"))
            .map(|bytes| {
                let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
                text.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
            })
            .unwrap_or_default();
        // The process waits for the answer: this is its memory as avleak armed.
        let maps = maps::read_maps(tid).unwrap_or_default();
        let writable = maps.iter().filter(|mapping| mapping.writable);
        let mut writable_before: Vec<(u64, u64)> =
            writable.map(|mapping| (mapping.range.start, mapping.range.end)).collect();
        if writable_before.is_empty() {
            writable_before.push((0, u64::MAX));
        }
        let facts = Self {
            exe: exe.into_os_string().into_vec(),
            argv,
            origin: origin::of(tid),
            root: foreign_root(tid).map(|root| root.as_os_str().as_bytes().to_vec()),
            writable_before,
            identity: Identity::of(tid, &maps),
            untraced: None,
        };
        (facts, maps)
    }
}

/// Watches a process, or goes on with it where another analyzer was killed. `traced_before`: the tracer that has it then is still the same.
pub fn register(registered: Registered, trace: &Trace, traced_before: bool) -> ServerEvent {
    let Registered { number, arrived: Arrived { pid, connection, segment, pidfd }, vault } = registered;
    let refused = |why: String| {
        answer(&connection, ANSWER_REFUSED);
        ServerEvent::Refused { number, line: format!("pid {pid}: {why}") }
    };
    let segment = match Segment::map(segment) {
        Ok(segment) => segment,
        Err(error) => return refused(error.to_string()),
    };
    let shelf = vault.as_ref().and_then(|vault| Some(File::from(vault.try_clone().ok()?)));
    let known = shelf.as_ref().and_then(vault::meta).and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
    let is_known = known.is_some();
    let (mut facts, maps) = known.map_or_else(|| Facts::of(pid), |known| (known, Vec::new()));
    let path = |bytes: &Vec<u8>| PathBuf::from(OsString::from_vec(bytes.clone()));
    let (exe, root) = (path(&facts.exe), facts.root.as_ref().map(path));
    // The drain first: events come while the process is being seized.
    let kept = vault.and_then(|vault| Vault::open(vault).ok());
    let drain = match Drain::start(segment, exe.clone(), root.clone(), format!("drain-{pid}"), kept) {
        Ok(drain) => drain,
        Err(error) => return refused(format!("cannot start a thread to drain its events: {error}")),
    };
    if !(is_known && traced_before) {
        facts.untraced = trace(pid).err();
    }
    if let Some(shelf) = &shelf
        && let Ok(bytes) = serde_json::to_vec(&facts)
    {
        // Where it does not fit the next analyzer finds out what is left to be found.
        let _ = vault::set_meta(shelf, &bytes);
    }
    answer(&connection, if facts.untraced.is_none() { ANSWER_TRACED } else { ANSWER_UNTRACED });
    Files::look_ahead(threads::live_thread(pid).unwrap_or(pid), maps);
    let ranges = facts.writable_before.iter().map(|&(start, end)| TargetRange { start, end });
    ServerEvent::Registered(Box::new(Session {
        number,
        pid,
        exe,
        argv: facts.argv,
        origin: facts.origin,
        root,
        untraced: facts.untraced,
        pidfd,
        writable_before: ranges.collect(),
        identity: facts.identity,
        shelf,
        drain,
    }))
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
