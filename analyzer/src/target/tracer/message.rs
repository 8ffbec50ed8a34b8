//! What the analyzer and its tracer process say to each other: one JSON message a packet of a SOCK_SEQPACKET socket.

use serde::{Deserialize, Serialize};

use crate::report::model::Ended;
use crate::target::threads::ThreadState;

/// Longest message, bytes; a thread's registers take less than a tenth.
pub(super) const LONGEST: usize = 64 << 10;

/// To the tracer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    /// First of all: how long an ending process is held unless released, milliseconds.
    Hold { ms: u64 },
    /// Trace this process; answered by `Seized` with the same id.
    Seize { id: u64, pid: i32 },
    /// Let it end.
    Release { pid: i32 },
    /// Hold it for another full time.
    Keep { pid: i32 },
    /// Stop every thread of it in the middle of its life, for at most `ms` milliseconds; answered by `Paused` or `NotPaused` with the same
    /// id.
    Pause { id: u64, pid: i32, ms: u64 },
    /// Let it go on; answered by `Resumed` with the same id.
    Resume { id: u64, pid: i32 },
    /// Another analyzer listens now: answer `Again`, and tell it what still holds and what has ended.
    Again,
}

/// From the tracer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The answer to `Seize`.
    Seized { id: u64, failure: Option<SeizeFailure> },
    /// Stopped threads of a process whose `Ending` or `Paused` follows: as many as fit, for each message wakes its reader.
    Threads { pid: i32, threads: Vec<Registers> },
    /// See [`super::TracerEvent::Ending`].
    Ending { pid: i32, ended: Ended, all_stopped: bool },
    /// See [`super::TracerEvent::Exec`].
    Exec { pid: i32 },
    /// See [`super::TracerEvent::Gone`].
    Gone { pid: i32, ended: Option<Ended> },
    /// See [`super::TracerEvent::Expired`].
    Expired { pid: i32 },
    /// Every thread stands still; without `all_stopped` some do not.
    Paused { id: u64, pid: i32, all_stopped: bool },
    /// It ended, began to end, became another program, or is not traced.
    NotPaused { id: u64 },
    /// It goes on after standing still for so long; 0 where it had gone on before.
    Resumed { id: u64, stopped_us: u64 },
    /// What comes before this was for another analyzer.
    Again,
    /// What comes behind this is new.
    AllTold,
}

impl Message {
    /// Whose end it tells.
    pub(super) fn ended(&self) -> Option<i32> {
        match self {
            Self::Exec { pid } | Self::Gone { pid, .. } | Self::Expired { pid } => Some(*pid),
            _ => None,
        }
    }
}

/// Why a process could not be seized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeizeFailure {
    pub(super) errno: i32,
    /// Who traces it already; 0: nobody.
    pub(super) tracer: i32,
}

/// A [`ThreadState`] on the wire: values in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    tid: i32,
    fs_base: u64,
    values: Vec<u64>,
    vector_words: Vec<u64>,
}

impl Registers {
    /// As many bytes of JSON at most.
    fn most_bytes(&self) -> usize {
        const NUMBER: usize = "18446744073709551615,".len();
        const NAMES: usize = 128;
        NAMES + NUMBER * (self.values.len() + self.vector_words.len())
    }
}

/// These threads in messages that each fit a packet.
pub(super) fn of_threads(pid: i32, threads: impl Iterator<Item = Registers>) -> Vec<Message> {
    const MOST: usize = LONGEST - 128;
    let (mut messages, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
    for thread in threads {
        let more = thread.most_bytes();
        if bytes + more > MOST && !together.is_empty() {
            messages.push(Message::Threads { pid, threads: std::mem::take(&mut together) });
            bytes = 0;
        }
        bytes += more;
        together.push(thread);
    }
    if !together.is_empty() {
        messages.push(Message::Threads { pid, threads: together });
    }
    messages
}

impl From<ThreadState> for Registers {
    fn from(state: ThreadState) -> Self {
        let values = state.registers.iter().map(|&(_, value)| value).collect();
        Self { tid: state.tid, fs_base: state.fs_base, values, vector_words: state.vector_words }
    }
}

impl From<Registers> for ThreadState {
    fn from(r: Registers) -> Self {
        Self::from_values(r.tid, r.fs_base, &r.values, r.vector_words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::threads::REGISTER_NAMES;

    #[test]
    fn the_longest_threads_fit_packets() {
        // 16 KiB of vector state, every word a pointer of the greatest length.
        let longest =
            ThreadState::from_values(i32::MAX, u64::MAX, &[u64::MAX; REGISTER_NAMES.len()], vec![(1 << 56) - 1; 2048]);
        let short = ThreadState::from_values(i32::MAX, u64::MAX, &[u64::MAX; REGISTER_NAMES.len()], vec![u64::MAX; 3]);
        let mut all = vec![short; 1000];
        (all[0], all[500]) = (longest.clone(), longest);
        let messages = of_threads(i32::MAX, all.iter().cloned().map(Registers::from));
        assert!(messages.len() < 20, "{}", messages.len());
        let mut read: Vec<ThreadState> = Vec::new();
        for message in &messages {
            let bytes = serde_json::to_vec(message).unwrap();
            assert!(bytes.len() < LONGEST, "{}", bytes.len());
            let Message::Threads { threads, .. } = serde_json::from_slice(&bytes).unwrap() else { panic!() };
            read.extend(threads.into_iter().map(ThreadState::from));
        }
        assert_eq!(read, all);
        assert!(of_threads(1, std::iter::empty()).is_empty());
    }
}
