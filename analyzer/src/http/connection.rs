//! One connection: hyper over a socket that blocks, on a thread of its own.
//!
//! hyper knows HTTP, and no runtime is needed to have it: a poll that reads blocks until something comes, or time is up. So a connection
//! answers one request, and then closes; whoever is slow holds up nobody but himself, and not for long.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

/// A request has to be here by then.
const REQUEST: Duration = Duration::from_secs(10);
/// Whoever takes nothing of the answer for so long is gone.
const WRITE: Duration = Duration::from_secs(10);
/// Nobody takes longer than this to read it.
const WHOLE: Duration = Duration::from_secs(300);
/// Longest head of a request, bytes.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;
/// What is read at once.
const PIECE: usize = 4 << 10;

struct Blocking {
    socket: TcpStream,
    begun: Instant,
}

impl Blocking {
    fn left(&self, whole: Duration) -> io::Result<Duration> {
        whole.checked_sub(self.begun.elapsed()).filter(|left| !left.is_zero()).ok_or(ErrorKind::TimedOut.into())
    }
}

impl Read for Blocking {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut read = || {
            let left = self.left(REQUEST)?;
            self.socket.set_read_timeout(Some(left))?;
            let mut piece = [0; PIECE];
            let room = piece.len().min(into.remaining());
            let count = self.socket.read(&mut piece[..room])?;
            into.put_slice(&piece[..count]);
            Ok(())
        };
        Poll::Ready(again(&mut read))
    }
}

impl Write for Blocking {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut write = || {
            let left = self.left(WHOLE)?.min(WRITE);
            self.socket.set_write_timeout(Some(left))?;
            self.socket.write(bytes)
        };
        Poll::Ready(again(&mut write))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Where the other end has gone there is nothing to shut.
        let _ = self.socket.shutdown(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

/// Until no signal comes in between.
fn again<T>(work: &mut impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Answers the one request of a connection.
pub fn serve(socket: TcpStream, answer: &dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>>) {
    let begun = Instant::now();
    let io = Blocking { socket, begun };
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request))));
    // Half-closed connections: else hyper looks for the end of the stream while an answer is made, and here that look would block.
    let mut http = http1::Builder::new();
    let connection =
        http.keep_alive(false).half_close(true).max_buf_size(HEAD).max_headers(HEADERS).serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    // Every read and write ends when time is up, and then so does this; nothing else can be waited for.
    while begun.elapsed() < WHOLE && connection.as_mut().poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
}
