//! Registration: how a process hands its segment to the analyzer over a unix stream socket.
//!
//! ```text
//! process                                   analyzer
//!   connect, PR_SET_PTRACER(peer)
//!   Hello + segment fd (SCM_RIGHTS)  ─────▶  check, map, start draining, trace the process
//!                                    ◀─────  Answer
//!   close
//! ```
//! The process waits at most [`PATIENCE_MS`] for the answer and goes on without it.

/// How long a process waits to be answered, milliseconds, where nobody says otherwise.
pub const PATIENCE_MS: u64 = 100;

/// A longer patience, milliseconds: `avleak run` sets it, where the wait is asked for and a process that dies unanswered would go
/// unjudged.
pub const PATIENCE_VARIABLE: &core::ffi::CStr = c"AVLEAK_PATIENCE_MS";

/// What a process says, with the memfd attached. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::layout::MAGIC`].
    pub magic: u64,
    /// [`crate::layout::MAJOR`].
    pub major: u16,
    /// [`crate::layout::MINOR`].
    pub minor: u16,
    /// Process id in its own namespace (the socket's peer credentials hold it in the analyzer's).
    pub pid: u32,
    /// Bytes of the segment.
    pub segment_bytes: u64,
    /// Zero.
    pub reserved: u64,
}

/// What the analyzer answers. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`crate::layout::MAGIC`].
    pub magic: u64,
    /// `ANSWER_*`.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

/// The segment is being drained, and the process is traced.
pub const ANSWER_TRACED: u32 = 1;
/// The segment is being drained; tracing was refused.
pub const ANSWER_UNTRACED: u32 = 2;
/// Another major version: the process stays unwatched.
pub const ANSWER_WRONG_VERSION: u32 = 3;
/// The analyzer does not want this process.
pub const ANSWER_REFUSED: u32 = 4;

impl Hello {
    /// Bytes on the socket.
    pub const BYTES: usize = 32;

    /// For the socket.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.magic.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.major.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.minor.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.pid.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }

    /// From the socket.
    pub fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self {
            magic: word(b, 0),
            major: word(b, 8) as u16,
            minor: (word(b, 8) >> 16) as u16,
            pid: (word(b, 8) >> 32) as u32,
            segment_bytes: word(b, 16),
            reserved: word(b, 24),
        }
    }
}

impl Answer {
    /// Bytes on the socket.
    pub const BYTES: usize = 16;

    /// For the socket.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.magic.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }

    /// From the socket.
    pub fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self { magic: word(b, 0), status: word(b, 8) as u32, reserved: (word(b, 8) >> 32) as u32 }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        let hello = Hello {
            magic: crate::layout::MAGIC,
            major: 3,
            minor: 9,
            pid: 0xdead_beef,
            segment_bytes: 1 << 40,
            reserved: 0,
        };
        assert_eq!(Hello::decode(&hello.encode()), hello);
        let answer = Answer { magic: crate::layout::MAGIC, status: ANSWER_TRACED, reserved: 0 };
        assert_eq!(Answer::decode(&answer.encode()), answer);
    }
}
