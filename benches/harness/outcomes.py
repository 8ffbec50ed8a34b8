"""What a tool's own output says: how many allocations it saw, what it calls lost, how deep its stacks of libav are.

Each reader takes the folder that the tool wrote into and what it printed. A reader that finds nothing of what it looks
for says so: a run in which a tool saw nothing is no result.
"""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Outcome:
    """`seen` counts allocations; `depths` has the number of frames of each stack of a block that libav allocated."""

    seen: int | None = None
    says: str = ""
    depths: tuple = ()
    # Of these stacks, how many come to the program's main.
    to_main: int | None = None
    dropped: int = 0
    check_s: float | None = None
    stopped_s: float | None = None
    analyzer_notes: tuple = ()
    # Allocations that the program made and the tool does not account for.
    unseen: int = 0


def plural(count, noun):
    """`1 block`, `2 blocks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def read(tool, folder, run, program):
    """The outcome of `run` by the tool of that id; None where its output has nothing that is known."""
    reader = READERS.get(tool)
    return reader(Path(folder), run, program) if reader else Outcome(says="—")


def _avleak(folder, _run, _program):
    path = folder / "avleak.json"
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    if "observed" not in report:
        processes = report.get("processes", [])
        return Outcome(says=report["verdict"] + (": no process used FFmpeg" if not processes else ""))
    totals, observed = report["totals"], report["observed"]
    parts = [
        plural(totals[key]["frames"], "frame") + " " + key.replace("_", " ")
        for key in ("definitely_lost", "indirectly_lost", "possibly_lost", "unclassified")
        if totals[key]["frames"]
    ]
    says = report["verdict"] + (": " + ", ".join(parts) if parts else "")
    if observed["events_dropped"]:
        says += f"; {observed['events_dropped']:,} events dropped"
    stacks = [group["stack"] for group in report["groups"]]
    libav = [stack for stack in stacks if stack and stack[0].get("libav")]
    check = report.get("check") or {}
    return Outcome(
        observed["allocations"],  # those that died young are among them
        says,
        tuple(len(stack) for stack in libav),
        sum(any(frame.get("function") == "main" for frame in stack) for stack in libav),
        observed["events_dropped"],
        check.get("duration_s"),
        check["stopped_ms"] / 1000 if "stopped_ms" in check else None,
        tuple(report["completeness"]["notes"]),
    )


def _heaptrack(folder, _run, _program):
    data = next(iter(sorted(folder.glob("heaptrack*.zst")) + sorted(folder.glob("heaptrack*.gz"))), None)
    if not data:
        return None
    stacks = folder / "stacks.txt"
    done = subprocess.run(
        [
            "heaptrack_print",
            "-f",
            data,
            "-F",
            stacks,
            "--flamegraph-cost-type",
            "leaked",
            "-p",
            "0",
            "-a",
            "0",
            "-T",
            "0",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    seen = re.search(r"calls to allocation functions: (\d+)", done.stdout)
    leaked = re.search(r"total memory leaked: (\S+)", done.stdout)
    if not seen:
        return None
    depths, to_main = [], 0
    for line in stacks.read_text(errors="replace").splitlines() if stacks.exists() else []:
        # `main (file.c);…;av_malloc (libavutil.so.57) COUNT`, outermost first.
        frames = [frame.split(" ")[0] for frame in line.rpartition(" ")[0].split(";")]
        if "av_malloc" in frames:
            depths.append(len(frames) - frames[::-1].index("av_malloc"))
            to_main += "main" in frames
    says = f"{leaked[1]} not freed" if leaked else ""
    return Outcome(int(seen[1]), says, tuple(depths), to_main)


def _valgrind(folder, _run, _program):
    path = folder / "valgrind.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    usage = re.search(r"total heap usage: ([\d,]+) allocs", text)
    if not usage:
        return None
    lost = [
        (name, int(number.replace(",", "")))
        for name, number in re.findall(
            r"(definitely lost|indirectly lost|possibly lost): [\d,]+ bytes in ([\d,]+) blocks", text
        )
    ]
    says = ", ".join(f"{plural(number, 'block')} {name}" for name, number in lost if number) or "no leaks"
    # Invalid reads and the like lead to the same exit status as leaks.
    errors = re.search(r"ERROR SUMMARY: ([\d,]+) errors", text)
    others = int(errors[1].replace(",", "")) - text.count("are definitely lost in loss record") if errors else 0
    if others > 0:
        says += f"; {plural(others, 'other error')}"
    depths, to_main = [], 0
    for stack in _valgrind_stacks(text):
        if "av_malloc" in stack:
            frames = stack[stack.index("av_malloc") :]
            depths.append(len(frames))
            to_main += "main" in frames
    return Outcome(int(usage[1].replace(",", "")), says, tuple(depths), to_main)


def _valgrind_stacks(text):
    """The functions of each leak's stack, innermost first."""
    stacks = []
    for line in text.splitlines():
        if frame := re.match(r"==\d+==\s+(at|by) 0x[0-9A-F]+: (\S+)", line):
            if frame[1] == "at":
                stacks.append([])
            stacks[-1].append(frame[2])
    return stacks


def _lsan(folder, _run, _program):
    text = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("lsan.*")))
    if not text:
        # It writes only where it found something, and does not say how much it saw.
        return Outcome(says="no leaks")
    if "LeakSanitizer has encountered a fatal error" in text:
        return None
    direct = sum(int(number) for number in re.findall(r"^Direct leak of \d+ byte\(s\) in (\d+)", text, re.MULTILINE))
    indirect = sum(
        int(number) for number in re.findall(r"^Indirect leak of \d+ byte\(s\) in (\d+)", text, re.MULTILINE)
    )
    depths, to_main = [], 0
    for part in re.split(r"^(?:Direct|Indirect) leak", text, flags=re.MULTILINE)[1:]:
        frames = re.findall(r"^    #\d+ 0x[0-9a-f]+ in (\S+)", part, re.MULTILINE)
        if "av_malloc" in frames:
            frames = frames[frames.index("av_malloc") :]
            depths.append(len(frames))
            to_main += "main" in frames
    return Outcome(None, f"{plural(direct, 'block')} direct, {indirect:,} indirect", tuple(depths), to_main)


def _raw_stacks(text, program):
    """Depth of the stacks in a heap profile (gperftools, jemalloc) that pass through libavutil; how many pass `main`.

    A profile ends with the maps of the process. Frames are counted from libavutil outwards.
    """
    ranges, base = [], None
    for match in re.finditer(r"^\s*([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+\s+(\S+)$", text, re.MULTILINE):
        low, high, offset = int(match[1], 16), int(match[2], 16), int(match[4], 16)
        if "libavutil" in match[5] and "x" in match[3]:
            ranges.append((low, high))
        if match[5] == program and base is None:
            base = low - offset
    main = _symbol(program, "main") if base is not None else None
    depths, to_main = [], 0
    for line in set(re.findall(r"@((?: 0x[0-9a-f]+)+)", text)):
        frames = [int(word, 16) for word in line.split()]
        first = next((at for at, pc in enumerate(frames) if any(low <= pc < high for low, high in ranges)), None)
        if first is None:
            continue
        depths.append(len(frames) - first)
        to_main += bool(main) and any(main[0] <= pc - base <= main[0] + main[1] for pc in frames)
    return tuple(depths), to_main


def _symbol(program, name):
    """(address, size) of a function of a program; None where it is not listed."""
    done = subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=False)
    match = re.search(rf"^([0-9a-f]+) ([0-9a-f]+) [Tt] {name}$", done.stdout, re.MULTILINE)
    return (int(match[1], 16), int(match[2], 16)) if match else None


def _profile(path, program):
    text = path.read_text(errors="replace")
    return text, *_raw_stacks(text, program)


def _heapcheck(folder, run, program):
    leaked = re.search(r"Leak check _main_ detected leaks of (\d+) bytes in (\d+) objects", run.stderr)
    clean = re.search(
        r"No leaks found for check \"_main_\" \(but no 100% guarantee[^:]*: found (\d+) reachable heap objects",
        run.stderr,
    )
    if leaked:
        # Its own dump lists what leaked, with stacks.
        dumps = sorted(folder.glob("*_main_-end.heap"))
        depths, to_main = _profile(dumps[0], program)[1:] if dumps else ((), None)
        return Outcome(None, f"{plural(int(leaked[2]), 'block')} leaked", depths, to_main)
    if clean:
        return Outcome(None, "no leaks")
    return Outcome(None, "no leaks") if "No leaks found" in run.stderr else None


def _heapprofile(folder, _run, program):
    profiles = sorted(folder.glob("profile.*.heap"))
    if not profiles:
        return None
    text, depths, to_main = _profile(profiles[-1], program)
    header = re.match(r"heap profile:\s+(\d+):\s+\d+ \[\s*(\d+):", text)
    return Outcome(int(header[2]), f"{plural(int(header[1]), 'block')} in use", depths, to_main) if header else None


def _jemalloc(folder, run, program):
    profiles = sorted(folder.glob("jemalloc.*.heap"))
    summary = re.search(r"~(\d+) bytes, ~(\d+) objects?", run.stderr)
    if not profiles:
        return None
    _, depths, to_main = _profile(profiles[-1], program)
    # prof_accum is off: only what is alive is known.
    return Outcome(None, f"{plural(int(summary[2]), 'block')} in use" if summary else "nothing in use", depths, to_main)


READERS = {
    "avleak": _avleak,
    "heaptrack": _heaptrack,
    "valgrind": _valgrind,
    "heapcheck": _heapcheck,
    "heapprofile": _heapprofile,
    "jemalloc": _jemalloc,
    "lsan": _lsan,
    "lsan-full": _lsan,
}
