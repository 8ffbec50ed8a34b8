#!/usr/bin/env python3
"""Soaks a server of ten streams under avleak, leaky and clean side by side, measures what avleak costs it, and writes docs/soak.md.

    benches/soak_streams.py [--phase all|watch|overhead|page] [--minutes 30] [--interval 10] [--pairs 5] [--seconds 60]

`make soak` calls this. The phases can be run apart (the cost on a quiet machine); each leaves its results in build/soak, and the page is
made of the last whole ones: 30 minutes or more, and 3 rounds of 40 s or more. Shorter runs leave their page in build/soak/soak.md.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from harness import measure
from harness.prepare import PrepareError
from soaking import judge, overhead, page, server, watch

# Exit statuses of this program: a bar that was missed; wrong usage or something missing; Ctrl-C as shells say it.
EXIT_MISSED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
WHOLE_MINUTES, WHOLE_SECONDS, WHOLE_PAIRS = 30, 40, 3


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", default="all", choices=("all", "watch", "overhead", "page"))
    parser.add_argument("--minutes", type=float, default=30, help="of the soak; default: 30")
    parser.add_argument("--interval", type=float, default=10, help="seconds from check to check; default: 10")
    parser.add_argument("--leak-every", type=int, default=server.LEAK_EVERY, metavar="N", help="one frame in so many")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of runs that are compared; default: 5")
    parser.add_argument("--seconds", type=float, default=60, help="of each run that is compared, in each round; default: 60")
    target = Path(os.environ.get("CARGO_TARGET_DIR", server.ROOT / "target"))
    parser.add_argument("--avleak", type=Path, default=target / "release/avleak", metavar="FILE", help="libavleak.so lies beside it")
    given = parser.parse_args()
    if min(given.minutes, given.interval, given.leak_every, given.pairs, given.seconds) <= 0:
        parser.error("numbers are above 0")
    given.avleak = given.avleak.resolve()
    return given


def say(line, code=None):
    """A line on stderr; returns `code`."""
    print(f"soak: {line}", file=sys.stderr, flush=True)
    return code


def write(path, text):
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def stored(name):
    """Results of an earlier run; None where there are none."""
    path = server.WORK / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def store(name, results, whole):
    """Keeps results; those of a short run beside those of a whole one."""
    write(server.WORK / f"{name}{'' if whole else '.short'}.json", json.dumps(results, indent=1))
    return results


def soaked(given):
    """The phase `watch`."""
    folder = server.WORK / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"{given.minutes:g} minutes, a check every {given.interval:g} s, one frame in {given.leak_every} leaks")
    around = page.surroundings(given.avleak)
    results = around | watch.watch(given.avleak, server.build("soak_server"), given, folder, say)
    return store("watch", results, given.minutes >= WHOLE_MINUTES)


def compared(given):
    """The phase `overhead`."""
    around = page.surroundings(given.avleak)
    results = around | overhead.measure_all(given.avleak, server.build("soak_server"), given, say)
    return store("overhead", results, given.seconds >= WHOLE_SECONDS and given.pairs >= WHOLE_PAIRS)


def run(given):
    """All phases that are wished for, and the page."""
    server.WORK.mkdir(parents=True, exist_ok=True)
    server.check(given.avleak)
    measure.become_subreaper()
    now = {}
    if given.phase in ("all", "overhead"):
        now["overhead"] = compared(given)
    if given.phase in ("all", "watch"):
        now["watch"] = soaked(given)
    watched, cost = now.get("watch") or stored("watch"), now.get("overhead") or stored("overhead")
    text = page.render(watched, cost)
    short = watched and watched["minutes"] < WHOLE_MINUTES or cost and cost["seconds"] < WHOLE_SECONDS
    target = server.WORK / "soak.md" if short else server.ROOT / "docs/soak.md"
    write(target, text)
    print(text)
    say(f"written to {target.relative_to(server.ROOT)}")
    bars = judge.watch_bars(now["watch"]) if "watch" in now else []
    bars += judge.overhead_bars(now["overhead"]) if "overhead" in now else []
    missed = [bar.what for bar in bars if not bar.met]
    return say(f"missed: {'; '.join(missed)}", EXIT_MISSED) if missed else 0


def interrupted(_number, _frame):
    """SIGTERM is Ctrl-C."""
    raise KeyboardInterrupt


def main():
    """The command; returns the exit status."""
    given = arguments()
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    try:
        return run(given)
    except PrepareError as error:
        return say(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return say("interrupted; nothing was written", EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
