//! A thread's state: the guard against re-entry, and the ring that the thread owns.
//!
//! The state is found through one initial-exec TLS slot, defined in assembly: `thread_local!` in a cdylib would go through
//! `__tls_get_addr`, which can itself call malloc.
//!
//! A ring belongs to whoever holds its robust mutex. When a thread dies, however it dies, the kernel marks the mutex
//! (`EOWNERDEAD`) and the next new thread takes the ring over where it was: no destructor of ours has to run, and frees from the
//! latest TLS destructors still have their ring.

#[cfg(target_arch = "x86_64")]
use core::arch::asm;
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout::{MAX_RINGS, RingHeader};
use avleak_wire::ring::Producer;

use crate::python::Python;
use crate::sandbox::{self, Call};
use crate::stacks::stack_left;
use crate::unwind::Unwinding;
use crate::{arena, control, segment, sys};

global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".balign 16",
    ".globl avleak_thread_slot",
    ".hidden avleak_thread_slot",
    ".type avleak_thread_slot,@object",
    ".size avleak_thread_slot,32",
    "avleak_thread_slot: .zero 32",
    ".popsection",
);

/// What lies in the TLS slot: 32 bytes, zero in a new thread.
#[repr(C)]
pub struct Slot {
    /// Stack pointer of the hook that is running our code on this thread; 0: none.
    guard: UnsafeCell<u64>,
    /// The generation that `state` belongs to.
    generation: UnsafeCell<u32>,
    /// Not 0 while our code calls a function of the C library that allocates for itself.
    quiet: UnsafeCell<u32>,
    state: UnsafeCell<*mut ThreadState>,
    /// The ring's counters of API calls, for the thunks ([`crate::slots`]); null where they are to ask us.
    calls: UnsafeCell<*const AtomicU64>,
}

const _: () = assert!(size_of::<Slot>() == 32, "the assembly reserves 32 bytes");
/// Offsets in [`Slot`] that the thunks' assembly uses.
pub const SLOT_GENERATION: usize = core::mem::offset_of!(Slot, generation);
/// See [`SLOT_GENERATION`].
pub const SLOT_CALLS: usize = core::mem::offset_of!(Slot, calls);

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn slot() -> &'static Slot {
    // SAFETY: the address of this thread's slot, which is zeroed when the thread begins.
    unsafe { &*(crate::aarch64::tls::slot() as *const Slot) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn slot() -> &'static Slot {
    let at: *const Slot;
    // SAFETY: the slot's offset from the thread pointer is in the GOT (initial-exec); fs:0 holds the thread pointer itself.
    unsafe {
        asm!(
            "mov {at}, qword ptr [rip + avleak_thread_slot@GOTTPOFF]",
            "add {at}, qword ptr fs:[0]",
            at = out(reg) at,
            options(pure, readonly, nostack)
        );
        &*at
    }
}

/// A thread's own part of the recorder. Lives in the arena; goes to the next owner with the ring.
///
/// In this order: what each call needs lies in the first three lines.
#[repr(C, align(64))]
pub struct ThreadState {
    /// The ring.
    pub ring: Producer,
    /// Where the ring lies.
    pub segment: &'static segment::Segment,
    /// What the producer last saw of the reader's position.
    pub known_tail: u64,
    /// The ring's number.
    pub index: u32,
    /// The unwinder's own.
    pub unwinding: Unwinding,
    /// Python's callers.
    pub python: Python,
    /// For how long no more is waited for a reader that stands still.
    pub stalled_at_tail: Option<u64>,
    /// Stacks of which the two witnesses were compared.
    pub compared: Compared,
    lock: UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>,
}

const _: () = assert!(
    core::mem::offset_of!(ThreadState, unwinding) + Unwinding::OFTEN_NEEDED <= 192,
    "what each call needs lies in the first three lines"
);

/// Stacks that made an object which av_frame_alloc or its kin returned, and of which the analyzer was told so. Small: it may be told again.
pub struct Compared([u32; 64]);

impl Compared {
    /// `stack` was not told, as far as is remembered; it is now.
    #[inline(always)]
    pub fn first_time(&mut self, stack: u32) -> bool {
        let place = &mut self.0[stack as usize % 64];
        core::mem::replace(place, stack) != stack || stack == 0
    }
}

static STATES: [AtomicPtr<ThreadState>; MAX_RINGS as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_RINGS as usize];
static USED: AtomicU32 = AtomicU32::new(0);
/// Where a ring was last found without an owner.
static HINT: AtomicU32 = AtomicU32::new(0);

/// While this lives, our code runs on this thread and the hooks below it only pass through.
pub struct Guard {
    slot: &'static Slot,
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: this thread's own slot; a signal handler that interrupts sees the old or the new value.
        unsafe { self.slot.guard.get().write_volatile(0) };
    }
}

/// Enters our code from a hook whose caller's stack pointer is `sp`; `None` where our code is already running below.
///
/// A longjmp out of a signal handler can leave the guard set. It is stale when the present stack pointer lies at or above the
/// guard's on the same stack: that hook's frame is gone (what interrupts it lies strictly below).
#[inline(always)]
pub fn enter(sp: u64) -> Option<Guard> {
    let slot = slot();
    // SAFETY: this thread's own slot.
    let guard = unsafe { slot.guard.get().read_volatile() };
    if guard != 0 && !is_stale(slot, guard, sp) {
        return None;
    }
    // SAFETY: as above.
    unsafe { slot.guard.get().write_volatile(sp) };
    Some(Guard { slot })
}

#[cold]
fn is_stale(slot: &Slot, guard: u64, sp: u64) -> bool {
    if sp < guard {
        return false;
    }
    // A handler on an alternate stack above the interrupted one has a higher stack pointer too, and is no proof.
    // SAFETY: sigaltstack with a null new stack only reports.
    let on_alternate = sandbox::kills(Call::Sigaltstack)
        || unsafe {
            let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
            libc::syscall(libc::SYS_sigaltstack, core::ptr::null::<libc::stack_t>(), stack.as_mut_ptr()) != 0
                || stack.assume_init().ss_flags & libc::SS_ONSTACK != 0
        };
    let _ = slot;
    !on_alternate
}

/// In [`Slot::quiet`]: this thread is inside pthread_getattr_np.
const INSIDE_GETATTR: u32 = 2;

/// Runs the host's own call of pthread_getattr_np.
pub fn inside_getattr<R>(work: impl FnOnce() -> R) -> R {
    let quiet = slot().quiet.get();
    // SAFETY: this thread's own slot.
    let before = unsafe { quiet.read_volatile() };
    // SAFETY: as above.
    unsafe { quiet.write_volatile(before | INSIDE_GETATTR) };
    let result = work();
    // SAFETY: as above.
    unsafe { quiet.write_volatile(before) };
    result
}

/// glibc holds a lock of this thread's that it would take again.
pub fn is_inside_getattr() -> bool {
    // SAFETY: this thread's own slot.
    unsafe { slot().quiet.get().read_volatile() & INSIDE_GETATTR != 0 }
}

/// Runs a call of ours that allocates and frees for itself: that is no event of the host's.
pub fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let quiet = slot().quiet.get();
    // SAFETY: this thread's own slot.
    unsafe { quiet.write_volatile(1) };
    let result = work();
    // SAFETY: as above.
    unsafe { quiet.write_volatile(0) };
    result
}

/// An event was lost because our code was interrupted.
#[cold]
pub fn count_swallowed() {
    // SAFETY: this thread's own slot.
    if unsafe { slot().quiet.get().read_volatile() } & !INSIDE_GETATTR != 0 {
        return;
    }
    if let Some(segment) = segment::get() {
        segment.header().dropped_without_ring.fetch_add(1, Ordering::Relaxed);
    }
}

impl Guard {
    /// The state of this thread in `generation`; a ring is taken on first use. `None` where none is to be had.
    #[inline(always)]
    pub fn state(&mut self, generation: u32) -> Option<&mut ThreadState> {
        // SAFETY: this thread's own slot, and the guard keeps everybody else on this thread out.
        unsafe {
            if *self.slot.generation.get() == generation {
                return (*self.slot.state.get()).as_mut();
            }
            self.first_state(generation)
        }
    }

    #[cold]
    fn first_state(&mut self, generation: u32) -> Option<&mut ThreadState> {
        let state = sys::keep_errno(acquire);
        // SAFETY: this thread's own slot; the state was just taken for this thread alone.
        unsafe {
            self.slot.state.get().write(state);
            let calls = state.as_ref().map_or(core::ptr::null(), |state| state.header().calls.as_ptr());
            self.slot.calls.get().write(calls);
            // Without a ring the next call tries again.
            self.slot.generation.get().write(if state.is_null() { 0 } else { generation });
            state.as_mut()
        }
    }
}

/// In a forked child: the parent's states are the parent's.
pub fn forget_all() {
    for state in &STATES[..USED.load(Ordering::Relaxed).min(MAX_RINGS) as usize] {
        state.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
    USED.store(0, Ordering::Relaxed);
    HINT.store(0, Ordering::Relaxed);
}

/// The kernel sets this bit in a robust mutex's word when the owner dies (linux/futex.h).
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
/// The rest of the word: the owner's thread id.
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

impl ThreadState {
    /// The futex word, which glibc keeps at the mutex's start.
    fn word(&self) -> u32 {
        // SAFETY: the first word of an initialised mutex, read as the atomic that it is.
        unsafe { &*self.lock.get().cast::<AtomicU32>() }.load(Ordering::Relaxed)
    }

    /// Nobody owns it, by a look without a promise.
    fn seems_free(&self) -> bool {
        let word = self.word();
        word == 0 || word & FUTEX_OWNER_DIED != 0
    }

    /// Takes the lock if nobody living has it.
    fn take(&self) -> bool {
        let lock = self.lock.get().cast::<libc::pthread_mutex_t>();
        // SAFETY: an initialised robust mutex that is never destroyed or moved.
        match unsafe { libc::pthread_mutex_trylock(lock) } {
            0 => true,
            // SAFETY: as above; we own it now.
            libc::EOWNERDEAD => unsafe { libc::pthread_mutex_consistent(lock) == 0 },
            _ => false,
        }
    }

    /// The ring's header.
    #[inline(always)]
    pub fn header(&self) -> &RingHeader {
        self.ring.header()
    }
}

/// Takes over a ring without an owner, or a fresh one.
fn acquire() -> *mut ThreadState {
    let Some(segment) = segment::get() else { return core::ptr::null_mut() };
    segment.header().threads_seen.fetch_add(1, Ordering::Relaxed);
    let used = USED.load(Ordering::Acquire).min(segment.ring_slots());
    let hint = HINT.load(Ordering::Relaxed);
    for step in 0..used {
        let index = (hint + step) % used;
        let at = STATES[index as usize].load(Ordering::Acquire);
        // SAFETY: states live for good.
        let Some(state) = (unsafe { at.as_ref() }) else { continue };
        if state.seems_free() && state.take() {
            HINT.store(index, Ordering::Relaxed);
            // SAFETY: the lock makes it ours alone.
            unsafe { adopt(&mut *at) };
            return at;
        }
    }
    if stack_left().is_some_and(|left| left < FOR_A_NEW_STATE) {
        // Made on a small stack a state would use it up. A spare one, made by somebody else, was not to be had: events are dropped and
        // counted, and the next call tries again.
        return core::ptr::null_mut();
    }
    let state = make(segment);
    // Whoever comes here found none: the next one, perhaps on a small stack, shall.
    make_spare(segment);
    state
}

/// What making a state may need of the stack.
const FOR_A_NEW_STATE: u64 = 48 << 10;

fn make(segment: &'static segment::Segment) -> *mut ThreadState {
    let index = USED.fetch_add(1, Ordering::AcqRel);
    if index >= segment.ring_slots() {
        USED.fetch_sub(1, Ordering::AcqRel);
        return core::ptr::null_mut();
    }
    let at = fresh(segment, index);
    STATES[index as usize].store(at, Ordering::Release);
    at
}

/// One for a thread whose stack is too small to make its own.
fn make_spare(segment: &'static segment::Segment) {
    // SAFETY: just made and owned by this thread; given up at once.
    if let Some(state) = unsafe { make(segment).as_ref() } {
        // SAFETY: an initialised mutex that this thread holds.
        unsafe { libc::pthread_mutex_unlock(state.lock.get().cast()) };
    }
}

fn fresh(segment: &'static segment::Segment, index: u32) -> *mut ThreadState {
    if !arena::has_room(1 << 20) {
        return core::ptr::null_mut();
    }
    let at = arena::take(size_of::<ThreadState>(), 64).cast::<ThreadState>();
    if at.is_null() {
        return at;
    }
    // SAFETY: fresh memory of this type's size and alignment; initialised here, published afterwards.
    unsafe {
        at.write(ThreadState {
            lock: UnsafeCell::new(MaybeUninit::zeroed()),
            ring: segment.ring(index),
            index,
            known_tail: 0,
            stalled_at_tail: None,
            segment,
            compared: Compared([0; 64]),
            unwinding: Unwinding::new(),
            python: Python::new(),
        });
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        libc::pthread_mutexattr_init(attributes.as_mut_ptr());
        libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
        let lock = (*at).lock.get().cast::<libc::pthread_mutex_t>();
        libc::pthread_mutex_init(lock, attributes.as_ptr());
        libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        if !(*at).take() {
            return core::ptr::null_mut();
        }
        segment.header().ring_count.fetch_max(index + 1, Ordering::Release);
        adopt(&mut *at);
    }
    at
}

/// The state has a new owner: this thread.
fn adopt(state: &mut ThreadState) {
    // The lock holds the new owner's id: no system call, which the host's sandbox may forbid.
    state.header().owner_tid.store(state.word() & FUTEX_TID_MASK, Ordering::Relaxed);
    state.header().owners.fetch_add(1, Ordering::Relaxed);
    // The last owner may have died between `begin` and `end`: what it had not published never happened.
    state.ring.end();
    state.known_tail = state.header().tail.load(Ordering::Acquire);
    state.stalled_at_tail = None;
    state.unwinding.new_thread();
}

/// Still the process that took this state: a child forked inside one of our hooks must not touch the parent's ring.
#[inline(always)]
pub fn still_armed(generation: u32) -> bool {
    control::armed() == generation
}
