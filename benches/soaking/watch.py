"""The soak itself: the leaky server and its clean twin side by side under avleak, watched from outside for as long as is wished.

Beside them runs a clean one without avleak: allocators take their time to settle, and what such a server's memory does by itself is no fault of
avleak's.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

from harness import measure
from harness.prepare import PrepareError

from . import roles, server

# The alerts' files are looked at so often, and the processes so often; seconds.
LOOK_S, SAMPLE_S = 0.25, 5.0
# How long the server and avleak may take to end.
PATIENCE_S = 120
VIDEO, PACE, BREATH_S = "sample", 25, 60
ALERT_FRAMES, ALERT_GROWTH = 10, 10
SERVES = re.compile(rb"http://(127\.0\.0\.1:\d+)")


class Twin:
    """One of the servers, under avleak or without, and what was seen of it."""

    def __init__(self, name, leak_every, avleak, program, given, folder):
        self.name, self.program, self.folder = name, program, folder
        self.folder.mkdir()
        self.begun = time.time()
        self.samples, self.checks, self.alerts = [], {}, []
        self.address, self.is_plain = None, avleak is None
        command = server.command(program, VIDEO, leak_every=leak_every, pace=PACE, breath=BREATH_S)
        if not self.is_plain:
            under = [str(avleak), "run", "--json", "report.json", "--http", "127.0.0.1:0"]
            under += ["--check-interval", f"{given.interval:g}s", "--alert-file", "alerts.ndjson"]
            under += ["--alert-frames", str(ALERT_FRAMES), "--alert-growth", str(ALERT_GROWTH), "--"]
            command = under + command
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )

    def read(self, name):
        """One of its files."""
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self):
        """Process ids by role."""
        return {"target": self.process.pid} if self.is_plain else roles.find(self.process.pid, self.program)

    def look_at_alerts(self):
        """Notes when each alert came."""
        lines = [line for line in self.read("alerts.ndjson").splitlines(keepends=True) if line.endswith("\n")]
        for line in lines[len(self.alerts) :]:
            self.alerts.append({"seen": time.time(), "alert": json.loads(line)})

    def sample(self, log):
        """One look at its processes, and at what avleak tells of itself. Raises PrepareError where it has ended."""
        if self.process.poll() is not None:
            raise PrepareError(f"the {self.name} server ended by itself:\n{self.read('stderr')[-2000:]}")
        found = {role: roles.look(pid) for role, pid in self.processes().items()}
        sample = {"twin": self.name, "at": time.time(), **{role: seen for role, seen in found.items() if seen}}
        sample["metrics"] = {} if self.is_plain else self.metrics()
        self.samples.append(sample)
        log.write(json.dumps(sample) + "\n")
        log.flush()

    def metrics(self):
        """avleak's own figures; those of each check are noted once."""
        if not self.address and (said := SERVES.search(self.read("stderr").encode())):
            self.address = said.group(1).decode()
        if not self.address:
            return {}
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return {}
        found = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#") and 'group="' not in name and 'class="' not in name:
                found[name.partition("{")[0].removeprefix("avleak_")] = float(value)
        if (at := found.get("last_check_timestamp_seconds", 0)) > 0:
            self.checks[at] = {
                "at": at,
                "stopped_ms": found["last_check_stopped_seconds"] * 1e3,
                "took_ms": found["last_check_duration_seconds"] * 1e3,
            }
        return found

    def finish(self):
        """Ends the server, and waits for avleak's report."""
        if target := self.processes().get("target"):
            measure.send(signal.SIGTERM, [target])
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise PrepareError(f"the {self.name} server did not end within {PATIENCE_S} s") from error

    def results(self):
        """All that was seen, as it is stored."""
        self.look_at_alerts()
        report = json.loads(self.read("report.json") or "{}")
        stdout = self.read("stdout")
        kept = ("time", "reasons", "message", "count", "growth", "checks", "check")
        for note in self.alerts:
            note["alert"] = {key: note["alert"].get(key) for key in kept}
            # Where this folder lies is nobody's business.
            note["alert"]["message"] = note["alert"]["message"].replace(f"{server.ROOT}/", "")
        return {
            "begun": self.begun,
            "samples": self.samples,
            "checks": list(self.checks.values()),
            "alerts": self.alerts,
            "leaks": [fields for kind, fields in server.lines(stdout) if kind == "leak"],
            "done": server.last(stdout, "done"),
            "exit": self.process.returncode,
            "report": summary(report),
        }


def summary(report):
    """What of the last report counts."""
    groups = [
        {
            "object": group["object"],
            "class": group["class"],
            "count": group["count"],
            "functions": [frame.get("function") for frame in group.get("stack", [])][:6],
        }
        for group in report.get("groups", [])
        if group.get("leak")
    ]
    return {
        "verdict": report.get("verdict"),
        "leaks": report.get("leaks"),
        "dropped": report.get("observed", {}).get("events_dropped"),
        "definitely_lost": report.get("totals", {}).get("definitely_lost", {}).get("frames"),
        "groups": groups,
        "notes": report.get("completeness", {}).get("notes"),
    }


def watch(avleak, program, given, folder, say):
    """Runs all of them for `given.minutes`; returns the results as they are stored."""
    twins, loads = [], []
    try:
        for name, leak_every, under in (("leaky", given.leak_every, avleak), ("clean", 0, avleak), ("plain", 0, None)):
            twins.append(Twin(name, leak_every, under, program, given, folder / name))
        until, due = time.monotonic() + given.minutes * 60, 0.0
        with open(folder / "samples.ndjson", "w", encoding="utf-8") as log:
            while (now := time.monotonic()) < until:
                for twin in twins:
                    known = len(twin.alerts)
                    twin.look_at_alerts()
                    for note in twin.alerts[known:]:
                        say(f"{twin.name}: {note['alert']['message']}")
                if now >= due:
                    due = now + SAMPLE_S
                    loads.append(os.getloadavg()[0])
                    for twin in twins:
                        twin.sample(log)
                time.sleep(LOOK_S)
        for twin in twins:
            twin.finish()
    finally:
        measure.kill_all()
    return {
        "minutes": given.minutes,
        "interval": given.interval,
        "leak_every": given.leak_every,
        "at": time.time(),
        "load": [min(loads), max(loads)],
        "twins": {twin.name: twin.results() for twin in twins},
    }
