"""Runs one command and measures it: wall time, CPU time of everything that it started, peak memory of each process.

CPU time is what wait4(2) says of the command and of its waited-for children, plus every process that it left behind:
this process is their subreaper. Peak memory is VmHWM of /proc/PID/status, sampled every 20 ms; where the command itself
is the target, ru_maxrss of wait4(2) is exact and is used as well.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field

PR_SET_CHILD_SUBREAPER = 36  # prctl.h
SAMPLE_S = 0.02
# How long what the command left behind may live on before it is killed (an analyzer that finishes its report).
LINGER_S = 20.0
# How long a wrapper may take to clean up after its command's end.
GRACE_S = 1.0


@dataclass
class Run:
    """One run of one command. Times are seconds, memory is KiB."""

    wall: float = 0.0
    cpu: float = 0.0
    target_kib: int = 0
    other_kib: int = 0  # the largest process beside the target: an analyzer, if there is one
    other_name: str = ""
    foreign_cpu: float = 0.0  # CPU time that the rest of the machine took meanwhile
    exit: int = 0  # as a shell says it: 128 + signal
    failure: str = ""  # why this run does not count
    stdout: str = ""
    stderr: str = ""
    program: dict = field(default_factory=dict)  # what the program said of itself


def become_subreaper():
    """What a command leaves behind becomes a child of this process, which can then wait for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(
            ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER): CPU time of left-behind processes would be lost"
        )


def read_text(path):
    """A file of /proc; nothing where that is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def busy_seconds():
    """CPU time of the whole machine that was not idle (proc(5): /proc/stat, in clock ticks)."""
    ticks = [int(word) for word in read_text("/proc/stat").split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def descendants(pid):
    """Every process below this one."""
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            children = [int(word) for word in read_text(f"/proc/{parent}/task/{thread}/children").split()]
            found += children
            queue += children
    return found


class _Peaks:
    """VmHWM of every process below this one, by (pid, executable): exec starts a new peak."""

    def __init__(self):
        self.kib = {}

    def sample(self):
        for pid in descendants(os.getpid()):
            try:
                executable = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                continue
            for line in read_text(f"/proc/{pid}/status").splitlines():
                if line.startswith("VmHWM:"):
                    key = (pid, executable)
                    self.kib[key] = max(self.kib.get(key, 0), int(line.split()[1]))

    def target(self, executable, root):
        """The target's (pid, executable): the process that runs `executable`, else the command itself."""
        keys = [key for key in self.kib if key[1] == executable] or [key for key in self.kib if key[0] == root]
        return max(keys, key=self.kib.get, default=None)


def _end_gently():
    """SIGTERM for whoever has no child. A wrapper sees its command end and cleans up; ended by a signal itself, dash would
    not (heaptrack is such a script, and leaves its pipe in /tmp)."""
    return send(signal.SIGTERM, [pid for pid in descendants(os.getpid()) if not descendants(pid)])


def send(number, pids):
    """Sends a signal to each; says whether there was anyone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    return bool(pids)


def kill_all():
    """Ends everything below this process, and reaps it."""
    if _end_gently():
        _reap(GRACE_S)
    while send(signal.SIGKILL, descendants(os.getpid())):
        _reap(0.05)


def _reap(seconds):
    """Waits for left-behind processes; returns the CPU seconds of those that ended, and whether any lives on."""
    cpu, deadline = 0.0, time.monotonic() + seconds
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu, False
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > deadline:
            return cpu, True
        else:
            time.sleep(0.002)


def run(command, environment, folder, target, timeout):
    """Runs `command` in `folder`, whose files `stdout` and `stderr` get its output, for at most `timeout` seconds.

    `target` is the executable whose memory is the target's. Raises FileNotFoundError where there is no such command.
    Whatever happens, nothing of the command is left running.
    """
    result, peaks, timed_out = Run(), _Peaks(), False
    busy = busy_seconds()
    with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
        began = time.monotonic()
        # A session of its own: Ctrl-C at the terminal is ours, and ends the command by kill_all.
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        watch = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            while not poll.poll(SAMPLE_S * 1000):
                peaks.sample()
                if timed_out := time.monotonic() - began > timeout:
                    break
            if timed_out:
                _end_gently()
                poll.poll(GRACE_S * 1000)
                send(signal.SIGKILL, descendants(os.getpid()))
        finally:
            os.close(watch)
        _, status, usage = os.wait4(process.pid, 0)
        result.wall = time.monotonic() - began
        result.cpu = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
        late, remains = _reap(0 if timed_out else LINGER_S)
        result.cpu += late
        if remains and not timed_out:
            result.failure = f"left a process behind that did not end within {LINGER_S:.0f} s"
    finally:
        kill_all()
    result.exit = process.returncode if process.returncode >= 0 else 128 - process.returncode
    result.foreign_cpu = max(0.0, busy_seconds() - busy - result.cpu)
    if timed_out:
        result.failure = f"took longer than {timeout:.0f} s"
    _note_peaks(result, peaks, target, process.pid, usage.ru_maxrss)
    result.stdout = (folder / "stdout").read_text(errors="replace")
    result.stderr = (folder / "stderr").read_text(errors="replace")
    return result


def _note_peaks(result, peaks, target, root, maxrss):
    key = peaks.target(os.path.realpath(target), root)
    if key:
        result.target_kib = peaks.kib[key]
    # A process starts with the ru_maxrss of whoever started it: below our own it says nothing.
    alone = key is None or key[0] == root
    if alone and maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        result.target_kib = max(result.target_kib, maxrss)
    # A copy of the target (a fork, or a thread-like clone by which LeakSanitizer stops it) is no analyzer.
    others = {at: kib for at, kib in peaks.kib.items() if key is None or (at[0] != key[0] and at[1] != key[1])}
    if others:
        largest = max(others, key=others.get)
        result.other_kib, result.other_name = others[largest], os.path.basename(largest[1])
