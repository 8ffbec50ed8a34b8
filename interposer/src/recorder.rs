//! From a hooked call to an event in the thread's ring.
//!
//! Order, the heart of the wire's truth: an allocation is stamped after it succeeded; a free is stamped and published before the
//! real free; a realloc has both stamps and publishes nothing when it failed.

use core::sync::atomic::Ordering;

use avleak_wire::event::{Event, FREE_UNMAPS, KIND_ALLOC, KIND_FREE, KIND_FREE_BY_REALLOC};

use crate::segment::{self, Segment};
use crate::thread::{self, ThreadState};
use crate::unwind::Registers;
use crate::{arm, control, settings, sys};

/// How often a producer looks whether the reader sleeps: every so many events.
const WAKE_EVERY: u64 = 512;

/// Runs `work` with this thread's state, or counts `events` as lost.
#[inline(always)]
fn with_state(generation: u32, sp: u64, events: u32, work: impl FnOnce(&'static Segment, &mut ThreadState)) {
    let Some(mut guard) = thread::enter(sp) else {
        for _ in 0..events {
            thread::count_swallowed();
        }
        return;
    };
    let Some(segment) = segment::get() else { return };
    match guard.state(generation) {
        Some(state) => work(segment, state),
        None => {
            segment.header().dropped_without_ring.fetch_add(u64::from(events), Ordering::Relaxed);
        }
    }
}

/// Writes one event; waits, bounded, while the ring is full and the reader lives.
#[inline(always)]
fn publish(generation: u32, segment: &Segment, state: &mut ThreadState, event: Event) {
    if !thread::still_armed(generation) {
        // A child forked in the middle of this hook: the ring is the parent's.
        return;
    }
    match state.ring.push(event, &mut state.known_tail) {
        Ok(filled) => {
            if filled % WAKE_EVERY == 0 {
                segment.wake_consumer();
            }
        }
        Err(_) => wait_and_publish(generation, segment, state, event),
    }
}

#[cold]
fn wait_and_publish(generation: u32, segment: &Segment, state: &mut ThreadState, event: Event) {
    let header = state.ring.header();
    // A reader that did not move during one whole wait is not waited for again until it moves.
    if state.stalled_at_tail != Some(state.known_tail) {
        sys::keep_errno(|| {
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
                    return;
                }
                let result = state.ring.push(event, &mut state.known_tail);
                let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
                if result.is_ok() {
                    header.waited_ns.fetch_add(now - started, Ordering::Relaxed);
                    state.stalled_at_tail = None;
                    return;
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
        });
        return;
    }
    header.dropped.fetch_add(1, Ordering::Relaxed);
}

/// `address` was returned by the allocator.
#[inline(always)]
pub fn allocated(generation: u32, caller: Registers, address: u64, size: u64) {
    with_state(generation, caller.sp, 1, |segment, state| {
        let stack = stack_of(segment, state, caller);
        state.ring.begin();
        let event = Event { stamp: sys::stamp_after(), address, kind: KIND_ALLOC, size, stack };
        publish(generation, segment, state, event);
        state.ring.end();
    });
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

/// `address` is about to be given back.
#[inline(always)]
pub fn freeing(generation: u32, caller: Registers, address: u64) {
    with_state(generation, caller.sp, 1, |segment, state| {
        let stack = stack_of_free(segment, state, caller);
        state.ring.begin();
        let event = Event { stamp: sys::stamp_before(), address, kind: KIND_FREE, size: fate(address), stack };
        publish(generation, segment, state, event);
        state.ring.end();
    });
}

/// A realloc has succeeded: `old` became `new`.
#[inline(always)]
pub fn reallocated(generation: u32, caller: Registers, old: Old, new: u64, size: u64) {
    with_state(generation, caller.sp, 2, |segment, state| {
        let stack = stack_of(segment, state, caller);
        state.ring.begin();
        let freed = Event { stamp: old.stamp, address: old.address, kind: KIND_FREE_BY_REALLOC, size: old.fate, stack };
        publish(generation, segment, state, freed);
        let event = Event { stamp: sys::stamp_after(), address: new, kind: KIND_ALLOC, size, stack };
        publish(generation, segment, state, event);
        state.ring.end();
    });
}

/// A realloc to no bytes gave `old` back.
#[inline(always)]
pub fn freed_by_realloc(generation: u32, caller: Registers, old: Old) {
    with_state(generation, caller.sp, 1, |segment, state| {
        let stack = stack_of(segment, state, caller);
        let event = Event { stamp: old.stamp, address: old.address, kind: KIND_FREE, size: old.fate, stack };
        publish(generation, segment, state, event);
        state.ring.end();
    });
}

/// A block before its realloc.
#[derive(Clone, Copy)]
pub struct Old {
    address: u64,
    stamp: u64,
    fate: u64,
}

/// A realloc is about to be made: nothing older than this may be thought settled. Pairs with [`realloc_ends`].
#[inline(always)]
pub fn realloc_begins(generation: u32, sp: u64, address: u64) -> Old {
    with_state(generation, sp, 0, |_, state| state.ring.begin());
    Old { address, stamp: sys::stamp_before(), fate: fate(address) }
}

/// A realloc came to nothing.
#[inline(always)]
pub fn realloc_failed(generation: u32, sp: u64) {
    with_state(generation, sp, 0, |_, state| state.ring.end());
}

/// The second witness: `kind` (`KIND_API_*`) happened to `address`; `api` counts.
#[inline(always)]
pub fn called(generation: u32, caller: Registers, api: usize, what: Option<(u8, u64, u64)>) {
    with_state(generation, caller.sp, u32::from(what.is_some()), |segment, state| {
        let counter = &state.header().calls[api];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if let Some((kind, address, size)) = what {
            let stack = stack_of(segment, state, caller);
            state.ring.begin();
            let event = Event { stamp: sys::stamp_after(), address, kind, size, stack };
            publish(generation, segment, state, event);
            state.ring.end();
        }
    });
}

#[inline(always)]
fn stack_of(segment: &Segment, state: &mut ThreadState, caller: Registers) -> u32 {
    guarded(segment, || state.unwinding.stack(segment, caller))
}

/// Only a free that FFmpeg or its direct user makes is worth its stack.
#[inline(always)]
fn stack_of_free(segment: &Segment, state: &mut ThreadState, caller: Registers) -> u32 {
    guarded(segment, || {
        if !state.unwinding.is_libav_or_user(caller.pc) {
            return 0;
        }
        state.unwinding.stack(segment, caller)
    })
}

/// A panic in an unwinding library must not reach the host: it costs this one stack.
#[inline(always)]
fn guarded(segment: &Segment, work: impl FnOnce() -> u32) -> u32 {
    let capture = core::panic::AssertUnwindSafe(work);
    std::panic::catch_unwind(capture).unwrap_or_else(|_| {
        segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
        0
    })
}
