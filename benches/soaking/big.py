"""For how long a big process stands still when it is checked: a GiB of frames, 100 MB of small blocks, few threads and many.

A thread of the process itself reads the clock all the time, so that what avleak says of the stop is held against what the process felt. A
machine that is busy makes it wait as well: the gaps while nobody checks say how much.
"""

import signal
import tempfile
import time
from pathlib import Path

from harness import measure

from . import server
from .checks import Checked

FRAMES_MIB, BLOCKS_MIB = 1024, 100
THREADS = (2, 10, 50)
# Between two checks nobody checks: those gaps are the machine's.
REST_S = 0.3


def measure_all(avleak, given, say):
    """A series of checks for each number of threads, and one without ptrace."""
    program, series = server.build("live_heap"), []
    for threads in THREADS:
        series.append(one(avleak, program, threads, given.checks, (), say))
    series.append(one(avleak, program, THREADS[1], max(3, given.checks // 10), ("ptrace=0",), say))
    return {"series": series, "frames_mib": FRAMES_MIB, "blocks_mib": BLOCKS_MIB, "at": time.time()}


def one(avleak, program, threads, checks, options, say):
    """One process, checked so often."""
    with tempfile.TemporaryDirectory(prefix="big.", dir=server.WORK) as folder:
        command = [str(program), str(threads), str(FRAMES_MIB), str(BLOCKS_MIB)]
        with Checked(avleak, command, program, Path(folder), options) as checked:
            checked.wait_until(lambda: "ready" in checked.read("stdout"), "the filled heap")
            busy, begun, found = measure.busy_seconds(), time.time(), []
            for number in range(checks):
                time.sleep(REST_S)
                found.append(checked.check())
                if (number + 1) % 10 == 0:
                    say(f"{threads} threads, {number + 1}/{checks}: worst stop {max(c['stopped_ms'] for c in found):.2f} ms")
            took, busy = time.time() - begun, measure.busy_seconds() - busy
            measure.send(signal.SIGTERM, [checked.pid()])
            exit_status = checked.finish()
            text = checked.read("stdout")
    gaps = [fields for kind, fields in server.lines(text) if kind == "gap"]
    during, between = split(gaps, found)
    return {
        "threads": threads,
        "options": list(options),
        "checks": found,
        "exit": exit_status,
        "failed": len(checked.failed),
        "gaps_during": during,
        "gaps_between": between,
        "busy": busy / took,
    }


def split(gaps, checks):
    """The gaps, milliseconds, that lie in a check, and those that do not."""
    during, between, at = [], [], 0
    for gap in sorted(gaps, key=lambda gap: gap["at"]):
        while at < len(checks) and checks[at]["ended"] < gap["at"]:
            at += 1
        inside = at < len(checks) and gap["at"] + gap["ms"] / 1e3 > checks[at]["begun"]
        (during if inside else between).append(gap["ms"])
    return during, between
