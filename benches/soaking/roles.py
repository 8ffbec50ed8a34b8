"""The processes of a run under avleak by their roles, and what /proc says of each."""

import os
from dataclasses import asdict, dataclass

from harness.measure import descendants, read_text

TICK = os.sysconf("SC_CLK_TCK")
ROLES = ("target", "analyzer", "keeper", "tracer")


@dataclass(frozen=True)
class Look:
    """One look at one process: memory in KiB, CPU time in seconds, threads and descriptors."""

    rss_kib: int
    anon_kib: int
    shared_kib: int
    cpu_s: float
    threads: int
    descriptors: int


def find(keeper, program):
    """Process ids by role, of those that are there."""
    found = {"keeper": keeper}
    for pid in descendants(keeper):
        try:
            executable = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        words = read_text(f"/proc/{pid}/cmdline").split("\0")
        if executable == str(program):
            found["target"] = pid
        elif len(words) > 1 and words[1] in ("analyze", "tracer"):
            found["analyzer" if words[1] == "analyze" else "tracer"] = pid
    return found


def look(pid):
    """What /proc says of a process; None where it is gone."""
    fields = dict(line.split(":", 1) for line in read_text(f"/proc/{pid}/status").splitlines() if ":" in line)
    # The name is in parentheses and may hold anything.
    stat = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    try:
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        anon, file, shared = (int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem"))
        cpu = (int(stat[11]) + int(stat[12])) / TICK
        return asdict(Look(anon + file + shared, anon, shared, cpu, int(fields["Threads"]), descriptors))
    except (OSError, KeyError, IndexError):
        return None
