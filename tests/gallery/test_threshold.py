"""The threshold against its definition, and where there are too few images for one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.conformal import fewest_samples
from edgekit.errors import DataError
from edgekit.gallery.search import unit
from edgekit.gallery.testing import auroc
from edgekit.gallery.threshold import NEIGHBORS, calibrate, require_value


def some_vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32))


def naive(
    vectors: np.ndarray, labels: list[int], rate: float, neighbors: int = 1
) -> tuple[float | None, float | None, float | None]:
    """Threshold, false rejects and top-1, one pair of images at a time."""
    others, right, genuine = [], [], []
    for i, a in enumerate(vectors):
        of_class: dict[int, list[float]] = {}
        for j, b in enumerate(vectors):
            if j != i:
                of_class.setdefault(labels[j], []).append(float(a @ b))
        similarity = {c: float(np.mean(sorted(values)[-neighbors:])) for c, values in of_class.items()}
        own = similarity.pop(labels[i], None)
        foreign = max(similarity.values(), default=-2.0)
        if similarity:
            others.append(foreign)
        if own is not None:
            genuine.append(own)
            right.append(own > foreign)
    # Split conformal prediction: a new one is above it with a probability of at most `rate`, being one of n + 1 alike.
    allowed = [v for k, v in enumerate(sorted(others), 1) if (len(others) + 1 - k) / (len(others) + 1) <= rate + 1e-12]
    threshold = allowed[0] if allowed else None
    rejects = None if threshold is None or not genuine else sum(v <= threshold for v in genuine) / len(genuine)
    return threshold, rejects, sum(right) / len(right) if right else None


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]),
    st.integers(1, 4),
)
def test_it_is_what_its_definition_says(counts: list[int], rate: float, neighbors: int) -> None:
    vectors = some_vectors(sum(counts))
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    chosen, found = calibrate(vectors, np.array(counts), neighbors=[neighbors], false_accepts=rate)
    assert chosen == neighbors
    threshold, rejects, top1 = naive(vectors, labels, rate, neighbors)
    assert (found.value is None) == (threshold is None)
    if threshold is not None:
        assert found.value == pytest.approx(threshold, abs=1e-6)
    assert found.top1 == (None if top1 is None else pytest.approx(top1))
    assert found.false_rejects == (None if rejects is None else pytest.approx(rejects, abs=1e-9))
    assert found.impostors == (0 if len(counts) == 1 else sum(counts))
    assert found.genuine == sum(count for count in counts if count > 1)
    assert bool(found.note) == (found.value is None or len(counts) < fewest_samples(rate))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_as_many_neighbors_count_as_recognize_most_images(counts: list[int], seed: int) -> None:
    vectors = some_vectors(sum(counts), seed)
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    top1 = {k: naive(vectors, labels, 0.5, k)[2] or 0.0 for k in NEIGHBORS if k == 1 or k < max(counts)}
    chosen, found = calibrate(vectors, np.array(counts), false_accepts=0.5)
    assert chosen == max(top1, key=lambda k: (round(top1[k], 9), -k))
    assert found == calibrate(vectors, np.array(counts), neighbors=[chosen], false_accepts=0.5)[1]


@pytest.mark.parametrize(("rate", "least"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_a_rate_needs_as_many_images_as_make_it_possible(rate: float, least: int) -> None:
    assert fewest_samples(rate) == least
    enough, too_few = (
        calibrate(some_vectors(n), np.ones(n, np.int64), false_accepts=rate)[1] for n in (least, least - 1)
    )
    if least > 1:  # a single image has no other class
        assert enough.value is not None
    assert too_few.value is None
    with pytest.raises(DataError, match=r"no threshold: .* false accepts need"):
        require_value(too_few)


def test_two_images_give_no_threshold_and_say_why() -> None:
    _, found = calibrate(some_vectors(2), np.array([1, 1]))
    assert found.value is None
    assert "5% false accepts need 19 images of at least two classes to judge by, and there are 2" in found.note


def test_few_classes_give_a_threshold_with_a_caution() -> None:
    few, many = (calibrate(some_vectors(60), np.full(n, 60 // n), false_accepts=0.1)[1] for n in (3, 30))
    assert few.value is not None
    assert "only 3 classes stood for unknown ones" in few.note
    assert (many.value is not None, many.note) == (True, "")


def test_a_given_threshold_is_kept_and_judged() -> None:
    _, found = calibrate(some_vectors(20), np.array([10, 10]), false_accepts=None, value=0.5)
    assert (found.value, found.false_accepts, found.note) == (0.5, None, "")
    assert found.false_rejects is not None


def test_unknown_images_are_accepted_as_rarely_as_stated() -> None:
    """Classes are directions with noise. The bound holds over many galleries, each with classes of its own: 300 galleries, 20 % ± 3 sd."""
    random, rate, accepted, trials = np.random.default_rng(3), 0.2, 0, 300
    for _ in range(trials):
        vectors = unit(random.standard_normal((30, 8)).astype(np.float32))  # one image a class: all are exchangeable
        threshold = calibrate(vectors[:29], np.ones(29, np.int64), false_accepts=rate)[1].value
        accepted += (vectors[29] @ vectors[:29].T).max() > threshold
    # Leaving one out is not quite split conformal: each impostor is compared with 28 images, a new one with 29.
    assert accepted / trials <= rate + 3 * math.sqrt(rate * (1 - rate) / trials) + 0.02


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_area_is_the_share_of_pairs_in_order(positive: list[int], negative: list[int]) -> None:
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert auroc(np.array(positive, float), np.array(negative, float)) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(np.array(positive, float), np.zeros(0)) is None
