#!/usr/bin/env python3
"""Runs avleak and its peers side by side over the workloads and writes docs/benchmarks.md.

    benches/bench.py [--workload a,c,…] [--tool avleak,…] [-n ROUNDS] [--quick]

`make bench` calls this. Only a run of everything writes docs/benchmarks.md; any other prints its tables and leaves
them in build/bench/benchmarks.md. The raw figures are in build/bench/results.json.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness import document, measure, outcomes, prepare, tools as tool_list, workloads as workload_list
from harness.results import Results

ROOT = Path(__file__).resolve().parent.parent
# Exit statuses of this program: wrong usage or something missing; a tool that failed; Ctrl-C as shells say it.
EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workload", default="", metavar="LIST", help="joined by commas: a, a-one, b, c, c-same, c-same-1 …"
    )
    parser.add_argument(
        "--tool",
        default="",
        metavar="LIST",
        help="joined by commas: " + ", ".join(tool.id for tool in tool_list.TOOLS) + "; plain is always added",
    )
    parser.add_argument("-n", type=int, default=None, metavar="ROUNDS", help="rounds; default: 7, or 1 with --quick")
    parser.add_argument(
        "--minutes", type=float, default=14, help="after this long only the first round goes on; default: 14"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a first look: one round, shorter workloads, short patience"
    )
    parser.add_argument(
        "--avleak",
        default=os.path.join(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release/avleak"),
        metavar="FILE",
        help="the avleak to measure; libavleak.so lies beside it",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=None,
        metavar="S",
        help="seconds after which a tool other than plain and avleak gets no further round of a workload; default: 10",
    )
    return parser.parse_args()


def chosen(words, everything, what, matches):
    """The members of `everything` that the comma-separated `words` name; all for none. Ends the program on another word."""
    words = [word.strip() for word in words.split(",") if word.strip()]
    for word in words:
        if not any(matches(member, [word]) for member in everything):
            sys.exit(
                say(
                    f"no {what} is called '{word}'; there are: {', '.join(member.id for member in everything)}",
                    EXIT_USAGE,
                )
            )
    return [member for member in everything if not words or matches(member, words)]


def say(line, code=None):
    """A line on stderr; returns `code`."""
    print(f"bench: {line}", file=sys.stderr, flush=True)
    return code


class Bench:
    """One whole run: which workloads, which tools, how often."""

    def __init__(self, given, here, wanted, tools, files):
        self.here, self.workloads, self.tools, self.files = here, wanted, tools, files
        self.rounds = given.n or (1 if given.quick else 7)
        self.budget = given.budget or (2.0 if given.quick else 10.0)
        self.timeout = 20.0 if given.quick else 90.0
        self.seconds = given.minutes * 60
        self.results = Results()
        self.environment = tool_list.clean_environment(os.environ)

    def run(self, scratch):
        """All rounds, or as many as there is time for after the first. A (workload, tool) that failed is not tried again."""
        began = time.monotonic()
        for round in range(self.rounds):
            for workload in self.workloads:
                if round > 0 and time.monotonic() - began > self.seconds:
                    say(f"the time is up in round {round + 1} of {self.rounds}")
                    return
                # Plain is the measure of its round: a tool's ratio is to the plain run beside it.
                for tool in random.sample(self.tools, len(self.tools)):
                    self.one(workload, tool, round, scratch)

    def one(self, workload, tool, round, scratch):
        """One run of one tool over one workload."""
        cell = self.results.cell(workload.id, tool.id)
        if missing := tool_list.why_missing(tool, self.files):
            cell.failure = missing
        expected = cell.spent / len(cell.runs) if cell.runs else 0.0
        favoured = tool.id in ("plain", "avleak")
        if cell.failure or (not favoured and cell.runs and cell.spent + expected > self.budget):
            return
        folder = Path(tempfile.mkdtemp(prefix=f"{workload.id}.{tool.id}.", dir=scratch))
        command = tool.command(self.files, folder) + list(workload.command)
        environment = self.environment | tool.environment(self.files, folder)
        began = time.monotonic()
        run = measure.run(command, environment, folder, workload.program, self.timeout)
        cell.spent += time.monotonic() - began
        failure = run.failure or judge(workload, tool, run)
        if not failure:
            if cell.outcome is None or tool.id == "avleak":
                failure = self.look(workload, tool, run, folder, cell)
        if failure:
            cell.failure = failure
        else:
            cell.runs[round] = run
            # Too short to be sampled: its own word for it.
            run.target_kib = max(run.target_kib, run.program.get("peak_kib", 0))
        print(
            f"  {round + 1}/{self.rounds}  {workload.id:13} {tool.id:12} "
            + (failure or f"{run.wall:7.2f} s  {run.cpu:7.2f} s CPU  {run.target_kib / 1024:7.1f} MiB"),
            file=sys.stderr,
            flush=True,
        )
        if failure and tool.id == "plain":
            raise prepare.PrepareError(
                f"the plain run of ({workload.id}) failed: {failure}\n{run.stderr.strip()[-2000:]}"
            )
        shutil.rmtree(folder)

    def look(self, workload, tool, run, folder, cell):
        """Reads what the tool found; returns why the run does not count."""
        if not workload.outcome and tool.id != "avleak":
            return ""
        outcome = outcomes.read(tool.id, folder, run, workload.program)
        if outcome is None:
            return f"exit {run.exit}, and its output has no result" + hint(run)
        if workload.uses_libav and outcome.seen == 0:
            return "it saw no allocation"
        if tool.id == "avleak" and workload.uses_libav and outcome.seen is None:
            return f"it was not armed ({outcome.says})"
        if outcome.check_s is not None:
            run.program |= {"check_s": outcome.check_s, "stopped_s": outcome.stopped_s}
        if workload.per_pair and outcome.seen is not None:
            outcome.unseen = max(0, run.program["all_pairs"] - outcome.seen - outcome.dropped)
        # Of all rounds the one that says most of what went wrong.
        if cell.outcome is None or outcome.dropped + outcome.unseen > cell.outcome.dropped + cell.outcome.unseen:
            cell.outcome = outcome
        return ""


def hint(run):
    """The last line on stderr, for whoever wonders why."""
    lines = run.stderr.strip().splitlines()
    return f": {lines[-1][:120]}" if lines else ""


def judge(workload, tool, run):
    """Why a run does not count, or nothing; takes the program's own words from its output."""
    good = (
        {0} | ({tool.leak_exit} if tool.leak_exit is not None else set()) | ({1, 3} if tool.id == "avleak" else set())
    )
    if run.exit not in good:
        return f"exit {run.exit}" + hint(run)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if lines:
        try:
            run.program = json.loads(lines[-1])
        except ValueError:
            return "the program's line of JSON is torn"
    if workload.per_pair and "pairs" not in run.program:
        return "the program did not come to its end" + hint(run)
    return ""


def write(path, text):
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def interrupted(_number, _frame):
    """SIGTERM is Ctrl-C."""
    raise KeyboardInterrupt


def main():
    """The command; returns the exit status."""
    given = arguments()
    if (given.n is not None and given.n < 1) or (given.budget is not None and given.budget <= 0):
        return say("rounds (-n, N=) and --budget are numbers above 0", EXIT_USAGE)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        return bench(given)
    except prepare.PrepareError as error:
        return say(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return say("interrupted", EXIT_INTERRUPTED)


def bench(given):
    """Prepares, runs, and writes the page."""
    here = prepare.place(ROOT)
    files = tool_list.locate(given.avleak)
    everything = workload_list.all_workloads(here, given.quick)
    wanted = chosen(given.workload, everything, "workload", lambda workload, words: workload.matches(words))
    tools = chosen(given.tool, tool_list.TOOLS, "tool", lambda tool, words: tool.id in words)
    for tool in tools:
        if (missing := tool_list.why_missing(tool, files)) and given.tool:
            return say(f"{tool.id}: {missing}", EXIT_USAGE)
    if all(tool.id != "plain" for tool in tools):
        tools = [tool_list.by_id("plain"), *tools]
    prepare.prepare(here, wanted)
    # Python's own executable, not the venv's link to it, is what runs.
    wanted = [replace(workload, program=os.path.realpath(workload.program)) for workload in wanted]
    measure.become_subreaper()
    run = Bench(given, here, wanted, tools, files)
    whole = len(wanted) == len(everything) and len(tools) == len(tool_list.TOOLS) and not given.quick
    say(f"{len(wanted)} workloads, {len(tools)} tools, up to {run.rounds} rounds")
    began = time.monotonic()
    stopped = False
    with tempfile.TemporaryDirectory(prefix="bench.", dir=here.work) as scratch:
        try:
            run.run(Path(scratch))
        except KeyboardInterrupt:
            stopped = True
    settings = f"up to {run.rounds} rounds, {run.budget:g} s a peer and workload, at most {run.timeout:.0f} s a run"
    page = document.render(
        run.results, wanted, tools, prepare.versions(here, files), settings, time.monotonic() - began
    )
    if stopped and not any(cell.runs for cell in run.results.cells.values()):
        return say("interrupted before anything was measured", EXIT_INTERRUPTED)
    write(here.work / "results.json", run.results.as_json())
    target = ROOT / "docs/benchmarks.md" if whole and not stopped else here.work / "benchmarks.md"
    write(target, page)
    if stopped:
        return say(f"interrupted; what was measured until then is in {target.relative_to(ROOT)}", EXIT_INTERRUPTED)
    print(page)
    say(f"written to {target.relative_to(ROOT)}")
    failed = [key for key, cell in run.results.cells.items() if cell.failure and key[1] == "avleak"]
    return say(f"avleak failed over {', '.join(name for name, _ in failed)}", EXIT_FAILED) if failed else 0


if __name__ == "__main__":
    sys.exit(main())
