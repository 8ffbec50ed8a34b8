"""Calls libavutil by ctypes: makes frames in three ways, frees some; how many are lost is the second argument."""

import ctypes
import sys

avutil = ctypes.CDLL(sys.argv[1])
avutil.av_frame_alloc.restype = ctypes.c_void_p
avutil.av_frame_free.argtypes = [ctypes.POINTER(ctypes.c_void_p)]


def make():
    return avutil.av_frame_alloc()


def give_back(frame):
    avutil.av_frame_free(ctypes.byref(ctypes.c_void_p(frame)))


def use():
    give_back(make())


def lose():
    # A number in Python is no pointer, and is gone at the next one.
    make()


for _ in range(50):
    use()
for _ in range(int(sys.argv[2])):
    lose()
