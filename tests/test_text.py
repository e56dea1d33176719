"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from edgekit.text import counted, plural


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
