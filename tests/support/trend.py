"""Whether a series of measurements grows: the slope of Theil and Sen, with the interval that Kendall's test gives.

The median of the slopes between all pairs of points ignores single outliers, such as a collection that has just run.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_POINTS = 60
"""More are thinned out, each point the median of its neighbours: neighbours depend on each other."""

_NORMAL = 1.96
"""Standard deviations on either side of the 95 % interval."""


class Slope(NamedTuple):
    """Units a second: the estimate, and the ends of its 95 % interval."""

    middle: float
    low: float
    high: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the slope of ``points``: at least four pairs of seconds and a value, in the order of time."""
    points = _thinned(points)
    slopes = sorted(
        (later - earlier) / (end - start)
        for number, (start, earlier) in enumerate(points)
        for end, later in points[number + 1 :]
    )
    count = len(points)
    spread = _NORMAL * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(statistics.median(slopes), slopes[low], slopes[high])


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    size = math.ceil(len(points) / _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(map(statistics.median, zip(*group, strict=True))) for group in groups]  # type: ignore[misc]
