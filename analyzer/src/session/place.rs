//! Where processes register: a unix socket by its name, as AVLEAK_SOCKET has it.

use std::hash::BuildHasher;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A name for a socket.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
}

/// A socket's file. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Place {
    /// An abstract socket that nobody has yet (chroot and changed uids do not cut it off).
    pub fn fresh() -> Self {
        let random = std::collections::hash_map::RandomState::new().hash_one(std::process::id());
        Self { name: format!("@avleak-{}-{random:016x}", std::process::id()) }
    }

    /// One that somebody chose.
    ///
    /// # Errors
    /// A line: what names there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let address = Self { name: name.to_owned() };
        let fits = address.address().is_ok() && !name.contains('\0');
        if fits && (name.starts_with('/') || name.len() > 1 && name.starts_with('@')) {
            return Ok(address);
        }
        Err(format!("--socket {name}: not @NAME or the absolute path of a socket, of at most 107 bytes"))
    }

    /// For AVLEAK_SOCKET.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> Option<&Path> {
        self.name.starts_with('/').then(|| Path::new(&self.name))
    }

    fn address(&self) -> std::io::Result<SocketAddr> {
        match self.name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
            None => SocketAddr::from_pathname(&self.name),
        }
    }

    /// Listens there.
    ///
    /// # Errors
    /// EADDRINUSE where somebody else does, or a file of another kind has that name.
    pub fn bind(&self) -> std::io::Result<(UnixListener, Option<SocketFile>)> {
        let address = self.address()?;
        let Some(path) = self.path() else { return Ok((UnixListener::bind_addr(&address)?, None)) };
        // A server that was killed left its file.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
        if is_socket
            && UnixStream::connect_addr(&address).is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
        {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind_addr(&address)?;
        let file = SocketFile(path.to_path_buf());
        // Who may register is who may enter the folder: a server and its containers need not run as one user.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok((listener, Some(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_abstract_or_absolute() {
        for name in ["@avleak", "/run/avleak/socket"] {
            assert_eq!(Place::named(name).expect("a place").name(), name);
        }
        for name in ["avleak", "", "@", "./socket", &format!("/{}", "x".repeat(107)), "@a\0b"] {
            assert!(Place::named(name).is_err_and(|line| line.contains("@NAME")), "{name}");
        }
    }

    #[test]
    fn the_file_of_a_dead_server_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let place = Place::named(path.to_str().expect("UTF-8")).expect("a place");
        // As one that was killed leaves it.
        drop(UnixListener::bind(&path).expect("a listener"));
        let (listener, file) = place.bind().expect("its place");
        assert!(place.bind().is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)));
        UnixStream::connect(&path).expect("the first one still listens");
        drop((listener, file));
        assert!(!path.exists());
        std::fs::write(&path, "somebody's").expect("a file");
        assert!(place.bind().is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "somebody's");
    }
}
