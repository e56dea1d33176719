"""Place the names of points in a chart: none on another name or on a point, each clearly nearest to its own point or joined to it by a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.report.svg import element, text_width

Spot = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Segment = tuple[Spot, Spot]

_UP, _DOWN = 12.0, 3.5  # of a text, from its baseline
_POINT = 9.0  # half the side of the square that a mark fills
_CLEARLY = 1.5  # a name without a line is this many times farther from any other point than from its own
_STEP = 8.0  # between the places that are tried farther from the point
_FARTHEST = 160.0  # from a point to its name
_PASSES = 5  # the names are placed again, now that all others have their places

# What a place costs, besides the distance of a name from its point in pixels.
_OVERLAP = 5000.0  # a name on another name or on a point
_OUTSIDE = 5000.0
_STRUCK = 1000.0  # a line through another name
_UNCLEAR = 800.0  # a name that could belong to another point
_CROSSED = 300.0  # a line through another line or another point
_ON_FRONT, _ON_LEVEL = 400.0, 250.0
_LINE = 30.0  # a name with a line


@dataclass(frozen=True)
class _Place:
    box: Box
    anchor: str
    leader: Segment | None = None

    @property
    def roomy(self) -> Box:
        """The text with a little room, so that neighbors do not read as one."""
        return (self.box[0] - 5, self.box[1] - 1, self.box[2] + 5, self.box[3] + 1)

    def draw(self, text: str) -> Markup:
        x = {"start": self.box[0], "middle": (self.box[0] + self.box[2]) / 2, "end": self.box[2]}[self.anchor]
        label = element("text", text, class_="name small", x=x, y=self.box[3] - _DOWN, text_anchor=self.anchor)
        if self.leader is None:
            return label
        (x1, y1), (x2, y2) = self.leader
        return element("line", class_="leader", x1=x1, y1=y1, x2=x2, y2=y2) + label


@dataclass(frozen=True)
class _Area:
    """What names have to avoid whatever places the other names have: points, lines with what crossing them costs, and the border."""

    spots: Sequence[Spot]
    bounds: Box
    lines: Sequence[tuple[Segment, float]]

    def ranked(self, width: float, i: int) -> list[tuple[float, _Place]]:
        """Return the places for the name of point `i` with their costs, the cheapest first."""
        beside = [(4.0 * rank + self._cost(place, i), place) for rank, place in enumerate(self._beside(width, i))]
        farther = [
            (_LINE + by + self._cost(place, i), place)
            for by, place in self._farther(width, i)
            if not self._covers(place.box)
        ]
        return sorted([*beside, *farther], key=lambda pair: pair[0])

    def _beside(self, width: float, i: int) -> Iterator[_Place]:
        x, y = self.spots[i]
        high = _UP + _DOWN
        above, below = y - 10 - high, y + 10
        for left, top, anchor in (
            (x + 12, y - high / 2, "start"),
            (x - width / 2, above, "middle"),
            (x - width / 2, below, "middle"),
            (x - 12 - width, y - high / 2, "end"),
            *((x + 6, top, "start") for top in (above, below)),
            *((x - 6 - width, top, "end") for top in (above, below)),
        ):
            yield _Place((left, top, left + width, top + high), anchor)

    def _farther(self, width: float, i: int) -> Iterator[tuple[float, _Place]]:
        """Yield places with a line to the point, and how long it is."""
        x, y = self.spots[i]
        left_most, top_most, right, bottom = self.bounds
        right_most, high = max(right - width, left_most), _UP + _DOWN
        for left in [*(left_most + _STEP * n for n in range(int((right_most - left_most) / _STEP) + 1)), right_most]:
            for n in range(int((bottom - top_most - high) / _STEP) + 1):
                top = top_most + _STEP * n
                end = (min(max(x, left), left + width), min(max(y, top), top + high))
                by = math.dist((x, y), end)
                if 2 * _POINT <= by <= _FARTHEST:
                    start, before = (
                        (x + (end[0] - x) * part, y + (end[1] - y) * part) for part in (_POINT / by, 1 - 2 / by)
                    )
                    anchor = "start" if end[0] == left else "end" if end[0] == left + width else "middle"
                    yield by, _Place((left, top, left + width, top + high), anchor, (start, before))

    def _covers(self, box: Box) -> bool:
        return any(_shared(box, (x - _POINT, y - _POINT, x + _POINT, y + _POINT)) for x, y in self.spots)

    def _cost(self, place: _Place, i: int) -> float:
        box, own = place.box, self.spots[i]
        left, top, right, bottom = self.bounds
        outside = sum(max(0.0, by) for by in (left - box[0], box[2] - right, top - box[1], box[3] - bottom))
        cost = (_OUTSIDE + outside) if outside else 0.0
        cost += _OVERLAP * self._covers(box)
        clear = _CLEARLY * distance(own, box)
        for x, y in self.spots:
            if (x, y) == own:
                continue
            if place.leader is None:
                cost += _UNCLEAR * (distance((x, y), box) < clear)
            elif math.dist((x, y), own) > _POINT:  # a line to one of two points in one place begins at both
                cost += _CROSSED * crosses(place.leader, (x - 6, y - 6, x + 6, y + 6))
        return cost + sum(worth for segment, worth in self.lines if crosses(segment, place.roomy))


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
    area = _Area(spots, bounds, lines)
    ranked = {i: area.ranked(text_width(name), i) for i, name in enumerate(names) if name is not None}
    crowded = sorted(ranked, key=lambda i: sum(math.dist(spots[i], spot) < 120 for spot in spots), reverse=True)
    across, down = sorted(ranked, key=lambda i: spots[i]), sorted(ranked, key=lambda i: spots[i][1])
    places: dict[int, _Place] = {}
    lowest = math.inf
    for order in (crowded, crowded[::-1], across, down):
        found, cost = _placed(order, ranked)
        if cost < lowest:
            places, lowest = found, cost
        if cost < _ON_LEVEL:  # nothing overlaps, and nothing crosses
            break
    return [places[i].draw(name) if name is not None else None for i, name in enumerate(names)]


def _placed(
    order: Sequence[int], ranked: Mapping[int, Sequence[tuple[float, _Place]]]
) -> tuple[dict[int, _Place], float]:
    """Place the names in an order, again until none moves, and return the sum of their costs."""
    places: dict[int, _Place] = {}
    costs: dict[int, float] = {}
    for _ in range(_PASSES):
        before = dict(places)
        for i in order:
            others = [placed for j, placed in places.items() if j != i]
            places[i], costs[i] = _best(ranked[i], others)
        if places == before:
            break
    return places, sum(costs.values())


def _best(ranked: Sequence[tuple[float, _Place]], others: Sequence[_Place]) -> tuple[_Place, float]:
    """Return the place with the lowest cost beside the other names, and that cost."""
    best, lowest = ranked[0][1], math.inf
    for alone, candidate in ranked:
        if alone >= lowest:  # and all later ones cost more
            break
        cost = alone + sum(_between(candidate, other) for other in others)
        if cost < lowest:
            best, lowest = candidate, cost
    return best, lowest


def _between(place: _Place, other: _Place) -> float:
    """Return what a place costs because another name is where it is."""
    shared = _shared(place.roomy, other.box)
    cost = (_OVERLAP + shared) if shared else 0.0
    if other.leader is not None:
        cost += _STRUCK * crosses(other.leader, place.roomy)
    if place.leader is not None:
        cost += _STRUCK * crosses(place.leader, other.roomy)
        cost += _CROSSED * (other.leader is not None and _meet(place.leader, other.leader))
    return cost


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
