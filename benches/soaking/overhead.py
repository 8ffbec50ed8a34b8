"""What avleak costs a server that has no processor to spare: work done in the same time, plain and under avleak, side by side in turns.

As fast as it can go, every processor is busy, so that what avleak's own processes take is missing to the server. (At a pace, as servers run, the
soak itself says what the clock feels of it.) See `slices` for why they take turns.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from harness.prepare import PrepareError

from . import server, slices

# (name, video)
LOADS = [("720p", "v720"), ("360p", "sample")]
PLAIN, WITHOUT, CHECKED = "plain", "under avleak, no check meanwhile", "under avleak, checked"
# Of the bar, wall by the clock over the whole run.
BAR = 1.03
# Seconds of a turn.
TURN_S = 1.0


def contenders(avleak, work, interval):
    """(name, command). The interval is by a clock that goes on in the others' turns."""
    run = [str(avleak), "run", "-q", "--json", "report.json"]
    checks = ["--check-interval", f"{3 * interval:g}s", "--alert-frames", "10", "--alert-growth", "10"]
    return [(PLAIN, work), (WITHOUT, [*run, "--", *work]), (CHECKED, [*run, *checks, "--", *work])]


def measure_all(avleak, program, given, say):
    """The results of every load, as they are stored."""
    results = []
    with tempfile.TemporaryDirectory(prefix="overhead.", dir=server.WORK) as scratch:
        for name, video in LOADS:
            say(f"{name}: {given.pairs} rounds, {given.seconds:g} s of each")
            work = server.command(program, video, pace=0)
            load = {"name": name, "video": video, "rounds": []}
            for number in range(given.pairs):
                folder = Path(scratch) / f"{name}.{number}"
                folder.mkdir()
                load["rounds"].append(one_round(contenders(avleak, work, given.interval), program.name, folder, given.seconds))
                say(f"  {number + 1}/{given.pairs}  {in_words(load['rounds'][-1])}")
            results.append(load)
    return {"loads": results, "seconds": given.seconds, "interval": given.interval, "at": time.time()}


def one_round(commands, comm, folder, seconds):
    """All of them, from their start to their end; of each, frames and seconds of its turns and of CPU time."""
    started = []
    try:
        for name, command in commands:
            place = folder / str(len(started))
            place.mkdir()
            started.append(slices.Turns(name, command, place))
        slices.take_turns(started, seconds, TURN_S)
        return {one.name: result(one, comm) for one in started}
    finally:
        for one in started:
            one.close()


def result(one, comm):
    """Ends one, and says what it did."""
    cpu = one.cpu()
    targets = [pid for pid in one.pids() if name_of(pid) == comm]
    if len(targets) != 1:
        raise PrepareError(f"{one.name}: {len(targets)} processes called {comm}")
    try:
        done = server.last(one.finish(targets[0], 60), "done")
    except subprocess.TimeoutExpired as error:
        raise PrepareError(f"{one.name} did not end when it was asked to") from error
    if not done or one.process.returncode:
        raise PrepareError(f"{one.name}: exit {one.process.returncode}\n{one.said()}")
    return {"frames": done["frames"], "active": one.active, "cpu": cpu}


def name_of(pid):
    """As /proc has it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def ratios(load, name, key):
    """Of each round, what a frame took under `name` to what it took plain, by `active` seconds or `cpu`."""
    return [a[name][key] / a[name]["frames"] * a[PLAIN]["frames"] / a[PLAIN][key] for a in load["rounds"]]


def in_words(results):
    """One line on a round."""
    load = {"rounds": [results]}
    said = [f"{name}: wall {ratios(load, name, 'active')[0]:.3f}, CPU {ratios(load, name, 'cpu')[0]:.3f}" for name in (WITHOUT, CHECKED)]
    return f"{results[PLAIN]['frames'] / results[PLAIN]['active']:.0f} frames/s plain; {'; '.join(said)}"


def median_ratio(load, name, key="active"):
    """The median of the ratios of all rounds."""
    return statistics.median(ratios(load, name, key))
