"""The readers, on the real words of each tool (cut from runs over benches/programs/million.c)."""

import json
import tempfile
import unittest
from pathlib import Path

from harness import outcomes
from harness.measure import Run

VALGRIND = """\
==22709== HEAP SUMMARY:
==22709==     in use at exit: 151,643,859 bytes in 1,000,088 blocks
==22709==   total heap usage: 1,000,093 allocs, 5 frees, 151,720,779 bytes allocated
==22709==
==22709== 1,844,200 (2,360 direct, 1,844,200 indirect) bytes in 5 blocks are definitely lost in loss record 12 of 13
==22709==    at 0x4846990: memalign (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
==22709==    by 0x4846AED: posix_memalign (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
==22709==    by 0x48C0B8C: av_malloc (in /usr/lib/x86_64-linux-gnu/libavutil.so.57.28.100)
==22709==    by 0x489B62D: av_frame_alloc (in /usr/lib/x86_64-linux-gnu/libavutil.so.57.28.100)
==22709==    by 0x10931A: frame_with_pixels (million.c:36)
==22709==    by 0x1090F9: main (million.c:71)
==22709==
==22709== LEAK SUMMARY:
==22709==    definitely lost: 2,360 bytes in 5 blocks
==22709==    indirectly lost: 1,844,200 bytes in 15 blocks
==22709==      possibly lost: 369,312 bytes in 4 blocks
==22709==    still reachable: 149,427,987 bytes in 1,000,064 blocks
"""

LSAN_SHORT = """\
==19605==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 2360 byte(s) in 5 object(s) allocated from:
    #0 0x7f5e18611a82 in __interceptor_posix_memalign ../../../../src/libsanitizer/lsan/lsan_interceptors.cpp:110
    #1 0x7f5e18466b8c in av_malloc (/lib/x86_64-linux-gnu/libavutil.so.57+0x57b8c)

Indirect leak of 1844200 byte(s) in 15 object(s) allocated from:
    #0 0x7f5e18611a82 in __interceptor_posix_memalign ../../../../src/libsanitizer/lsan/lsan_interceptors.cpp:110
    #1 0x7f5e18466b8c in av_malloc (/lib/x86_64-linux-gnu/libavutil.so.57+0x57b8c)

SUMMARY: LeakSanitizer: 1846560 byte(s) leaked in 20 allocation(s).
"""

PROFILE = """\
heap profile: 1000089: 151650067 [1000093: 151720779] @ heapprofile
1000000: 143518995 [1000000: 143518995] @ 0x55d458d6d156 0x7fb16de5424a 0x55d458d6d241
     5:  1843840 [     5:  1843840] @ 0x7fb16dfff000 0x7fb16e066b8d 0x7fb16e033d45 0x55d458d6d33f 0x7fb16de5424a 0x55d458d6d241

MAPPED_LIBRARIES:
55d458d6c000-55d458d6d000 r--p 00000000 00:00 10297361    /bench/million
55d458d6d000-55d458d6e000 r-xp 00001000 00:00 10297361    /bench/million
7fb16dff0000-7fb16e000000 r-xp 00001000 00:00 1    /usr/lib/libjemalloc.so.2
7fb16e010000-7fb16e0a0000 r-xp 00001000 00:00 2    /usr/lib/x86_64-linux-gnu/libavutil.so.57.28.100
"""


class Readers(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def read(self, tool, files, stderr=""):
        for name, text in files.items():
            (self.folder / name).write_text(text)
        return outcomes.read(tool, self.folder, Run(stderr=stderr), "/bench/million")

    def test_valgrind(self):
        outcome = self.read("valgrind", {"valgrind.log": VALGRIND})
        self.assertEqual(outcome.seen, 1000093)
        self.assertEqual(outcome.says, "5 blocks definitely lost, 15 blocks indirectly lost, 4 blocks possibly lost")
        self.assertEqual((outcome.depths, outcome.to_main), ((4,), 1))

    def test_valgrinds_other_errors_are_no_leaks(self):
        text = VALGRIND + "==22709== ERROR SUMMARY: 13 errors from 5 contexts (suppressed: 0 from 0)\n"
        self.assertTrue(self.read("valgrind", {"valgrind.log": text}).says.endswith("possibly lost; 12 other errors"))
        text = text.replace("13 errors", "1 errors")
        self.assertTrue(self.read("valgrind", {"valgrind.log": text}).says.endswith("possibly lost"))

    def test_valgrind_that_died_has_no_result(self):
        self.assertIsNone(self.read("valgrind", {"valgrind.log": "==1== Process terminating\n"}))
        self.assertIsNone(outcomes.read("valgrind", self.folder / "nowhere", Run(), ""))

    def test_leak_sanitizer_with_its_own_short_stacks(self):
        outcome = self.read("lsan", {"lsan.19605": LSAN_SHORT})
        self.assertEqual(outcome.says, "5 blocks direct, 15 indirect")
        self.assertEqual((outcome.depths, outcome.to_main), ((1, 1), 0))

    def test_leak_sanitizer_that_could_not_trace_has_no_result(self):
        fatal = "==1==LeakSanitizer has encountered a fatal error.\n"
        self.assertIsNone(self.read("lsan", {"lsan.1": fatal}))

    def test_heap_profile_counts_from_libavutil_outwards(self):
        outcome = self.read(
            "heapprofile", {"profile.0001.heap": "heap profile: 1: 1 [1: 1]", "profile.0002.heap": PROFILE}
        )
        self.assertEqual((outcome.seen, outcome.says), (1000093, "1,000,089 blocks in use"))
        self.assertEqual(outcome.depths, (5,))

    def test_heap_checker(self):
        leaked = "Leak check _main_ detected leaks of 1846560 bytes in 20 objects\n"
        outcome = self.read("heapcheck", {"million.1._main_-end.heap": PROFILE}, leaked)
        self.assertEqual((outcome.says, outcome.depths), ("20 blocks leaked", (5,)))
        self.assertEqual(self.read("heapcheck", {}, 'No leaks found for check "_main_"').says, "no leaks")
        self.assertIsNone(self.read("heapcheck", {}, "Killed"))

    def test_avleak(self):
        frame = [{"function": "av_frame_alloc", "libav": True}, {"function": "main"}]
        none = {"frames": 0}
        report = {
            "verdict": "leaks",
            "observed": {"allocations": 7, "cancelled_young": 2, "events_dropped": 3},
            "totals": {
                "definitely_lost": {"frames": 5},
                "indirectly_lost": none,
                "possibly_lost": {"frames": 1},
                "unclassified": none,
            },
            "groups": [{"stack": frame}, {"stack": [{"function": "own"}]}],
            "completeness": {"notes": []},
            "check": {"duration_s": 0.5, "stopped_ms": 20.0},
        }
        outcome = self.read("avleak", {"avleak.json": json.dumps(report)})
        self.assertEqual(outcome.says, "leaks: 5 frames definitely lost, 1 frame possibly lost; 3 events dropped")
        self.assertEqual((outcome.seen, outcome.depths, outcome.to_main), (7, (2,), 1))
        self.assertEqual((outcome.check_s, outcome.stopped_s, outcome.dropped), (0.5, 0.02, 3))

    def test_avleak_that_was_not_armed_saw_nothing(self):
        outcome = self.read("avleak", {"avleak.json": json.dumps({"verdict": "inconclusive", "processes": []})})
        self.assertIsNone(outcome.seen)


if __name__ == "__main__":
    unittest.main()
