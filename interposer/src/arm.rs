//! From dormant to armed: at the first block that libavutil asks for, or at the first call through a patched slot.

use core::sync::atomic::{AtomicBool, Ordering};

use avleak_wire::layout::{FLAG_ARMED_BY_CALL, FLAG_FORKED_CHILD};

use crate::say::{self, Cause};
use crate::unwind::Registers;
use crate::{control, intern, modules, python, register, sandbox, segment, settings, slots, spawn, sys, thread, told};

/// An aligned block was asked for while dormant: by libavutil?
#[cold]
pub fn consider(caller: Registers) {
    sys::keep_errno(|| {
        crate::prepare();
        if modules::is_libavutil(caller.pc.wrapping_sub(1)) {
            arm(0);
        }
    });
}

/// A patched slot was called while dormant.
#[cold]
pub fn by_call() {
    sys::keep_errno(|| {
        crate::prepare();
        arm(FLAG_ARMED_BY_CALL);
    });
}

/// Inherited by a forked child, to which it says that it is one.
static ARMED_BEFORE: AtomicBool = AtomicBool::new(false);

/// While one thread arms, what others ask of libavutil would go unseen: they wait for it. Registration has a patience of its own;
/// this is a little longer, and comes once in a process's life.
fn wait_for_the_other() {
    let deadline = sys::clock_ns(libc::CLOCK_MONOTONIC) + 2 * settings::registration_patience_ns();
    while control::is_arming() {
        if sys::clock_ns(libc::CLOCK_MONOTONIC) > deadline {
            // Whoever armed is gone (a longjmp out of a signal handler, a killed thread): nobody waits twice.
            control::disable();
            return;
        }
        sys::sleep_ns(50_000);
    }
}

fn arm(flags: u32) {
    let Some(generation) = control::begin_arming() else {
        wait_for_the_other();
        return;
    };
    // Whatever is called below, this thread is not cancelled in the middle of it.
    let cancel = Uncancelled::begin();
    arm_uncancelled(generation, flags);
    drop(cancel);
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: i32, old: *mut i32) -> i32;
}

/// PTHREAD_CANCEL_DISABLE (pthread.h).
const CANCEL_DISABLE: i32 = 1;

struct Uncancelled(i32);

impl Uncancelled {
    fn begin() -> Self {
        let mut old = 0;
        // SAFETY: writes one int.
        unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut old) };
        Self(old)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: the state that was; a null second argument is allowed by glibc.
        unsafe { pthread_setcancelstate(self.0, core::ptr::null_mut()) };
    }
}

fn arm_uncancelled(generation: u32, flags: u32) {
    let flags = flags | if ARMED_BEFORE.swap(true, Ordering::Relaxed) { FLAG_FORKED_CHILD } else { 0 };
    settings::read_options();
    if let Some(call) = sandbox::forbids_arming(settings::SOCKET.get().is_empty()) {
        say::line(
            Cause::Segment,
            format_args!("the seccomp filter of this process would kill it for {call}: it is not watched"),
        );
        control::disable();
        return;
    }
    thread::forget_all();
    modules::start_over();
    let fd = match segment::create(flags, sys::choose_clock()) {
        Ok(fd) => fd,
        Err((call, errno)) => {
            say::line(
                Cause::Segment,
                format_args!(
                    "cannot make the event segment: {call}: {}; this process is not watched (raise its memory or descriptor limit)",
                    sys::errno_name(errno)
                ),
            );
            control::disable();
            return;
        }
    };
    if let Some(segment) = segment::get() {
        python::reset(segment);
    }
    told::reset();
    let registered = intern::reset() && hand_over(fd);
    // The analyzer has its own copy, and the mapping needs none.
    sys::close(fd);
    if !registered {
        control::disable();
        return;
    }
    control::finish_arming(generation);
    control::clear_load();
    if crate::is_forked() {
        // What was patched is inherited; and the loader's lock, which a thread of the parent may have held, is never released here.
        slots::start_over();
    } else {
        slots::scan_loaded();
    }
}

/// Gives the segment to the analyzer that the environment names, or to one of our own. Says why not, once.
fn hand_over(fd: i32) -> bool {
    let socket = settings::SOCKET.get();
    if socket.is_empty() {
        return spawn::analyzer().is_some_and(|connection| {
            let answered = register::over(connection, fd);
            sys::close(connection);
            report(answered, "the analyzer it started")
        });
    }
    let path = core::str::from_utf8(socket).unwrap_or("AVLEAK_SOCKET");
    match register::connect(socket) {
        Ok(connection) => {
            let answered = register::over(connection, fd);
            sys::close(connection);
            report(answered, path)
        }
        Err(failure) => report(Err(failure), path),
    }
}

fn report(answered: Result<(), register::Refusal>, whom: &str) -> bool {
    match answered {
        Ok(()) => true,
        Err(register::Refusal::System(call, errno)) => {
            say::line(
                Cause::Registration,
                format_args!(
                    "cannot reach the analyzer at {whom}: {call}: {}; this process is not watched",
                    sys::errno_name(errno)
                ),
            );
            false
        }
        Err(register::Refusal::Version) => {
            say::line(
                Cause::Registration,
                format_args!(
                    "the analyzer at {whom} speaks another version of the segment; use libavleak.so and avleak from one build; this process is not watched"
                ),
            );
            false
        }
        // It does not want us: nothing to complain about.
        Err(register::Refusal::Unwanted) => false,
    }
}

/// Something was loaded or unloaded: look for call slots to patch. Not from the loader's own allocations, in the middle of its work.
#[cold]
pub fn look_at_loaded(caller: Registers) {
    let Some(_guard) = thread::enter(caller.sp) else { return };
    sys::keep_errno(|| {
        if !modules::is_loader(caller.pc.wrapping_sub(1)) {
            control::clear_load();
            slots::scan_loaded();
        }
    });
}

/// The same from dlsym, on any stack.
#[cold]
pub fn look_at_loaded_now() {
    sys::keep_errno(|| {
        control::clear_load();
        slots::scan_loaded();
    });
}
