//! Starting the target with exactly the signal settings that avleak itself was started with, and receiving signals for it.
#![allow(unsafe_code, reason = "fork hooks and signal dispositions are reached through libc")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use signal_hook_registry::SigId;

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
        (1..=64)
            .filter(|&signal| libc::sigismember(&raw const mask, signal) == 1)
            .fold(0, |all, s| all | (1 << (s - 1)))
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

/// A signal that this process received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// It came from the kernel (a key of the terminal, a hang-up), so the whole foreground group has it.
    pub by_kernel: bool,
    /// Who sent it, where a process did; else 0.
    pub sender: i32,
    /// When, on [`monotonic`]'s clock.
    pub at: Duration,
}

/// The monotonic clock.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: stores the time in the local struct; async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec as u32)
}

/// Bytes of a [`Received`] in the pipe: far below what a pipe takes at once.
const RECORD: usize = 24;

/// Signals that are received instead of having their default effect, until this is dropped.
#[derive(Debug)]
pub struct SignalWatch {
    ids: Vec<SigId>,
    stop: Arc<OwnedFd>,
}

/// The receiving end of a [`SignalWatch`].
#[derive(Debug)]
pub struct SignalReader(File);

/// Receives those of `signals` that were not ignored when this process was started.
///
/// # Errors
/// What making a pipe or a handler gave.
pub fn watch_signals(signals: &[i32]) -> io::Result<(SignalWatch, SignalReader)> {
    // SAFETY: a default disposition, which no other code of avleak sets. Were it ignored (a parent may have left it so), the
    // kernel would throw away the statuses of children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A full pipe must not block the handler; the signal is then dropped, as a pending one would be.
    rustix::io::ioctl_fionbio(&writer, true)?;
    let writer = Arc::new(writer);
    let mut watch = SignalWatch { ids: Vec::new(), stop: Arc::clone(&writer) };
    for &signal in signals.iter().filter(|&&signal| !inherited_ignored(signal)) {
        let writer = Arc::clone(&writer);
        let tell = move |info: &libc::siginfo_t| {
            // SAFETY: si_pid is read only for codes with which a process's kill fills it.
            let sender = if info.si_code <= 0 { unsafe { info.si_pid() } } else { 0 };
            let mut record = [0; RECORD];
            for (part, value) in record.as_chunks_mut::<4>().0.iter_mut().zip([signal, info.si_code, sender]) {
                *part = value.to_ne_bytes();
            }
            record[16..].copy_from_slice(&(monotonic().as_nanos() as u64).to_ne_bytes());
            let _ = rustix::io::write(&*writer, &record);
        };
        // SAFETY: the action reads the clock and makes one write to a non-blocking pipe by a bare system call: no errno, no
        // allocation, no lock.
        watch.ids.push(unsafe { signal_hook_registry::register_sigaction(signal, tell) }?);
    }
    Ok((watch, SignalReader(File::from(reader))))
}

impl Iterator for SignalReader {
    type Item = Received;

    /// Waits for the next signal; `None` once the watch is dropped.
    fn next(&mut self) -> Option<Received> {
        let mut record = [0; RECORD];
        self.0.read_exact(&mut record).ok()?;
        let mut numbers = record.as_chunks::<4>().0.iter().map(|&bytes| i32::from_ne_bytes(bytes));
        let (signal, code, sender) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let at = Duration::from_nanos(record.last_chunk().copied().map_or(0, u64::from_ne_bytes));
        (signal != 0).then_some(Received { signal, by_kernel: code == libc::SI_KERNEL, sender, at })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        for &id in &self.ids {
            signal_hook_registry::unregister(id);
        }
        let _ = rustix::io::write(&*self.stop, &[0; RECORD]);
    }
}

/// What ends a service: whoever stops one sends it to every process of it, to avleak's as well (systemd's KillMode=control-group). Those have
/// work to do when the service has ended, and then end by themselves.
const REQUESTS_TO_END: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Makes requests to end pass this process by, and what it starts from now on.
pub fn outlive_requests_to_end() {
    for signal in REQUESTS_TO_END {
        // SAFETY: ignores a signal for which nothing here has a handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Makes `command` receive requests to end, whatever this process does with them.
pub(crate) fn receiving_requests_to_end(command: &mut Command) {
    let prepare = || {
        for signal in REQUESTS_TO_END {
            // SAFETY: between fork and exec: async-signal-safe.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: `prepare` makes async-signal-safe calls only.
    unsafe { command.pre_exec(prepare) };
}

/// Makes `command` run in a session of its own, deaf to requests to end, and lets it inherit `fd`.
pub(crate) fn in_own_session_with(command: &mut Command, fd: RawFd) {
    let prepare = move || {
        outlive_requests_to_end();
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
