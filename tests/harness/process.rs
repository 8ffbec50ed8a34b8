//! Runs a command with a limit on its time, and makes sure that nothing of it stays behind.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Marks every process of one run, in its environment.
const MARK: &str = "AVLEAK_TEST_RUN";
/// How long what a run started may outlive it.
const GRACE: Duration = Duration::from_secs(20);

/// What a command did.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    /// Its process id.
    pub pid: u32,
}

impl Finished {
    /// The exit status as a shell gives it: 128+signal for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails the test where the command did not exit with 0.
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "ended with {}:\n{}", self.status, self.stderr);
        self
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    mark: String,
    what: String,
    lines: Receiver<Vec<u8>>,
    errors: Receiver<String>,
    seen: Vec<u8>,
    limit: Instant,
    grace: Duration,
    ended: bool,
}

/// Runs `command` without a terminal to its end.
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    start(command, limit).finish()
}

/// Starts `command` in a process group of its own, with no input.
pub fn start(command: &mut Command, limit: Duration) -> Running {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mark = format!("{MARK}={}.{}.", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    start_marked(command, limit, &mark)
}

/// As [`start`]; every process whose environment holds the text `mark` is counted to this run.
pub fn start_marked(command: &mut Command, limit: Duration, mark: &str) -> Running {
    let mark = mark.to_owned();
    command.env(MARK, mark.strip_prefix(&format!("{MARK}=")).unwrap_or(&mark)).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
    let (line_in, lines) = channel();
    let (error_in, errors) = channel();
    let stdout = child.stdout.take().expect("a piped stdout");
    let mut stderr = child.stderr.take().expect("a piped stderr");
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if line_in.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        let _ = error_in.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    Running {
        child,
        mark,
        what,
        lines,
        errors,
        seen: Vec::new(),
        limit: Instant::now() + limit,
        grace: GRACE,
        ended: false,
    }
}

impl Running {
    /// The process id of the command.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output that holds `part`.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(self.left()) {
                Ok(line) => {
                    self.seen.extend_from_slice(&line);
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(why) => self.fail(&format!("no line with {part:?} ({why})")),
            }
        }
    }

    /// Sends `signal` to process `pid`, which is one of this run.
    pub fn signal(&self, pid: u32, signal: Signal) {
        kill_process(as_pid(pid), signal)
            .unwrap_or_else(|error| panic!("cannot signal {pid} of {}: {error}", self.what));
    }

    /// Waits for the end, of the command and of all that it started.
    pub fn finish(mut self) -> Finished {
        let pid = self.child.id();
        let pidfd = pidfd_open(as_pid(pid), PidfdFlags::empty()).expect("a pidfd of one's own child");
        if !ends(&pidfd, self.left()) {
            self.fail("it did not end in time");
        }
        let status = self.child.wait().expect("the status of one's own child");
        self.ended = true;
        self.wait_for_the_rest();
        loop {
            match self.lines.recv_timeout(self.left().max(Duration::from_secs(1))) {
                Ok(line) => self.seen.extend_from_slice(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail("its standard output is held open"),
            }
        }
        let stderr = self.errors.recv_timeout(self.left().max(Duration::from_secs(1)));
        let stderr = stderr.unwrap_or_else(|_| self.fail("its standard error is held open"));
        Finished { status, stdout: std::mem::take(&mut self.seen), stderr, pid }
    }

    /// What it started may end a little later (the analyzer of a bare preload writes its report); then it must be gone.
    fn wait_for_the_rest(&self) {
        let limit = Instant::now() + self.grace;
        for pid in marked(&self.mark) {
            let Ok(pidfd) = pidfd_open(as_pid(pid), PidfdFlags::empty()) else { continue };
            if !ends(&pidfd, limit.saturating_duration_since(Instant::now())) {
                let name = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                self.fail(&format!("it left process {pid} behind:\n{name}"));
            }
        }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_duration_since(Instant::now())
    }

    fn kill_all(&self) {
        let _ = kill_process_group(as_pid(self.child.id()), Signal::KILL);
        for pid in marked(&self.mark) {
            let _ = kill_process(as_pid(pid), Signal::KILL);
        }
    }

    fn fail(&self, why: &str) -> ! {
        self.kill_all();
        let stderr = self.errors.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
        panic!("{}: {why}\n--- stdout\n{}\n--- stderr\n{stderr}", self.what, String::from_utf8_lossy(&self.seen));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_all();
            let _ = self.child.wait();
        }
    }
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a process id above 0")
}

/// Waits until the process ended; `false` where the limit came first.
fn ends(pidfd: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll of a pidfd: {error}"),
        }
    }
}

/// The processes that carry `mark` in their environment and are no zombies.
pub fn marked(mark: &str) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.flatten().filter_map(|found| found.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| environment(*pid).windows(mark.len()).any(|part| part == mark.as_bytes())).collect()
}

/// Of a process in the middle of an execve it reads as empty: look again, a few times.
fn environment(pid: u32) -> Vec<u8> {
    for _ in 0..100 {
        let read = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // Kernel threads and zombies have no program.
        if !read.is_empty() || std::fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return read;
        }
        std::thread::yield_now();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn complaint(work: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(work)).expect_err("it should have failed");
        payload.downcast_ref::<String>().cloned().expect("a message")
    }

    #[test]
    fn a_command_runs_to_its_end() {
        let done = run(&mut shell("echo out; echo err >&2; exit 3"), GRACE);
        assert_eq!((done.text().as_str(), done.stderr.as_str(), done.code()), ("out\n", "err\n", 3));
        assert_eq!(run(&mut shell("kill -9 $$"), GRACE).code(), 128 + 9);
    }

    #[test]
    fn one_that_hangs_fails_and_is_killed_with_its_children() {
        let mut running = start(&mut shell("sleep 1000 & echo $!; sleep 1000"), Duration::from_millis(300));
        let child: u32 = running.wait_for_line("").trim().parse().expect("a pid");
        let child = pidfd_open(as_pid(child), PidfdFlags::empty()).expect("the sleeping child");
        assert!(complaint(|| drop(running.finish())).contains("did not end in time"));
        assert!(ends(&child, GRACE), "the child lives on");
    }

    #[test]
    fn one_that_leaves_a_process_behind_fails() {
        let mut running = start(&mut shell("setsid sleep 1000 >/dev/null 2>&1 & echo started"), GRACE);
        running.grace = Duration::from_millis(200);
        running.wait_for_line("started");
        assert!(complaint(|| drop(running.finish())).contains("behind"));
    }
}
