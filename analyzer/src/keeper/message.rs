//! What keeper and analyzer say to each other: one JSON message a packet of a SOCK_SEQPACKET socket, with descriptors beside it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::saved_sessions::SavedSessions;
use crate::http::Service;
use crate::monitor::settings::Settings;
use crate::report::model::Level;

/// Longest message, bytes: one line of text in it at most.
const LONGEST: usize = 32 << 10;
/// Descriptors beside one message.
const MOST_DESCRIPTORS: usize = 5;

/// What an analyzer is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// What counts as a leak.
    pub level: Level,
    /// No progress bar.
    pub quiet: bool,
    /// What made up the peaks is named in the reports.
    pub names_peaks: bool,
    /// Why nothing is traced; `None`: with the tracer whose socket is beside this.
    pub untraced: Option<String>,
    /// Processes that end are not let go when they have been looked at, but when the tracer ends.
    pub holds: bool,
    /// How long a process may have to wait until it is traced, milliseconds.
    pub patience_ms: u64,
    /// How processes are checked while they run on; `None`: only when somebody asks.
    pub monitor: Option<Settings>,
    /// Where sessions are saved whose process ended with nobody to look at its memory; `None`: nowhere.
    pub sessions: Option<SavedSessions>,
    /// What is told over HTTP, on the socket that is the last descriptor beside this; `None`: nothing.
    pub http: Option<Service>,
    /// What the verdict of checks of running processes lets through.
    pub let_through: LetThrough,
}

/// The files of suppressions and a baseline, as bytes: no path need be text.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LetThrough {
    /// Of suppressions.
    pub suppressions: Vec<Vec<u8>>,
    /// Without those built in.
    pub no_default_suppressions: bool,
    /// The baseline.
    pub baseline: Option<Vec<u8>>,
    /// How much a group of it may grow, percent.
    pub slack: f64,
}

/// To the analyzer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToAnalyzer {
    /// First of all; beside it the tracer's socket, if it is to trace.
    Setup(Box<Setup>),
    /// Watch this process; beside it connection, segment, and where there are such, vault, its monitor's state, and pidfd.
    Register {
        /// The keeper's number for it.
        number: u64,
        /// Its process id.
        pid: i32,
        /// The third descriptor is a vault.
        has_vault: bool,
        /// The next one is what its monitor knew.
        has_monitor: bool,
        /// The tracer that it was registered with, if it was, is the present one.
        traced_before: bool,
    },
    /// Those are all whom another analyzer watched.
    Ready,
    /// End every check at once.
    Cancel,
    /// Report those that still run as they are.
    GiveUp,
    /// Check those that still run, and report them.
    LastCheck,
}

/// From the analyzer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromAnalyzer {
    /// It is watched, and has its answer.
    Registered {
        /// Which.
        number: u64,
    },
    /// Its end has come and it is being checked.
    Checking {
        /// Which.
        number: u64,
    },
    /// It has been checked; beside it the report, as a memfd of JSON.
    Checked {
        /// Which.
        number: u64,
    },
    /// It could not be taken.
    Refused {
        /// Which.
        number: u64,
    },
    /// What its monitor would go on with; beside it, in a memfd.
    Monitored {
        /// Which.
        number: u64,
    },
    /// The tracer is gone.
    TracerLost,
    /// A line for whoever started avleak, at the end.
    Say(String),
    /// A line for whoever started avleak, now.
    SayNow(String),
}

/// Sends a message; waits where the other end is slow.
///
/// # Errors
/// EPIPE or ECONNRESET where the other end is gone.
pub fn send<M: Serialize>(socket: impl AsFd, message: &M, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives a message with its descriptors; `None` where the other end is gone.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd) -> Option<(M, Vec<OwnedFd>)> {
    let mut bytes = vec![0; LONGEST];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        {
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return None;
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            continue;
        }
        // Both ends are one build: what cannot be read was not written.
        if let Ok(message) = serde_json::from_slice(&bytes[..received.bytes]) {
            return Some((message, descriptors));
        }
    }
}
