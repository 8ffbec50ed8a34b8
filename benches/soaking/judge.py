"""What a soak comes to: figures against bars."""

import statistics
from dataclasses import dataclass

from . import overhead, server, steady, watch
from .roles import ROLES

# Memory that is taken for flat: the last third's median less the first one's, as a part of the first, or in KiB where that is more.
FLAT_SHARE, FLAT_KIB = 0.05, 2048
# What is left out: caches and pools fill, and streams meet their first reconnection. A share of the run, and seconds.
WARM_SHARE, WARM_S = 1 / 3, 300
# Alerted within so many check intervals.
INTERVALS = 2


@dataclass(frozen=True)
class Bar:
    """One demand: what it is, what is wanted, what was measured, whether that is it."""

    what: str
    wanted: str
    measured: str
    met: bool


def steady_from(found):
    """When the steady part begins, seconds since the epoch."""
    return found["begun"] + min(WARM_S, WARM_SHARE * (found["samples"][-1]["at"] - found["begun"]))


def memory(found, role, net_of_leaks=False, of="rss_kib"):
    """The steady part of a role's memory as (seconds, KiB); without what the server says that it has leaked, if that is wished. `of`: a key
    of its looks; anon_kib is what it shares with nobody."""
    since = steady_from(found)
    points = []
    for sample in found["samples"]:
        if role in sample and sample["at"] >= since:
            leaked = leaked_by(found, sample["at"]) / 1024 if net_of_leaks else 0
            points.append((sample["at"], sample[role][of] - leaked))
    return points


def leaked_by(found, at):
    """Bytes that were leaked by then."""
    return max((leak["bytes"] for leak in found["leaks"] if leak["at"] <= at), default=0)


def tenth_leak(found):
    """When as many frames had leaked as an alert needs; None where it never came to that."""
    return next((leak["at"] for leak in found["leaks"] if leak["count"] == watch.ALERT_FRAMES), None)


def first_alert(found, reason):
    """The first alert for that reason, with when it was seen."""
    return next((note for note in found["alerts"] if reason in note["alert"]["reasons"]), None)


def delay(results):
    """Seconds from the tenth leaked frame to its alert; None where one of them is missing."""
    found = results["twins"]["leaky"]
    tenth, note = tenth_leak(found), first_alert(found, "frames")
    return note["seen"] - tenth if tenth and note else None


def stops(found):
    """For how long the process stood still at each check, milliseconds."""
    return [check["stopped_ms"] for check in found["checks"]]


def metric(found, name):
    """The last value of a metric."""
    return next((s["metrics"][name] for s in reversed(found["samples"]) if name in s["metrics"]), None)


def cpu_share(found, role):
    """CPU time of a role as a part of the target's, over the whole run."""
    both = [sample for sample in found["samples"] if role in sample and "target" in sample]
    if len(both) < 2 or both[0][role]["cpu_s"] > both[-1][role]["cpu_s"]:
        return None
    spent = [both[-1][of]["cpu_s"] - both[0][of]["cpu_s"] for of in (role, "target")]
    return spent[0] / spent[1] if spent[1] else None


def names_culprit(found):
    """Everything that counts as a leak in the last report was made in the function that forgets it."""
    groups = found["report"]["groups"]
    return bool(groups) and all(server.CULPRIT in group["functions"] for group in groups)


def seconds_a_picture(found):
    """By the server's own clock."""
    return found["done"]["wall_s"] / found["done"]["frames"]


def watch_bars(results):
    """The bars of the soak itself."""
    leaky, clean, plain = (results["twins"].get(name) for name in ("leaky", "clean", "plain"))
    waited, note = delay(results), first_alert(leaky, "frames")
    truth = leaky["done"]["leaked"] if leaky["done"] else None
    lost = (leaky["report"]["leaks"] or {}).get("frames")
    bars = [
        Bar(
            f"alert after the {watch.ALERT_FRAMES}th leaked frame",
            f"≤ {INTERVALS} check intervals of {results['interval']:g} s",
            "none" if waited is None else f"{waited:.1f} s, {waited / results['interval']:.2f} intervals",
            waited is not None and waited <= INTERVALS * results["interval"],
        ),
        Bar(
            "the alert names the function",
            server.CULPRIT,
            note["alert"]["message"] if note else "none",
            bool(note) and server.CULPRIT in note["alert"]["message"],
        ),
        Bar("alerts of the clean twin", "0", str(len(clean["alerts"])), not clean["alerts"]),
        Bar(
            "last report of the leaky one",
            f"{truth} frames, all by {server.CULPRIT}",
            f"{lost} frames, {leaky['report']['verdict']}",
            truth is not None and lost == truth == leaky["report"]["definitely_lost"] and names_culprit(leaky),
        ),
        Bar("last report of the clean one", "clean", str(clean["report"]["verdict"]), clean["report"]["verdict"] == "clean"),
        Bar(
            "events dropped, and checks that failed",
            "0",
            ", ".join(f"{found['report']['dropped']} and {metric(found, 'checks_failed_total'):g}" for found in (leaky, clean)),
            all(found["report"]["dropped"] == 0 == metric(found, "checks_failed_total") for found in (leaky, clean)),
        ),
    ]
    if plain and plain["done"]:
        walls = [seconds_a_picture(found) / seconds_a_picture(plain) for found in (leaky, clean)]
        said = ", ".join(f"{wall:.4f}" for wall in walls)
        bars.append(Bar("wall for the same pictures, to plain, over the whole run", f"≤ {overhead.BAR:g}", said, max(walls) <= overhead.BAR))
    for name, found in (("leaky", leaky), ("clean", clean)):
        for role in ROLES:
            net = name == "leaky" and role == "target"
            flat = steady.steadiness(memory(found, role, net))
            beside = steady.steadiness(memory(plain, role)) if plain and role == "target" else None
            what = f"memory of the {role}, {name}" + (", without what it leaks" if net else "")
            said = "not seen" if flat is None else f"{flat.first / 1024:.1f} → {flat.last / 1024:.1f} MiB"
            said += f" (plain {beside.first / 1024:.1f} → {beside.last / 1024:.1f})" if beside else ""
            bars.append(Bar(what, "flat, as plain is" if beside else "flat", said, steady.is_flat(flat, FLAT_SHARE, FLAT_KIB, beside)))
    return bars


def overhead_bars(results):
    """The bar of the cost, for each load."""
    bars = []
    for load in results["loads"]:
        for name in (overhead.CHECKED, overhead.WITHOUT):
            wall = overhead.median_ratio(load, name)
            bars.append(Bar(f"wall, {load['name']}, {name}", f"≤ {overhead.BAR:g}", f"{wall:.3f}", wall <= overhead.BAR))
    return bars


def median_and_worst(values):
    """In words."""
    return f"{statistics.median(values):.2f} ms, worst {max(values):.2f}" if values else "—"
