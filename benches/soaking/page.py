"""The results as Markdown: docs/soak.md."""

import os
import statistics
import time

from harness.document import machine, table

from . import judge, overhead, server, steady, watch
from .roles import ROLES

ABOUT = f"""\
Written by `make soak`. The server (`tests/programs/soak_server.c`) has {server.STREAMS} streams, a thread each, and every other one a second to
decode: demux, H.264, a filter graph (scale, drawbox, fps), a cache of the last 32 pictures in frames of a pool, MPEG-4, MPEG-TS. Each stream
is torn down and connects anew after a minute or two of pictures, and is quiet for a third of its time, with most of its cache given back. The
leaky one forgets one frame in {server.LEAK_EVERY:,}, on the way out of `{server.CULPRIT}` where the viewer has gone; the clean twin runs beside
it, and a clean one without avleak.
"""
ABOUT_WATCH = """\
The delay is from the moment at which the server forgets the frame to that at which the alert stands in the file. Memory is RSS: of the
steady part of the run, the medians of its first and last third, and Theil and Sen's slope; flat is a last third no more than {share:.0%} or
{least} MiB above the first, or above what the memory of the server without avleak rose by. From the leaky server's memory what it says that it
has leaked is taken off. RSS of the analyzer goes up and down by some 15 MiB with the pages of the target's segment that it shares with it and has
looked at lately; what is its own alone stands in the table of memory.
"""
ABOUT_COST = """\
The soak's server runs at a pace, as servers do: what the clock feels of avleak there is in the table above. Here it goes **as fast as it can**: no
processor is ever idle, so that what avleak's own processes take is missing to the server. All three run side by side, of which ever one runs, by
turns of {turn:g} s in random order (the others are frozen, analyzers too), so that all see the same machine; a check every {interval:g} s
of its own turns. Ratios are of the time for each picture, medians of the rounds; CPU is of all processes.
"""
# Beside a busy machine's soak; by the load average a processor, the soak's own part included.
OVERLOADED = """\
**This machine had much else to do meanwhile: its load average was {low:.0f} to {high:.0f} on {processors} processors, of which the soak itself
makes about one. Times by the clock (the delay, how long checks took and stopped the server) say more of that than of avleak.**
"""
MOST_LOAD = 1.5


def bars_table(bars):
    """All bars, met or not."""
    rows = [[bar.what, bar.wanted, bar.measured, "yes" if bar.met else "**no**"] for bar in bars]
    return table(["what", "wanted", "measured", "met"], rows)


def when(results):
    """The day of a measurement."""
    return time.strftime("%Y-%m-%d", time.gmtime(results["at"]))


def about(results):
    """Machine and versions, as they were then."""
    return [f"- {results['machine']}", f"- {'; '.join(f'{name} {version}' for name, version in results['versions'])}"]


def watch_part(results):
    """What half an hour showed."""
    leaky, clean = results["twins"]["leaky"], results["twins"]["clean"]
    lines = [f"## {results['minutes']:g} minutes\n", *about(results)]
    frames = [f"{found['done']['frames']:,} pictures, {found['done']['connections']} connections" for found in (leaky, clean)]
    lines.append(f"- {when(results)}, a check every {results['interval']:g} s; leaky {frames[0]}; clean {frames[1]}\n")
    if "plain" not in results["twins"]:
        lines.append("This run had no server without avleak beside it.\n")
    low, high = results["load"]
    if high > MOST_LOAD * (processors := os.cpu_count() or 1):
        lines.append(OVERLOADED.format(low=low, high=high, processors=processors))
    lines += [bars_table(judge.watch_bars(results)), ABOUT_WATCH.format(share=judge.FLAT_SHARE, least=judge.FLAT_KIB // 1024)]
    lines += ["### Alerts\n", alerts_table(leaky), "### Checks\n", checks_table(results), "### Memory\n", memory_table(results)]
    return lines


def alerts_table(found):
    """Every alert of the leaky server against its truth."""
    rows = []
    for note in found["alerts"]:
        forgotten = sum(1 for leak in found["leaks"] if leak["at"] <= note["seen"])
        alert = note["alert"]
        growth = alert["growth"]
        rows.append(
            [
                f"{(note['seen'] - found['begun']) / 60:.1f}",
                ", ".join(alert["reasons"]),
                str(alert["count"]),
                str(forgotten),
                "—" if not growth else f"{growth['per_hour']:.0f} an hour, p {growth['p']:.0e}",
                alert["message"],
            ]
        )
    return table(["minute", "reasons", "told", "leaked by then", "growth", "message"], rows, right=("minute", "told", "leaked by then"))


def checks_table(results):
    """How the checks went, as far as they were seen between two of them."""
    rows = []
    for name in ("leaky", "clean"):
        found = results["twins"][name]
        took = [check["took_ms"] for check in found["checks"]]
        rows.append(
            [
                name,
                f"{judge.metric(found, 'checks_total'):g}",
                f"{judge.metric(found, 'checks_failed_total'):g}",
                judge.median_and_worst(judge.stops(found)),
                judge.median_and_worst(took),
                f"{judge.metric(found, 'producer_wait_seconds_total'):.2f} s",
            ]
        )
    return table(["twin", "checks", "failed", "stood still, median", "took, median", "waited for the analyzer"], rows)


def memory_table(results):
    """Memory and CPU of every process."""
    rows = []
    for name, found in results["twins"].items():
        for role in ROLES:
            flat = steady.steadiness(judge.memory(found, role))
            if flat is None:
                continue
            seen = [sample[role] for sample in found["samples"] if role in sample and sample["at"] >= judge.steady_from(found)]
            share = judge.cpu_share(found, role)
            own = steady.steadiness(judge.memory(found, role, of="anon_kib"))
            rows.append(
                [
                    f"{role}, {name}",
                    f"{flat.first / 1024:.1f}",
                    f"{flat.last / 1024:.1f}",
                    f"{flat.slope / 1024:+.2f}",
                    f"{own.first / 1024:.1f} → {own.last / 1024:.1f}",
                    f"{statistics.median(look['shared_kib'] for look in seen) / 1024:.1f}",
                    f"{min(look['descriptors'] for look in seen)}–{max(look['descriptors'] for look in seen)}",
                    "—" if share is None else f"{share:.1%}",
                ]
            )
    leaked = results["twins"]["leaky"]["done"]["leaked_bytes"] / 2**20
    header = ["process", "first third MiB", "last third MiB", "slope MiB/h", "of it its own", "of it shared", "descriptors", "CPU of the target's"]
    return table(header, rows, right=header[1:]) + f"\nThe leaky server says that it has leaked {leaked:.1f} MiB in all.\n"


def overhead_part(results):
    """What it costs."""
    lines = ["## Cost\n", *about(results), f"- {when(results)}, {results['seconds']:g} s of each in each round\n"]
    rows = []
    for load in results["loads"]:
        rate = statistics.median(one[overhead.PLAIN]["frames"] / one[overhead.PLAIN]["active"] for one in load["rounds"])
        for name in (overhead.WITHOUT, overhead.CHECKED):
            walls = overhead.ratios(load, name, "active")
            rows.append(
                [
                    f"{load['name']}, {name}",
                    str(len(walls)),
                    f"{rate:.0f}",
                    f"{statistics.median(walls):.3f} ({min(walls):.3f}–{max(walls):.3f})",
                    f"{overhead.median_ratio(load, name, 'cpu'):.3f}",
                ]
            )
    header = ["load", "rounds", "pictures/s plain", "wall, ratio (range)", "CPU, ratio"]
    about_cost = ABOUT_COST.format(interval=results["interval"], turn=overhead.TURN_S)
    lines += [about_cost, bars_table(judge.overhead_bars(results)), table(header, rows, right=header[1:])]
    return lines


def render(watched, cost):
    """The whole page; either part may be missing."""
    lines = ["# Soak\n", ABOUT]
    lines += watch_part(watched) if watched else ["## The soak\n", "Not run: `make soak PHASE=watch`.\n"]
    lines += overhead_part(cost) if cost else ["## Cost\n", "Not measured: `make soak PHASE=overhead`.\n"]
    return "\n".join(lines)


def surroundings(avleak):
    """Where and with what something is measured; to be asked before, for what is built may change meanwhile."""
    return {"machine": machine(), "versions": server.versions(avleak)}
