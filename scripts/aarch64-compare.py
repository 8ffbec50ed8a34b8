#!/usr/bin/env python3
"""Compares a report made under emulation with the fixture's own truth: aarch64-compare.py FIXTURE EXIT_CODE FOLDER."""
import json
import re
import subprocess
import sys

INCONCLUSIVE = 3


def main():
    fixture, code, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with open(f"{folder}/{fixture}.out", encoding="utf-8", errors="replace") as file:
        text = file.read()
    truth = next((json.loads(line)["truth"] for line in text.splitlines() if line.startswith('{"truth"')), None)
    if truth is None:
        return fail(fixture, "the fixture printed no truth", text)
    with open(f"{folder}/report.json", encoding="utf-8") as file:
        report = json.load(file)
    report = report.get("processes", [report])[0]
    observed, problems = report["observed"], []

    def equal(what, seen, wanted):
        if seen != wanted:
            problems.append(f"{what}: {seen}, not {wanted}")

    # Nothing can be classified: that must never read as "no leaks".
    equal("exit code", code, INCONCLUSIVE)
    equal("dropped events", observed["events_dropped"], 0)
    for key, wanted in truth.get("observed", {}).items():
        equal(key, observed.get(key), wanted)
    # What is lost is alive; what else is, the fixture says by class.
    classes = [count["frames"] for count in truth.get("totals", {}).values() if count.get("frames", -1) >= 0]
    alive = sum(group["count"] for group in report["groups"] if group["object"] == "AVFrame")
    equal("frames alive", alive, sum(classes) if classes else truth["leaks"]["frames"])
    for kind, wanted in truth["leaks"].items():
        name = {"frames": "AVFrame", "packets": "AVPacket", "buffer_refs": "AVBufferRef"}.get(kind)
        seen = sum(group["count"] for group in report["groups"] if group["object"] == name)
        if name and wanted and seen < wanted:
            problems.append(f"{kind} alive: {seen}, not {wanted} at least")
    verified = re.search(r"verify=1: ([\d,]+) stacks? (?:was|were) unwound twice, ([\d,]+) differed", text)
    if not verified or verified[1] == "0":
        problems.append("no stack was verified")
    elif verified[2] != "0":
        problems.append(f"{verified[2]} of {verified[1]} stacks differ from the C++ ABI's unwinder")
    # The program's own frames have no names here, for /proc/PID/exe is qemu: its offsets must lead to the
    # functions of truth.h that make frames.
    for group in report["groups"][:3]:
        own = [frame["offset"] - 1 for frame in group["stack"] if frame.get("module", "").startswith("qemu-")]
        names = subprocess.run(
            ["aarch64-linux-gnu-addr2line", "-fie", f"{folder}/{fixture}", *map(hex, own)],
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()[::2]
        if group["object"] == "AVFrame" and "frame_shell" not in names:
            problems.append(f"a stack of {group['object']} is {names}")
    if problems:
        return fail(fixture, "; ".join(problems), text)
    print(
        f"{fixture}: {observed['frames_allocated']} frames allocated, {observed['frames_freed']} freed, {alive} alive; "
        f"{verified[1]} stacks verified, 0 differ"
    )
    return 0


def fail(fixture, why, text):
    print(f"{fixture}: {why}\n{text}", file=sys.stderr)
    return 1


sys.exit(main())
