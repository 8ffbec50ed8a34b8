"""Several commands side by side, of which ever one runs: they take turns by the second, so that each sees the same machine.

A run after the other does not do on a machine that is shared: its speed differs by a quarter from one minute to the next. Here all are started,
and all but one are frozen (cgroup v2: every process of a command, analyzer and tracer too, at once); the turn goes round in random order. What is
compared is work for each second that a command was not frozen.
"""

import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from harness.prepare import PrepareError

# A group that does not freeze within this is stuck.
FREEZE_S = 10.0
NUMBERS = itertools.count()


def hierarchy():
    """Where groups are made."""
    for line in Path("/proc/mounts").read_text(encoding="ascii", errors="replace").splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise PrepareError("commands cannot take turns: no cgroup v2 is mounted (mount -t cgroup2 none DIR, as root)")


class Turns:
    """One command in a group of its own; begins frozen."""

    def __init__(self, name, command, folder):
        self.name, self.active = name, 0.0
        self.group = hierarchy() / f"avleak-bench.{os.getpid()}.{next(NUMBERS)}"
        try:
            self.group.mkdir()
        except OSError as error:
            raise PrepareError(f"commands cannot take turns: {self.group} cannot be made ({error.strerror}); run as root") from error
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            join = f"echo $$ > '{self.group}/cgroup.procs' && exec \"$@\""
            words = ["sh", "-c", join, "sh", *map(str, command)]
            self.process = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err)  # pylint: disable=consider-using-with
        # Until it is in its group, it has done nothing yet.
        self._until(lambda: self.pids() or self.process.poll() is not None)
        self._freeze(True)

    def pids(self):
        """Of all its processes."""
        return [int(word) for word in (self.group / "cgroup.procs").read_text(encoding="ascii").split()]

    def turn(self, seconds):
        """Lets it run so long."""
        self._freeze(False)
        begun = time.monotonic()
        time.sleep(seconds)
        self._freeze(True)
        self.active += time.monotonic() - begun
        if self.process.poll() is not None:
            raise PrepareError(f"{self.name} has ended: {self.said()}")

    def cpu(self):
        """Seconds of all its processes, those that have ended too."""
        words = dict(line.split() for line in (self.group / "cpu.stat").read_text(encoding="ascii").splitlines())
        return int(words["usage_usec"]) / 1e6

    def said(self):
        """The end of what it said on stderr."""
        return self.err.read_text(encoding="utf-8", errors="replace").strip()[-2000:]

    def finish(self, target, timeout):
        """Asks the process `target` of it to end; waits for all of it."""
        os.kill(target, signal.SIGTERM)
        self._freeze(False)
        self.process.wait(timeout)
        return self.out.read_text(encoding="utf-8")

    def close(self):
        """Nothing is left of it."""
        for _ in range(100):
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._freeze(False, wait=False)
            if self.process.poll() is not None and not self.pids():
                break
            time.sleep(0.05)
        self.group.rmdir()

    def _freeze(self, frozen, wait=True):
        (self.group / "cgroup.freeze").write_text("1" if frozen else "0", encoding="ascii")
        if frozen and wait:
            self._until(lambda: "frozen 1" in (self.group / "cgroup.events").read_text(encoding="ascii"))

    def _until(self, is_so):
        deadline = time.monotonic() + FREEZE_S
        while not is_so():
            if time.monotonic() > deadline:
                raise PrepareError(f"{self.name} did not freeze within {FREEZE_S:g} s")
            time.sleep(0.001)


def take_turns(contenders, seconds, slice_s):
    """Lets each run for so long in all."""
    for _ in range(round(seconds / slice_s)):
        for one in random.sample(contenders, len(contenders)):
            one.turn(slice_s)
