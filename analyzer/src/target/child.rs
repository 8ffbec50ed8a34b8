//! Starting processes with exactly the signal settings that avleak itself was started with.
#![allow(unsafe_code, reason = "fork hooks and signal dispositions are reached through libc")]

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Signals that were ignored when this process began, bit n−1 for signal n; and those that were blocked.
static IGNORED: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static CAPTURED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`: Rust's runtime sets SIGPIPE to be ignored there, which nobody can tell from `nohup`'s later.
#[used]
// SAFETY: a function pointer in .init_array, of the type that the loader calls.
#[unsafe(link_section = ".init_array")]
static CAPTURE: extern "C" fn() = capture;

extern "C" fn capture() {
    let mut ignored = 0;
    for signal in 1..=64 {
        // SAFETY: only asks; the answer is stored in a local, zeroed struct.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN {
                ignored |= 1 << (signal - 1);
            }
        }
    }
    // SAFETY: only asks; the answer is stored in a local, zeroed set, of which members are asked.
    let blocked = unsafe {
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
        (1..=64).filter(|&signal| libc::sigismember(&raw const mask, signal) == 1).fold(0, |all, s| all | (1 << (s - 1)))
    };
    IGNORED.store(ignored, Ordering::Relaxed);
    BLOCKED.store(blocked, Ordering::Relaxed);
    CAPTURED.store(true, Ordering::Relaxed);
}

/// This process was started with `signal` ignored (as by `nohup`).
pub fn inherited_ignored(signal: i32) -> bool {
    (1..=64).contains(&signal) && IGNORED.load(Ordering::Relaxed) & (1 << (signal - 1)) != 0
}

/// Starts `program` with the arguments `argv` (`argv[0]` is the name it sees), this environment plus `env`, the same
/// standard files, the same process group, and the signals ignored and blocked that were so when avleak was started.
///
/// # Errors
/// What fork or exec gave.
pub fn start(program: &Path, argv: &[OsString], env: &[(OsString, OsString)]) -> io::Result<Child> {
    let mut command = Command::new(program);
    if let Some((name, rest)) = argv.split_first() {
        command.arg0(name).args(rest);
    }
    command.envs(env.iter().map(|(key, value)| (key, value)));
    if CAPTURED.load(Ordering::Relaxed) {
        let (ignored, blocked) = (IGNORED.load(Ordering::Relaxed), BLOCKED.load(Ordering::Relaxed));
        // SAFETY: between fork and exec; `restore_signals` makes async-signal-safe calls only.
        unsafe { command.pre_exec(move || restore_signals(ignored, blocked)) };
    }
    command.spawn()
}

fn restore_signals(ignored: u64, blocked: u64) -> io::Result<()> {
    // SAFETY: signal, sigemptyset, sigaddset and sigprocmask are async-signal-safe and get local values.
    unsafe {
        for signal in 1..=64 {
            let action = if ignored & (1 << (signal - 1)) != 0 { libc::SIG_IGN } else { libc::SIG_DFL };
            // Refused for SIGKILL, SIGSTOP and libc's own two, which nobody can change.
            libc::signal(signal, action);
        }
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut mask);
        for signal in (1..=64).filter(|signal| blocked & (1 << (signal - 1)) != 0) {
            libc::sigaddset(&raw mut mask, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
    Ok(())
}

/// Makes `command` run in a session of its own, and lets it inherit `fd`.
pub(crate) fn in_own_session_with(command: &mut Command, fd: RawFd) {
    let prepare = move || {
        // SAFETY: between fork and exec: setsid and fcntl are async-signal-safe and touch this process only.
        unsafe {
            libc::setsid();
            match libc::fcntl(fd, libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        }
    };
    // SAFETY: `prepare` makes async-signal-safe calls only.
    unsafe { command.pre_exec(prepare) };
}
