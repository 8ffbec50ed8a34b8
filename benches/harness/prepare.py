"""What must be there before the first run: the programs, the videos, and Python's venv with PyAV."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# As libav is built: without frame pointers, with unwind tables. `-fno-builtin`: malloc and free are really called.
CFLAGS = [
    "-std=gnu17",
    "-Wall",
    "-Wextra",
    "-g",
    "-O2",
    "-fomit-frame-pointer",
    "-fasynchronous-unwind-tables",
    "-fno-builtin",
    "-fcf-protection=none",
    "-D_GNU_SOURCE",
]


class PrepareError(Exception):
    """Something that every run needs is missing; the message says what and how to get it."""


@dataclass(frozen=True)
class Place:
    """Where everything is."""

    root: Path  # the repository
    work: Path  # what is made here: build/bench
    ffmpeg: str
    micro: Path
    micro_dormant: Path
    million: Path
    python: Path
    decode_py: Path
    decode_video: Path
    transcode_video: Path


def place(root):
    """The paths; nothing is made yet."""
    work = root / "build" / "bench"
    media = Path(os.environ.get("AVLEAK_MEDIA", root / "build" / "media"))
    ffmpeg = shutil.which("ffmpeg")
    if not ffmpeg:
        raise PrepareError("ffmpeg is not installed: run `make setup-bench`")
    return Place(
        root,
        work,
        ffmpeg,
        work / "micro",
        work / "micro_dormant",
        work / "million",
        work / "venv/bin/python",
        root / "benches/programs/decode.py",
        media / "v180.mp4",
        media / "v720.mp4",
    )


def prepare(here, wanted):
    """Builds what the workloads `wanted` need. Raises PrepareError."""
    here.work.mkdir(parents=True, exist_ok=True)
    commands = " ".join(" ".join(workload.command) for workload in wanted)
    for binary, source, extra in (
        (here.micro, "micro.c", ["-DWITH_LIBAV", "-lavutil", "-lpthread"]),
        (here.micro_dormant, "micro.c", ["-lpthread"]),
        (here.million, "million.c", ["-lavutil"]),
    ):
        if str(binary) in commands:
            _compile(here.root / "benches/programs" / source, binary, extra)
    for video, word in ((here.decode_video, "v180"), (here.transcode_video, "v720")):
        if str(video) in commands and not video.exists():
            call([str(here.root / "scripts/make-media.sh"), word], f"the video {video.name} could not be made")
    if str(here.decode_py) in commands and not here.python.exists():
        raise PrepareError(f"no PyAV in {here.work.name}/venv: run `make setup-bench`")


def _compile(source, binary, extra):
    part = binary.with_name(f".{binary.name}.{os.getpid()}")
    try:
        call(
            ["cc", *CFLAGS, str(source), "-o", str(part), *extra],
            f"{source.name} could not be compiled (`make setup-bench`)",
        )
        os.replace(part, binary)
    finally:
        part.unlink(missing_ok=True)


def call(command, problem):
    """Runs a command to its end. Raises PrepareError, which begins with `problem`, where that fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PrepareError(f"{problem}: {command[0]} is not installed") from error
    if done.returncode:
        raise PrepareError(f"{problem}: {' '.join(command)} exited with {done.returncode}\n{done.stderr.strip()}")


def versions(here, files):
    """(name, version) of everything that takes part, as each says itself."""
    lines = []

    def ask(name, *command):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return
        text = (done.stdout or done.stderr).strip().splitlines()
        if text and done.returncode == 0:
            lines.append((name, text[0].removeprefix(name).strip()))

    package = ["dpkg-query", "-W", "-f=${Version}"]
    if files["avleak"]:
        ask("avleak", files["avleak"], "--version")
    ask("benches at commit", "git", "-C", str(here.root), "describe", "--always", "--dirty", "--exclude=*")
    for name, needed, debian in (
        ("heaptrack", "heaptrack", "heaptrack"),
        ("Valgrind", "valgrind", "valgrind"),
        ("gperftools", "tcmalloc", "libgoogle-perftools4"),
        ("jemalloc", "jemalloc", "libjemalloc2"),
        ("LeakSanitizer (gcc)", "lsan", "liblsan0"),
    ):
        if files[needed]:
            ask(name, *package, debian)
    ask("FFmpeg", *package, "ffmpeg")
    ask("glibc", *package, "libc6")
    if here.python.exists():
        ask(
            "PyAV",
            str(here.python),
            "-c",
            "import av; print(av.__version__ + ', libavutil %d.%d.%d' % av.library_versions['libavutil'])",
        )
        ask("Python", str(here.python), "--version")
    return lines
