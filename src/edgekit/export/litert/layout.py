"""In which order the axes of a tensor lie: NHWC wherever convolutions are, and a transpose only where nothing else will do.

ONNX says what a tensor's axes are (the logical order); the file may store them in another (the physical one). An order is a tuple that gives
for every physical axis its logical one: an image of ONNX's (n, c, h, w) that lies as (n, h, w, c) has (0, 2, 3, 1). A Transpose of ONNX
changes the order and moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.export.litert.graph import Side, Sides

Order = tuple[int, ...]
NHWC: Order = (0, 2, 3, 1)
NWC: Order = (0, 2, 1)
ONE: Side = (1, 1)


def plain(rank: int) -> Order:
    """The order of a tensor that lies as ONNX says."""
    return tuple(range(rank))


def ordered(sides: Sides, order: Order) -> Sides:
    """Logical sides in a physical order."""
    return tuple(sides[axis] for axis in order)


def transposed(order: Order, permutation: Sequence[int]) -> Order:
    """The order of the same memory after a Transpose of ONNX."""
    permutation = list(permutation)
    return tuple(permutation.index(axis) for axis in order)


def moves(before: Order, after: Order) -> list[int]:
    """The permutation of physical axes that leads from one order to another."""
    return [before.index(axis) for axis in after]


def only_units_move(sides: Sides, before: Order, after: Order) -> bool:
    """Whether two orders differ in nothing but where axes of one element stand: then the memory is the same."""
    return [a for a in before if sides[a] != ONE] == [a for a in after if sides[a] != ONE]


def with_last(order: Order, axis: int) -> Order:
    """An order with one logical axis moved to the end."""
    return (*(a for a in order if a != axis), axis)


@dataclass(frozen=True)
class Reshaping:
    """How a reshape is done.

    Attributes:
        before: the order that its input must have.
        after: the order that its output then has.
    """

    before: Order
    after: Order


def reshaping(source: Sides, order: Order, target: Sides) -> Reshaping:
    """How to reshape a tensor with as few transposes as possible.

    Axes that are merged or split together make a group. A group whose axes lie beside each other in their logical order can be reshaped
    where it lies; groups may stand in any order.

    Args:
        source: logical sides of what is reshaped.
        order: how it lies.
        target: logical sides of the result; as many elements.
    """
    groups = _groups(source, target)
    of_axis = {axis: i for i, (axes, _) in enumerate(groups) for axis in axes}
    placed = list(dict.fromkeys(of_axis[axis] for axis in order if axis in of_axis))
    wanted = [axis for i in placed for axis in groups[i][0]]
    before: Order
    if [axis for axis in order if axis in of_axis] == wanted:
        before = order
    else:
        before = (*wanted, *(axis for axis in order if axis not in of_axis))
    after = [axis for i in placed for axis in groups[i][1]]
    for axis in range(len(target)):
        if target[axis] == ONE:
            after.insert(after.index(axis - 1) + 1 if axis else 0, axis)
    return Reshaping(before, tuple(after))


def _groups(source: Sides, target: Sides) -> list[tuple[list[int], list[int]]]:
    """Pairs of source and target axes of as many elements each, without axes of one element."""
    left = [axis for axis, side in enumerate(source) if side != ONE]
    right = [axis for axis, side in enumerate(target) if side != ONE]
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        first: list[int] = left[:1]
        second: list[int] = right[:1]
        del left[:1], right[:1]
        while (a := elements(source[i] for i in first)) != (b := elements(target[i] for i in second)):
            if (a < b and left) or not right:
                first.append(left.pop(0))
            else:
                second.append(right.pop(0))
        groups.append((first, second))
    return groups


def elements(sides: Iterable[Side]) -> Side:
    """How many elements some sides have together, at both batch sizes."""
    pairs = list(sides)
    return math.prod(a for a, _ in pairs), math.prod(b for _, b in pairs)
