//! Reading the target's memory: the trait that everything else reads through.

/// Memory that can be read at the target's addresses.
pub trait Memory {
    /// Copies from `address` on into `buffer`; returns how many bytes could be read from its start (a short read is no
    /// error: the next byte is unreadable). Never panics, for any address.
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize;

    /// The little-endian word at `address`, or `None` where not all of it is readable.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read(address, &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
    }

    /// The little-endian 32-bit number at `address`.
    fn int(&self, address: u64) -> Option<i32> {
        let mut bytes = [0; 4];
        (self.read(address, &mut bytes) == 4).then(|| i32::from_le_bytes(bytes))
    }

    /// The NUL-terminated string at `address`, at most `limit` bytes; `None` where it is unreadable or not ended.
    fn c_string(&self, address: u64, limit: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; limit];
        let got = self.read(address, &mut bytes);
        let end = bytes[..got].iter().position(|&b| b == 0)?;
        bytes.truncate(end);
        Some(bytes)
    }
}

/// Memory made of byte arrays at chosen addresses: for tests, and for reading what was saved.
#[derive(Debug, Default, Clone)]
pub struct SavedMemory {
    parts: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl SavedMemory {
    /// Adds `bytes` at `address`; parts must not overlap.
    pub fn insert(&mut self, address: u64, bytes: Vec<u8>) {
        self.parts.insert(address, bytes);
    }

    /// Adds little-endian words at `address`.
    pub fn insert_words(&mut self, address: u64, words: &[u64]) {
        self.insert(address, words.iter().flat_map(|w| w.to_le_bytes()).collect());
    }
}

impl Memory for SavedMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Some((&start, bytes)) = self.parts.range(..=at).next_back() else { break };
            let skip = (at - start) as usize;
            if skip >= bytes.len() {
                break;
            }
            let n = (bytes.len() - skip).min(buffer.len() - done);
            buffer[done..done + n].copy_from_slice(&bytes[skip..skip + n]);
            done += n;
        }
        done
    }
}
