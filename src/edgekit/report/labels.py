"""Place the names of points in a chart: none on another name or on a point, each clearly nearest to its own point or joined to it by a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.report.svg import element, text_width

Spot = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Segment = tuple[Spot, Spot]

_TEXT = 12.5  # font size, as style.css has it for `name small`
_UP, _DOWN = 12.0, 3.5  # of a text, from its baseline
_POINT = 9.0  # half the side of the square that a mark fills
_CLEARLY = 1.5  # a name without a line is this many times farther from any other point than from its own
_STEP = 8.0  # between the places that are tried farther from the point
_PASSES = 5  # the names are placed again, now that all others have their places
# What a place costs; the distance of a name from its point, in pixels, counts too.
_OVERLAP, _OUTSIDE, _STRUCK, _UNCLEAR, _CROSSED, _ON_FRONT, _ON_LEVEL, _LINE = (
    5000.0,
    5000.0,
    1000.0,
    800.0,
    300.0,
    400.0,
    250.0,
    30.0,
)


@dataclass(frozen=True)
class _Place:
    box: Box
    anchor: str
    leader: Segment | None = None

    def draw(self, text: str) -> Markup:
        x = {"start": self.box[0], "middle": (self.box[0] + self.box[2]) / 2, "end": self.box[2]}[self.anchor]
        label = element("text", text, class_="name small", x=x, y=self.box[3] - _DOWN, text_anchor=self.anchor)
        if self.leader is None:
            return label
        (x1, y1), (x2, y2) = self.leader
        return element("line", class_="leader", x1=x1, y1=y1, x2=x2, y2=y2) + label


def place(
    names: Sequence[str | None],
    spots: Sequence[Spot],
    bounds: Box,
    front: Sequence[Spot] = (),
    level: float | None = None,
) -> list[Markup | None]:
    """Return the names of points, drawn where they fit best: a text, and a line to its point if it is farther away.

    Args:
        names: of the points; None for a point without a name, which other names avoid as well.
        spots: the points' centers, in pixels.
        bounds: the area for the names, in pixels.
        front: a polyline that names should not lie on.
        level: the height of a horizontal line that names should not lie on.
    """
    lines = [(segment, _ON_FRONT) for segment in itertools.pairwise(front)]
    if level is not None:
        lines.append((((bounds[0], level), (bounds[2], level)), _ON_LEVEL))
    widths = {i: text_width(name, _TEXT) for i, name in enumerate(names) if name is not None}
    crowded = sorted(widths, key=lambda i: sum(math.dist(spots[i], spot) < 120 for spot in spots), reverse=True)
    places: dict[int, _Place] = {}
    lowest = math.inf
    for order in (
        crowded,
        crowded[::-1],
        sorted(widths, key=lambda i: spots[i]),
        sorted(widths, key=lambda i: spots[i][1]),
    ):
        found, cost = _placed(order, widths, spots, bounds, lines)
        if cost < lowest:
            places, lowest = found, cost
        if cost < _CROSSED:  # nothing overlaps, and nothing crosses
            break
    return [places[i].draw(name) if name is not None else None for i, name in enumerate(names)]


def _placed(
    order: Sequence[int],
    widths: dict[int, float],
    spots: Sequence[Spot],
    bounds: Box,
    lines: Sequence[tuple[Segment, float]],
) -> tuple[dict[int, _Place], float]:
    """Place the names in an order, again until none moves, and return the highest cost of a name."""
    places: dict[int, _Place] = {}
    costs: dict[int, float] = {}
    for _ in range(_PASSES):
        before = dict(places)
        for i in order:
            others = [placed for j, placed in places.items() if j != i]
            places[i], costs[i] = _best(widths[i], i, spots, bounds, lines, others)
        if places == before:
            break
    return places, max(costs.values(), default=0.0)


def _best(
    width: float,
    i: int,
    spots: Sequence[Spot],
    bounds: Box,
    lines: Sequence[tuple[Segment, float]],
    others: Sequence[_Place],
) -> tuple[_Place, float]:
    """Return the place with the lowest cost, and that cost."""
    best, lowest = None, math.inf
    for basic, candidate in _candidates(width, spots[i], bounds):
        if basic >= lowest:  # and all later ones are farther
            break
        cost = basic + _cost(candidate, i, spots, bounds, lines, others, lowest - basic)
        if cost < lowest:
            best, lowest = candidate, cost
    assert best is not None
    return best, lowest


def _candidates(width: float, spot: Spot, bounds: Box) -> Iterator[tuple[float, _Place]]:
    """Yield places with what their distance costs, the cheapest first: those beside the point, then those with a line."""
    x, y = spot
    high, beside = _UP + _DOWN, 12.0
    middle = y - high / 2
    near = (
        (x + beside, middle, "start"),
        (x - width / 2, y - 10 - high, "middle"),
        (x - width / 2, y + 10, "middle"),
        (x - beside - width, middle, "end"),
        *((x + 6, top, "start") for top in (y - 10 - high, y + 10)),
        *((x - 6 - width, top, "end") for top in (y - 10 - high, y + 10)),
    )
    for rank, (left, top, anchor) in enumerate(near):
        yield 4.0 * rank, _Place((left, top, left + width, top + high), anchor)
    far = []
    right_most = max(bounds[2] - width, bounds[0])
    columns = range(int((right_most - bounds[0]) / _STEP) + 1)
    for left in [*(bounds[0] + _STEP * n for n in columns), right_most]:
        for n in range(int((bounds[3] - bounds[1] - high) / _STEP) + 1):
            box = (left, bounds[1] + _STEP * n, left + width, bounds[1] + _STEP * n + high)
            end = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            far_by = math.dist(spot, end)
            if far_by >= 2 * _POINT:
                start = (x + (end[0] - x) * _POINT / far_by, y + (end[1] - y) * _POINT / far_by)
                anchor = "start" if end[0] == box[0] else "end" if end[0] == box[2] else "middle"
                far.append((_LINE + far_by, _Place(box, anchor, (start, end))))
    yield from sorted(far, key=lambda pair: pair[0])


def _cost(
    place: _Place,
    i: int,
    spots: Sequence[Spot],
    bounds: Box,
    lines: Sequence[tuple[Segment, float]],
    others: Sequence[_Place],
    enough: float,
) -> float:
    """Return what a place costs apart from its distance; the sum is cut short once it is `enough` to lose."""
    box = place.box
    outside = sum(
        max(0.0, beyond) for beyond in (bounds[0] - box[0], box[2] - bounds[2], bounds[1] - box[1], box[3] - bounds[3])
    )
    cost = (_OUTSIDE + outside) if outside else 0.0
    roomy = (box[0] - 5, box[1] - 1, box[2] + 5, box[3] + 1)
    for other in others:
        if cost >= enough:
            return cost
        if shared := _shared(roomy, other.box):
            cost += _OVERLAP + shared
        if other.leader is not None and crosses(other.leader, roomy):
            cost += _STRUCK
        if place.leader is not None:
            cost += _STRUCK * crosses(place.leader, other.box)
            cost += _CROSSED * (other.leader is not None and _meet(place.leader, other.leader))
    own = distance(spots[i], box)
    for j, (x, y) in enumerate(spots):
        if cost >= enough:
            return cost
        cost += _OVERLAP * (_shared(box, (x - _POINT, y - _POINT, x + _POINT, y + _POINT)) > 0)
        if j == i or (x, y) == spots[i]:
            continue
        if place.leader is None:
            cost += _UNCLEAR * (distance((x, y), box) < _CLEARLY * own)
        else:
            cost += _CROSSED * crosses(place.leader, (x - 6, y - 6, x + 6, y + 6))
    return cost + sum(worth for segment, worth in lines if crosses(segment, roomy))


def distance(spot: Spot, box: Box) -> float:
    """Return how far a point is from a box; 0 inside it."""
    return math.dist(spot, (min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])))


def _shared(a: Box, b: Box) -> float:
    if a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]:
        return 0.0
    return (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))


def crosses(segment: Segment, box: Box) -> bool:
    """Whether a segment has a point inside a box (Liang and Barsky 1984)."""
    (x1, y1), (x2, y2) = segment
    if max(x1, x2) <= box[0] or min(x1, x2) >= box[2] or max(y1, y2) <= box[1] or min(y1, y2) >= box[3]:
        return False
    enter, leave = 0.0, 1.0
    for change, room in (
        (x1 - x2, x1 - box[0]), (x2 - x1, box[2] - x1), (y1 - y2, y1 - box[1]), (y2 - y1, box[3] - y1),
    ):  # fmt: skip
        if change == 0:
            continue
        if change < 0:
            enter = max(enter, room / change)
        else:
            leave = min(leave, room / change)
    return enter < leave


def _meet(a: Segment, b: Segment) -> bool:
    """Whether two segments cross."""

    def side(segment: Segment, spot: Spot) -> float:
        (x1, y1), (x2, y2) = segment
        return (x2 - x1) * (spot[1] - y1) - (y2 - y1) * (spot[0] - x1)

    return side(a, b[0]) * side(a, b[1]) < 0 and side(b, a[0]) * side(b, a[1]) < 0
