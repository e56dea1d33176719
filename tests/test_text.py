"""What images are, after their number, in the words that bundles hold."""

from __future__ import annotations

import pytest

from edgekit.text import counted


@pytest.mark.parametrize(
    ("count", "are", "said"),
    [
        (300, "probe images", "300 probe images"),
        (1, "test images", "1 test image"),
        (1200, "images held back from calibration", "1,200 images held back from calibration"),
        (20, "one half of the test images", "the 20 images of one half of the test images"),
        (1, "the other half of the test images", "the 1 image of the other half of the test images"),
    ],
)
def test_images_after_their_number(count: int, are: str, said: str) -> None:
    assert counted(count, are) == said
