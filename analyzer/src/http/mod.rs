//! What the analyzer tells over HTTP: numbers for Prometheus, profiles for pprof, reports, and a page for people.
//!
//! [`access`] who may ask · [`connection`] one request, by hyper over a blocking socket · [`routes`] what is answered, of the processes on
//! the [`board`](crate::board) · [`metrics`], [`page`] some of the answers.
//!
//! The keeper listens, so that connections wait while one analyzer takes the place of another. A scrape neither checks nor stops a
//! process; only `POST /check` does.

pub mod access;
mod connection;
mod metrics;
mod page;
mod routes;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::access::Guard;
use crate::board::Board;

/// Requests that are answered at the same time; who comes then is sent away.
const MOST_AT_ONCE: usize = 32;
/// After an accept failed: out of descriptors, perhaps.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Where is listened, as options say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The address.
    pub address: Option<SocketAddr>,
    /// The file of a token.
    pub token_file: Option<PathBuf>,
}

impl Wish {
    /// These, and where they leave something open, `others`.
    pub fn or(self, others: Self) -> Self {
        Self { address: self.address.or(others.address), token_file: self.token_file.or(others.token_file) }
    }
}

/// What the analyzer is told; the socket comes beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// Where is listened.
    pub address: SocketAddr,
    /// What requests have to show.
    pub token: Option<String>,
}

/// Begins to listen where that is wished for and allowed.
///
/// # Errors
/// A line.
pub fn open(wish: &Wish) -> Result<Option<(TcpListener, Service)>, String> {
    let Some(address) = wish.address else { return Ok(None) };
    let token = access::token(wish.token_file.as_deref().map(Path::new), std::env::var(access::TOKEN_VARIABLE).ok())
        .map_err(|line| format!("{line}; http={address} is not served"))?;
    let listener = access::listen(address, token.is_some())?;
    let address = listener.local_addr().unwrap_or(address);
    Ok(Some((listener, Service { address, token })))
}

/// Answers, on threads of its own, until the process ends.
///
/// # Errors
/// Where no thread can be started.
pub fn serve(listener: TcpListener, service: &Service, board: Board) -> std::io::Result<()> {
    let guard = Arc::new(Guard::new(service.address, service.token.as_deref()));
    std::thread::Builder::new().name("http".into()).spawn(move || {
        let busy = Arc::new(AtomicUsize::new(0));
        for socket in listener.incoming() {
            match socket {
                Ok(socket) => answer(socket, &busy, &guard, &board),
                Err(_) => std::thread::sleep(AFTER_FAILURE),
            }
        }
    })?;
    Ok(())
}

/// On a thread of its own, so that nobody waits for somebody else who is slow.
fn answer(socket: TcpStream, busy: &Arc<AtomicUsize>, guard: &Arc<Guard>, board: &Board) {
    let seat = Seat(busy.clone());
    if busy.fetch_add(1, Ordering::AcqRel) >= MOST_AT_ONCE {
        return send_away(&socket);
    }
    let (guard, board) = (guard.clone(), board.clone());
    let work = move || {
        let _seat = seat;
        connection::serve(socket, &|request| routes::answer(request, &guard, &board));
    };
    // Where there is no thread whoever asked sees the connection closed.
    let spawned = std::thread::Builder::new().name("http-request".into()).spawn(work);
    drop(spawned);
}

/// One of those that are answered.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn send_away(mut socket: &TcpStream) {
    // Whoever does not take it at once gets nothing.
    let _ = socket.set_nonblocking(true);
    let _ = socket.write_all(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
}
