"""A process under avleak that is asked to be checked, again and again, by `avleak check`."""

import json
import os
import subprocess
import time

from harness import measure
from harness.prepare import PrepareError

from . import roles

# How long a process may take to be ready, a check, and the end.
PATIENCE_S = 300
MOST_FAILED = 20


class Checked:
    """A command under `avleak run`, from its start to its report. Use it by `with`: nothing is left running."""

    def __init__(self, avleak, command, program, folder, options=()):
        """`options` are those of AVLEAK_OPTIONS."""
        self.avleak, self.program, self.folder = avleak, program, folder
        self.failed = []
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [str(avleak), "run", "-q", "--json", "report.json", "--", *command],
                cwd=folder,
                env=os.environ | {"AVLEAK_OPTIONS": ":".join(options)},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        measure.kill_all()

    def read(self, name):
        """One of its files."""
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def pid(self):
        """The process that is checked; None before it is there, and after its end."""
        return roles.find(self.process.pid, self.program).get("target")

    def wait_until(self, is_so, what):
        """Waits for something. Raises PrepareError where it does not come."""
        until = time.monotonic() + PATIENCE_S
        while not is_so():
            if self.process.poll() is not None or time.monotonic() > until:
                raise PrepareError(f"{self.program.name}: {what} did not come to be\n{self.read('stderr')[-2000:]}")
            time.sleep(0.05)

    def wait_until_armed(self):
        """Until avleak's library has made its segment, and its analyzer listens."""

        def armed():
            pid = self.pid()
            return pid is not None and "/memfd:avleak" in measure.read_text(f"/proc/{pid}/maps")

        self.wait_until(armed, "the first use of FFmpeg")
        time.sleep(0.5)

    def check(self):
        """One check: what the report says of it, with when it began and ended. None where the process is gone.

        One that fails is noted, and made again: a machine can be so busy that the process may not stand still for long enough.
        """
        file = self.folder / "check.json"
        while (pid := self.pid()) is not None:
            begun = time.time()
            try:
                done = subprocess.run(
                    [str(self.avleak), "check", "-q", "--json", str(file), str(pid)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=PATIENCE_S,
                )
            except subprocess.TimeoutExpired as error:
                raise PrepareError(f"avleak check gave no answer within {PATIENCE_S} s") from error
            if done.returncode in (0, 1, 3):
                return outcome(json.loads(file.read_text(encoding="utf-8")), begun)
            # One that is about to end is no failure.
            time.sleep(1)
            if self.pid() is not None:
                self.failed.append(done.stderr.strip())
                if len(self.failed) > MOST_FAILED:
                    raise PrepareError(f"avleak check: exit {done.returncode}: {done.stderr.strip()}")
        return None

    def finish(self):
        """Waits for the end; returns avleak's exit status."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise PrepareError(f"{self.program.name} did not end within {PATIENCE_S} s") from error


def outcome(report, begun):
    """What of a check's report counts."""
    lost = {name: report["totals"][name]["frames"] for name in ("definitely_lost", "indirectly_lost", "possibly_lost")}
    return {
        "begun": begun,
        "ended": time.time(),
        "stopped_ms": report["check"]["stopped_ms"],
        "took_ms": report["check"]["duration_s"] * 1e3,
        "scans": report["check"]["scans"],
        "verdict": report["verdict"],
        "leaks": sum(report["leaks"][kind] for kind in ("frames", "packets", "buffer_refs", "contexts")),
        "lost": lost,
        "dropped": report["observed"]["events_dropped"],
        "memory": report["completeness"]["memory"],
        "notes": [note for note in report["completeness"]["notes"] if "rests on" in note or "could not be stopped" in note],
    }
