//! glibc's description of a thread and of its stack, on AArch64: `struct pthread` lies right *before* what the thread pointer points to, the
//! thread's own variables behind it, and the stack below both (nptl/descr.h, TLS_DTV_AT_TP).
//!
//! It holds no pointer to itself, but where its stack lies: three words (stackblock, stackblock_size, guardsize).

use crate::address::TargetRange;
use crate::reach::Block;
use crate::target::maps::Mapping;
use crate::target::memory::Memory;
use crate::target::threads::ThreadState;
use crate::target::touched::Touched;

/// More than `struct pthread` takes up.
const DESCRIPTOR_BYTES: u64 = 4096;
/// More than threads' own variables take up, those of modules loaded later not among them.
const VARIABLES_BYTES: u64 = 256 << 10;
/// Larger mappings are no stacks.
const LARGEST_STACK: u64 = 256 << 20;

fn words(memory: &dyn Memory, start: u64, end: u64) -> Vec<u64> {
    let mut bytes = vec![0; (end - start) as usize];
    let got = memory.read(start, &mut bytes);
    bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// What glibc mapped for the thread whose thread pointer this is, guard included.
pub fn stack_block(thread_pointer: u64, memory: &dyn Memory) -> Option<TargetRange> {
    let start = thread_pointer.checked_sub(DESCRIPTOR_BYTES)?;
    words(memory, start & !7, thread_pointer).windows(3).find_map(|three| {
        let end = three[0].checked_add(three[1])?;
        let fits = three[0] % 4096 == 0 && three[0] != 0 && three[0] < thread_pointer && three[2] < three[1];
        (fits && end >= thread_pointer && end - thread_pointer <= VARIABLES_BYTES)
            .then_some(TargetRange { start: three[0], end })
    })
}

/// The stacks that glibc keeps of threads that have ended, for the next ones: what lies there holds nothing.
///
/// A stack has a guard below it, and near its top the three words that name just this place. Where no thread that lives has its thread
/// pointer there, the thread is dead. So little is read that blocks need not be passed over.
pub fn dead_stacks(
    maps: &[Mapping],
    threads: &[ThreadState],
    memory: &dyn Memory,
    touched: &Touched,
    _: &[Block],
) -> Vec<TargetRange> {
    let mut dead = Vec::new();
    let mut look = |guard: TargetRange, range: TargetRange| {
        let lives = |stack: &TargetRange| threads.iter().any(|thread| stack.contains(thread.fs_base.saturating_sub(1)));
        if range.len() <= LARGEST_STACK
            && let Some(stack) = described(guard, range, memory)
            && !lives(&stack)
        {
            dead.push(TargetRange { start: range.start, end: stack.end.min(range.end) });
        }
    };
    for pair in maps.windows(2) {
        let (below, mapping) = (&pair[0], &pair[1]);
        let guard = below.range.end == mapping.range.start && !below.readable && !below.writable && !below.executable;
        let plain = mapping.writable && mapping.readable && !mapping.shared && mapping.name.is_empty();
        if guard && plain {
            look(below.range, mapping.range);
        }
    }
    // glibc 2.42 on Linux 6.13: the guard is a part of the mapping, and stacks side by side are one: each ends before the next guard.
    for (at, guard) in touched.guards().iter().enumerate() {
        let Some(mapping) = maps.iter().find(|mapping| mapping.range.contains(guard.start)) else { continue };
        let next = touched.guards().get(at + 1).map_or(u64::MAX, |next| next.start);
        look(*guard, TargetRange { start: guard.end, end: mapping.range.end.min(next) });
    }
    dead
}

/// The stack that begins inside `guard` and ends inside `range`, where the words near the end of `range` say so.
fn described(guard: TargetRange, range: TargetRange, memory: &dyn Memory) -> Option<TargetRange> {
    let start = range.end.saturating_sub(VARIABLES_BYTES + DESCRIPTOR_BYTES).max(range.start) & !7;
    words(memory, start, range.end).windows(3).find_map(|three| {
        let end = three[0].checked_add(three[1])?;
        let fits = guard.contains(three[0])
            && three[0] % 4096 == 0
            && end > range.start
            && end <= range.end
            && three[0].checked_add(three[2]) == Some(range.start);
        fits.then_some(TargetRange { start: three[0], end })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::SavedMemory;

    #[test]
    fn a_stack_is_known_by_the_words_before_the_thread_pointer() {
        let (block, guard, bytes) = (0xffff_8000_0000u64, 0x1_0000u64, 0x10_0000u64);
        let top = block + bytes;
        // The thread pointer 0x1000 below the top; the three words 0x300 below it.
        let pointer = top - 0x1000;
        let memory = |three: [u64; 3]| {
            let start = top - (VARIABLES_BYTES + DESCRIPTOR_BYTES);
            let mut words = vec![0; (top - start) as usize / 8];
            words[((pointer - 0x300 - start) / 8) as usize..][..3].copy_from_slice(&three);
            let mut memory = SavedMemory::default();
            memory.insert_words(start, &words);
            memory
        };
        let told = memory([block, bytes, guard]);
        let whole = TargetRange { start: block, end: top };
        assert_eq!(stack_block(pointer, &told), Some(whole));
        assert_eq!(stack_block(pointer - 0x1000, &told), None, "they lie behind it");
        let (below, stack) =
            (TargetRange { start: block, end: block + guard }, TargetRange { start: block + guard, end: top });
        assert_eq!(described(below, stack, &told), Some(whole));
        assert_eq!(described(below, stack, &memory([block, bytes, guard / 2])), None, "its guard ends elsewhere");
    }
}
