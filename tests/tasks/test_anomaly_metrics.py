"""The metrics of anomaly detection against naive oracles: pairs, loops over components and thresholds, scikit-learn, SciPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from edgekit.conformal import fewest_samples
from edgekit.errors import DataError
from edgekit.tasks.anomaly_metrics import (
    best_threshold,
    f1_at,
    image_auroc,
    pixel_auroc,
    quantile_threshold,
    region_overlap,
    regions,
    roc,
)

FEW_VALUES = st.sampled_from([-1.5, 0.0, 0.25, 1.0, 7.0])  # so that there are ties


def labeled(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    count = draw(st.integers(2, 25))
    scores = draw(arrays(np.float32, count, elements=st.one_of(FEW_VALUES, st.floats(-10, 10, width=32))))
    labels = draw(arrays(np.uint8, count, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < count)
    return scores, labels


scored = st.composite(labeled)()


@st.composite
def masked(draw: st.DrawFn) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_] | None]]:
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    count = draw(st.integers(1, 4))
    maps = [draw(arrays(np.float32, shape, elements=FEW_VALUES)) for _ in range(count)]
    masks = [draw(st.one_of(st.none(), arrays(np.bool_, shape))) for _ in range(count)]
    known = [mask for mask in masks if mask is not None]
    assume(any(mask.any() for mask in known))
    assume(any(not mask.all() for mask in known))
    return maps, masks


@given(scored)
def test_auroc_is_the_share_of_pairs_in_order(case: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    scores, labels = case
    pairs = [(a > n) + (a == n) / 2 for a in scores[labels == 1] for n in scores[labels == 0]]
    assert image_auroc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert image_auroc(-scores, labels) == pytest.approx(1 - np.mean(pairs), abs=1e-12)


@given(scored)
def test_the_roc_has_the_points_of_scikit_learn_and_the_area_of_auroc(
    case: tuple[NDArray[np.float32], NDArray[np.uint8]],
) -> None:
    scores, labels = case
    false, true, thresholds = roc(scores, labels)
    expected = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(false, expected[0])
    assert np.allclose(true, expected[1])
    assert np.array_equal(thresholds[1:], expected[2][1:].astype(thresholds.dtype))
    assert (false[0], true[0], false[-1], true[-1], thresholds[0]) == (0, 0, 1, 1, math.inf)
    assert np.trapezoid(true, false) == pytest.approx(image_auroc(scores, labels), abs=1e-12)


@given(masked())
def test_pixel_auroc_is_that_of_all_pixels_of_images_with_masks(
    case: tuple[list[NDArray[np.float32]], list[NDArray[np.bool_] | None]],
) -> None:
    maps, masks = case
    known = [(m.ravel(), mask.ravel()) for m, mask in zip(maps, masks, strict=True) if mask is not None]
    values, truth = (np.concatenate(parts) for parts in zip(*known, strict=True))
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)


def naive_overlap(maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_] | None], limit: float) -> float:
    """Bergmann et al. 2021: at every threshold the mean overlap over components, and the area up to the limit, interpolated linearly."""
    pairs = [(m, mask) for m, mask in zip(maps, masks, strict=True) if mask is not None]
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m, _ in pairs for v in m.ravel()}, reverse=True):
        overlaps, false, normal = [], 0, 0
        for values, mask in pairs:
            found = values >= threshold
            components, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [found[components == c].mean() for c in range(1, count + 1)]
            false += int((found & ~mask).sum())
            normal += int((~mask).sum())
        curve.append((false / normal, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y1 if x1 <= limit else y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@settings(max_examples=60)
@given(masked(), st.sampled_from([0.05, 0.3, 0.7, 1.0]))
def test_pro_is_the_area_under_the_mean_overlap_of_components(
    case: tuple[list[NDArray[np.float32]], list[NDArray[np.bool_] | None]], limit: float
) -> None:
    assert region_overlap(*case, limit) == pytest.approx(naive_overlap(*case, limit), abs=1e-9)


def test_a_small_region_weighs_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = mask[15, 15] = True
    only_large = np.where(mask & (np.arange(20) < 12), 1.0, 0.0).astype(np.float32)
    assert region_overlap([only_large], [mask], 0.3) == pytest.approx(
        0.5 + 0.5 * 0.15
    )  # the other one is found by chance
    assert pixel_auroc([only_large], [mask]) > 0.99
    assert region_overlap([mask.astype(np.float32)], [mask]) == 1.0


@given(arrays(np.bool_, st.tuples(st.integers(0, 12), st.integers(0, 12))))
def test_regions_are_those_of_scipy(mask: NDArray[np.bool_]) -> None:
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    found = regions(mask)
    assert np.array_equal(found > 0, mask)
    assert len(np.unique(found[mask])) == count
    assert len({(int(a), int(b)) for a, b in zip(found[mask], expected[mask], strict=True)}) == count


def test_an_area_needs_both_kinds_and_numbers() -> None:
    scores = np.array([1.0, 2.0], dtype=np.float32)
    for labels in ([0, 0], [1, 1]):
        with pytest.raises(ValueError, match="needed"):
            image_auroc(scores, np.array(labels))
        with pytest.raises(ValueError, match="needed"):
            roc(scores, np.array(labels))
    with pytest.raises(ValueError, match="finite"):
        image_auroc(np.array([1, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match="no image has a mask"):
        pixel_auroc([scores[None]], [None])
    with pytest.raises(ValueError, match="differ in size"):
        region_overlap([scores[None]], [np.ones((2, 2), dtype=bool)])


@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_the_threshold_of_normal_images_is_exceeded_by_the_stated_share_at_most(
    seed: int, images: int, rate: float
) -> None:
    """Exactly, not in the mean of draws: leave each of n + 1 images out in turn, and count those above the threshold of the others."""
    assume(images >= fewest_samples(rate))
    scores = np.random.default_rng(seed).normal(size=images + 1)
    above = [scores[i] > quantile_threshold(np.delete(scores, i), rate).threshold for i in range(images + 1)]
    assert np.mean(above) <= rate + 1e-12
    assert np.mean(above) > rate - 1 / (images + 1)  # and no less than it must be


def test_the_interval_of_a_quantile_is_that_of_the_beta_distribution() -> None:
    found = quantile_threshold(np.arange(100.0), 0.05)
    assert (found.threshold, found.images) == (95.0, 100)
    assert found.interval == pytest.approx(stats.beta(5, 96).ppf([0.025, 0.975]), abs=1e-9)


def test_a_threshold_from_too_few_images_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"a threshold with 5.0% false alarms needs 19 held-out normal images, but there are 2 \(hold more out",
    ):
        quantile_threshold(np.array([1.0, 2.0]), 0.05)
    assert quantile_threshold(np.arange(19.0), 0.05).threshold == 18.0
    with pytest.raises(DataError, match="needs 3 normal and 3 anomalous ones, but there are 1 and 1"):
        best_threshold(np.array([1.0, 2.0]), np.array([0, 1]))


@settings(max_examples=40)
@given(scored)
def test_no_threshold_has_a_better_f1(case: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    scores, labels = case
    assume(3 <= labels.sum() <= len(labels) - 3)
    found = best_threshold(scores, labels, resamples=100)
    every = [f1_score(labels, scores >= cut, zero_division=0) for cut in np.unique(scores)]
    assert found.f1 == pytest.approx(max(every), abs=1e-12)
    assert f1_at(scores, labels, found.threshold) == pytest.approx(found.f1, abs=1e-12)
    assert f1_at(scores, labels, found.threshold) == pytest.approx(
        f1_score(labels, scores > found.threshold, zero_division=0), abs=1e-12
    )
    assert found.interval[0] <= found.interval[1]
    assert 0 <= found.f1_interval[0] <= found.f1_interval[1] <= 1
    assert found == best_threshold(scores, labels, resamples=100)


def test_the_interval_of_the_best_threshold_narrows_with_more_images() -> None:
    random = np.random.default_rng(0)

    def width(images: int) -> float:
        scores = np.r_[random.normal(0, 1, images), random.normal(2, 1, images)]
        found = best_threshold(scores, np.repeat([0, 1], images))
        assert found.interval[0] <= found.threshold <= found.interval[1]
        assert found.f1_interval[0] <= found.f1 <= found.f1_interval[1]
        return found.interval[1] - found.interval[0]

    assert width(1600) < width(25) / 2
