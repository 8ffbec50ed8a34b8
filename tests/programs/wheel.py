# A Python program over the FFmpeg that a wheel of PyAV brings: decodes a file with av, and makes frames by ctypes in the
# very libavutil of the wheel. Arguments: video, [clean]. Prints its truth as the C fixtures do (truth.h).
import ctypes
import glob
import json
import os
import sys

import av

LOST, KEPT = 20, 5
WIDTH, HEIGHT, YUV420P = 640, 360, 0
# The same in every libavutil from 56 to 61.
AT_WIDTH, AT_HEIGHT, AT_FORMAT = 104, 108, 116

video, clean = sys.argv[1], sys.argv[2:] == ["clean"]
folder = os.path.dirname(av.__file__) + ".libs"
(path,) = glob.glob(folder + "/libavutil-*.so*")
avutil = ctypes.CDLL(path)
avutil.av_frame_alloc.restype = ctypes.c_void_p
avutil.av_frame_get_buffer.argtypes = [ctypes.c_void_p, ctypes.c_int]
avutil.av_frame_free.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
avutil.avutil_version.restype = ctypes.c_uint


def picture():
    frame = avutil.av_frame_alloc()
    for at, value in ((AT_WIDTH, WIDTH), (AT_HEIGHT, HEIGHT), (AT_FORMAT, YUV420P)):
        ctypes.c_int.from_address(frame + at).value = value
    if avutil.av_frame_get_buffer(frame, 0) < 0:
        sys.exit("fixture: av_frame_get_buffer failed")
    return ctypes.c_void_p(frame)


def decode():
    with av.open(video) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def lose():
    for _ in range(LOST):
        frame = picture()
        if clean:
            avutil.av_frame_free(ctypes.byref(frame))


decoded = decode()
lose()
# Reachable for as long as the module's globals are.
kept = [picture() for _ in range(KEPT)]
# What the last calls left on the stack is written over by others.
for _ in range(3):
    avutil.av_frame_free(ctypes.byref(picture()))
    decode()
lost = 0 if clean else LOST
version = avutil.avutil_version()
print(f"avutil {version >> 16}.{version >> 8 & 255}, {decoded} pictures", file=sys.stderr)
truth = {
    "pid": os.getpid(),
    "ended": {"exit": 0},
    "leaks": {"frames": lost},
    "observed": {},
    "totals": {"definitely_lost": {"frames": lost}},
    "slack_objects": 2 if lost else 0,
}
print(json.dumps({"truth": truth}, separators=(",", ":")), flush=True)
# Without the interpreter's own end, which would let go of what is kept.
os._exit(0)
