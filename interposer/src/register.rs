//! Registration: the segment's descriptor goes to the analyzer over a unix socket. See `avleak_wire::registration`.

use core::mem::{MaybeUninit, zeroed};

use avleak_wire::layout::{MAGIC, MAJOR, MINOR, SEGMENT_BYTES};
use avleak_wire::registration::{ANSWER_REFUSED, ANSWER_WRONG_VERSION, Answer, Hello};

use crate::{settings, sys};

/// Why a segment was not taken.
pub enum Refusal {
    /// A call failed with this errno.
    System(&'static str, i32),
    /// Another major version.
    Version,
    /// The analyzer does not want this process.
    Unwanted,
}

/// Connects to the unix socket at `path` (a leading `@`: abstract), within the patience.
pub fn connect(path: &[u8]) -> Result<i32, Refusal> {
    // SAFETY: zero is a valid value of this C structure.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    if path.len() >= address.sun_path.len() {
        return Err(Refusal::System("AVLEAK_SOCKET", libc::ENAMETOOLONG));
    }
    for (to, &from) in address.sun_path.iter_mut().zip(path) {
        *to = from as core::ffi::c_char;
    }
    let mut len = size_of::<libc::sockaddr_un>();
    if path.first() == Some(&b'@') {
        address.sun_path[0] = 0;
        len = core::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len();
    }
    // SAFETY: plain system calls with our own values.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(Refusal::System("socket", sys::errno()));
        }
        let fd = sys::above_standard(fd);
        let deadline = sys::clock_ns(libc::CLOCK_MONOTONIC) + settings::registration_patience_ns();
        loop {
            // Raw: glibc's connect is a cancellation point.
            if libc::syscall(libc::SYS_connect, fd, &raw const address, len) == 0 {
                return Ok(fd);
            }
            let errno = sys::errno();
            // EAGAIN: the analyzer's backlog is full for the moment.
            if errno != libc::EAGAIN && errno != libc::EINTR || sys::clock_ns(libc::CLOCK_MONOTONIC) > deadline {
                sys::close(fd);
                return Err(Refusal::System("connect", errno));
            }
            sys::sleep_ns(1_000_000);
        }
    }
}

/// Sends the segment over `connection` and waits, at most the patience, for the answer. No answer in time is no refusal: the
/// segment is in the analyzer's socket.
pub fn over(connection: i32, segment: i32) -> Result<(), Refusal> {
    allow_tracing(connection);
    let hello = Hello {
        magic: MAGIC,
        major: MAJOR,
        minor: MINOR,
        // SAFETY: no arguments.
        pid: unsafe { libc::getpid() } as u32,
        segment_bytes: SEGMENT_BYTES,
        reserved: 0,
    };
    send(connection, &hello.encode(), segment)?;
    let deadline = sys::clock_ns(libc::CLOCK_MONOTONIC) + settings::registration_patience_ns();
    let mut answer = [0u8; Answer::BYTES];
    let mut have = 0;
    while have < answer.len() {
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
        if now >= deadline {
            return Ok(());
        }
        let left = deadline - now;
        let wait = libc::timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let mut poll = libc::pollfd { fd: connection, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, one timespec, a buffer of ours; raw calls are no cancellation points.
        let got = unsafe {
            libc::syscall(
                libc::SYS_ppoll,
                &raw mut poll,
                1,
                &raw const wait,
                core::ptr::null::<libc::sigset_t>(),
                0usize,
            );
            libc::syscall(
                libc::SYS_recvfrom,
                connection,
                answer.as_mut_ptr().add(have),
                answer.len() - have,
                libc::MSG_DONTWAIT,
                0usize,
                0usize,
            )
        };
        match got {
            1.. => have += got as usize,
            0 => return Err(Refusal::System("recv", libc::ECONNRESET)),
            _ if matches!(sys::errno(), libc::EAGAIN | libc::EINTR) => (),
            _ => return Err(Refusal::System("recv", sys::errno())),
        }
    }
    let answer = Answer::decode(&answer);
    match answer.status {
        _ if answer.magic != MAGIC => Err(Refusal::Version),
        ANSWER_WRONG_VERSION => Err(Refusal::Version),
        ANSWER_REFUSED => Err(Refusal::Unwanted),
        _ => Ok(()),
    }
}

/// Under Yama only a declared process may trace this one; elsewhere the call fails and nothing is lost.
fn allow_tracing(connection: i32) {
    // SAFETY: the kernel fills a ucred.
    unsafe {
        let mut peer = MaybeUninit::<libc::ucred>::zeroed();
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        let got =
            libc::getsockopt(connection, libc::SOL_SOCKET, libc::SO_PEERCRED, peer.as_mut_ptr().cast(), &raw mut len);
        let peer = peer.assume_init();
        if got == 0 && peer.pid > 0 {
            libc::prctl(libc::PR_SET_PTRACER, peer.pid as libc::c_ulong, 0, 0, 0);
        }
    }
}

fn send(connection: i32, bytes: &[u8], descriptor: i32) -> Result<(), Refusal> {
    #[repr(C, align(8))]
    struct Control([u8; 24]);
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a well-formed message: one part, one control header with one descriptor (CMSG_SPACE(4) is 24).
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(descriptor);
        loop {
            let sent = libc::syscall(libc::SYS_sendmsg, connection, &raw const message, libc::MSG_NOSIGNAL);
            if sent == bytes.len() as i64 {
                return Ok(());
            }
            let errno = if sent < 0 { sys::errno() } else { libc::EPIPE };
            if errno != libc::EINTR {
                return Err(Refusal::System("sendmsg", errno));
            }
        }
    }
}
