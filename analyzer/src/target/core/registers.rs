//! What a thread's notes say of its registers.

use object::elf;

use super::super::threads::{self, ThreadState};
use super::notes::word;

/// The notes of one thread.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub tid: i32,
    /// Of NT_PRSTATUS: the general ones.
    pub general: Vec<u8>,
    pub vectors: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    pub extended: Vec<u8>,
    #[cfg(target_arch = "aarch64")]
    pub thread_pointer: u64,
    #[cfg(target_arch = "aarch64")]
    pub system_call: Option<i32>,
}

impl Registers {
    /// Another note of the same thread.
    pub fn add(&mut self, kind: elf::NoteType, desc: &[u8]) {
        match kind {
            elf::NT_FPREGSET => self.vectors = desc.to_vec(),
            #[cfg(target_arch = "x86_64")]
            elf::NT_X86_XSTATE => self.extended = desc.to_vec(),
            #[cfg(target_arch = "aarch64")]
            elf::NT_ARM_TLS => self.thread_pointer = word(desc, 0),
            #[cfg(target_arch = "aarch64")]
            elf::NT_ARM_SYSTEM_CALL => {
                self.system_call = desc.first_chunk().map(|number| i32::from_le_bytes(*number));
            }
            _ => (),
        }
    }

    /// `struct user_regs_struct` of x86-64, in the order of [`threads::REGISTER_NAMES`]; `None` where it is cut off.
    #[cfg(target_arch = "x86_64")]
    pub fn state(&self) -> Option<ThreadState> {
        const WORDS: usize = 27;
        const PLACES: [usize; threads::REGISTER_NAMES.len()] =
            [10, 5, 11, 12, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16, 22];
        const SYSTEM_CALL: usize = 15;
        const FS_BASE: usize = 21;
        if self.general.len() < 8 * WORDS {
            return None;
        }
        let register = |at: usize| word(&self.general, 8 * at);
        // As of a thread that is traced: in a system call the vector registers hold nothing (see `ThreadState::capture`).
        let in_system_call = register(SYSTEM_CALL) as i64 >= 0;
        let area = if self.extended.is_empty() { &self.vectors } else { &self.extended };
        let vectors = if in_system_call { Vec::new() } else { threads::vector_words(area) };
        Some(ThreadState::from_values(self.tid, register(FS_BASE), &PLACES.map(register), vectors))
    }

    /// `struct user_pt_regs` of AArch64; `None` where it is cut off.
    #[cfg(target_arch = "aarch64")]
    pub fn state(&self) -> Option<ThreadState> {
        let count = threads::REGISTER_NAMES.len();
        if self.general.len() < 8 * count {
            return None;
        }
        let values: Vec<u64> = (0..count).map(|at| word(&self.general, 8 * at)).collect();
        let in_system_call = self.system_call.is_some_and(|number| number >= 0);
        let vectors = super::super::aarch64::vector_words(&self.vectors, in_system_call);
        Some(ThreadState::from_values(self.tid, self.thread_pointer, &values, vectors))
    }
}
