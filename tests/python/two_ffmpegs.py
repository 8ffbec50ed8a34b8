"""cv2 and av in one process, each with an FFmpeg of its own; av loses as many packets as the second argument says."""

import sys

import av
import cv2


def by_cv2(path):
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    return frames


def by_av(path):
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def first_packet(path):
    with av.open(path) as container:
        return next(container.demux(video=0)).size


def main(path, times):
    assert by_cv2(path) == by_av(path) == by_cv2(path) > 0
    for _ in range(times):
        first_packet(path)
        by_cv2(path)
    print(by_av(path), "frames")


main(sys.argv[1], int(sys.argv[2]))
