"""Images with a foreign patch, which stand for defects where there are none (CutPaste: Li et al. 2021, section 2.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_AREA = (0.02, 0.15)  # of the patch, as a share of the image
_RATIO = (0.3, 3.3)  # its height by its width
_LIGHT = 0.5  # the patch is made so much darker or lighter


def pasted(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Copies of images in each of which a rectangle, cut out elsewhere and made darker or lighter, covers another place.

    Args:
        images: uint8 (n, h, w, 3).
        seed: of places and sizes.
    """
    random, found = np.random.default_rng(seed), images.copy()
    height, width = images.shape[1:3]
    for image in found:
        area = random.uniform(*_AREA) * height * width
        ratio = np.exp(random.uniform(*np.log(_RATIO)))
        rows = int(np.clip(round(np.sqrt(area * ratio)), 2, height - 1))
        columns = int(np.clip(round(np.sqrt(area / ratio)), 2, width - 1))
        (top, to_top), (left, to_left) = (
            random.integers(0, side - part + 1, 2) for side, part in ((height, rows), (width, columns))
        )
        patch = image[top : top + rows, left : left + columns] * (1 + _LIGHT * random.choice([-1, 1]))
        image[to_top : to_top + rows, to_left : to_left + columns] = np.clip(patch, 0, 255).astype(np.uint8)
    return found
