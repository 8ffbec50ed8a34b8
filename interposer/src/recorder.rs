//! From a hooked call to an event: among the thread's young first ([`avleak_wire::young`]), then in its ring, or nowhere.
//!
//! Order, the heart of the wire's truth: an allocation is stamped after it succeeded; a free is stamped and published, or cancels its
//! allocation, before the real free; a realloc has both stamps and publishes nothing when it failed.

use core::sync::atomic::{AtomicU32, Ordering};

use avleak_wire::event::{
    Event, FREE_UNMAPS, KIND_API_FRAME_ALLOC, KIND_API_FRAME_FREE, KIND_API_PACKET_ALLOC, KIND_API_PACKET_FREE,
    KIND_FREE, KIND_FREE_BY_REALLOC,
};
use avleak_wire::ring::Producer;
use avleak_wire::young::{BY_REALLOC, OBJECT, Young};

use crate::known::Known;
use crate::segment::Segment;
use crate::thread::{self, ThreadState};
use crate::unwind::Registers;
use crate::{arm, control, foreign, places, settings, sys, told};

/// Runs `work` with this thread's state; `None` where our code is running already, or no ring is to be had: an event is lost then.
#[inline(always)]
fn with_state<R>(generation: u32, sp: u64, work: impl FnOnce(&mut ThreadState) -> R) -> Option<R> {
    let mut guard = thread::enter(sp)?;
    let state = guard.state(generation)?;
    Some(work(state))
}

/// `events` were lost: our code was interrupted, or there is no ring.
#[cold]
fn count_lost(events: u32) {
    for _ in 0..events {
        thread::count_swallowed();
    }
}

/// Writes one event; waits, bounded, while the ring is full and the reader lives. False where it was dropped.
#[inline(always)]
fn publish(generation: u32, state: &mut ThreadState, event: Event) -> bool {
    match state.ring.push(event, &mut state.known_tail) {
        Ok(filled) => {
            state.segment.published(filled, || state.ring.filled(&mut state.known_tail));
            true
        }
        Err(_) => wait_and_publish(generation, state.segment, state, event),
    }
}

#[cold]
fn wait_and_publish(generation: u32, segment: &Segment, state: &mut ThreadState, event: Event) -> bool {
    let header = state.ring.header();
    // A reader that did not move during one whole wait is not waited for again until it moves.
    if state.stalled_at_tail != Some(state.known_tail) {
        return sys::keep_errno(|| {
            let started = sys::clock_ns(libc::CLOCK_MONOTONIC);
            let patience = settings::patience_ns();
            let mut pause = 20_000;
            let mut tail = state.known_tail;
            let mut since = started;
            loop {
                segment.wake_consumer();
                sys::sleep_ns(pause);
                pause = (pause * 2).min(1_000_000);
                if !thread::still_armed(generation) {
                    // A child forked in the middle of this hook: the ring is the parent's.
                    return false;
                }
                let result = state.ring.push(event, &mut state.known_tail);
                let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
                if result.is_ok() {
                    header.waited_ns.fetch_add(now - started, Ordering::Relaxed);
                    state.stalled_at_tail = None;
                    return true;
                }
                if state.known_tail != tail {
                    (tail, since) = (state.known_tail, now);
                }
                if now - since > patience {
                    header.waited_ns.fetch_add(now - started, Ordering::Relaxed);
                    break;
                }
            }
            state.stalled_at_tail = Some(state.known_tail);
            header.dropped.fetch_add(1, Ordering::Relaxed);
            false
        });
    }
    header.dropped.fetch_add(1, Ordering::Relaxed);
    false
}

/// Publishes an allocation that was young.
#[inline(always)]
fn publish_young(generation: u32, state: &mut ThreadState, young: Young) {
    if publish(generation, state, young.event()) {
        told::note(young.address, young.size);
    }
}

/// Publishes what the cell holds, which stays in its cell, claimed, until the caller empties it.
#[inline(always)]
fn push_young(generation: u32, state: &mut ThreadState, index: u32) -> Young {
    let ring = state.ring;
    ring.publish_young(index, |young| publish_young(generation, state, young))
}

/// Puts a new block among the young.
#[inline(always)]
fn keep_young(generation: u32, state: &mut ThreadState, young: Young) {
    let ring = state.ring;
    ring.keep_young(young, |old| publish_young(generation, state, old));
}

#[inline(always)]
fn young(state: &ThreadState, stamp: u64, address: u64, size: u64, known: Known) -> Young {
    let mark = foreign::hold(address, state.index) | if known.libav { OBJECT } else { 0 };
    Young { stamp, address, size, stack: known.node, mark }
}

/// `address` was returned by the allocator.
#[inline(always)]
pub fn allocated(generation: u32, caller: Registers, address: u64, size: u64) {
    places::fetch(address);
    let done = with_state(generation, caller.sp, |state| {
        sys::fetch(state.ring.young_place(address));
        // The stamp before the stack: it waits for all that was begun before it, and nothing here needs to wait for the stack.
        state.ring.begin();
        let stamp = sys::stamp_after();
        let known = stack(state, caller);
        if !thread::still_armed(generation) {
            // A child forked in the middle of this hook: the ring is the parent's, who ends what it began.
            return;
        }
        let young = young(state, stamp, address, size, known);
        keep_young(generation, state, young);
        state.ring.end();
    });
    if done.is_none() {
        count_lost(1);
    }
    if control::load_pending() {
        arm::look_at_loaded(caller);
    }
}

/// What the allocator will do with a block, read before it does: [`FREE_UNMAPS`] or 0.
///
/// glibc's chunk header lies right before the block; bit 1 of its size says that the chunk is a mapping of its own (IS_MMAPPED), and such
/// a block begins at most 256 bytes into its first page. Of another allocator the word may say anything: then the analyzer takes
/// freed memory for the kernel's and searches it, which can hide a leak and never invents one.
#[inline(always)]
pub fn fate(address: u64) -> u64 {
    let in_page = address & 4095;
    if !(16..=256).contains(&in_page) {
        return 0;
    }
    // SAFETY: the word lies on the page of a block that is about to be freed.
    let size = unsafe { *((address - 8) as *const u64) };
    if size & 2 != 0 { FREE_UNMAPS } else { 0 }
}

/// The young block at `address`, if it is this thread's and nobody else gave it back meanwhile.
#[inline(always)]
fn own_young(state: &ThreadState, address: u64) -> Option<u32> {
    state.ring.own_young(address, foreign::count(address))
}

/// How a block ends.
#[derive(Clone, Copy)]
struct End {
    kind: u8,
    address: u64,
    /// `None`: to be taken when it is needed.
    stamp: Option<u64>,
    fate: u64,
    stack: Option<u32>,
}

/// A young block ends: true where nothing needs to be published, because nothing is lost by that. `young`: what its cell holds.
#[inline(always)]
fn cancels(generation: u32, state: &mut ThreadState, young: Young, caller: Registers, end: &mut End) -> bool {
    if end.fate == FREE_UNMAPS || !told::covers(end.address, young.size) {
        return false;
    }
    let cancels = young.mark & OBJECT == 0 || {
        let freed = match end.kind {
            KIND_FREE_BY_REALLOC => BY_REALLOC,
            _ => *end.stack.get_or_insert_with(|| stack_of_free(state, caller)),
        };
        thread::still_armed(generation) && state.ring.cancels(young.stack, freed)
    };
    cancels && thread::still_armed(generation)
}

/// A young block of this thread's ends.
#[inline(always)]
fn dies_young(generation: u32, state: &mut ThreadState, index: u32, caller: Registers, mut end: End) {
    let young = state.ring.young(index).held();
    if cancels(generation, state, young, caller, &mut end) {
        state.ring.count_cancelled();
        state.ring.empty_young(index);
        return;
    }
    ends(generation, state, Some(index), caller, end);
}

/// The cell of another thread's young in which the block at `address` is, claimed by this thread.
#[inline(always)]
fn claim_elsewhere(generation: u32, state: &ThreadState, address: u64) -> Option<(Producer, u32)> {
    let ring = foreign::holder(address)?;
    // A child knows of rings that its parent had.
    if ring == state.index || ring >= state.segment.ring_count() || !thread::still_armed(generation) {
        return None;
    }
    let ring = state.segment.ring(ring);
    Some((ring, ring.claim_young(address, foreign::count(address))?))
}

/// A young block of another thread's ends, whose cell this thread has claimed. Where its events are not cancelled both are told here, one
/// after the other: no other event of the address lies between the two.
#[inline(never)]
fn dies_elsewhere(generation: u32, state: &mut ThreadState, cell: (Producer, u32), caller: Registers, mut end: End) {
    let (ring, index) = cell;
    let young = ring.young(index).held();
    if cancels(generation, state, young, caller, &mut end) {
        state.ring.count_cancelled();
        ring.empty_young(index);
        return;
    }
    let stack = end.stack.unwrap_or_else(|| stack_of_free(state, caller));
    if !thread::still_armed(generation) {
        return;
    }
    state.ring.begin();
    publish_young(generation, state, young);
    publish_end(generation, state, end, stack);
    ring.empty_young(index);
    state.ring.end();
}

/// Publishes the end of a block.
#[inline(always)]
fn publish_end(generation: u32, state: &mut ThreadState, end: End, stack: u32) {
    let stamp = end.stamp.unwrap_or_else(sys::stamp_before);
    publish(generation, state, Event { stamp, address: end.address, kind: end.kind, size: end.fate, stack });
    if end.fate == FREE_UNMAPS {
        told::forget(end.address);
    }
}

/// A block ends, and both its events are told: that of the young cell, where it is in one, and this.
#[inline(always)]
fn ends(generation: u32, state: &mut ThreadState, index: Option<u32>, caller: Registers, end: End) {
    let stack = end.stack.unwrap_or_else(|| stack_of_free(state, caller));
    if !thread::still_armed(generation) {
        return;
    }
    state.ring.begin();
    if let Some(index) = index {
        push_young(generation, state, index);
    }
    publish_end(generation, state, end, stack);
    if let Some(index) = index {
        state.ring.empty_young(index);
    }
    state.ring.end();
}

/// `address` is about to be given back.
#[inline(always)]
pub fn freeing(generation: u32, caller: Registers, address: u64) {
    places::fetch(address);
    let done = with_state(generation, caller.sp, |state| {
        let end = End { kind: KIND_FREE, address, stamp: None, fate: fate(address), stack: None };
        if let Some(index) = own_young(state, address) {
            return dies_young(generation, state, index, caller, end);
        }
        if let Some(cell) = claim_elsewhere(generation, state, address) {
            return dies_elsewhere(generation, state, cell, caller, end);
        }
        foreign::note(address);
        let index = state.ring.find_young(address);
        ends(generation, state, index, caller, end);
    });
    if done.is_none() {
        foreign::note(address);
        count_lost(1);
    }
}

/// A realloc has succeeded: `old` became `new`.
#[inline(always)]
pub fn reallocated(generation: u32, caller: Registers, old: Old, new: u64, size: u64) {
    let done = with_state(generation, caller.sp, |state| {
        let known = stack(state, caller);
        let end = End {
            kind: KIND_FREE_BY_REALLOC,
            address: old.address,
            stamp: Some(old.stamp),
            fate: old.fate,
            stack: Some(known.node),
        };
        old_ends(generation, state, caller, old, end);
        if !thread::still_armed(generation) {
            return;
        }
        state.ring.begin();
        let young = young(state, sys::stamp_after(), new, size, known);
        keep_young(generation, state, young);
        state.ring.end();
    });
    if done.is_none() {
        // Late, but whoever has the old address by now must not take it for the young block that this thread still thinks it has.
        foreign::note(old.address);
        count_lost(2);
    }
}

#[inline(always)]
fn old_ends(generation: u32, state: &mut ThreadState, caller: Registers, old: Old, end: End) {
    match state.ring.find_young(old.address) {
        Some(index) if old.own => dies_young(generation, state, index, caller, end),
        index => ends(generation, state, index, caller, end),
    }
}

/// A realloc to no bytes gave `old` back.
#[inline(always)]
pub fn freed_by_realloc(generation: u32, caller: Registers, old: Old) {
    let done = with_state(generation, caller.sp, |state| {
        let stack = Some(stack(state, caller).node);
        let end = End { kind: KIND_FREE, address: old.address, stamp: Some(old.stamp), fate: old.fate, stack };
        old_ends(generation, state, caller, old, end);
        state.ring.end();
    });
    if done.is_none() {
        count_lost(1);
    }
}

/// A block before its realloc.
#[derive(Clone, Copy)]
pub struct Old {
    address: u64,
    stamp: u64,
    fate: u64,
    /// It is a young block of this thread's.
    own: bool,
}

/// A realloc is about to be made: nothing older than this may be thought settled. Pairs with [`realloc_ends`].
#[inline(always)]
pub fn realloc_begins(generation: u32, sp: u64, address: u64) -> Old {
    let own = with_state(generation, sp, |state| {
        state.ring.begin();
        own_young(state, address).is_some()
    })
    .unwrap_or(false);
    if !own {
        foreign::note(address);
    }
    Old { address, stamp: sys::stamp_before(), fate: fate(address), own }
}

/// A realloc came to nothing.
#[inline(always)]
pub fn realloc_failed(generation: u32, sp: u64) {
    with_state(generation, sp, |state| state.ring.end());
}

/// API functions of which nothing but their number is wanted, by bits of [`avleak_wire::layout::API_NAMES`]; read by the thunks.
/// av_frame_free and av_packet_free are among them as long as malloc saw every object.
pub static COUNT_ONLY: AtomicU32 = AtomicU32::new(COUNTED);
const COUNTED: u32 = 0b11_1111_1010 & !(1 << 2 | 1 << 8);
const FREES: u32 = 1 << 1 | 1 << 9;

/// The second witness: function `api` was called.
#[inline(always)]
pub fn called(generation: u32, caller: Registers, api: usize) {
    let done = with_state(generation, caller.sp, |state| count_call(state, api));
    if done.is_none() {
        // A call that is not counted is no lost event.
    }
}

#[inline(always)]
fn count_call(state: &ThreadState, api: usize) {
    let counter = &state.header().calls[api];
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// av_frame_alloc or its kin (`kind`) returned `address`. The malloc view should know it: where it does, once a stack is said so.
#[inline(always)]
pub fn made_by_call(generation: u32, caller: Registers, api: usize, kind: u8, address: u64) {
    let done = with_state(generation, caller.sp, |state| {
        count_call(state, api);
        let stack = match state.ring.find_young(address) {
            Some(index) => {
                let young = state.ring.young(index).held();
                if !state.compared.first_time(young.stack) {
                    return;
                }
                // The allocation first: the analyzer is to know it when this comes.
                state.ring.begin();
                push_young(generation, state, index);
                state.ring.empty_young(index);
                young.stack
            }
            None => {
                COUNT_ONLY.fetch_and(!FREES, Ordering::Relaxed);
                let stack = stack(state, caller).node;
                state.ring.begin();
                stack
            }
        };
        if thread::still_armed(generation) {
            publish(generation, state, Event { stamp: sys::stamp_after(), address, kind, size: 0, stack });
        }
        state.ring.end();
    });
    if done.is_none() {
        count_lost(1);
    }
}

/// av_frame_free or av_packet_free (`kind`) is about to free `address`, of which perhaps only the call is seen.
#[inline(always)]
pub fn freed_by_call(generation: u32, caller: Registers, api: usize, kind: u8, address: u64) {
    let done = with_state(generation, caller.sp, |state| {
        count_call(state, api);
        let stack = stack(state, caller).node;
        if thread::still_armed(generation) {
            state.ring.begin();
            publish(generation, state, Event { stamp: sys::stamp_before(), address, kind, size: 0, stack });
            state.ring.end();
        }
    });
    if done.is_none() {
        count_lost(1);
    }
}

/// The kinds of the second witness's events, by function: made, freed.
pub fn kind_made(api: usize) -> u8 {
    if api == crate::slots::PACKET_ALLOC { KIND_API_PACKET_ALLOC } else { KIND_API_FRAME_ALLOC }
}

/// See [`kind_made`].
pub fn kind_freed(api: usize) -> u8 {
    if api == crate::slots::PACKET_FREE { KIND_API_PACKET_FREE } else { KIND_API_FRAME_FREE }
}

/// The stack of a call; of one that FFmpeg makes or is called by, with Python's functions on it.
#[inline(always)]
fn stack(state: &mut ThreadState, caller: Registers) -> Known {
    let known = state.unwinding.stack(state.segment, caller);
    if known.libav { state.python.join(state.segment, known) } else { known }
}

/// Only a free that FFmpeg or its direct user makes is worth its stack.
#[inline(always)]
fn stack_of_free(state: &mut ThreadState, caller: Registers) -> u32 {
    if !state.unwinding.is_libav_or_user(caller.pc) {
        return 0;
    }
    stack(state, caller).node
}
