//! Options of what is told over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::http::Wish;

/// As AVLEAK_OPTIONS has them; these go first.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// Tell of the processes at this address, such as 127.0.0.1:9464: /metrics, /debug/pprof/heap, /report.json, a page. One that other
    /// machines reach needs a token
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    http: Option<SocketAddr>,
    /// File with the bearer token that requests have to show; AVLEAK_HTTP_TOKEN in the environment does as well
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<PathBuf>,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    avleak_wire::options::address(text).ok_or("not an address with a port, such as 127.0.0.1:9464 or [::1]:9464")
}

impl HttpArgs {
    /// What they say.
    pub fn wish(&self) -> Wish {
        Wish { address: self.http, token_file: self.http_token_file.clone() }
    }
}
