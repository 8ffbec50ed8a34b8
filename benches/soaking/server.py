"""The server that is soaked: tests/programs/soak_server.c, how it is built and started, and what it says."""

import json
import os
import subprocess
from pathlib import Path

from harness.prepare import PrepareError, call

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build/soak"
# What a test program is built with (tests/harness/programs.rs).
FLAGS = ["-D_GNU_SOURCE", "-g", "-O1", "-fno-builtin", "-Wall", "-Wextra"]
LIBRARIES = ["-Wl,--as-needed", "-lavfilter", "-lavformat", "-lavcodec", "-lswscale", "-lavutil", "-lpthread"]
# The function that forgets a frame.
CULPRIT = "send_snapshot"
STREAMS, LEAK_EVERY = 10, 10_000


def media(name):
    """A sample video; made where it is not there."""
    path = Path(os.environ.get("AVLEAK_MEDIA", ROOT / "build/media")) / f"{name}.mp4"
    if not path.exists():
        word = [] if name in ("sample", "short") else [name]
        call([str(ROOT / "scripts/make-media.sh"), *word], f"the video {path.name} could not be made")
    return path


def build(name, folder=WORK):
    """tests/programs/NAME.c, built anew; returns the program."""
    folder.mkdir(parents=True, exist_ok=True)
    source, output = ROOT / f"tests/programs/{name}.c", folder / name
    part = output.with_name(f".{name}.{os.getpid()}")
    try:
        call(["cc", *FLAGS, str(source), "-o", str(part), *LIBRARIES], f"{source.name} could not be compiled")
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    # As /proc names it: build may be a link.
    return output.resolve()


def command(program, video, **options):
    """The server's command line; `leak_every=10` becomes `--leak-every 10`."""
    words = [str(program), str(media(video)), "--streams", str(STREAMS)]
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def lines(text):
    """What the server said, each line as (kind, fields); a line without its end is still being written."""
    said = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n") and line.startswith("{"):
            said += json.loads(line).items()
    return said


def last(text, kind):
    """The fields of its last line of that kind; None where there is none."""
    return next((fields for name, fields in reversed(lines(text)) if name == kind), None)


def versions(avleak):
    """(name, version) of what takes part."""

    def ask(*words):
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    package = ["dpkg-query", "-W", "-f=${Version}"]
    return [
        ("avleak", ask(str(avleak), "--version").removeprefix("avleak").strip()),
        ("benches at commit", ask("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")),
        ("FFmpeg", ask(*package, "ffmpeg")),
        ("glibc", ask(*package, "libc6")),
    ]


def check(avleak):
    """Raises PrepareError where avleak is not built."""
    if not avleak.exists() or not (avleak.parent / "libavleak.so").exists():
        raise PrepareError(f"no avleak at {avleak}: run `make build`, or name one with --avleak")
