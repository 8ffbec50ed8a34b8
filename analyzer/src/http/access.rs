//! Who may ask: on which addresses is listened, and what a request has to show.
//!
//! Whoever listens on loopback alone need not be shown anything but that the request was meant for it: a page in a browser on this machine
//! can send requests here too, by another name (DNS rebinding) or from another origin. Elsewhere a bearer token is needed.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::render::errno;

/// The variable that holds a token.
pub const TOKEN_VARIABLE: &str = "AVLEAK_HTTP_TOKEN";
/// Shorter ones can be tried out.
const SHORTEST_TOKEN: usize = 16;

/// The token of a file, or else of the environment; `None`: there is none.
///
/// # Errors
/// A line: the file cannot be read, or the token is too short to be one.
pub fn token(file: Option<&Path>, variable: Option<String>) -> Result<Option<String>, String> {
    let (text, from) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the token of {}: {}", file.display(), errno::name(&error)))?;
            (text, file.display().to_string())
        }
        None => match variable {
            Some(text) => (text, TOKEN_VARIABLE.to_string()),
            None => return Ok(None),
        },
    };
    let token = text.trim();
    if token.len() < SHORTEST_TOKEN {
        return Err(format!(
            "the token of {from} has {} characters: at least {SHORTEST_TOKEN} are needed",
            token.len()
        ));
    }
    Ok(Some(token.to_owned()))
}

/// Listens, where that is allowed.
///
/// # Errors
/// A line that names the address and the remedy.
pub fn listen(address: SocketAddr, has_token: bool) -> Result<TcpListener, String> {
    if !address.ip().is_loopback() && !has_token {
        return Err(format!(
            "http={address} can be reached from other machines and needs a token (http_token_file=FILE, or {TOKEN_VARIABLE}): not served"
        ));
    }
    TcpListener::bind(address).map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => "somebody listens there already: choose another port, or 0 for any",
            Some(libc::EADDRNOTAVAIL) => "no interface of this machine has that address",
            Some(libc::EACCES) => "choose a port above 1023",
            _ => "choose another address",
        };
        format!("cannot serve http on {address}: {} ({remedy})", errno::name(&error))
    })
}

/// What requests have to show.
pub struct Guard {
    /// A hash, so that nothing is told by how long a comparison takes, its length included.
    token: Option<[u8; 32]>,
    /// Only requests that name this machine itself are meant for us.
    loopback: bool,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It shows no token, or a wrong one.
    NoToken,
    /// It was meant for another machine, or comes from a page of another one.
    Foreign,
}

impl Guard {
    /// Of who listens on `address`.
    pub fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self { token: token.map(|token| Sha256::digest(token).into()), loopback: address.ip().is_loopback() }
    }

    /// Whether the request comes from where it may. No secret is needed for that.
    ///
    /// # Errors
    /// [`Refusal::Foreign`].
    pub fn admits(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = text(HOST);
        if self.loopback && host.is_some_and(|host| !names_loopback(host)) {
            return Err(Refusal::Foreign);
        }
        let same = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
        match text(ORIGIN) {
            Some(origin) if !same(origin) => Err(Refusal::Foreign),
            _ => Ok(()),
        }
    }

    /// Whether it may see what is told here.
    ///
    /// # Errors
    /// Why not.
    pub fn trusts(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let shown = match shown.split_once(' ') {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case("bearer") => shown.trim(),
            _ => "",
        };
        let shown: [u8; 32] = Sha256::digest(shown).into();
        if bool::from(shown.ct_eq(token)) { Ok(()) } else { Err(Refusal::NoToken) }
    }
}

/// `localhost:9464`, `127.0.0.1`, `[::1]:9464`.
fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(all: &[(HeaderName, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9464))
    }

    #[test]
    fn on_loopback_only_what_is_meant_for_it() {
        let guard = Guard::new(local(), None);
        for host in ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "127.1.2.3"] {
            assert_eq!(guard.admits(&headers(&[(HOST, host)])), Ok(()), "{host}");
        }
        for host in ["evil.example", "192.168.1.2:9464", "localhost.evil.example", ""] {
            assert_eq!(guard.admits(&headers(&[(HOST, host)])), Err(Refusal::Foreign), "{host}");
        }
        let from = |origin| headers(&[(HOST, "localhost:9464"), (ORIGIN, origin)]);
        assert_eq!(guard.admits(&from("http://localhost:9464")), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:8080"] {
            assert_eq!(guard.admits(&from(origin)), Err(Refusal::Foreign), "{origin}");
        }
        assert_eq!(guard.trusts(&headers(&[])), Ok(()));
        let anywhere = Guard::new(SocketAddr::from(([0, 0, 0, 0], 1)), Some("a secret of some length"));
        assert_eq!(anywhere.admits(&headers(&[(HOST, "server.example:9464")])), Ok(()));
    }

    #[test]
    fn a_token_is_the_whole_token() {
        let guard = Guard::new(local(), Some("a secret of some length"));
        let shows = |value| guard.trusts(&headers(&[(AUTHORIZATION, value)]));
        assert_eq!(shows("Bearer a secret of some length"), Ok(()));
        assert_eq!(shows("bearer  a secret of some length"), Ok(()));
        for wrong in [
            "Bearer a secret of some lengt",
            "Bearer",
            "Bearer ",
            "a secret of some length",
            "Basic a secret of some length",
        ] {
            assert_eq!(shows(wrong), Err(Refusal::NoToken), "{wrong}");
        }
        assert_eq!(guard.trusts(&headers(&[])), Err(Refusal::NoToken));
    }

    #[test]
    fn tokens_are_read_and_short_ones_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").expect("a file");
        assert_eq!(token(Some(&file), Some("another".into())), Ok(Some("0123456789abcdef".into())));
        assert_eq!(token(None, None), Ok(None));
        assert!(
            token(None, Some("short".into())).is_err_and(|line| line.contains(TOKEN_VARIABLE) && line.contains("16"))
        );
        assert!(token(Some(Path::new("/nonexistent")), None).is_err_and(|line| line.contains("ENOENT")));
    }

    #[test]
    fn other_machines_are_not_served_without_a_token() {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        assert!(listen(anywhere, false).is_err_and(|line| line.contains("0.0.0.0:0") && line.contains("token")));
        let taken = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).expect("a listener");
        let address = taken.local_addr().expect("its address");
        assert!(
            listen(address, false)
                .is_err_and(|line| line.contains(&address.to_string()) && line.contains("EADDRINUSE"))
        );
    }
}
