"""A pytest suite with PyAV. One test leaks: PyAV 18.1 loses a packet where a demux generator is dropped half way."""

import os

import av
import pytest


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A second of video, made by PyAV itself."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for _ in range(24):
            for packet in stream.encode(av.VideoFrame(320, 180, "yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


def test_every_frame_is_decoded(clip):
    with av.open(clip) as container:
        assert sum(1 for _ in container.decode(video=0)) == 24


def test_size(clip):
    with av.open(clip) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (320, 180)


def test_first_packet_is_a_keyframe(clip):
    # The leak: each time the generator is dropped before its end.
    for _ in range(int(os.environ.get("EXAMPLE_TIMES", "3"))):
        with av.open(clip) as container:
            assert next(container.demux(video=0)).is_keyframe
