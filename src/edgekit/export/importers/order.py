"""The order of classes that only folders name: which folder belongs to which logit of a foreign network.

Sorted by letter, the folders 0 to 11 are 0, 1, 10, 11, 2, …, as torchvision's ImageFolder orders them; sorted by number, they are in the usual
order. The files do not say with which order a network was trained, so its own predictions for the labeled images decide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgekit.data.images import spread_rows
from edgekit.models.class_order import hits, natural
from edgekit.text import counted

_MOST_IMAGES = 512  # that the network is run on

Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def ordered(
    folders: list[str], images: NDArray[np.uint8], labels: NDArray[np.int64], answers: Answers, where: str
) -> tuple[list[str], list[str]]:
    """Put the classes of folders in the order of a network's logits.

    Args:
        folders: names in the order of the image source; as many as the network has classes.
        images: uint8 (n, h, w, 3).
        labels: (n,) positions in `folders`.
        answers: the network: images -> logits (n, classes).
        where: source of the labeled images, for notes.

    Returns:
        The names, and, if two orders are possible, a note on which was taken and why. The network's predictions decide if they are clear;
        otherwise plain numbers are sorted by value and other names by letter.
    """
    by_number = natural(folders)
    if by_number == folders or folders != sorted(folders):
        return folders, []
    rows = spread_rows(len(images), _MOST_IMAGES)
    decided = np.concatenate([answers(images[part]) for part in np.array_split(rows, -(-len(rows) // 32))]).argmax(1)
    *right, certain = hits((by_number, folders), decided, [folders[label] for label in labels[rows]])
    numeric = right[0] > right[1] if certain else all(name.isdecimal() for name in folders)
    chosen, order = (by_number, "number") if numeric else (folders, "letter")
    if not numeric:
        right.reverse()
    why = (
        f"which makes the network right on {right[0]} of {counted(len(rows), 'image')}; the other order on {right[1]}"
        if certain
        else "the images do not decide between the two"
    )
    note = (
        f"the folders of {where} can be ordered by number or by letter: they are ordered by {order} "
        f"({', '.join(chosen[:4])}, …), {why}; --classes FILE sets the order"
    )
    return chosen, [note]
