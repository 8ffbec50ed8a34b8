//! `avleak analyze FD`: the analyzer process, which its keeper starts, and starts again where it is killed.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, never, select};
use rustix::fs::MemfdFlags;
use rustix::net::SocketType;

use super::gate_options::GateOptions;
use super::watch::{Note, Noted, Told, Watch};
use crate::board::Board;
use crate::http;
use crate::keeper::message::{self, FromAnalyzer, ToAnalyzer};
use crate::report::model::Report;
use crate::report::verdict::EXIT_AVLEAK;
use crate::session::server::{self, Arrived, Registered, ServerEvent, Trace};
use crate::target::tracer::Tracer;

/// Analyze what the keeper at the other end of an inherited socket has (avleak starts this itself).
#[derive(Debug, clap::Args)]
pub struct AnalyzeArgs {
    /// The socket's descriptor
    #[arg(value_name = "FD")]
    descriptor: i32,
}

/// What the keeper's messages come to.
enum Order {
    /// With what the monitor of another analyzer knew.
    Registration(ServerEvent, Option<Vec<u8>>),
    Ready,
    Cancel,
    GiveUp,
    LastCheck,
}

/// Runs the subcommand. It ends when the keeper does, or says so.
pub fn run(args: &AnalyzeArgs) -> i32 {
    let Some(socket) = adopt(args.descriptor) else {
        eprintln!("avleak: `analyze` is for avleak's own use and needs its socket (see `avleak --help`)");
        return EXIT_AVLEAK;
    };
    // It was started as /proc/self/exe: `top` would show "exe".
    let _ = rustix::thread::set_name(c"avleak-analyzer");
    let Some((ToAnalyzer::Setup(setup), mut descriptors)) = message::receive::<ToAnalyzer>(&socket) else { return 0 };
    let socket = Arc::new(socket);
    let listener = setup.http.as_ref().and_then(|_| descriptors.pop());
    let mut why_not = setup.untraced;
    let tracer = descriptors.into_iter().next().and_then(|descriptor| {
        match Tracer::over(descriptor, Duration::from_millis(setup.patience_ms)) {
            Ok(tracer) => Some(Arc::new(tracer)),
            Err(error) => {
                why_not = Some(format!("cannot listen to the tracer: {error}"));
                None
            }
        }
    });
    let for_told = socket.clone();
    let told: Told = Arc::new(move |number, report| tell(&for_told, number, report));
    let for_noted = socket.clone();
    let noted: Noted = Arc::new(move |what| note(&for_noted, what));
    let mut watch = Watch::new(setup.level, setup.quiet, tracer.clone(), told, noted);
    watch.names_peaks = setup.names_peaks;
    watch.holds = setup.holds;
    // They could be read when the command was started.
    match GateOptions::from(setup.let_through).load() {
        Ok(rules) => watch.rules = Arc::new(rules),
        Err(line) => watch.refusals.push(format!("nothing is let through in checks of running processes: {line}")),
    }
    watch.monitoring = setup.monitor;
    watch.sessions_to = setup.sessions;
    if let (Some(listener), Some(service)) = (listener, &setup.http) {
        let board = Board::default();
        watch.board = Some(board.clone());
        if let Err(error) = http::serve(TcpListener::from(listener), service, board) {
            watch.refusals.push(format!("cannot start a thread to serve http: {error}"));
        }
    }
    // Without room: what the next message does begins when this one's outcome was taken, not before.
    let (sender, orders) = bounded(0);
    let (trace, for_orders) = (watch.trace(why_not), socket.clone());
    let listening =
        std::thread::Builder::new().name("avleak-server".into()).spawn(move || listen(&for_orders, &trace, &sender));
    if let Err(error) = listening {
        let line = format!("cannot start a thread in the analyzer: {error}");
        let _ = message::send(&socket, &FromAnalyzer::Say(line), &[]);
        return EXIT_AVLEAK;
    }
    let mut traced = tracer.as_ref().map_or_else(never, |tracer| tracer.events());
    let watched = watch.events();
    loop {
        select! {
            recv(orders) -> order => match order {
                Ok(Order::Registration(ServerEvent::Registered(session), left)) => {
                    watch.on_registered(session, left.as_deref());
                }
                Ok(Order::Registration(ServerEvent::Refused { number, line }, _)) => {
                    watch.refusals.push(line);
                    let _ = message::send(&socket, &FromAnalyzer::Refused { number }, &[]);
                }
                Ok(Order::Ready) => watch.on_ready(),
                Ok(Order::Cancel) => watch.cancel(),
                Ok(Order::GiveUp) => watch.give_up_on_running(),
                Ok(Order::LastCheck) => watch.check_the_running(),
                // The keeper is gone.
                Err(_) => return 0,
            },
            recv(traced) -> event => match event {
                Ok(event) => watch.on_tracer(event),
                Err(_) => traced = never(),
            },
            recv(watched) -> event => if let Ok(event) = event { watch.on_watch(event) },
        }
        for line in watch.refusals.drain(..) {
            let _ = message::send(&socket, &FromAnalyzer::Say(line), &[]);
        }
    }
}

#[allow(unsafe_code, reason = "an inherited descriptor is a number on the command line")]
fn adopt(descriptor: i32) -> Option<OwnedFd> {
    if descriptor < 3 {
        return None;
    }
    // SAFETY: the number is only asked about, by fcntl, which checks it.
    let asked = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    if rustix::net::sockopt::socket_type(asked) != Ok(SocketType::SEQPACKET) {
        return None;
    }
    // SAFETY: an open socket that the keeper gave to this process and that nothing else here owns.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(socket)
}

/// Takes the keeper's messages one after another, until it is gone.
fn listen(socket: &OwnedFd, trace: &Trace, orders: &Sender<Order>) {
    while let Some((message, descriptors)) = message::receive::<ToAnalyzer>(socket) {
        let order = match message {
            ToAnalyzer::Setup(_) => continue,
            ToAnalyzer::Ready => Order::Ready,
            ToAnalyzer::Cancel => Order::Cancel,
            ToAnalyzer::GiveUp => Order::GiveUp,
            ToAnalyzer::LastCheck => Order::LastCheck,
            ToAnalyzer::Register { number, pid, has_vault, has_monitor, traced_before } => {
                let mut descriptors = descriptors.into_iter();
                let (Some(connection), Some(segment)) = (descriptors.next(), descriptors.next()) else { continue };
                let vault = if has_vault { descriptors.next() } else { None };
                let monitor = if has_monitor { descriptors.next() } else { None };
                let pidfd = descriptors.next();
                let arrived = Arrived { pid, connection: UnixStream::from(connection), segment, pidfd };
                let event = server::register(Registered { number, arrived, vault }, trace, traced_before);
                if let ServerEvent::Registered(session) = &event
                    && session.untraced.is_none()
                {
                    let _ = message::send(socket, &FromAnalyzer::Registered { number }, &[]);
                }
                Order::Registration(event, monitor.and_then(read))
            }
        };
        if orders.send(order).is_err() {
            return;
        }
    }
}

/// Tells the keeper how far a session is. Once the report is in its socket it outlives this process.
fn tell(socket: &OwnedFd, number: u64, report: Option<&Report>) {
    let Some(report) = report else {
        let _ = message::send(socket, &FromAnalyzer::Checking { number }, &[]);
        return;
    };
    let stored = || -> std::io::Result<()> {
        let file = stored(&serde_json::to_vec(report)?)?;
        message::send(socket, &FromAnalyzer::Checked { number }, &[file.as_fd()])
    };
    if let Err(error) = stored() {
        let line = format!("the report of pid {} could not be kept: {error}", report.target.pid);
        let _ = message::send(socket, &FromAnalyzer::Say(line), &[]);
        let _ = message::send(socket, &FromAnalyzer::Checked { number }, &[]);
    }
}

/// Tells the keeper what comes up while processes run on.
fn note(socket: &OwnedFd, what: Note<'_>) {
    match what {
        Note::TracerLost => _ = message::send(socket, &FromAnalyzer::TracerLost, &[]),
        Note::Line(line) => _ = message::send(socket, &FromAnalyzer::SayNow(line), &[]),
        Note::Monitored(number, state) => {
            // Where there is no memory for it another analyzer's monitor begins anew.
            if let Ok(file) = stored(state) {
                let _ = message::send(socket, &FromAnalyzer::Monitored { number }, &[file.as_fd()]);
            }
        }
    }
}

/// In a memfd, to be handed over.
fn stored(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("avleak", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// What was handed over.
fn read(descriptor: OwnedFd) -> Option<Vec<u8>> {
    let mut file = File::from(descriptor);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).ok()?;
    Some(bytes)
}
