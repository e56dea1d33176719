"""Blocks of layers. A network of many layers is searched by blocks first, which takes fewer measurements than one for each layer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby, takewhile

FEW = 16  # layers that are measured one by one


def blocks(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Divide the layers of a network, in the order of the graph, into blocks of neighbors.

    Layers whose names begin with the same parts (`blocks.3.attn.qkv`, `/stages/stages.1/…`) form a block; the number of parts is chosen so
    that n layers make about sqrt(n) blocks. If the names do not help, every ceil(sqrt(n)) layers form a block. A block has at most twice
    as many layers. If there are at most `FEW` layers, each is a block of its own.

    Args:
        layers: names, each once.

    Returns:
        Each layer once, in the same order.
    """
    if len(layers) <= FEW:
        return [(name,) for name in layers]
    wanted = math.ceil(math.sqrt(len(layers)))
    parts = {name: [part for part in re.split(r"[./]", name) if part] for name in layers}
    best: list[tuple[str, ...]] = [tuple(layers)]
    for depth in range(1, max(len(p) for p in parts.values())):
        found = [tuple(group) for _, group in groupby(layers, key=lambda name: parts[name][:depth])]
        if len(found) <= len(layers) // 2 and _off(len(found), wanted) < _off(len(best), wanted):
            best = found
    return [part for block in best for part in (_pieces(block, wanted) if len(block) > 2 * wanted else [block])]


def name_of(block: Sequence[str]) -> str:
    """The name of a block: the common beginning of its layers' names, or its first and last layer."""
    if len(block) == 1:
        return block[0]
    parts = zip(*(re.split(r"[./]", name) for name in block), strict=False)
    common = [same[0] for same in takewhile(lambda same: len(set(same)) == 1, parts)]
    return ".".join(part for part in common if part) or f"{block[0]} to {block[-1]}"


def _off(count: int, wanted: int) -> float:
    return abs(math.log(count / wanted))


def _pieces(block: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [block[i : i + size] for i in range(0, len(block), size)]
