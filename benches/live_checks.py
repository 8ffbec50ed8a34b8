#!/usr/bin/env python3
"""Measures what checks cost a process that lives, and whether they call anything lost that is not; writes docs/live-check.md.

    benches/live_checks.py [--part all|big|speed|real_time|page] [--checks 100] [--ffmpeg-checks 1000] [--real-time 120]

`make bench-live` calls this. The parts can be run apart; each leaves its results in build/soak, and the page is made of the last whole ones.
Shorter runs leave their page in build/soak/live-check.md.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from harness import measure
from harness.prepare import PrepareError
from soaking import big, ffmpeg, live_page, server
from soaking.page import surroundings
from soak_streams import EXIT_INTERRUPTED, EXIT_MISSED, EXIT_USAGE, interrupted, stored, write

PARTS = ("big", "speed", "real_time")
WHOLE_CHECKS, WHOLE_FFMPEG, WHOLE_SECONDS = 100, 1000, 60


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="all", choices=("all", *PARTS, "page"))
    parser.add_argument("--checks", type=int, default=100, help="of a big process, for each number of threads; default: 100")
    parser.add_argument("--ffmpeg-checks", type=int, default=1000, help="of ffmpeg at full speed; default: 1000")
    parser.add_argument("--real-time", type=float, default=120, metavar="S", help="seconds of ffmpeg -re; default: 120")
    target = Path(os.environ.get("CARGO_TARGET_DIR", server.ROOT / "target"))
    parser.add_argument("--avleak", type=Path, default=target / "release/avleak", metavar="FILE", help="libavleak.so lies beside it")
    given = parser.parse_args()
    if min(given.checks, given.ffmpeg_checks, given.real_time) <= 0:
        parser.error("numbers are above 0")
    given.avleak = given.avleak.resolve()
    return given


def say(line, code=None):
    """A line on stderr; returns `code`."""
    print(f"bench-live: {line}", file=sys.stderr, flush=True)
    return code


def run(given):
    """The parts that are wished for, and the page."""
    server.WORK.mkdir(parents=True, exist_ok=True)
    server.check(given.avleak)
    measure.become_subreaper()
    whole = {
        "big": given.checks >= WHOLE_CHECKS,
        "speed": given.ffmpeg_checks >= WHOLE_FFMPEG,
        "real_time": given.real_time >= WHOLE_SECONDS,
    }
    how = {"big": big.measure_all, "speed": ffmpeg.at_full_speed, "real_time": ffmpeg.in_real_time}
    results, now = {part: stored(f"live.{part}") for part in PARTS}, {}
    for part in PARTS:
        if given.part in ("all", part):
            now[part] = surroundings(given.avleak) | how[part](given.avleak, given, say)
            write(server.WORK / f"live.{part}{'' if whole[part] else '.short'}.json", json.dumps(now[part], indent=1))
    text = live_page.render(results | now)
    target = server.ROOT / "docs/live-check.md" if all(whole[part] for part in now) else server.WORK / "live-check.md"
    write(target, text)
    print(text)
    say(f"written to {target.relative_to(server.ROOT)}")
    missed = [bar.what for bar in live_page.bars(now) if not bar.met]
    return say(f"missed: {'; '.join(missed)}", EXIT_MISSED) if missed else 0


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
