"""The arithmetic of the soak and of the checks of living processes, over made-up runs."""

import tempfile
import time
import unittest
from pathlib import Path

from harness.prepare import PrepareError

from soaking import big, ffmpeg, judge, live_page, overhead, page, server, slices, steady


def look(kib):
    """One look at a process that holds so much."""
    return {"rss_kib": kib, "anon_kib": kib, "shared_kib": 0, "cpu_s": 1.0, "threads": 3, "descriptors": 9}


def twin(leaks=(), alerts=(), target_kib=lambda at: 50_000, frames=0, verdict="clean"):
    """Half an hour of one server, sampled each minute."""
    samples = []
    for at in range(0, 1860, 60):
        metrics = {"checks_failed_total": 0.0, "checks_total": at / 10, "producer_wait_seconds_total": 0.0}
        roles = {role: look(target_kib(at) if role == "target" else 9_000) for role in ("target", "analyzer", "keeper", "tracer")}
        samples.append({"at": float(at), "metrics": metrics, **roles})
    group = {"object": "AVFrame", "class": "definitely_lost", "count": frames, "functions": ["av_frame_clone", server.CULPRIT]}
    return {
        "begun": 0.0,
        "samples": samples,
        "checks": [{"at": 10.0, "stopped_ms": 1.0, "took_ms": 90.0}],
        "alerts": list(alerts),
        "leaks": list(leaks),
        "done": {"frames": 450_000, "leaked": frames, "leaked_bytes": frames * 1024, "connections": 80, "wall_s": 1800.0},
        "exit": 0,
        "report": {
            "verdict": verdict,
            "leaks": {"frames": frames},
            "dropped": 0,
            "definitely_lost": frames,
            "groups": [group] if frames else [],
            "notes": [],
        },
    }


def soak(seen=615.0, name=server.CULPRIT, plain_kib=lambda at: 50_000, **of_leaky):
    """A whole run, in which the tenth frame leaks after ten minutes and the alert is seen then."""
    leaks = [{"count": n, "at": 60.0 * n, "frame": n * 10_000, "bytes": n * 1024} for n in range(1, 21)]
    alert = {"reasons": ["frames"], "message": f"10 AVFrame definitely lost, allocated in {name}", "count": 10, "growth": None}
    leaky = twin(leaks, [{"seen": seen, "alert": alert}], frames=20, verdict="leaks", **of_leaky)
    results = {"minutes": 30, "interval": 10.0, "leak_every": 10_000, "at": 0.0, "load": [0.5, 900.0], "machine": "m", "versions": [("avleak", "1")]}
    return results | {"twins": {"leaky": leaky, "clean": twin(), "plain": twin(target_kib=plain_kib)}}


def missed(results):
    """What was missed."""
    return [bar.what for bar in judge.watch_bars(results) if not bar.met]


class Steadiness(unittest.TestCase):
    def test_a_slope_is_the_median_of_all_pairs(self):
        self.assertAlmostEqual(steady.theil_sen([(at, 3.0 * at) for at in range(1000)]), 3.0)
        self.assertEqual(steady.theil_sen([(0, 1.0), (1, 1.0), (2, 900.0), (3, 1.0), (4, 1.0)]), 0.0)
        self.assertEqual(steady.theil_sen([(0, 1.0)]), 0.0)

    def test_flat_is_a_last_third_that_is_hardly_above_the_first(self):
        def flat(values):
            return steady.is_flat(steady.steadiness(list(enumerate(values))), 0.02, 5)

        self.assertTrue(flat([1000] * 30) and flat([1000] * 10 + [1010] * 20) and flat([10] * 10 + [14] * 20))
        self.assertFalse(flat([1000 + 10 * at for at in range(30)]) or flat([1, 2, 3]))


class Judgement(unittest.TestCase):
    def test_a_good_run_misses_nothing(self):
        self.assertEqual(missed(soak()), [])
        self.assertEqual(judge.delay(soak()), 15.0)

    def test_what_is_late_or_unnamed_is_missed(self):
        self.assertEqual(missed(soak(seen=621.0)), ["alert after the 10th leaked frame"])
        self.assertEqual(missed(soak(name="serve")), ["the alert names the function"])

    def test_what_leaks_is_no_growth_of_its_own(self):
        # A KiB a minute, as the server says; and one that holds ten times as much more.
        self.assertEqual(missed(soak(target_kib=lambda at: 50_000 + at // 60)), [])
        self.assertEqual(missed(soak(target_kib=lambda at: 50_000 + at * 10)), ["memory of the target, leaky, without what it leaks"])

    def test_what_grows_without_avleak_too_is_not_its_fault(self):
        def grows(at):
            return 50_000 + at * 10

        self.assertEqual(missed(soak(target_kib=grows, plain_kib=grows)), [])

    def test_a_clean_twin_that_is_alerted_of_is_missed(self):
        results = soak()
        results["twins"]["clean"]["alerts"] = results["twins"]["leaky"]["alerts"]
        results["twins"]["clean"]["report"]["verdict"] = "leaks"
        self.assertEqual(missed(results), ["alerts of the clean twin", "last report of the clean one"])

    def test_pages_are_made_of_what_is_there(self):
        run = {"frames": 6000, "active": 60.0, "cpu": 100.0}
        slow = {"frames": 5000, "active": 52.5, "cpu": 100.0}
        load = {"name": "720p", "video": "v720", "rounds": [{overhead.PLAIN: run, overhead.WITHOUT: run, overhead.CHECKED: slow}] * 3}
        cost = {"loads": [load], "seconds": 60, "interval": 10, "at": 0.0, "machine": "m", "versions": []}
        self.assertEqual([bar.met for bar in judge.overhead_bars(cost)], [False, True])
        text = page.render(soak(), cost)
        self.assertIn("1.050 (1.050–1.050)", text)
        self.assertIn("load average was 0 to 900", text)
        self.assertIn("PHASE=overhead", page.render(soak(), None))


class Turns(unittest.TestCase):
    def test_ever_one_runs_and_each_its_time(self):
        log, one = [], type("One", (), {"turn": lambda self, seconds: log.append((self.name, seconds))})
        names = ["a", "b", "c"]
        contenders = [one() for _ in names]
        for contender, name in zip(contenders, names):
            contender.name = name
        slices.take_turns(contenders, 4, 0.5)
        self.assertEqual([log.count((name, 0.5)) for name in names], [8, 8, 8])
        rounds = [sorted(name for name, _ in log[at : at + 3]) for at in range(0, len(log), 3)]
        self.assertEqual(rounds, [names] * 8)

    def test_a_command_does_nothing_while_it_is_frozen(self):
        with tempfile.TemporaryDirectory() as folder:
            try:
                counting = slices.Turns("counting", ["sh", "-c", "while :; do echo >> lines; done"], Path(folder))
            except PrepareError as error:
                self.skipTest(str(error))
            try:
                lines = Path(folder, "lines")
                counting.turn(0.2)
                before = lines.stat().st_size
                time.sleep(0.2)
                self.assertEqual(lines.stat().st_size, before)
                counting.turn(0.2)
                self.assertGreater(lines.stat().st_size, before)
                self.assertTrue(0.4 <= counting.active < 2 and counting.cpu() > 0, (counting.active, counting.cpu()))
            finally:
                counting.close()
            self.assertFalse(counting.group.exists())


class LiveChecks(unittest.TestCase):
    def test_gaps_belong_to_the_check_in_which_they_lie(self):
        checks = [{"begun": 1.0, "ended": 2.0}, {"begun": 3.0, "ended": 4.0}]
        gaps = [{"at": at, "ms": ms} for at, ms in ((0.5, 2), (0.999, 5), (1.5, 3), (2.5, 4), (3.9, 6), (4.1, 7))]
        self.assertEqual(big.split(gaps, checks), ([5, 3, 6], [2, 4, 7]))

    def test_ffmpegs_counters_are_the_last_ones(self):
        text = "frame=10\ndrop_frames=0\nspeed=0.9x\nprogress=continue\nframe=50\ndup_frames=1\ndrop_frames=2\nspeed=   1x\nprogress=end\n"
        self.assertEqual(ffmpeg.counters(text), {"frame": 50.0, "drop_frames": 2.0, "dup_frames": 1.0, "speed": 1.0})

    def test_bars_tell_the_worst_and_the_false(self):
        check = {"stopped_ms": 2.0, "took_ms": 90.0, "scans": 4, "leaks": 0, "memory": "ptrace", "notes": []}
        series = {"threads": 50, "options": [], "checks": [check] * 99 + [check | {"stopped_ms": 11.0, "leaks": 1}], "busy": 1.0, "failed": 0}
        series |= {"gaps_during": [3.0], "gaps_between": []}
        without = series | {"options": ["ptrace=0"], "checks": [check | {"stopped_ms": 0.0, "memory": "vm_readv", "notes": ["rests on"]}]}
        results = {"series": [series, without], "frames_mib": 1, "blocks_mib": 1, "at": 0.0, "machine": "m", "versions": []}
        self.assertEqual([bar.met for bar in live_page.big_bars(results)], [False, False, True, True])
        self.assertIn("2.00 / 2.00 / 11.00", live_page.render({"big": results}))


if __name__ == "__main__":
    unittest.main()
