"""Decodes every video frame of a file with PyAV, as a user's script would, and prints how many there were."""

import sys

import av

frames = 0
with av.open(sys.argv[1]) as container:
    for _frame in container.decode(video=0):
        frames += 1
print(f'{{"frames":{frames}}}')
