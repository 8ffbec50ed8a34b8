//! The supervisor in a process of its own: the command's signals, stops and status are what they would be without avleak.
#![allow(unsafe_code, reason = "tests send signals and make terminals through libc")]

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use avleak::cli::supervise::{Supervisor, SupervisorEvent, exit_code};
use avleak::target::threads::Stat;

const HELPER: &str = "AVLEAK_TEST_SUPERVISE";
const SECONDS_10: Duration = Duration::from_secs(10);

/// Not a test by itself: this program run again as the supervisor of `sh -c SCRIPT`.
#[test]
fn helper() {
    let Some(script) = std::env::var_os(HELPER) else { return };
    let folder = PathBuf::from(std::env::var_os("FOLDER").unwrap());
    // A shell changes the signals of what it starts, so one program can be started without.
    let argv = match script.to_str().unwrap().strip_prefix('@') {
        Some(words) => words.split(' ').map(OsString::from).collect(),
        None => vec!["the-name".into(), "-c".into(), script],
    };
    let program = if argv[0] == "the-name" { OsString::from("/bin/sh") } else { argv[0].clone() };
    let env = [(OsString::from("ADDED"), OsString::from("yes"))];
    let supervisor = Supervisor::start(Path::new(&program), &argv, &env).unwrap();
    std::fs::write(folder.join("pid"), format!("{} ", supervisor.pid())).unwrap();
    let mut log = File::create(folder.join("events")).unwrap();
    for event in supervisor.events() {
        writeln!(log, "{event:?}").unwrap();
        if let SupervisorEvent::ChildExited(ended) = event {
            std::process::exit(exit_code(ended));
        }
    }
    panic!("no end");
}

struct Run {
    helper: Child,
    folder: tempfile::TempDir,
}

impl Run {
    /// `script` says what it has to say in the file `$FOLDER/said`.
    fn start(script: &str, prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "helper", "--nocapture"]).env(HELPER, script).env("FOLDER", folder.path());
        command.stdin(Stdio::null()).stdout(File::create(folder.path().join("out")).unwrap());
        // SAFETY: the hooks of these tests make async-signal-safe calls only.
        unsafe { command.pre_exec(prepare) };
        Self { helper: command.spawn().unwrap(), folder }
    }

    fn group(script: &str) -> Self {
        Self::start(script, || {
            // SAFETY: a group of its own, in the session of the test: as a shell with job control makes it.
            unsafe { libc::setpgid(0, 0) };
            Ok(())
        })
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn wait_for(&self, name: &str, text: &str) {
        wait_until(|| self.read(name).contains(text), &format!("{text} in {name}: {}", self.read(name)));
    }

    fn pid(&self) -> i32 {
        self.helper.id() as i32
    }

    fn command(&self) -> i32 {
        self.wait_for("pid", " ");
        self.read("pid").trim().parse().unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + SECONDS_10;
        loop {
            if let Some(status) = self.helper.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the supervisor never ended: {}", self.read("events"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let pid = self.read("pid").trim().parse().unwrap_or(0);
        if pid > 0 && Stat::of(pid).is_some() && self.helper.try_wait().is_ok_and(|status| status.is_none()) {
            kill(pid, libc::SIGKILL);
        }
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: signals processes that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{pid} {signal}");
}

fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let until = Instant::now() + SECONDS_10;
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn state(pid: i32) -> char {
    Stat::of(pid).map_or('-', |stat| stat.state)
}

#[test]
fn the_status_is_the_commands() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -SEGV $$", 139)] {
        assert_eq!(Run::group(script).end().code(), Some(code), "{script}");
    }
    let mut run = Run::group("echo $0 $ADDED $PPID > $FOLDER/said");
    assert!(run.end().success());
    assert_eq!(run.read("said"), format!("the-name yes {}\n", run.pid()));
    assert_eq!(run.read("events"), "ChildExited(Exit(0))\n");
}

#[test]
fn the_command_inherits_signals_and_files_as_avleak_did() {
    let odd = || {
        // SAFETY: async-signal-safe calls on local values.
        unsafe {
            for signal in [libc::SIGINT, libc::SIGUSR1, libc::SIGCHLD, libc::SIGRTMIN() + 2] {
                libc::signal(signal, libc::SIG_IGN);
            }
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut mask = std::mem::zeroed::<libc::sigset_t>();
            libc::sigaddset(&raw mut mask, libc::SIGUSR2);
            libc::sigaddset(&raw mut mask, libc::SIGALRM);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        }
        Ok(())
    };
    for (ignoring, arguments) in
        [(true, "/bin/cat /proc/self/status"), (false, "/bin/cat /proc/self/status"), (false, "/bin/ls /proc/self/fd")]
    {
        let prepare = move || if ignoring { odd() } else { Ok(()) };
        let mut run = Run::start(&format!("@{arguments}"), prepare);
        assert!(run.end().success(), "{}", run.read("events"));
        let words: Vec<&str> = arguments.split(' ').collect();
        let mut alone = Command::new(words[0]);
        // SAFETY: `odd` makes async-signal-safe calls only.
        unsafe { alone.args(&words[1..]).stdin(Stdio::null()).pre_exec(prepare) };
        let alone = String::from_utf8(alone.output().unwrap().stdout).unwrap();
        let interesting = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|l| l.starts_with("Sig") && !l.starts_with("SigQ") || l.parse::<u8>().is_ok())
                .map(str::to_owned)
                .collect()
        };
        let (seen, expected) = (interesting(&run.read("out")), interesting(&alone));
        assert!(expected.len() >= 4, "{alone}");
        assert_eq!(seen, expected, "{arguments}, {ignoring}");
        if ignoring {
            let mask = |name: &str| {
                let line = seen.iter().find(|line| line.starts_with(name)).unwrap();
                u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()
            };
            assert_eq!(mask("SigIgn") & 0x8_0001_1202, 0x8_0001_0202);
            assert_eq!(mask("SigBlk"), 0x2800);
        }
    }
}

#[test]
fn signals_sent_to_avleak_are_passed_on() {
    let script = "for s in INT TERM HUP USR1 USR2 QUIT; do trap \"echo $s >> $FOLDER/said\" $s; done; \
                  echo up >> $FOLDER/said; while [ ! -e $FOLDER/stop ]; do sleep 0.02; done; exit 9";
    let mut run = Run::group(script);
    run.wait_for("said", "up");
    for (signal, name) in [
        (libc::SIGINT, "INT"),
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGQUIT, "QUIT"),
    ] {
        kill(run.pid(), signal);
        run.wait_for("said", name);
        run.wait_for("events", &format!("Forwarded {{ signal: {signal} }}"));
    }
    std::fs::write(run.folder.path().join("stop"), "").unwrap();
    assert_eq!(run.end().code(), Some(9));
    assert_eq!(run.read("said"), "up\nINT\nTERM\nHUP\nUSR1\nUSR2\nQUIT\n");
    // A command that dies of it passes that on, too.
    let mut run = Run::group("echo up > $FOLDER/said; exec sleep 30");
    run.wait_for("said", "up");
    kill(run.pid(), libc::SIGTERM);
    assert_eq!(run.end().code(), Some(128 + libc::SIGTERM));
}

#[test]
fn ctrl_c_reaches_the_command_once_and_avleak_survives_it() {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the two descriptors are local; name and settings are not asked for.
    let made =
        unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) };
    assert_eq!(made, 0);
    // SAFETY: just opened, owned by nobody else.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let terminal = slave.as_raw_fd();
    let script = "trap 'echo int >> $FOLDER/said' INT; echo up >> $FOLDER/said; \
                  while [ ! -e $FOLDER/stop ]; do sleep 0.02; done; exit 5";
    let mut run = Run::start(script, move || {
        // SAFETY: a session of its own, with this terminal as the controlling one.
        unsafe {
            libc::setsid();
            libc::ioctl(terminal, libc::TIOCSCTTY, 0);
        }
        Ok(())
    });
    run.wait_for("said", "up");
    for count in 1..=2 {
        master.write_all(b"\x03").unwrap();
        run.wait_for("events", &format!("Interrupted {{ count: {count} }}"));
        wait_until(|| run.read("said").matches("int").count() >= count, "the trap");
    }
    std::fs::write(run.folder.path().join("stop"), "").unwrap();
    assert_eq!(run.end().code(), Some(5));
    assert_eq!(run.read("said"), "up\nint\nint\n");
    assert!(!run.read("events").contains("Forwarded"), "{}", run.read("events"));
}

#[test]
fn avleak_stops_and_continues_with_the_command() {
    // One process, and no vfork: a vfork's child that is stopped before its exec leaves the parent unstoppable.
    let script = "exec perl -e 'while (!-e \"$ENV{FOLDER}/stop\") { open F, \">>$ENV{FOLDER}/said\"; print F 1; close F; \
                  select undef, undef, undef, 0.02 } exit 6'";
    let mut run = Run::group(script);
    run.wait_for("said", "1");
    let (helper, command) = (run.pid(), run.command());
    // Ctrl-Z goes to the group; a kill of avleak alone means the command; both can be continued both ways.
    let ways = [(-helper, -helper), (helper, helper), (-helper, helper), (command, -helper)];
    for (stopped, continued) in ways {
        kill(stopped, libc::SIGTSTP);
        let both = || state(helper) == 'T' && state(command) == 'T';
        wait_until(both, &format!("both stopped after kill {stopped}: {}", run.read("events")));
        let mut status = 0;
        // SAFETY: asks for the stop of the own child; the status is a local variable.
        assert_eq!(unsafe { libc::waitpid(helper, &raw mut status, libc::WUNTRACED) }, helper);
        assert!(libc::WIFSTOPPED(status));
        let before = run.read("said").len();
        kill(continued, libc::SIGCONT);
        wait_until(|| run.read("said").len() > before, "the command going on");
        run.wait_for("events", "Stopped { signal: 20 }");
        // Both notices of the last round are taken before the next one begins.
        wait_until(|| "SR".contains(state(helper)), "avleak going on");
        std::thread::sleep(Duration::from_millis(60));
    }
    // A SIGSTOP is the command's alone.
    kill(command, libc::SIGSTOP);
    wait_until(|| state(command) == 'T', "the command stopped");
    std::thread::sleep(Duration::from_millis(50));
    assert!("SR".contains(state(helper)));
    kill(command, libc::SIGCONT);
    std::fs::write(run.folder.path().join("stop"), "").unwrap();
    assert_eq!(run.end().code(), Some(6));
}

#[test]
fn what_cannot_be_started_gives_the_shells_status() {
    let start = |path: &Path| Supervisor::start(path, &["x".into()], &[]).unwrap_err();
    let missing = start(Path::new("/no/such/file"));
    assert_eq!(missing.exit_code(), 127);
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(start(folder.path()).exit_code(), 126);
}

#[test]
fn after_the_end_the_second_ctrl_c_ends_avleak() {
    // The helper of this test goes on after the command's end: as avleak does while it makes its report.
    let mut run = Run::start("exit 0", || Ok(()));
    assert!(run.end().success());
    let script = std::env::var_os("AVLEAK_TEST_LINGER");
    if script.is_some() {
        let supervisor = Supervisor::start(Path::new("/bin/true"), &["true".into()], &[]).unwrap();
        assert!(matches!(supervisor.events().recv().unwrap(), SupervisorEvent::ChildExited(_)));
        kill(std::process::id() as i32, libc::SIGINT);
        assert_eq!(supervisor.events().recv().unwrap(), SupervisorEvent::Interrupted { count: 1 });
        kill(std::process::id() as i32, libc::SIGINT);
        std::thread::sleep(SECONDS_10);
        panic!("still alive");
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "after_the_end_the_second_ctrl_c_ends_avleak"]).env("AVLEAK_TEST_LINGER", "1");
    assert_eq!(again.stdout(Stdio::null()).status().unwrap().signal(), Some(libc::SIGINT));
}
