"""Ratios, and the page that is made of them."""

import unittest

from harness import document, tools
from harness.measure import Run
from harness.outcomes import Outcome
from harness.results import Results
from harness.workloads import Workload

WORKLOAD = Workload("a", "decode", ("true",), "true", {"wall": 1.05, "cpu": 1.20})
MICRO = Workload("c-same-1", "same stack", ("true",), "true", {"call": 30}, per_pair=True)


def some_results():
    results = Results()
    # The second round came while the machine was three times slower.
    for at, (plain, ours) in enumerate([(1.0, 1.1), (3.0, 3.3), (1.0, 1.5)]):
        results.cell("a", "plain").runs[at] = Run(wall=plain, cpu=plain, target_kib=1024)
        results.cell("a", "avleak").runs[at] = Run(wall=ours, cpu=ours, target_kib=2048, other_kib=512)
    results.cell("a", "heaptrack").runs[1] = Run(wall=21.0, cpu=24.0, target_kib=1024, exit=0)
    results.cell("a", "avleak").outcome = Outcome(seen=10, says="clean")
    results.cell("a", "valgrind").failure = "took longer than 90 s"
    for tool, pair in (("plain", 30.0), ("avleak", 80.0)):
        run = Run(cpu=1e-6, program={"wall_ns": pair, "cpu_ns": pair, "pairs": 10, "all_pairs": 10, "peak_kib": 4096})
        results.cell("c-same-1", tool).runs[0] = run
    return results


class Ratios(unittest.TestCase):
    def test_each_run_is_compared_with_the_plain_run_of_its_own_round(self):
        ratios = some_results().ratios("a", "avleak", lambda run: run.wall)
        self.assertEqual([round(ratio, 6) for ratio in ratios], [1.1, 1.1, 1.5])
        self.assertEqual(some_results().ratios("a", "heaptrack", lambda run: run.wall), [7.0])

    def test_a_call_takes_half_of_what_a_pair_takes(self):
        self.assertEqual(some_results().added("c-same-1", "avleak", "wall_ns"), 25.0)
        self.assertIsNone(some_results().added("c-same-1", "heaptrack", "wall_ns"))


class Choice(unittest.TestCase):
    def test_a_workload_is_named_by_the_beginning_of_its_id(self):
        for words in ["c"], ["c-same"], ["c-same-1"], ["a", "c"]:
            self.assertTrue(MICRO.matches(words), words)
        for words in ["c-sam"], ["a"], ["c-same-1-x"], []:
            self.assertFalse(MICRO.matches(words), words)


class Page(unittest.TestCase):
    def setUp(self):
        chosen = [tools.by_id(id) for id in ("plain", "avleak", "heaptrack", "valgrind")]
        self.page = document.render(some_results(), [WORKLOAD, MICRO], chosen, [("FFmpeg", "5.1.9")], "3 rounds", 60.0)

    def test_bars_are_judged(self):
        self.assertIn("| (a) decode | wall, ratio | ≤ 1.05 | 1.10 | 7.00 | **no** |", self.page)
        self.assertIn("| (a) decode | total CPU, ratio | ≤ 1.2 | 1.10 | 8.00 | yes |", self.page)
        self.assertIn("| (c) same stack | added a malloc or free, ns | ≤ 30 | 25.00 | — | yes |", self.page)

    def test_a_tool_that_failed_is_in_the_table_with_the_reason(self):
        self.assertIn("| Valgrind memcheck | — | — | — | — | — | — | — | took longer than 90 s | 0 |", self.page)

    def test_outcome_and_memory(self):
        self.assertIn(
            "| avleak | 1.50 | 1.10 (1.10–1.50) | 1.50 | 1.10 | 2.0 | 2.00 | 0.5 | exit 0; 10 allocations; clean | 3 |",
            self.page,
        )

    def test_what_a_tool_did_not_account_for_is_in_the_table(self):
        results = some_results()
        results.cell("c-same-1", "avleak").outcome = Outcome(seen=1, dropped=3, unseen=4000)
        page = document.render(results, [MICRO], [tools.by_id("plain"), tools.by_id("avleak")], [], "1 round", 60.0)
        self.assertIn("25.0 (bar 30), 3 dropped, 4,000 not accounted for", page)

    def test_a_busy_machine_is_named(self):
        self.assertNotIn("busy", self.page)
        results = some_results()
        results.cell("a", "plain").runs[0].foreign_cpu = 8.0
        page = document.render(results, [WORKLOAD], [tools.by_id("plain")], [], "1 round", 60.0)
        self.assertIn("This machine was busy", page)

    def test_every_row_of_a_table_has_the_columns_of_its_header(self):
        columns = None
        for line in self.page.splitlines():
            if not line.startswith("|"):
                columns = None
            elif columns is None:
                columns = line.count("|")
            else:
                self.assertEqual(line.count("|"), columns, line)


if __name__ == "__main__":
    unittest.main()
