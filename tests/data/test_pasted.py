"""Images that stand for defects."""

from __future__ import annotations

import numpy as np

from edgekit.data.pasted import pasted


def test_one_rectangle_of_each_image_is_foreign() -> None:
    images = np.random.default_rng(0).integers(60, 200, (50, 24, 32, 3), dtype=np.uint8)
    found = pasted(images, 0)
    np.testing.assert_array_equal(found, pasted(images, 0))
    changed = (found != images).any(3)
    for mask in changed:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.01 < inside.size / mask.size < 0.2
        assert inside.mean() > 0.9
