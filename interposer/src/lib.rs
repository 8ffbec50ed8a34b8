//! libavleak.so: preloaded into a process, it streams what FFmpeg allocates and frees to the analyzer.
//!
//! Map, from the symbols inwards:
//! * [`stubs`]: the exported symbols, one table; [`hooks`]: what each does around the real function.
//! * [`slots`]: the second witness, thunks in the call slots that lead to libavutil; [`loader`]: dlopen and dlclose.
//! * [`recorder`]: from a call to an event, or to none; [`told`], [`foreign`]: when none may be enough; [`thread`]: a thread's state and ring.
//! * [`unwind`]: the stack of a call, [`walk`]: by rules alone, [`step`]: a frame of it, [`golang`]: its part in Go code, [`stacks`]: how far it
//!   reaches, [`oracle`]: whether it is right; [`traces`], [`rules`]: what is remembered of it; [`intern`]: stacks to ids; [`modules`]: which ELF
//!   object an address lies in; [`elf`]: reading mapped ELF objects, [`symtab`]: their files' full symbol tables; [`python`]: the interpreter's functions between C frames.
//! * [`arm`]: dormant → armed; [`segment`], [`register`], [`spawn`]: the shared memory and who reads it.
//! * [`sandbox`]: which of our system calls the host forbade itself; [`judge`], [`exec`]: programs that bear no preload.
//! * [`control`], [`real`], [`arena`], [`sys`], [`say`], [`settings`]: the ground they stand on.
//!
//! Guarantees to the host: no abort, no lock while calling out, no unbounded wait, errno untouched, at most one line a cause on
//! stderr. Architecture Invariant: the interposer never symbolizes, never types a block, never decides what is lost.

#![allow(unsafe_code, reason = "an interposer is made of raw calls; every block says why it is sound")]

use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_os = "linux", target_env = "gnu")))]
compile_error!(
    "libavleak.so is written for Linux with glibc on x86-64 and AArch64. For another processor there are missing: what aarch64/ holds, \
     the unwinder's registers and rules (unwind.rs, step.rs, rules.rs), call slots by that processor's relocations (elf.rs), and \
     its number in filters of system calls (sandbox.rs)"
);

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod arena;
mod arm;
mod control;
mod elf;
mod entry;
mod exec;
mod file;
mod foreign;
mod golang;
mod hooks;
mod hot;
mod intern;
mod judge;
mod known;
mod loader;
mod modules;
mod oracle;
mod places;
mod python;
mod real;
mod recorder;
mod register;
mod rules;
mod sandbox;
mod say;
mod segment;
mod settings;
mod slots;
mod spawn;
mod stacks;
#[cfg_attr(target_arch = "aarch64", path = "aarch64/step.rs")]
mod step;
#[cfg_attr(target_arch = "aarch64", path = "aarch64/stubs.rs")]
mod stubs;
mod symtab;
mod sys;
mod thread;
mod told;
mod traces;
mod unwind;
mod walk;

/// Runs when ld.so initialises the library: before main, after the libraries that the program is linked to.
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    sys::keep_errno(|| {
        prepare();
        // SAFETY: no arguments.
        INIT_PID.store(unsafe { libc::getpid() }, Ordering::Relaxed);
        slots::scan_loaded();
    });
}

/// A preloaded library is initialised after those that the program is linked to: their constructors may use FFmpeg before.
fn prepare() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::AcqRel) {
        return;
    }
    // Ours alone: this library has a copy of the standard library for itself. A panic costs one stack, not a word on stderr.
    std::panic::set_hook(Box::new(|_| ()));
    real::resolve_all();
    say::remember_stderr();
    settings::remember_environment();
    control::prepare();
    if !settings::is_wanted() {
        control::disable();
    }
    modules::prepare();
    loader::prepare();
    sandbox::prepare();
}

static INIT_PID: AtomicI32 = AtomicI32::new(0);

/// This process was forked from the one that was started. (Before main it is taken for the one that was started.)
fn is_forked() -> bool {
    let started = INIT_PID.load(Ordering::Relaxed);
    // SAFETY: no arguments.
    started != 0 && started != unsafe { libc::getpid() }
}
