"""The order of classes that only folders name: which logit of a foreign network is which folder?

Sorted by their letters the folders 0 to 11 come as 0, 1, 10, 11, 2, …, which is how torchvision's ImageFolder counts them; by number, as
people mean them. The files do not say which of the two a network was trained with, so its own answers to the labeled images decide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgekit.data.images import spread_rows
from edgekit.models.class_order import hits, natural

_MOST_IMAGES = 512  # that are looked at

Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def ordered(
    folders: list[str], images: NDArray[np.uint8], labels: NDArray[np.int64], answers: Answers, where: str
) -> tuple[list[str], list[str]]:
    """The classes of folders in the order of a network's logits.

    Args:
        folders: names, as the source of the images orders them; as many as the network has classes.
        images: uint8 (n, s, s, 3).
        labels: (n,) positions in `folders`.
        answers: the network: images -> logits (n, classes).
        where: what was given as labeled images, for notes.

    Returns:
        The names, and a note where two orders are possible: which was taken, and why. The network's answers decide where they clearly
        do; else plain numbers go by their value, and other names by their letters.
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
        f"the network is right on {right[0]} of {len(rows)} images then, in the other order on {right[1]}"
        if certain
        else "the images do not tell it from the other order"
    )
    note = (
        f"the folders of {where} can be ordered by number or by letter: they are ordered by {order} "
        f"({', '.join(chosen[:4])}, …), {why}; --classes FILE says which logit is which"
    )
    return chosen, [note]
