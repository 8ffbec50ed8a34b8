"""The results of checks of living processes as Markdown: docs/live-check.md."""

import statistics

from harness.document import table

from .judge import Bar
from .page import about, bars_table, when

# The bars: milliseconds that a process may stand still at a check.
MOST_STOPPED_MS = 10
BUSY_SHARE = 1.3

ABOUT = """\
Written by `make bench-live`. What a process feels of a check while it runs on (`avleak check`, `check_interval`): how long it stands still, and
that nothing is called lost that is not. Run it on a quiet machine: a thread that is to be stopped has to get a processor first, and so has
whoever lets it go on.
"""
ABOUT_BIG = """\
`tests/programs/live_heap.c`: {frames} MiB of frames, {blocks} MiB of small blocks, and threads that replace both all the time. *Stood still* is the
sum of all stops of a check, from the moment at which the tracer asks the first thread to stop until the last one was let go on. *Clock* is what
a thread of the process saw: the longest time between two readings of the clock, while checks ran and while none did; what is in both is the
machine's. *Busy* is how many processors were, the process included.
"""
ABOUT_FULL = """\
ffmpeg transcodes as fast as it can and is checked without a pause. It frees everything: whatever a check calls lost is false.
"""
ABOUT_RE = """\
`ffmpeg -re` transcodes as pictures come from a camera, plain and under avleak with a check every second, side by side. The pictures are compared
by the checksums of ffmpeg's `framemd5`.
"""


def stops(series):
    """For how long it stood still at each check, milliseconds."""
    return [check["stopped_ms"] for check in series["checks"]]


def false_leaks(checks):
    """Objects that were called lost, over all checks, and how many checks did so."""
    return sum(check["leaks"] for check in checks), sum(1 for check in checks if check["leaks"])


def big_bars(results):
    """The bars of a big process."""
    bars = []
    for series in results["series"]:
        said = stops(series)
        name = f"{series['threads']} threads, {len(said)} checks"
        false = false_leaks(series["checks"])[0]
        if series["options"]:
            rests = all(check["notes"] and check["memory"] == "vm_readv" for check in series["checks"])
            bars.append(Bar(f"without ptrace, {name}: stood still", "0 ms, and it is said", f"{max(said):g} ms", max(said) == 0 and rests))
        else:
            worst, over = max(said), sum(1 for stop in said if stop > MOST_STOPPED_MS)
            measured = f"median {statistics.median(said):.2f} ms, worst {worst:.2f}" + (f"; {over} above" if over else "")
            bars.append(Bar(f"{name}: stood still", f"≤ {MOST_STOPPED_MS} ms", measured, worst <= MOST_STOPPED_MS))
        bars.append(Bar(f"{name}: falsely lost", "0", str(false), false == 0))
    return bars


def speed_bars(results):
    """The bar of ffmpeg at full speed."""
    objects, checks = false_leaks(results["checks"])
    said = f"{objects}, in {checks} checks" if objects else "0"
    return [Bar(f"ffmpeg at full speed, {len(results['checks']):,} checks: falsely lost", "0", said, objects == 0)]


def real_time_bars(results):
    """The bars of ffmpeg at a camera's speed."""
    plain, under = results["plain"], results["avleak"]
    dropped = under.get("drop_frames", 0)
    return [
        Bar(
            f"ffmpeg -re, {results['seconds']:g} s, {len(results['checks'])} checks: frames dropped",
            "0",
            f"{dropped:g} (plain {plain.get('drop_frames', 0):g}), {under.get('dup_frames', 0):g} doubled, speed {under.get('speed', 0):g}",
            dropped == 0,
        ),
        Bar(
            "ffmpeg -re: the same pictures as without",
            f"{plain['pictures']}",
            f"{under['pictures']}, {'the same' if results['same'] else 'others'}",
            bool(results["same"]) and plain["pictures"] > 0,
        ),
    ]


def bars(results):
    """All bars of what was measured."""
    parts = {"big": big_bars, "speed": speed_bars, "real_time": real_time_bars}
    return [bar for name, of in parts.items() if results.get(name) for bar in of(results[name])]


def spread(values, digits=2):
    """Median, the longest but one in a hundred, and the longest; in words."""
    if not values:
        return "none"
    ordered = sorted(values)
    return f"{statistics.median(ordered):.{digits}f} / {ordered[-1 - len(ordered) // 100]:.{digits}f} / {ordered[-1]:.{digits}f}"


def big_part(results):
    """Of a big process."""
    rows = []
    for series in results["series"]:
        rows.append(
            [
                str(series["threads"]) + (", without ptrace" if series["options"] else ""),
                str(len(series["checks"])) + (f" and {series['failed']} failed" if series["failed"] else ""),
                spread(stops(series)),
                f"{statistics.median(check['took_ms'] for check in series['checks']):.0f}",
                f"{max(series['gaps_during'], default=0):.1f} / {max(series['gaps_between'], default=0):.1f}",
                f"{series['busy']:.1f}",
            ]
        )
    header = ["threads", "checks", "stood still ms: median / 99 % / worst", "took ms", "clock ms: checked / not", "busy"]
    head = ["## A big process\n", *about(results), f"- {when(results)}\n"]
    note = ABOUT_BIG.format(frames=results["frames_mib"], blocks=results["blocks_mib"])
    return [*head, note, table(header, rows, right=header), busy_note(results)]


def busy_note(results):
    """A warning where others had the machine."""
    if max(series["busy"] for series in results["series"]) <= BUSY_SHARE:
        return ""
    return "**Other work ran on this machine meanwhile: most of the longest times are waits for a processor. Run it again on a quiet machine.**\n"


def speed_part(results):
    """Of ffmpeg at full speed."""
    said = [check["stopped_ms"] for check in results["checks"]]
    scans = statistics.median(check["scans"] for check in results["checks"])
    line = f"Stood still, ms: median / 99 % / worst {spread(said)}; {scans:g} scans a check, {statistics.median(check['took_ms'] for check in results['checks']):.0f} ms.\n"
    line += f"{results['failed']} checks failed, and were made again.\n" if results["failed"] else ""
    return ["## ffmpeg at full speed\n", *about(results), f"- {when(results)}\n", ABOUT_FULL, line]


def real_time_part(results):
    """Of ffmpeg at a camera's speed."""
    line = f"Stood still, ms: median / 99 % / worst {spread([check['stopped_ms'] for check in results['checks']])}.\n"
    return ["## ffmpeg in real time\n", *about(results), f"- {when(results)}\n", ABOUT_RE, line]


def render(results):
    """The whole page, of what was measured."""
    lines = ["# Checks of a living process\n", ABOUT, bars_table(bars(results))]
    for name, part in (("big", big_part), ("speed", speed_part), ("real_time", real_time_part)):
        if results.get(name):
            lines += part(results[name])
    return "\n".join(lines)
