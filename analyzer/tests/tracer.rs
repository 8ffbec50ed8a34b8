//! The tracer against real processes: every way to end is stopped with memory whole, and nothing else is disturbed.
#![allow(unsafe_code, reason = "tests send signals and watch processes through libc")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use avleak::report::model::Ended;
use avleak::target::memory::Memory;
use avleak::target::process_memory::ProcessMemory;
use avleak::target::threads::{self, Stat, ThreadState};
use avleak::target::tracer::{TraceError, Tracer, TracerEvent, TracerOptions};

const MAGIC: u64 = 0x6176_6c65_616b_2121;
const SECONDS_10: Duration = Duration::from_secs(10);

/// Every program prints the address of a known word, then waits for a line (so that it is traced), then runs `BODY`.
const PROLOGUE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void *idle(void *arg) { for (;;) pause(); return arg; }
static void *spin(void *arg) { volatile long n = 0; for (;;) n++; return arg; }
static void *nothing(void *arg) { return arg; }
static void spawn(void *(*f)(void *), int n) {
    pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstacksize(&a, 65536);
    for (int i = 0; i < n; i++) { pthread_t t; if (pthread_create(&t, &a, f, 0)) abort(); }
}
static void sleep_ms(int ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; while (nanosleep(&t, &t)) ; }
static void say(const char *s) { if (write(1, s, strlen(s)) < 0) _exit(99); }
static void go(void) { char c; while (read(0, &c, 1) < 0 && errno == EINTR) ; }
"#;

struct Target {
    child: Child,
    out: BufReader<ChildStdout>,
    word: u64,
    _dir: tempfile::TempDir,
}

impl Target {
    fn start(globals: &str, body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("p.c");
        let main = format!(
            "int main(int argc, char **argv) {{ uint64_t *w = malloc(64); w[3] = 0x{MAGIC:x}; char line[64]; \
             if (argc > 1) {{ say(\"again\\n\"); return 5; }} \
             sprintf(line, \"%p\\n\", (void *)(w + 3)); say(line); (void)argv; {body} return 0; }}"
        );
        std::fs::write(&source, format!("{PROLOGUE}{globals}\n{main}")).unwrap();
        let exe = dir.path().join("p");
        let built = Command::new("cc").args(["-O1", "-pthread", "-w", "-o"]).arg(&exe).arg(&source).status().unwrap();
        assert!(built.success());
        // A group of its own, whose parent is in another: the kernel stops no process of an orphaned group on SIGTSTP, and a CI's may be one.
        let mut command = Command::new(&exe);
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let word = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).expect(&line);
        Self { child, out, word, _dir: dir }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn go(&mut self) {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    fn state(&self) -> char {
        Stat::of(self.pid()).map_or('-', |stat| stat.state)
    }

    fn wait_for_state(&self, states: &str) {
        wait_until(|| states.contains(self.state()), &format!("state {states}, not {}", self.state()));
    }

    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + SECONDS_10;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the target never ended: state {}", self.state());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let until = Instant::now() + SECONDS_10;
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn exe() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_avleak"))
}

fn tracer_holding(hold: Duration) -> Tracer {
    // The machine of a test may be busy: only the test of the time limit itself keeps it short.
    Tracer::spawn_with(TracerOptions { exe: exe(), hold, patience: SECONDS_10 }).unwrap()
}

fn tracer() -> Tracer {
    tracer_holding(Duration::from_secs(30))
}

fn next(tracer: &Tracer) -> TracerEvent {
    tracer.events().recv_timeout(SECONDS_10).expect("an event")
}

fn ending(tracer: &Tracer, target: &Target) -> (Ended, Vec<ThreadState>) {
    match next(tracer) {
        TracerEvent::Ending { pid, ended, threads, all_stopped } => {
            assert_eq!(pid, target.pid());
            assert!(all_stopped, "{ended:?}, {} threads", threads.len());
            let tid = threads::live_thread(pid).expect("a live thread");
            for tid in threads.iter().map(|t| t.tid).chain([tid]) {
                assert_eq!(ProcessMemory::new(tid).word(target.word), Some(MAGIC), "memory through {tid}");
            }
            (ended, threads)
        }
        other => panic!("{other:?}"),
    }
}

/// Traces, lets it go, expects the end with `threads` threads, releases, expects the same status from the kernel.
fn ends(globals: &str, body: &str, ended: Ended, threads: usize) {
    let mut target = Target::start(globals, &format!("go(); {body}"));
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    let (seen, states) = ending(&tracer, &target);
    assert_eq!((seen, states.len()), (ended, threads), "{body}");
    assert!(target.child.try_wait().unwrap().is_none());
    tracer.release(target.pid()).unwrap();
    let status = target.wait();
    match ended {
        Ended::Exit(code) => assert_eq!(status.code(), Some(code)),
        Ended::Signal(signal) => assert_eq!(status.signal(), Some(signal)),
        Ended::Exec(_) => unreachable!(),
    }
    assert!(tracer.events().try_recv().is_err(), "nothing follows an end");
}

#[test]
fn every_way_to_end_is_stopped_with_memory_whole() {
    ends("", "return 0;", Ended::Exit(0), 1);
    ends("", "exit(3);", Ended::Exit(3), 1);
    ends("", "_exit(4);", Ended::Exit(4), 1);
    ends("", "spawn(idle, 20); sleep_ms(5); return 0;", Ended::Exit(0), 21);
    ends("", "spawn(spin, 3); return 6;", Ended::Exit(6), 4);
    ends("", "spawn(idle, 5); abort();", Ended::Signal(libc::SIGABRT), 6);
    ends("", "spawn(idle, 5); *(volatile int *)8 = 1;", Ended::Signal(libc::SIGSEGV), 6);
    ends("", "raise(SIGTERM);", Ended::Signal(libc::SIGTERM), 1);
    ends("", "syscall(SYS_exit, 9);", Ended::Exit(9), 1);
}

#[test]
fn another_thread_may_end_the_process_and_main_may_be_gone_long_before() {
    let leave = "static void *leave(void *a) { sleep_ms(30); syscall(SYS_exit_group, a ? 8 : 0); return a; }
                 static void *last(void *a) { sleep_ms(30); syscall(SYS_exit, 11); return a; }";
    ends(leave, "spawn(idle, 4); spawn(leave, 1); pause();", Ended::Exit(0), 6);
    ends(leave, "pthread_t t; pthread_create(&t, 0, leave, w); pause();", Ended::Exit(8), 2);
    ends(leave, "spawn(idle, 4); spawn(leave, 1); pthread_exit(0);", Ended::Exit(0), 5);
    // glibc's last thread calls exit(0).
    ends(
        "static void *late(void *a) { sleep_ms(30); return a; }",
        "spawn(late, 1); pthread_exit(0);",
        Ended::Exit(0),
        1,
    );
    // Since Linux 5.19 the status is the last thread's, before it was the leader's.
    let mut target = Target::start(leave, "go(); spawn(last, 1); syscall(SYS_exit, 12);");
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    let (ended, _) = ending(&tracer, &target);
    tracer.release(target.pid()).unwrap();
    let status = target.wait().code().unwrap();
    assert!([11, 12].contains(&status));
    assert_eq!(ended, Ended::Exit(status));
}

#[test]
fn a_leader_that_is_already_dead_does_not_hinder_tracing() {
    let globals = "static void *late(void *a) { go(); exit(2); return a; }";
    let mut target = Target::start(globals, "spawn(late, 1); spawn(idle, 3); pthread_exit(0);");
    target.wait_for_state("Z");
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(2));
    tracer.release(target.pid()).unwrap();
    assert_eq!(target.wait().code(), Some(2));
}

#[test]
fn sigkill_and_sigterm_from_outside_stop_fifty_threads() {
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let mut target = Target::start("", "spawn(idle, 49); spawn(spin, 1); say(\"up\\n\"); pause();");
        assert_eq!(target.line(), "up");
        let tracer = tracer();
        tracer.seize(target.pid()).unwrap();
        target.signal(signal);
        let (ended, threads) = ending(&tracer, &target);
        assert_eq!((ended, threads.len()), (Ended::Signal(signal), 51));
        // Idle threads lie in their own stacks, and their registers say so.
        for thread in &threads {
            assert!(thread.stack_pointer > 0 && thread.registers.len() == threads::REGISTER_NAMES.len());
            assert!(ProcessMemory::new(thread.tid).word(thread.stack_pointer).is_some());
            assert!(ProcessMemory::new(thread.tid).word(thread.fs_base).is_some());
        }
        tracer.release(target.pid()).unwrap();
        assert_eq!(target.wait().signal(), Some(signal));
    }
}

#[test]
fn registers_hold_what_the_thread_held() {
    let body = format!(
        "go(); __asm__ volatile(\"movq %0, %%xmm3\\n movq %1, %%r12\\n movl $231, %%eax\\n xorl %%edi, %%edi\\n syscall\" \
         :: \"r\"(0x0000123456789abcUL), \"r\"(0x{MAGIC:x}UL) : \"memory\");"
    );
    let held = |body: &str| {
        let mut target = Target::start("", body);
        let tracer = tracer();
        tracer.seize(target.pid()).unwrap();
        target.go();
        ending(&tracer, &target).1.remove(0)
    };
    let in_system_call = held(&body);
    assert!(in_system_call.registers.contains(&("r12", MAGIC)));
    assert!(in_system_call.vector_words.is_empty(), "across a call they hold nothing");
    let in_user_code = held(&body.replace("syscall", "ud2"));
    assert!(in_user_code.registers.contains(&("r12", MAGIC)));
    assert!(in_user_code.vector_words.contains(&0x1234_5678_9abc), "{:x?}", in_user_code.vector_words);
}

#[test]
fn a_storm_of_short_threads_is_no_end() {
    let body = "for (int i = 0; i < 1000; i++) { pthread_t t; if (pthread_create(&t, 0, nothing, 0)) abort(); \
                if (i % 3) pthread_join(t, 0); else pthread_detach(t); } sleep_ms(200); return 7;";
    ends("", body, Ended::Exit(7), 1);
    // Makers of threads that are seized while they make them.
    let globals = "static void *maker(void *a) { for (int i = 0; i < 250; i++) { pthread_t t;
        if (pthread_create(&t, 0, nothing, 0)) abort(); pthread_join(t, 0); } return a; }";
    let body = "pthread_t t[4]; for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, maker, 0); \
                for (int i = 0; i < 4; i++) pthread_join(t[i], 0); go(); return 0;";
    let mut target = Target::start(globals, body);
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(0));
    tracer.release(target.pid()).unwrap();
    assert!(target.wait().success());
}

#[test]
fn exec_from_any_thread_goes_through_at_once() {
    let exec = "static char **args; static void *exec(void *a) { char *v[] = {args[0], \"again\", 0}; execv(args[0], v); \
                return a; }";
    for body in [
        "args = argv; spawn(idle, 20); go(); spawn(exec, 1); pause();",
        "args = argv; spawn(idle, 20); go(); exec(0);",
        "args = argv; go(); exec(0);",
        "args = argv; spawn(idle, 3); spawn(spin, 1); go(); spawn(exec, 1); pthread_exit(0);",
    ] {
        let mut target = Target::start(exec, body);
        let tracer = tracer();
        tracer.seize(target.pid()).unwrap();
        let before = Instant::now();
        target.go();
        assert_eq!(next(&tracer), TracerEvent::Exec { pid: target.pid() }, "{body}");
        assert!(before.elapsed() < Duration::from_millis(900), "not by the deadline: {:?}", before.elapsed());
        assert_eq!(target.line(), "again");
        assert_eq!(target.wait().code(), Some(5));
    }
}

#[test]
fn children_and_foreign_processes_are_not_traced() {
    let globals = "#include <sched.h>\nstatic int child(void *a) { say(\"clone\\n\"); pause(); return 0; } static char stack[65536];";
    // clone without CLONE_THREAD and without SIGCHLD is traced by the kernel's rules; it must be let go at once.
    let body = "go(); int c = clone(child, stack + 65536, CLONE_VM | CLONE_FILES, 0); if (c < 0) abort(); \
                pid_t f = fork(); if (!f) { say(\"fork\\n\"); pause(); } char b[40]; sprintf(b, \"%d %d\\n\", c, f); sleep_ms(50); \
                say(b); go(); kill(c, 9); kill(f, 9); return 0;";
    let mut target = Target::start(globals, body);
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    let mut lines = [target.line(), target.line()];
    lines.sort();
    assert_eq!(lines, ["clone", "fork"]);
    for pid in target.line().split(' ') {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("TracerPid:\t0\n"), "{status}");
    }
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(0));
}

#[test]
fn job_control_works_as_without_a_tracer() {
    for stop in [libc::SIGSTOP, libc::SIGTSTP] {
        let body = "spawn(idle, 3); for (int i = 0; i < 2; i++) { go(); say(\"on\\n\"); } return 0;";
        let mut target = Target::start("", body);
        let tracer = tracer();
        tracer.seize(target.pid()).unwrap();
        target.signal(stop);
        // The parent sees the stop.
        let mut status = 0;
        // SAFETY: waits for a stop of the own child only; the status is a local variable.
        assert_eq!(unsafe { libc::waitpid(target.pid(), &raw mut status, libc::WUNTRACED) }, target.pid());
        assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == stop);
        target.go();
        std::thread::sleep(Duration::from_millis(50));
        assert!("tT".contains(target.state()), "it stays stopped: {}", target.state());
        target.signal(libc::SIGCONT);
        assert_eq!(target.line(), "on");
        target.signal(stop);
        target.wait_for_state("tT");
        // Seen stopped by a tracer that comes later, too.
        drop(tracer);
        target.wait_for_state("T");
        let tracer = self::tracer();
        tracer.seize(target.pid()).unwrap();
        target.go();
        std::thread::sleep(Duration::from_millis(30));
        assert!("tT".contains(target.state()));
        target.signal(libc::SIGCONT);
        assert_eq!(target.line(), "on");
        assert_eq!(ending(&tracer, &target).0, Ended::Exit(0));
    }
}

#[test]
fn no_signal_is_lost_or_changed() {
    // Queued real-time signals with values, in order, against a 1 kHz timer whose expirations are counted with overruns.
    // One thread takes them all: two would take turns in no order, traced or not.
    let globals = "static volatile long ticks, sum, count, disorder, last;
        static void rt(int s, siginfo_t *i, void *c) { long v = i->si_value.sival_int; sum += v; count++; disorder += v <= last; last = v;
            if (i->si_code != SI_QUEUE) disorder += 1000; }
        static void tick(int s, siginfo_t *i, void *c) { ticks += 1 + i->si_overrun; }
        static void *sender(void *a) { for (int v = 1; v <= 2000; v++) { union sigval x = {v};
            while (sigqueue(getpid(), SIGRTMIN, x)) sleep_ms(1); if (v % 4 == 0) sleep_ms(1); } return a; }";
    let body = "struct sigaction a = {0}; a.sa_flags = SA_SIGINFO | SA_RESTART; a.sa_sigaction = rt; sigaction(SIGRTMIN, &a, 0); \
        a.sa_sigaction = tick; sigaction(SIGRTMIN + 1, &a, 0); struct sigevent e = {0}; e.sigev_notify = SIGEV_SIGNAL; \
        e.sigev_signo = SIGRTMIN + 1; timer_t t; timer_create(CLOCK_MONOTONIC, &e, &t); struct itimerspec s = {{0, 1000000}, {0, 1000000}}; \
        struct timespec b, n; sigset_t m; sigfillset(&m); sigprocmask(SIG_BLOCK, &m, 0); spawn(spin, 1); \
        sigprocmask(SIG_UNBLOCK, &m, 0); go(); clock_gettime(CLOCK_MONOTONIC, &b); timer_settime(t, 0, &s, 0); sender(0); \
        clock_gettime(CLOCK_MONOTONIC, &n); struct itimerspec z = {0}; timer_settime(t, 0, &z, 0); sleep_ms(20); \
        long ms = (n.tv_sec - b.tv_sec) * 1000 + (n.tv_nsec - b.tv_nsec) / 1000000; char l[200]; \
        sprintf(l, \"%ld %ld %ld %ld %ld\\n\", count, sum, disorder, ticks, ms); say(l); pause();";
    for pauses in [false, true] {
        let mut target = Target::start(globals, body);
        let tracer = tracer();
        tracer.seize(target.pid()).unwrap();
        target.go();
        let over = std::sync::atomic::AtomicBool::new(false);
        let line = std::thread::scope(|scope| {
            let (pid, tracer, over) = (target.pid(), &tracer, &over);
            scope.spawn(move || {
                while pauses && !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut paused = tracer.pause(pid, Duration::from_secs(5)).unwrap();
                    assert!(paused.all_stopped && paused.threads.len() >= 2);
                    assert!(!paused.resume().is_zero());
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let line = target.line();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            line
        });
        let n: Vec<i64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        assert_eq!(n[..3], [2000, 2000 * 2001 / 2, 0], "{line}");
        assert!((n[3] - n[4]).abs() <= 2, "expirations {} in {} ms", n[3], n[4]);
    }
}

#[test]
fn a_paused_process_stands_still_and_goes_on_as_it_was() {
    let globals =
        "static volatile long counted[8]; static void *count(void *a) { for (;;) counted[(long)a]++; return a; }";
    let body = "char l[60]; pthread_t t; for (long i = 0; i < 8; i++) pthread_create(&t, 0, count, (void *)i); \
        sprintf(l, \"%lx\\n\", (long)counted); say(l); go(); return 3;";
    let mut target = Target::start(globals, body);
    let tracer = tracer();
    let place = u64::from_str_radix(&target.line(), 16).unwrap();
    assert!(matches!(tracer.pause(target.pid(), Duration::from_secs(1)), Err(TraceError::NotPaused { .. })));
    tracer.seize(target.pid()).unwrap();
    let counted = |pid: i32| {
        let memory = ProcessMemory::new(pid);
        (0..8).map(|at| memory.word(place + 8 * at).unwrap()).collect::<Vec<u64>>()
    };
    for _ in 0..20 {
        let before = counted(target.pid());
        let mut paused = tracer.pause(target.pid(), Duration::from_secs(10)).unwrap();
        assert_eq!((paused.all_stopped, paused.threads.len()), (true, 9));
        let still = counted(target.pid());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(counted(target.pid()), still);
        let stopped = paused.resume();
        assert!(stopped >= Duration::from_millis(5) && stopped < Duration::from_secs(10), "{stopped:?}");
        wait_until(|| counted(target.pid()) > still, "it goes on");
        assert!(before <= still);
    }
    // Who forgets to let it go on does not stop it for ever.
    let mut paused = tracer.pause(target.pid(), Duration::from_millis(50)).unwrap();
    let still = counted(target.pid());
    wait_until(|| counted(target.pid()) > still, "the tracer lets it go on");
    assert_eq!(paused.resume(), Duration::ZERO);
    // Dropped, it goes on too; and its end is seen as ever.
    drop(tracer.pause(target.pid(), Duration::from_secs(10)).unwrap());
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(3));
    tracer.release(target.pid()).unwrap();
}

#[test]
fn a_paused_process_that_is_killed_is_seen_to_end() {
    let mut target = Target::start("", "spawn(spin, 4); go(); pause();");
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    target.go();
    let paused = tracer.pause(target.pid(), Duration::from_secs(10)).unwrap();
    target.signal(libc::SIGKILL);
    let (ended, _) = ending(&tracer, &target);
    assert_eq!(ended, Ended::Signal(9));
    drop(paused);
    tracer.release(target.pid()).unwrap();
    target.wait();
}

#[test]
fn an_analyzer_that_never_releases_holds_nobody_for_long() {
    let tracer = tracer_holding(Duration::from_millis(300));
    let mut target = Target::start("", "spawn(idle, 3); go(); return 4;");
    tracer.seize(target.pid()).unwrap();
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(4));
    // Asked to keep it, the tracer does so beyond the limit.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        tracer.keep(target.pid()).unwrap();
    }
    assert!(target.child.try_wait().unwrap().is_none());
    assert_eq!(next(&tracer), TracerEvent::Expired { pid: target.pid() });
    assert_eq!(target.wait().code(), Some(4));
    // Too late, and harmless.
    tracer.release(target.pid()).unwrap();
    assert!(matches!(tracer.seize(target.pid()), Err(TraceError::NoSuchProcess { .. })));
}

#[test]
fn when_the_analyzer_or_the_tracer_dies_targets_run_on() {
    // Held at its end: the analyzer goes.
    let mut target = Target::start("", "spawn(idle, 3); go(); return 4;");
    let first = tracer();
    first.seize(target.pid()).unwrap();
    target.go();
    ending(&first, &target);
    drop(first);
    assert_eq!(target.wait().code(), Some(4));

    // Running and held: the tracer is killed.
    let mut held = Target::start("", "go(); return 4;");
    let mut running = Target::start("", "spawn(spin, 1); go(); say(\"on\\n\"); go(); return 6;");
    let second = tracer();
    for target in [&held, &running] {
        second.seize(target.pid()).unwrap();
    }
    held.go();
    ending(&second, &held);
    // SAFETY: the tracer is a child of this process that nobody has waited for.
    unsafe { libc::kill(second.pid() as i32, libc::SIGKILL) };
    assert_eq!(next(&second), TracerEvent::Lost);
    assert_eq!(held.wait().code(), Some(4));
    running.go();
    assert_eq!(running.line(), "on");
    assert!(matches!(second.seize(running.pid()), Err(TraceError::Lost)));
    assert!(matches!(second.release(running.pid()), Err(TraceError::Lost)));
    running.go();
    assert_eq!(running.wait().code(), Some(6));
}

#[test]
fn a_release_while_running_detaches() {
    let mut target = Target::start("", "spawn(idle, 5); spawn(spin, 1); go(); say(\"on\\n\"); go(); return 6;");
    let tracer = tracer();
    tracer.seize(target.pid()).unwrap();
    tracer.seize(target.pid()).unwrap();
    tracer.release(target.pid()).unwrap();
    wait_until(
        || {
            threads::list(target.pid())
                .unwrap()
                .iter()
                .all(|tid| std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap().contains("TracerPid:\t0\n"))
        },
        "no tracer",
    );
    target.go();
    assert_eq!(target.line(), "on");
    // And it can be traced again.
    tracer.seize(target.pid()).unwrap();
    target.go();
    assert_eq!(ending(&tracer, &target).0, Ended::Exit(6));
}

#[test]
fn a_process_that_is_traced_already_is_left_alone_and_named() {
    let target = Target::start("", "spawn(idle, 2); pause();");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-p"]).arg(target.pid().to_string()).stderr(Stdio::null());
    let mut strace = strace.spawn().unwrap();
    let status = || std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    wait_until(|| !status().contains("TracerPid:\t0\n"), "strace");
    let tracer = tracer();
    let error = tracer.seize(target.pid()).unwrap_err();
    assert!(
        matches!(&error, TraceError::AlreadyTraced { tracer, name, .. }
        if *tracer as u32 == strace.id() && name == "strace"),
        "{error}"
    );
    strace.kill().unwrap();
    strace.wait().unwrap();
    assert!("SR".contains(target.state()), "{}", target.state());
    assert!(matches!(tracer.seize(i32::MAX), Err(TraceError::NoSuchProcess { .. })));
}

#[test]
fn many_targets_end_at_once_and_each_is_held_alone() {
    let tracer = tracer();
    let mut targets: Vec<Target> =
        (0..6).map(|i| Target::start("", &format!("spawn(idle, 2); go(); return {i};"))).collect();
    for target in &mut targets {
        tracer.seize(target.pid()).unwrap();
        target.go();
    }
    let mut seen = Vec::new();
    while seen.len() < targets.len() {
        let TracerEvent::Ending { pid, ended, .. } = next(&tracer) else { panic!() };
        seen.push((pid, ended));
    }
    // Released in the other order.
    for (pid, ended) in seen.into_iter().rev() {
        let target = targets.iter_mut().find(|t| t.pid() == pid).unwrap();
        assert!(target.child.try_wait().unwrap().is_none());
        tracer.release(pid).unwrap();
        assert_eq!(ended, Ended::Exit(target.wait().code().unwrap()));
    }
}

#[test]
fn the_tracer_has_a_session_of_its_own_and_refuses_strangers() {
    let tracer = tracer();
    // SAFETY: only asks.
    assert_eq!(unsafe { libc::getsid(tracer.pid() as i32) }, tracer.pid() as i32);
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", tracer.pid())).unwrap();
    wait_until(|| name() == "avleak-tracer\n", "its name");
    let mut stranger =
        Command::new(exe()).args(["tracer", "0"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    stranger.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(stranger.wait().unwrap().code(), Some(2));
    assert!(said.contains("avleak's own use"), "{said}");
    let missing = TracerOptions { exe: Path::new("/nonexistent/avleak").into(), ..TracerOptions::default() };
    let error = Tracer::spawn_with(missing).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/avleak"), "{error}");
}
