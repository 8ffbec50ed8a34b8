"""Ends at once while a list, an attribute and a generator hold frames: 12 in all. None of them is lost."""

import os
import sys

import av


class Holder:
    pass


def frames(path):
    with av.open(path) as container:
        yield from container.decode(video=0)


kept = [frame for frame, _ in zip(frames(sys.argv[1]), range(10))]
holder = Holder()
holder.frame = av.VideoFrame(64, 36, "yuv420p")
ahead = frames(sys.argv[1])
holder.ahead = next(ahead)
print("held")
sys.stdout.flush()
os._exit(0)
