#!/usr/bin/env python3
"""The micro-benchmark alone, plain and under avleak, side by side: for whoever works on the interposer.

    benches/micro.py [--avleak PATH/TO/avleak] [-n REPETITIONS] [--ms N]

Prints the median nanoseconds of a malloc+free pair, and what avleak adds to each call (half of the difference): by wall
time, and by CPU time of the threads, which other processes on the machine hardly touch.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FLAGS = (
    "-std=gnu17 -Wall -Wextra -g -O2 -fomit-frame-pointer -fasynchronous-unwind-tables -fno-builtin"
    " -fcf-protection=none -D_GNU_SOURCE"
).split()
CASES = [(stacks, threads, 0, None) for stacks in ("same", "changing", "new") for threads in (1, 2)]
CASES += [("same", 1, 0, "changing"), ("same", 1, 4096, None)]


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")) / "release" / "avleak"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--avleak", type=pathlib.Path, default=target)
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("--ms", type=int, default=300)
    arguments = parser.parse_args()
    if not arguments.avleak.exists():
        sys.exit(f"micro.py: no avleak at {arguments.avleak}: run `make build`, or name one with --avleak")
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, pathlib.Path(folder))


def measure(arguments, folder):
    for name, extra in (("micro", ["-DWITH_LIBAV"]), ("micro_dormant", [])):
        libraries = ["-lavutil"] if extra else []
        subprocess.run(
            ["cc", *FLAGS, *extra, HERE / "programs/micro.c", "-o", folder / name, "-lpthread", *libraries], check=True
        )
    runs = []
    for case in CASES:
        runs += [(case, "micro", "plain"), (case, "micro", "avleak")]
    runs += [(CASES[0], "micro_dormant", "plain"), (CASES[0], "micro_dormant", "avleak")]
    found, notes = {run: [] for run in runs}, {}
    for _ in range(arguments.n):
        for run in random.sample(runs, len(runs)):
            (stacks, threads, hold, rbp), program, tool = run
            command = [folder / program, "--stacks", stacks, "--threads", str(threads), "--hold", str(hold)]
            command += ["--rbp", rbp] if rbp else []
            # Stacks without end would use up every node of the segment: a hundred thousand a thread.
            command += ["--pairs", "100000"] if stacks == "new" else ["--ms", str(arguments.ms)]
            if tool == "avleak":
                report = folder / "report.json"
                command = [arguments.avleak, "run", "-q", "--json", report, "--", *command]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            if not done.stdout:
                sys.exit(f"micro.py: {' '.join(map(str, command))} printed nothing and exited with {done.returncode}")
            found[run].append(json.loads(done.stdout))
            if tool == "avleak":
                said = json.loads(report.read_text())
                notes[run] = (
                    f"{said['verdict']}, {said['observed']['events_dropped']} dropped"
                    if "observed" in said
                    else "dormant"
                )
    print(f"{'':36}{'plain':>8}{'avleak':>9}{'added a call: wall':>20}{'CPU':>7}   ns; medians of {arguments.n}")
    for case, program, tool in runs:
        if tool == "plain":
            continue
        with_it, plain = (
            {
                key: statistics.median(result[key] for result in found[(case, program, which)])
                for key in ("wall_ns", "cpu_ns")
            }
            for which in ("avleak", "plain")
        )
        stacks, threads, hold, rbp = case
        name = "dormant" if program == "micro_dormant" else f"{stacks} stack{'s' * (stacks != 'same')}"
        name += (
            f", {threads} thread{'s' * (threads > 1)}"
            + (f", {hold} alive" if hold else "")
            + (f", rbp {rbp}" if rbp else "")
        )
        print(
            f"{name:36}{plain['wall_ns']:8.1f}{with_it['wall_ns']:9.1f}{(with_it['wall_ns'] - plain['wall_ns']) / 2:20.1f}"
            f"{(with_it['cpu_ns'] - plain['cpu_ns']) / 2:7.1f}   {notes[(case, program, tool)]}"
        )


if __name__ == "__main__":
    main()
