"""What measure.py counts, and that it leaves nothing behind."""

import os
import sys
import tempfile
import unittest
from pathlib import Path

from harness import measure

# Uses 0.3 s of CPU time and 64 MiB.
BURN = "import os,time\nkept = bytearray(64 << 20)\nwhile sum(os.times()[:2]) < 0.3: pass\n"


class Measure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        measure.become_subreaper()

    def run_it(self, command, timeout=60.0, target="/nonexistent"):
        with tempfile.TemporaryDirectory() as folder:
            return measure.run(command, dict(os.environ), Path(folder), target, timeout)

    def test_cpu_time_of_a_process_that_was_left_behind_counts(self):
        # The shell ends at once; the burner is not its waited-for child any more.
        run = self.run_it(["sh", "-c", f"{sys.executable} -c '{BURN}' & exit 0"])
        self.assertEqual(run.failure, "")
        self.assertGreaterEqual(run.cpu, 0.3)

    def test_memory_is_told_apart_by_executable(self):
        executable = os.path.realpath(sys.executable)
        run = self.run_it(["sh", "-c", f"{sys.executable} -c '{BURN}'; exit 0"], target=executable)
        self.assertGreaterEqual(run.target_kib, 64 << 10)
        self.assertLess(run.other_kib, 16 << 10)
        self.assertNotEqual(run.other_name, os.path.basename(executable))

    def test_a_fork_of_the_target_is_no_analyzer(self):
        executable = os.path.realpath(sys.executable)
        run = self.run_it(
            [sys.executable, "-c", f"import os\nif os.fork(): os.wait()\nelse:\n exec({BURN!r})"], target=executable
        )
        self.assertGreaterEqual(run.target_kib, 64 << 10)
        self.assertEqual(run.other_kib, 0)

    def test_exit_status_is_the_shells(self):
        self.assertEqual(self.run_it(["sh", "-c", "exit 7"]).exit, 7)
        self.assertEqual(self.run_it(["sh", "-c", "kill -SEGV $$"]).exit, 139)

    def test_a_run_that_takes_too_long_is_ended_with_all_its_children(self):
        run = self.run_it(["sh", "-c", "sleep 1000 & echo $! ; setsid sleep 1000 & echo $!; sleep 1000"], timeout=0.3)
        self.assertIn("longer than", run.failure)
        for pid in run.stdout.split():
            self.assertFalse(os.path.exists(f"/proc/{pid}"), f"{pid} lives on")

    def test_a_command_that_is_not_there(self):
        with self.assertRaises(FileNotFoundError):
            self.run_it(["/nonexistent/program"])


if __name__ == "__main__":
    unittest.main()
