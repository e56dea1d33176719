"""Warnings about a trained model's own outputs, and no warnings if nothing looks wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.export.doubts import MARK, doubts
from edgekit.export.verify import ReferenceOutputs
from edgekit.tasks.classification import CLASSIFICATION

SPREAD = np.random.default_rng(0).normal(0, 3, (12, 3)).astype(np.float32)
BETWEEN = 1 / (1 + np.exp(-SPREAD))
ONE_LOGIT = np.stack([np.zeros(12), BETWEEN[:, 0]], axis=1)


def _of(logits: NDArray[np.floating], labels: NDArray[np.int64] | None = None) -> list[str]:
    pixels = np.zeros((len(logits), 4, 4, 3), np.uint8)
    reference = ReferenceOutputs(CLASSIFICATION, pixels, labels, {"logits": logits.astype(np.float32)}, np.arange(2))
    return doubts(reference, [f"class {i}" for i in range(logits.shape[1])])


def test_nothing_is_said_of_logits_that_spread() -> None:
    assert _of(SPREAD) == []
    assert _of(SPREAD, np.arange(12) % 3) == []


def test_answers_between_0_and_1_may_be_those_of_a_multi_label_network() -> None:
    (found,) = _of(BETWEEN)
    assert found.startswith(MARK)
    assert "multi-label" in found


@pytest.mark.parametrize("logits", [ONE_LOGIT, ONE_LOGIT - 0.5])
def test_the_0_beside_one_logit_is_no_probability(logits: NDArray[np.floating]) -> None:
    assert not [found for found in _of(logits) if "multi-label" in found]


@pytest.mark.parametrize(
    ("labels", "said"),
    [(None, "for all 12 images"), (np.arange(12) % 3, "for all 12 test images"), (np.zeros(12, np.int64), "")],
)
def test_one_class_for_all_images_is_said_where_they_are_of_several(
    labels: NDArray[np.int64] | None, said: str
) -> None:
    found = _of(SPREAD + np.array([0, 50, 0], np.float32), labels)
    assert [said in f and "class 1" in f for f in found] == ([True] if said else [])
    assert _of((SPREAD + np.array([0, 50, 0], np.float32))[:7], None) == []  # too few to say anything
