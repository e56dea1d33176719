"""The trial of augmentations: what judges it, what counts as better, and that it keeps what distinguishes the classes."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from edgekit import recipe as recipes
from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits
from edgekit.data.template import ViewStrength
from edgekit.recipe import Recipe
from edgekit.train.view_trial import (
    FEWEST,
    TriedViews,
    better,
    chosen_views,
    few_label_accuracies,
    labeled_images,
    try_views,
)
from tests.helpers.recipe_changes import TINY, changed

SIDE, CLASSES = 16, 4
MARGIN = 0.04


def tinted(name: str, count: int, seed: int, labeled: bool = True) -> ImageSet:
    """Images with blotches of any brightness, whose hue alone says the class: those of neighboring classes differ by a fortieth of the circle."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    blotches = np.kron(draws.uniform(0.2, 1.0, (count, 4, 4)), np.ones((4, 4)))
    hues = labels / 40 + draws.normal(0, 0.004, count)
    tints = np.array([hsv_to_rgb(hue, 0.5, 1.0) for hue in hues % 1])
    noise = draws.normal(0, 0.03, (count, SIDE, SIDE, 3))
    pixels = ((blotches[..., None] * tints[:, None, None] + noise).clip(0, 1) * 255).astype(np.uint8)
    names = [f"{name}{i}" for i in range(count)]
    return ImageSet(pixels, names, names, labels.astype(np.int64) if labeled else None)


def colored() -> Splits:
    labeled, probe, test = tinted("labeled", 40, 0), tinted("probe", 200, 1), tinted("test", 20, 2)
    return Splits([*"abcd"], tinted("pool", 512, 3, labeled=False), labeled, probe, test, skipped=[], notes=[])


def recipe_with(views: ViewStrength) -> Recipe:
    augmentation = {
        "crop_scale": [0.5 if views.mild_crops else 0.2, 1.0],
        "jitter": 0.8,
        "gray": 0.0 if views.weak_colors else 0.2,
    }
    augmentation |= {"strength": 0.2} if views.weak_colors else {}
    return recipes.parse(
        changed(
            TINY,
            data__image_size=SIDE,
            pretrain__batch_size=128,
            pretrain__augmentation=augmentation,
            pretrain__projection__output=32,
        )
    )


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=300))
def test_better_is_two_standard_errors_and_a_margin(pairs: list[tuple[float, float]]) -> None:
    candidate, other = (np.array(column) for column in zip(*pairs, strict=True))
    mean, error = (candidate - other).mean(), stats.sem(candidate - other)
    assume(abs(mean - 2 * error) > 1e-9)
    assume(abs(mean - MARGIN) > 1e-9)
    assert better(candidate, other) == (mean > 2 * error and mean > MARGIN)
    assert not better(candidate, candidate)
    assert not (better(candidate, other) and better(other, candidate))


def test_the_best_is_kept_unless_another_is_clearly_better() -> None:
    default, mild, weak = ViewStrength(), ViewStrength(mild_crops=True), ViewStrength(weak_colors=True)

    def of(views: ViewStrength, right: int) -> TriedViews:
        return TriedViews(views, (np.arange(200) < right).astype(float))

    assert chosen_views([]) == default
    assert chosen_views([of(default, 100), of(mild, 104), of(weak, 99)]) == default
    assert chosen_views([of(default, 100), of(mild, 130), of(weak, 131)]) == mild
    assert chosen_views([of(default, 100), of(mild, 104), of(weak, 130)]) == weak


def test_images_are_tested_by_a_classifier_that_has_not_seen_them() -> None:
    draws = np.random.default_rng(0)
    labels = draws.permutation(np.arange(120) % 3)
    apart = torch.eye(3)[torch.from_numpy(labels)] + 0.01 * torch.from_numpy(draws.normal(size=(120, 3))).float()
    assert (few_label_accuracies(apart, labels, 1) == 1).all()
    # A feature of its own for each image: the learned ones would be classified perfectly, others cannot be.
    assert few_label_accuracies(torch.eye(120), labels, 20).mean() < 0.6
    noisy = apart + 0.8 * torch.from_numpy(draws.normal(size=(120, 3))).float()
    assert few_label_accuracies(noisy, labels, 20).mean() > few_label_accuracies(noisy, labels, 1).mean()
    lonely = np.array([0] * 60 + [1] * 60 + [2])  # its only image is always learned
    assert len(few_label_accuracies(torch.eye(3)[torch.from_numpy(lonely)], lonely, 5)) == 120


def test_the_probe_set_and_the_label_budget_judge() -> None:
    splits = colored()
    judges = labeled_images(splits)
    assert judges is not None
    assert set(judges.names) == {*splits.probe.names, *splits.labeled.names}
    assert not set(judges.names) & set(splits.test.names)
    assert judges.size == splits.probe.size
    none = splits.probe.subset([])
    assert labeled_images(replace(splits, probe=splits.probe.subset(range(FEWEST - 1)), labeled=none)) is None
    assert labeled_images(replace(splits, probe=splits.probe.subset(range(FEWEST)), labeled=none)) is not None
    several = ImageSet(
        splits.probe.images, splits.probe.names, splits.probe.digests, np.eye(4, dtype=np.int64)[splits.probe.labels]
    )
    assert labeled_images(replace(splits, probe=several, labeled=none)) is None


def test_too_few_labels_or_too_little_time_try_nothing() -> None:
    splits = colored()
    few = replace(splits, probe=splits.probe.subset(range(20)), labeled=splits.labeled.subset(range(8)))
    assert try_views(recipe_with, few, 1e6) == []
    assert try_views(recipe_with, splits, 1e-3) == []


@pytest.mark.slow
def test_where_color_distinguishes_the_classes_the_color_changes_are_weak() -> None:
    tried = try_views(recipe_with, colored(), 1e6)
    assert len(tried) == 3
    assert chosen_views(tried).weak_colors
    assert tried[-1].accuracy > tried[0].accuracy
