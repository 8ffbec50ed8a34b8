"""ffmpeg itself, checked: at full speed a thousand times, and at the speed of a camera once a second."""

import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import measure
from harness.prepare import PrepareError

from . import server
from .checks import Checked

QUIET = ("-nostdin", "-hide_banner", "-v", "error")
TRANSCODE = ("-vf", "scale=320:180", "-c:v", "libx264", "-preset", "ultrafast", "-an")
# What -progress tells.
COUNTER = re.compile(r"^(frame|drop_frames|dup_frames|speed)=\s*([0-9.]+)", re.MULTILINE)


def executable():
    """ffmpeg as /proc names it."""
    path = shutil.which("ffmpeg")
    if not path:
        raise PrepareError("ffmpeg is not installed: run `make setup`")
    return Path(path).resolve()


def at_full_speed(avleak, given, say):
    """So many checks of ffmpeg that transcodes one file over and over."""
    ffmpeg, found = executable(), []
    command = [str(ffmpeg), *QUIET, "-stream_loop", "-1", "-i", str(server.media("sample")), *TRANSCODE, "-f", "null", "-"]
    with tempfile.TemporaryDirectory(prefix="speed.", dir=server.WORK) as folder:
        with Checked(avleak, command, ffmpeg, Path(folder)) as checked:
            checked.wait_until_armed()
            while len(found) < given.ffmpeg_checks:
                found.append(checked.check())
                if found[-1] is None:
                    raise PrepareError("ffmpeg ended by itself")
                if len(found) % 50 == 0:
                    false = sum(check["leaks"] for check in found)
                    say(f"ffmpeg at full speed, {len(found)}/{given.ffmpeg_checks}: {false} falsely lost")
            measure.send(signal.SIGTERM, [checked.pid()])
            checked.finish()
    return {"checks": found, "failed": len(checked.failed), "at": time.time()}


def transcode(seconds, folder):
    """ffmpeg's arguments: so many seconds as they come from a camera, transcoded, with the checksum of every picture sent."""
    source = ("-re", "-stream_loop", "-1", "-i", str(server.media("sample")), "-t", f"{seconds:g}")
    # One thread: how x264 divides its work is then the same in every run.
    return [*QUIET, *source, *TRANSCODE, "-threads", "1", "-progress", f"{folder}/progress", "-f", "framemd5", f"{folder}/pictures"]


def in_real_time(avleak, given, say):
    """The same transcode at the speed of a camera, plain and with a check every second: nothing dropped, the same pictures."""
    ffmpeg, result = executable(), {"seconds": given.real_time}
    say(f"ffmpeg -re, {given.real_time:g} s plain and under avleak, side by side")
    with tempfile.TemporaryDirectory(prefix="re.", dir=server.WORK) as scratch:
        plain, under = Path(scratch) / "plain", Path(scratch) / "avleak"
        plain.mkdir()
        under.mkdir()
        alone = subprocess.Popen([str(ffmpeg), *transcode(given.real_time, plain)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [str(ffmpeg), *transcode(given.real_time, under)]
        try:
            with Checked(avleak, command, ffmpeg, under) as checked:
                checked.wait_until_armed()
                result["checks"], due = [], time.monotonic()
                while (check := checked.check()) is not None:
                    result["checks"].append(check)
                    due = max(due + 1, time.monotonic())
                    time.sleep(max(0.0, due - time.monotonic()))
                result["exit"], result["failed"] = checked.finish(), len(checked.failed)
                alone.wait(60)
        finally:
            if alone.poll() is None:
                alone.kill()
                alone.wait()
        for name, folder in (("plain", plain), ("avleak", under)):
            result[name] = counters((folder / "progress").read_text(encoding="utf-8"))
            result[name]["pictures"] = sum(1 for line in pictures(folder) if not line.startswith("#"))
        result["same"] = pictures(plain) == pictures(under)
    return result | {"at": time.time()}


def counters(text):
    """The last value of each of ffmpeg's counters."""
    return {name: float(value) for name, value in COUNTER.findall(text)}


def pictures(folder):
    """The lines of framemd5."""
    return (folder / "pictures").read_text(encoding="utf-8").splitlines()
