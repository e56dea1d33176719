"""Intervals against exact enumerations, tables, and how often they hold the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from edgekit.intervals import mcnemar, paired, unpaired, wilson


def test_the_bootstrap_of_a_small_case_is_the_exact_one() -> None:
    seen = np.array([1, 1, 1, 0, 0, -1], dtype=np.int8)
    means = np.sort([sum(sample) / 6 for sample in itertools.product(seen.tolist(), repeat=6)])  # all 46,656 resamples
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    for level, value in zip((0.025, 0.975), exact, strict=True):  # no border of the distribution is near either level
        below, upto = (means < value - 1e-9).mean(), (means <= value + 1e-9).mean()
        assert min(level - below, upto - level) > 0.005
    assert paired(seen[None]) == pytest.approx(tuple(exact))
    assert paired(seen[None], seed=7) == pytest.approx(tuple(exact))


def test_the_bootstrap_depends_on_the_seed_alone_and_not_on_the_order_of_the_images() -> None:
    rng = np.random.default_rng(0)
    seen = rng.choice(np.array([-1, 0, 1], np.int8), (2, 300), p=[0.1, 0.7, 0.2])
    assert paired(seen, 3) == paired(seen, 3)
    assert paired(seen, 3) == paired(seen[:, rng.permutation(300)], 3)


def coverage(draws: int, spread: float, repeats: int = 300) -> float:
    """Share of simulated experiments whose interval holds the true difference of 0.1.

    The images differ from each other, each label draw has a luck of its own, and the rest is noise.
    """
    rng, held = np.random.default_rng(1), 0
    for i in range(repeats):
        luck = rng.normal(0, spread, (draws, 1))
        image = rng.normal(0, 0.05, (1, 200))
        better = np.clip(0.25 + luck / 2 + image, 0, 1)
        worse = np.clip(0.15 - luck / 2 + image, 0, 1)
        u = rng.random((draws, 200))
        seen = (u < better).astype(np.int8) - (u > 1 - worse).astype(np.int8)
        low, high = paired(seen, i, resamples=500)
        held += low <= 0.1 <= high
    return held / repeats


@pytest.mark.parametrize(("draws", "spread"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.05)])
def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says(draws: int, spread: float) -> None:
    # 95 % of 300 experiments have a standard error of 1.3 points. The generator is seeded: the number is always the same.
    assert coverage(draws, spread) >= 0.92


def test_one_draw_says_nothing_about_the_luck_of_the_draw() -> None:
    assert coverage(1, 0.05) < 0.85


def test_nothing_is_shown_without_images_or_differences() -> None:
    assert paired(np.zeros((1, 0), np.int8)) == (-1.0, 1.0)
    assert paired(np.zeros((3, 50), np.int8)) == (0.0, 0.0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 0), (9, 2), (40, 61), (2000, 1900)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_the_unpaired_interval_is_newcombes() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 873-890, table II: 56/70 against 48/80, method 10.
    low, high = unpaired(56 / 70, 48 / 80, (70, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_wilson_is_inside_the_unit_interval() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)
    low, high = wilson(1.0, 10)
    assert 0.7 < low < high
    assert high == pytest.approx(1.0)
    assert high <= 1.0
