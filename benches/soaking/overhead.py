"""What avleak costs the server: fixed work, plain and under avleak in turn, each pair compared with itself.

As fast as it can: every processor is busy, so that what avleak's own processes take is missing to the server. At a pace, as servers run: then
the time by the clock says nothing, and CPU time all.
"""

import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from harness import measure
from harness.prepare import PrepareError

from . import server

# (name, video, frames a second of each stream; 0: as fast as it can)
LOADS = [("720p", "v720", 0), ("360p", "sample", 0), ("360p paced", "sample", 25)]
# Of the bar, wall by the clock over the whole run.
BAR = 1.03


def measure_all(avleak, program, given, say):
    """The results of every load, as they are stored."""
    results = []
    with tempfile.TemporaryDirectory(prefix="overhead.", dir=server.WORK) as scratch:
        for name, video, pace in LOADS:
            frames = round(given.seconds * pace) or calibrated(program, video, given.seconds, Path(scratch))
            pairs = 1 if pace else given.pairs
            say(f"{name}: {pairs} pairs of {given.seconds:.0f} s, {frames * server.STREAMS} frames each")
            load = {"name": name, "video": video, "pace": pace, "frames": frames * server.STREAMS, "pairs": []}
            for number in range(pairs):
                load["pairs"].append(pair(avleak, program, load, given, Path(scratch)))
                say(f"  {number + 1}/{pairs}  {in_words(load['pairs'][-1])}")
            results.append(load)
    return {"loads": results, "seconds": given.seconds, "interval": given.interval, "at": time.time()}


def calibrated(program, video, seconds, scratch):
    """How many frames of each stream take so long."""
    frames = 200
    run = one(server.command(program, video, pace=0, frames=frames), program, scratch, 120)
    return max(frames, round(frames * seconds / run["wall"]))


def pair(avleak, program, load, given, scratch):
    """One run plain and one under avleak, in random order."""
    work = server.command(program, load["video"], pace=load["pace"], frames=load["frames"] // server.STREAMS)
    under = [str(avleak), "run", "-q", "--json", "report.json", "--check-interval", f"{given.interval:g}s"]
    under += ["--alert-frames", "10", "--alert-growth", "10", "--", *work]
    found = {}
    for name in random.sample(["plain", "avleak"], 2):
        found[name] = one(work if name == "plain" else under, program, scratch, 20 * given.seconds + 60)
    return found


def one(command, program, scratch, timeout):
    """One run: seconds by the server's own clock and of CPU time, memory in KiB."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    run = measure.run(command, None, folder, str(program), timeout)
    done = server.last(run.stdout, "done")
    if run.failure or run.exit or not done:
        raise PrepareError(f"{' '.join(command)}: {run.failure or f'exit {run.exit}'}\n{run.stderr.strip()[-2000:]}")
    shutil.rmtree(folder)
    return {
        "wall": done["wall_s"],
        "whole": run.wall,
        "cpu": run.cpu,
        "target_kib": run.target_kib,
        "other_kib": run.other_kib,
        "foreign_cpu": run.foreign_cpu,
    }


def ratios(load, key):
    """Of each pair, avleak's to plain."""
    return [pair["avleak"][key] / pair["plain"][key] for pair in load["pairs"]]


def foreign_share(results):
    """How many processors other processes took meanwhile."""
    runs = [run for load in results["loads"] for pair in load["pairs"] for run in pair.values()]
    return sum(run["foreign_cpu"] for run in runs) / sum(run["whole"] for run in runs)


def in_words(pair):
    """One line on a pair."""
    plain, avleak = pair["plain"], pair["avleak"]
    return (
        f"wall {plain['wall']:.2f} → {avleak['wall']:.2f} s ({avleak['wall'] / plain['wall']:.3f}), "
        f"CPU {plain['cpu']:.2f} → {avleak['cpu']:.2f} s ({avleak['cpu'] / plain['cpu']:.3f})"
    )


def median_ratio(load, key):
    """The median of the ratios of all pairs."""
    return statistics.median(ratios(load, key))
