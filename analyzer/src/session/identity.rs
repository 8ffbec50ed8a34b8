//! What tells one process from every other, as far as its core file can tell it again.
//!
//! A pid comes again, and so does a program. But where the loader put a program, its libraries and its stack is random for each start, and
//! the kernel's auxiliary vector says it, in `/proc/PID/auxv` as in a core.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::symbols::key::hex;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::process_memory::ProcessMemory;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The auxiliary vector; empty where it could not be read.
    #[serde(default)]
    pub auxv: Vec<(u64, u64)>,
    /// SHA-256 of the kernel's 16 random bytes, in hex: programs seed their stack guards by them, so they are nobody's business.
    #[serde(default)]
    pub random: Option<String>,
    /// Where the heap of brk begins; `None` where there was none.
    #[serde(default)]
    pub heap: Option<u64>,
}

/// Keys of the vector that depend on where things lie, and what they are.
const PLACES: [(u64, &str); 5] = [
    (libc::AT_PHDR, "program headers"),
    (libc::AT_ENTRY, "entry point"),
    (libc::AT_BASE, "loader"),
    (libc::AT_RANDOM, "random bytes"),
    (libc::AT_SYSINFO_EHDR, "vDSO"),
];

impl Identity {
    /// Of the living thread `tid`, whose process has these mappings.
    pub fn of(tid: i32, maps: &[Mapping]) -> Self {
        let bytes = std::fs::read(format!("/proc/{tid}/auxv")).unwrap_or_default();
        let word = |pair: &[u8; 16], at: usize| pair[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let pairs = bytes.as_chunks::<16>().0.iter().map(|pair| (word(pair, 0), word(pair, 8)));
        let auxv: Vec<(u64, u64)> = pairs.take_while(|&(key, _)| key != libc::AT_NULL).collect();
        let random = random_of(&auxv, &ProcessMemory::new(tid));
        Self { auxv, random, heap: maps.iter().find(|mapping| mapping.is_heap()).map(|heap| heap.range.start) }
    }

    /// What of a core's auxiliary vector and memory is another process's; `None` where nothing is.
    pub fn differs(&self, auxv: &[(u64, u64)], memory: &dyn Memory) -> Option<String> {
        let of = |auxv: &[(u64, u64)], key: u64| auxv.iter().find(|pair| pair.0 == key).map(|pair| pair.1);
        for (key, what) in PLACES {
            if let (Some(own), Some(theirs)) = (of(&self.auxv, key), of(auxv, key))
                && own != theirs
            {
                return Some(format!("its {what} lie at {theirs:#x} in the core, at {own:#x} in the session"));
            }
        }
        match (&self.random, random_of(auxv, memory)) {
            (Some(own), Some(theirs)) if *own != theirs => {
                Some("the kernel gave them different random bytes at their start".into())
            }
            _ => None,
        }
    }
}

fn random_of(auxv: &[(u64, u64)], memory: &dyn Memory) -> Option<String> {
    let at = auxv.iter().find(|pair| pair.0 == libc::AT_RANDOM)?.1;
    let mut bytes = [0; 16];
    (memory.read(at, &mut bytes) == bytes.len()).then(|| hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::maps;
    use crate::target::memory::SavedMemory;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let tid = std::process::id() as i32;
        let own = Identity::of(tid, &maps::read_maps(tid).expect("the mappings"));
        assert!(own.auxv.len() > 10 && own.random.is_some() && own.heap.is_some(), "{own:?}");
        assert_eq!(own.differs(&own.auxv, &ProcessMemory::new(tid)), None);
        let mut moved = own.auxv.clone();
        moved.iter_mut().filter(|pair| pair.0 == libc::AT_BASE).for_each(|pair| pair.1 += 4096);
        assert!(own.differs(&moved, &ProcessMemory::new(tid)).is_some_and(|why| why.contains("loader")));
        let at = own.auxv.iter().find(|pair| pair.0 == libc::AT_RANDOM).expect("random bytes").1;
        let mut other = SavedMemory::default();
        other.insert(at, vec![7; 16]);
        assert!(own.differs(&own.auxv, &other).is_some_and(|why| why.contains("random")));
        // A core whose stack cannot be read proves nothing.
        assert_eq!(own.differs(&own.auxv, &SavedMemory::default()), None);
    }
}
