"""Loses packets by PyAV 18.1, one each time that a demux generator is dropped half way, on known ways through Python.

Prints its truth: a JSON array of [times, [[function, line], ... innermost first]]."""

import json
import sys
import threading

import av

truth = {}


def note(line):
    """The way to the caller's caller; the innermost line is `line`."""
    frame = sys._getframe(1)
    way = [[frame.f_code.co_qualname, line]]
    while frame := frame.f_back:
        way.append([frame.f_code.co_qualname, frame.f_lineno])
    way = json.dumps(way)
    truth[way] = truth.get(way, 0) + 1


class Reader:
    def __init__(self, path):
        self.path = path

    def first(self):
        with av.open(self.path) as container:
            for packet in container.demux():
                note(sys._getframe().f_lineno - 1)
                return packet.pts


def by_lambda(path):
    return (lambda reader: reader.first())(Reader(path))


def by_generator(path):
    def each():
        yield Reader(path).first()

    return list(each())


def by_callback(path):
    # C code lies between: sorted() calls back.
    return sorted([path], key=lambda path: Reader(path).first() or 0)


def by_new_code(path, number):
    # Code objects come and go, perhaps at the same address.
    names = {"Reader": Reader}
    exec(compile("def made_%d(path): return Reader(path).first()" % number, "<made>", "exec"), names)
    return names["made_%d" % number](path)


def deep(path, depth):
    return deep(path, depth - 1) if depth else Reader(path).first()


def main(path):
    for _ in range(3):
        by_lambda(path)
    by_generator(path), by_generator(path)
    by_callback(path)
    worker = threading.Thread(target=by_lambda, args=(path,))
    worker.start()
    worker.join()
    for number in range(8):
        by_new_code(path, number)
    deep(path, 20)
    Reader(path).first()


main(sys.argv[1])
print(json.dumps([[times, json.loads(way)] for way, times in truth.items()]))
