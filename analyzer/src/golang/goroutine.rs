//! Goroutines: where their stacks are live, what runs on them, and where the stacks of Go's threads go on.

use super::heap::Heap;
use super::layout::Layout;
use crate::address::TargetRange;
use crate::target::memory::Memory;
use crate::target::threads::{FRAME_POINTER, PROGRAM_COUNTER, ThreadState};

/// Most frames of a goroutine that are named.
const DEPTH: usize = 64;
/// Most bytes of a stack through which frame pointers are followed.
const MOST_STACK: u64 = 1 << 20;
/// The bit that the collector sets beside a status.
const SCAN: u32 = 0x1000;

/// What a goroutine does (runtime/runtime2.go, `_Grunnable` …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits for a processor.
    Runnable,
    /// Runs Go code.
    Running,
    /// In a system call, or in C.
    InCall,
    /// Waits for something.
    Waiting,
}

/// One that is not dead.
#[derive(Debug, Clone)]
pub struct Goroutine {
    /// `goid`.
    pub id: u64,
    /// What it does.
    pub state: State,
    /// The live part of its stack.
    pub stack: TargetRange,
    /// Return addresses, innermost first; the first may be the instruction itself.
    pub calls: Vec<u64>,
    /// First instruction of its function.
    pub start: u64,
    /// The go statement's return address; 0 for the main goroutine.
    pub created_at: u64,
    /// `sched.ctxt`: a closure, perhaps.
    pub context: u64,
}

/// Where the stack of a thread goes on whose stack pointer is on one of Go's stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Of the thread's own stack: what lies below is dead. `None`: not known.
    pub own_sp: Option<u64>,
    /// Live memory of Go's that is no goroutine's: a signal handler's stack.
    pub handler: Option<TargetRange>,
}

struct Raw {
    at: u64,
    id: u64,
    status: u32,
    low: u64,
    high: u64,
    m: u64,
    sp: u64,
    pc: u64,
    bp: u64,
    context: u64,
    start: u64,
    created_at: u64,
}

/// Registers at which a thread goes on.
#[derive(Clone, Copy)]
struct At {
    sp: u64,
    pc: u64,
    bp: u64,
}

/// Reads those at `addresses`.
pub fn read(
    memory: &dyn Memory,
    addresses: &[u64],
    layout: &Layout,
    heap: &Heap,
    threads: &[ThreadState],
    text: TargetRange,
) -> (Vec<Goroutine>, Vec<(i32, Place)>) {
    let mut all: Vec<Raw> = addresses.iter().filter_map(|&at| read_one(memory, at, layout)).collect();
    all.sort_unstable_by_key(|raw| raw.low);
    let on = |sp: u64| {
        let at = all.partition_point(|raw| raw.low <= sp).checked_sub(1)?;
        // The stack pointer of one that has just begun is its stack's end.
        all.get(at).filter(|raw| sp <= raw.high)
    };
    let mut running: Vec<(u64, At)> = Vec::new();
    let mut places = Vec::new();
    for thread in threads {
        let mut at = registers(thread);
        let mut place = Place { own_sp: None, handler: None };
        if on(at.sp).is_none()
            && let Some(slot) = heap.stack_slot(at.sp)
        {
            place.handler = Some(TargetRange { start: at.sp & !7, end: slot.end });
            if let Some(interrupted) = interrupted(memory, at.sp, slot) {
                at = interrupted;
                // Wherever it was, it will go on there.
                place.own_sp = heap.span_of(at.sp).is_none().then_some(at.sp);
            }
        }
        if let Some(raw) = on(at.sp) {
            running.push((raw.at, at));
            let g0 = memory.word(raw.m + layout.m_g0).filter(|&g0| g0 > 4096);
            place.own_sp = g0.and_then(|g0| memory.word(g0 + layout.goroutine.sched));
        }
        if place != (Place { own_sp: None, handler: None }) {
            places.push((thread.tid, place));
        }
    }
    let goroutines = all.iter().filter_map(|raw| {
        let thread = running.iter().find(|known| known.0 == raw.at).map(|known| known.1);
        goroutine(memory, raw, thread, text)
    });
    (goroutines.collect(), places)
}

fn read_one(memory: &dyn Memory, at: u64, layout: &Layout) -> Option<Raw> {
    let fields = &layout.goroutine;
    let word = |offset: u64| memory.word(at.checked_add(offset)?);
    let (low, high) = (word(0)?, word(8)?);
    let status = word(fields.status)? as u32 & !SCAN;
    // In a call, `sched` is what was saved when it began.
    let syscall_sp = word(fields.syscall_sp)?;
    let sched_sp = word(fields.sched)?;
    Some(Raw {
        at,
        id: word(fields.id)?,
        status,
        low,
        high,
        m: word(fields.m)?,
        sp: if syscall_sp != 0 { syscall_sp } else { sched_sp },
        pc: word(fields.sched + 8)?,
        bp: word(fields.bp)?,
        context: word(fields.context)?,
        start: word(fields.start)?,
        created_at: word(fields.created_at)?,
    })
}

fn goroutine(memory: &dyn Memory, raw: &Raw, thread: Option<At>, text: TargetRange) -> Option<Goroutine> {
    let state = match raw.status {
        1 => State::Runnable,
        2 | 8 => State::Running,
        3 => State::InCall,
        4 | 9 | 10 => State::Waiting,
        // Idle, dead, or one that nobody uses.
        _ => return None,
    };
    let at = thread.unwrap_or(At { sp: raw.sp, pc: raw.pc, bp: raw.bp });
    // Out of its own stack: all of it is live, for aught that is known.
    let start = if (raw.low..=raw.high).contains(&at.sp) { at.sp & !7 } else { raw.low };
    let stack = TargetRange { start, end: raw.high };
    let calls = calls(memory, stack, at, text);
    Some(Goroutine {
        id: raw.id,
        state,
        stack,
        calls,
        start: raw.start,
        created_at: raw.created_at,
        context: raw.context,
    })
}

/// Follows frame pointers: each leads to the caller's, with the return address behind it.
fn calls(memory: &dyn Memory, stack: TargetRange, at: At, text: TargetRange) -> Vec<u64> {
    let mut bytes = vec![0; stack.len().min(MOST_STACK) as usize];
    let got = memory.read(stack.start, &mut bytes);
    let word = |address: u64| {
        let offset = usize::try_from(address.checked_sub(stack.start)?).ok()?;
        Some(u64::from_le_bytes(*bytes[..got].get(offset..)?.first_chunk()?))
    };
    let mut calls = Vec::new();
    if text.contains(at.pc) {
        calls.push(at.pc);
    }
    let mut bp = at.bp;
    while calls.len() < DEPTH
        && let (Some(next), Some(pc)) = (word(bp), word(bp.wrapping_add(8)))
    {
        if !text.contains(pc) {
            break;
        }
        calls.push(pc);
        if next <= bp {
            break;
        }
        bp = next;
    }
    calls
}

fn registers(thread: &ThreadState) -> At {
    let value =
        |name: &str| thread.registers.iter().find(|register| register.0 == name).map_or(0, |register| register.1);
    At { sp: thread.stack_pointer, pc: value(PROGRAM_COUNTER), bp: value(FRAME_POINTER) }
}

/// Where a thread in a signal handler was interrupted: the kernel put that on the handler's stack, behind the description of that very
/// stack (`ucontext_t`: `uc_stack` with its address and size, then the registers; sigreturn(2), asm/ucontext.h).
fn interrupted(memory: &dyn Memory, sp: u64, slot: TargetRange) -> Option<At> {
    let mut bytes = vec![0; slot.end.checked_sub(sp & !7)?.min(MOST_STACK) as usize];
    let got = memory.read(sp & !7, &mut bytes);
    let words: Vec<u64> = bytes[..got].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    // On x86-64 rbp, rsp and rip are the registers 10, 15 and 16 behind the three words of `uc_stack`; on AArch64 there are the signal mask,
    // with room for more, and the faulting address before the registers 29, 31 and 32.
    const BEHIND: [usize; 3] = if cfg!(target_arch = "aarch64") { [50, 52, 53] } else { [13, 18, 19] };
    words.windows(BEHIND[2] + 1).find_map(|context| {
        let is_stack = context[0] >= slot.start && context[0] < sp && context[0].checked_add(context[2])? <= slot.end;
        let fits = is_stack && context[2] >= 2048 && context[2].is_multiple_of(1024);
        fits.then_some(At { bp: context[BEHIND[0]], sp: context[BEHIND[1]], pc: context[BEHIND[2]] })
    })
}
