#!/usr/bin/env python3
"""Does anything grow? Runs a server with the bare library for a long time, and samples memory, descriptors and threads of it and of avleak.

    benches/soak.py --minutes 10 --avleak target/release/avleak --library target/release/libavleak.so -- SERVER ARGUMENTS…

Prints a line of figures for each process each so often, and at the end the medians of the second and of the last tenth of the run. Exits
with 1 where one of them has grown by more than --slack percent and 2 MiB, or by a descriptor or thread.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

FIELDS = ("rss_kib", "memfd_kib", "fds", "threads")


def status(pid):
    """The figures of a process; None where it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file)
        fds = os.listdir(f"/proc/{pid}/fd")
        kib = lambda name: int(lines[name].split()[0])
        return (kib("RssAnon") + kib("RssFile"), kib("RssShmem"), len(fds), int(lines["Threads"]))
    except (OSError, KeyError, ValueError):
        return None


def role(pid, mark):
    """What a process of avleak's is, if it belongs to this run."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        with open(f"/proc/{pid}/environ", "rb") as file:
            if mark not in file.read():
                return None
    except OSError:
        return None
    names = {b"serve": "keeper", b"analyze": "analyzer", b"tracer": "tracer"}
    return names.get(words[1]) if len(words) > 1 else None


def processes(target, mark):
    """The processes of the run, by role."""
    found = {"target": target}
    for name in os.listdir("/proc"):
        if name.isdigit() and (what := role(int(name), mark)):
            found[what] = int(name)
    return found


def medians(samples):
    """Of each field."""
    return [statistics.median(values) for values in zip(*samples)]


def verdict(series, slack):
    """Prints the first and last medians; true where nothing grew."""
    flat = True
    for what, samples in series.items():
        tenth = max(1, len(samples) // 10)
        early, late = medians(samples[tenth : 2 * tenth] or samples[:1]), medians(samples[-tenth:])
        print(f"{what:10}", "  ".join(f"{name} {a:.0f} -> {b:.0f}" for name, a, b in zip(FIELDS, early, late)))
        for name, a, b in zip(FIELDS, early, late):
            grown = b > a if name in ("fds", "threads") else b > a * (1 + slack / 100) and b > a + 2048
            if grown:
                print(f"  {what}: {name} grew")
                flat = False
    return flat


def main():
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=5, help="seconds from sample to sample")
    parser.add_argument("--slack", type=float, default=10, help="percent")
    parser.add_argument("--options", default="check_interval=1s:http=127.0.0.1:0", help="AVLEAK_OPTIONS")
    parser.add_argument("--avleak", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(
            os.environ,
            LD_PRELOAD=os.path.abspath(arguments.library),
            AVLEAK_ANALYZER=os.path.abspath(arguments.avleak),
            AVLEAK_OPTIONS=f"{arguments.options}:report_dir={folder}",
            TMPDIR=folder,
        )
        target = subprocess.Popen(arguments.command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
        series, began = {}, time.monotonic()
        while time.monotonic() - began < 60 * arguments.minutes and target.poll() is None:
            time.sleep(arguments.every)
            for what, pid in processes(target.pid, folder.encode()).items():
                if figures := status(pid):
                    series.setdefault(what, []).append(figures)
                    print(f"{time.monotonic() - began:6.0f} s {what:10}", *figures, flush=True)
        ended_early = target.poll() is not None
        target.send_signal(signal.SIGTERM)
        target.wait()
    flat = verdict(series, arguments.slack)
    return 0 if flat and not ended_early else 1


if __name__ == "__main__":
    sys.exit(main())
