"""Which places of an image speak for an answer: planted signals are found where they are, and the map is what a plain loop gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.tasks import find
from edgekit.tasks.classification import softmax
from edgekit.tasks.occlusion import (
    Explanation,
    cell_edges,
    covered,
    log_odds,
    mean_of_squares,
    occlusion_map,
    run_count,
)

SIZES = [(40, 72), (72, 40), (33, 33), (16, 16), (5, 64), (4, 4)]


def quadrant(images: NDArray[np.uint8], lower: bool, right: bool) -> NDArray[np.float64]:
    """Logits of two classes: the second one's is the mean of one quadrant, the first one's says nothing."""
    height, width = images.shape[1:3]
    rows = slice(height // 2, None) if lower else slice(height // 2)
    columns = slice(width // 2, None) if right else slice(width // 2)
    signal = images[:, rows, columns].mean(axis=(1, 2, 3))
    return np.stack([np.full(len(images), 100.0), signal], axis=1)


def image_of(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(40, 72), (72, 40), (64, 64)])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_a_signal_in_one_quadrant_is_found_there_and_nowhere_else(
    size: tuple[int, int], lower: bool, right: bool
) -> None:
    height, width = size
    image = np.full((*size, 3), 20, np.uint8)
    rows = slice(height // 2, None) if lower else slice(height // 2)
    columns = slice(width // 2, None) if right else slice(width // 2)
    image[rows, columns] = 240
    chosen, heat = occlusion_map(image, lambda images: quadrant(images, lower, right))
    assert (chosen, heat.shape, heat.dtype) == (1, size, np.float32)
    side = min(size) // 4  # of a square
    far = np.ones(size, bool)
    far[max(0, rows.start or 0) - side if lower else 0 : (height if lower else height // 2 + side),
        (columns.start or 0) - side if right else 0 : (width if right else width // 2 + side)] = False  # fmt: skip
    assert (heat[far] == 0).all()
    inside = np.zeros(size, bool)
    inside[rows, columns] = True
    assert inside.flat[heat.argmax()]
    assert heat[inside].sum() > 0.8 * np.abs(heat).sum()


def test_what_speaks_against_a_class_is_negative() -> None:
    image = np.full((40, 72, 3), 20, np.uint8)
    image[20:, 36:] = 240
    _, heat = occlusion_map(image, lambda images: quadrant(images, True, True), chosen=0)
    _, other = occlusion_map(image, lambda images: quadrant(images, True, True), chosen=1)
    assert heat.min() < 0
    assert np.allclose(heat, -other)  # of two classes, what speaks for one speaks against the other


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_map_is_that_of_a_plain_loop(size: tuple[int, int], seed: int, classes: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(size[0] * size[1] * 3, classes)) / 100
    image, given_images = image_of(size, seed), []

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        given_images.extend(images)
        return images.reshape(len(images), -1) @ weights

    chosen, heat = occlusion_map(image, scores)
    assert len(given_images) == run_count(size)
    assert (given_images[0] == image).all()

    height, width = size
    shorter = min(size)
    side = shorter / min(8, shorter)
    edges = [[round(length * i / round(length / side)) for i in range(round(length / side) + 1)] for length in size]
    gray = np.rint(image.mean(axis=(0, 1)))
    total, count = np.zeros(size), np.zeros(size)

    def odds(picture: NDArray[np.uint8]) -> float:
        logits = picture.reshape(-1) @ weights
        if classes == 1:
            return float(logits[0])
        return float(logits[chosen] - np.log(sum(np.exp(logits[k]) for k in range(classes) if k != chosen)))

    for top in range(-1, len(edges[0]) - 1):
        for left in range(-1, len(edges[1]) - 1):
            rows = slice(edges[0][max(top, 0)], edges[0][min(top + 2, len(edges[0]) - 1)])
            columns = slice(edges[1][max(left, 0)], edges[1][min(left + 2, len(edges[1]) - 1)])
            copy = image.copy()
            copy[rows, columns] = gray
            total[rows, columns] += odds(image) - odds(copy)
            count[rows, columns] += 1
    each = total / count  # the mean over all squares that cover a pixel, even within each cell
    middles = [[(a + b) / 2 for a, b in itertools.pairwise(one)] for one in edges]
    cells = [[each[int(y), int(x)] for x in middles[1]] for y in middles[0]]
    for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        along = [np.interp(x + 0.5, middles[1], row) for row in cells]
        assert heat[y, x] == pytest.approx(np.interp(y + 0.5, middles[0], along), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_squares_cover_every_pixel_and_are_about_square(size: tuple[int, int]) -> None:
    rows, columns = cell_edges(size)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, *size)
    sides = np.concatenate([np.diff(rows), np.diff(columns)])
    assert 1 <= sides.min() <= sides.max() <= 2 * sides.min() + 1
    image = image_of(size)
    changed = np.stack([(copy != image).any(axis=2) for copy in covered(image)])
    assert len(changed) == run_count(size) - 1
    assert changed.any(axis=0).mean() > 0.95  # a random pixel may have the mean color


def test_an_image_that_says_nothing_has_no_color() -> None:
    _, heat = occlusion_map(image_of((24, 40)), lambda images: np.tile([3.0, 1.0, 2.0], (len(images), 1)))
    assert (heat == 0).all()
    assert Explanation("a", heat).span == (0.0, 1.0)
    assert Explanation("a", heat + 5).span == (0.0, 5.0)
    assert Explanation("a", heat - 5).span == (0.0, 1.0)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.floats(-1000, 1000))
def test_log_odds_are_those_of_the_softmax_and_do_not_saturate(logits: list[float], shift: float) -> None:
    row = np.array([logits], np.float64)
    for i in range(len(logits)):
        p = float(softmax(row.astype(np.float32))[0, i])
        if 1e-6 < p < 1 - 1e-6:
            assert log_odds(row, i)[0] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)
        assert log_odds(row + shift, i)[0] == pytest.approx(log_odds(row, i)[0], abs=1e-9 * (1 + abs(shift)) + 1e-9)
    extreme = np.array([[1e4, -1e4, 0.0]])
    assert log_odds(extreme, 0)[0] == pytest.approx(1e4)
    assert log_odds(extreme, 1)[0] == pytest.approx(-2e4)


def test_a_class_among_several_speaks_by_its_own_logit() -> None:
    scores = np.array([[1.5, -2.0], [0.5, 9.0]], np.float32)
    assert find("multilabel").log_odds(scores, 0).tolist() == [1.5, 0.5]
    assert find("classification").log_odds(scores, 0).tolist() == pytest.approx([3.5, -8.5])
    assert [find(name).explains for name in ("classification", "multilabel", "recognition", "anomaly")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_cell_has_the_mean_of_the_four_squares_on_it() -> None:
    drops = np.arange(12.0).reshape(3, 4)
    assert mean_of_squares(drops).tolist() == [[2.5, 3.5, 4.5], [6.5, 7.5, 8.5]]
