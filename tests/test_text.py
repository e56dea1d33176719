"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from edgekit.text import counted, images_counted, plural


@pytest.mark.parametrize(
    ("count", "noun", "several", "text"),
    [
        (1, "image", "", "1 image"), (0, "image", "", "0 images"), (2, "image", "", "2 images"), (1200, "image", "", "1,200 images"),
        (1, "class", "classes", "1 class"), (3, "class", "classes", "3 classes"),
    ],
)  # fmt: skip
def test_a_number_and_its_noun(count: int, noun: str, several: str, text: str) -> None:
    assert counted(count, noun, several) == text
    if not several:
        assert text.endswith(plural(count, noun))


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
    assert images_counted(count, are) == said
