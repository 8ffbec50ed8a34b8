"""Whether a series of figures is flat: Theil and Sen's slope, and the medians of its first and last third."""

import statistics
from dataclasses import dataclass

# More points than these are thinned out: a slope needs every pair.
MOST_POINTS = 400


@dataclass(frozen=True)
class Steadiness:
    """`slope` is by the hour; `first` and `last` are the medians of the first and of the last third."""

    slope: float
    first: float
    last: float


def theil_sen(points):
    """The median slope of all pairs of (time, value), a second; 0 of fewer than two."""
    points = thinned(points)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for at, later in enumerate(points)
        for earlier in points[:at]
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def thinned(points):
    """At most MOST_POINTS of them, evenly."""
    step = max(1, -(-len(points) // MOST_POINTS))
    return points[::step]


def steadiness(points):
    """Of (seconds, value), times ascending; None of fewer than six points."""
    if len(points) < 6:
        return None
    third = len(points) // 3
    first, last = points[:third], points[-third:]

    def median(part):
        return statistics.median(value for _, value in part)

    return Steadiness(theil_sen(points) * 3600, median(first), median(last))


def is_flat(found, share, least, beside=None):
    """The last third is not above the first one by more than `share` of it, or by `least` where that is more; nor by more than that above what
    another one rose `beside` it, if there is one."""
    rose = max(0.0, beside.last - beside.first) if beside else 0.0
    return found is not None and found.last - found.first - rose <= max(share * found.first, least)
