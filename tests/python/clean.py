"""Decodes, filters, encodes and remuxes with PyAV, in the main thread and in another, and loses nothing."""

import sys
import threading

import av


def decode(path):
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def filtered(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        scale, sink = graph.add("scale", "64:36"), graph.add("buffersink")
        source.link_to(scale)
        scale.link_to(sink)
        graph.configure()
        widths = set()
        for frame in container.decode(stream):
            graph.push(frame)
            widths.add(graph.pull().width)
        assert widths == {64}, widths


def encode(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for _ in range(24):
            container.mux(stream.encode(av.VideoFrame(64, 36, "yuv420p")))
        container.mux(stream.encode())


def remux(path, to):
    with av.open(path) as source, av.open(to, "w") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                target.mux(packet)


def main(path, folder):
    frames = decode(path)
    filtered(path)
    encode(folder + "/made.mp4")
    remux(path, folder + "/copy.mp4")
    assert decode(folder + "/copy.mp4") == frames and decode(folder + "/made.mp4") == 24
    worker = threading.Thread(target=decode, args=(path,))
    worker.start()
    worker.join()
    print(frames, "frames")


main(*sys.argv[1:])
