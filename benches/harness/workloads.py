"""The workloads: what each one runs, what it shows, and the bars of avleak for it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Workload:
    """`command` runs in any folder; `program` is the executable whose memory counts.

    `bars` gives the largest value that avleak wants to have: "wall" and "cpu" are ratios to plain, "call" nanoseconds
    that a malloc or free is slowed by, "check" and "stopped" seconds of the check at the end.
    """

    id: str
    title: str
    command: tuple
    program: str
    bars: dict = field(default_factory=dict)
    per_pair: bool = False  # the program prints nanoseconds a pair of malloc and free; its wall time means nothing
    outcome: bool = True  # whether to look into what the tools found
    uses_libav: bool = True

    def matches(self, words):
        """Whether one of `words` is this workload's id or the beginning of it: `a`, `c-same`."""
        return any(self.id == word or self.id.startswith(word + "-") for word in words)


MICRO = [
    # id, options, title, bar of a call in ns
    ("c-same-1", ("--stacks", "same"), "same stack, 1 thread", 30),
    ("c-same-2", ("--stacks", "same", "--threads", "2"), "same stack, 2 threads", 30),
    ("c-rbp-1", ("--stacks", "same", "--rbp", "changing"), "same stack, 1 thread, another value in rbp each time", 30),
    ("c-held-1", ("--stacks", "same", "--hold", "4096"), "same stack, 1 thread, each block lives for 4,096 pairs", 30),
    ("c-changing-1", ("--stacks", "changing"), "changing stacks (8,192 shapes at random), 1 thread", 120),
    ("c-changing-2", ("--stacks", "changing", "--threads", "2"), "changing stacks, 2 threads", 120),
    ("c-new-1", ("--stacks", "new"), "stacks that never came before, 1 thread", None),
    ("c-new-2", ("--stacks", "new", "--threads", "2"), "stacks that never came before, 2 threads", None),
]


def all_workloads(place, quick):
    """Every workload, on the programs and media of `place` (see prepare.Place). `quick`: shorter, for a first look."""
    ffmpeg = (place.ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error")
    decode = ("-i", str(place.decode_video), "-f", "null", "-")
    length = ("-t", "2") if quick else ()
    milliseconds, pairs = ("100", "30000") if quick else ("300", "100000")
    workloads = [
        Workload(
            "a-default",
            "decode of a 200 s 320×180 H.264/AAC file to null, ffmpeg's default threads",
            ffmpeg + decode,
            place.ffmpeg,
            {"wall": 1.05, "cpu": 1.20},
        ),
        Workload(
            "a-one",
            "the same decode with `-threads 1`",
            ffmpeg + ("-threads", "1") + decode,
            place.ffmpeg,
            {"wall": 1.05, "cpu": 1.20},
        ),
        Workload(
            "b",
            "transcode of 720p H.264 to 480p with scale and x264 (veryfast)",
            ffmpeg
            + length
            + (
                "-i",
                str(place.transcode_video),
                "-vf",
                "scale=854:480",
                "-c:v",
                "libx264",
                "-preset",
                "veryfast",
                "-an",
                "-f",
                "null",
                "-",
            ),
            place.ffmpeg,
            {"wall": 1.02},
        ),
    ]
    for id, options, title, bar in MICRO:
        amount = ("--pairs", pairs) if "new" in id else ("--ms", milliseconds)
        workloads.append(
            Workload(
                id,
                title,
                (str(place.micro),) + options + amount,
                str(place.micro),
                {"call": bar} if bar else {},
                per_pair=True,
                outcome=False,
            )
        )
    workloads += [
        Workload(
            "c-dormant",
            "same stack, 1 thread, no libav in the process",
            (str(place.micro_dormant), "--ms", milliseconds),
            str(place.micro_dormant),
            {"call": 2},
            per_pair=True,
            outcome=False,
            uses_libav=False,
        ),
        Workload(
            "d",
            "PyAV decodes the video of (a) in Python",
            (str(place.python), str(place.decode_py), str(place.decode_video)),
            str(place.python),
        ),
        Workload(
            "e",
            "a program with libav, a million live blocks and 1 GiB of live frames, 5 frames definitely and 1 possibly lost",
            (str(place.million),) + (("100000", "64") if quick else ()),
            str(place.million),
            {"check": 1.0, "stopped": 0.2},
        ),
    ]
    return workloads
