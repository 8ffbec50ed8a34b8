//! Tells systemd that the server is ready: what is ordered after it may register from then on.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the service manager's socket (sd_notify(3)).
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Where somebody wants to know.
pub fn ready() {
    if let Some(name) = std::env::var_os(VARIABLE) {
        // Who does not hear it waits until its own limit, and says so.
        let _ = send(&name, b"READY=1\n");
    }
}

fn send(name: &OsStr, message: &[u8]) -> std::io::Result<usize> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        send(path.as_os_str(), b"READY=1\n").expect("a message");
        let mut heard = [0; 32];
        let length = manager.recv(&mut heard).expect("a message");
        assert_eq!(&heard[..length], b"READY=1\n");
        assert!(send(OsStr::new("/nonexistent/notify"), b"READY=1\n").is_err());
    }
}
