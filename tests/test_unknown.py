"""Temperature, calibration error, thresholds and distances against naive oracles, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf

from edgekit.abstention import RULES, fewest_images
from edgekit.intervals import of_order_statistic
from edgekit.tasks import EMBEDDING, UNKNOWN, find
from edgekit.tasks.calibration import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scaled_softmax,
    temperature_for,
)
from edgekit.tasks.classification import Prediction
from edgekit.tasks.unknown import (
    Geometry,
    Known,
    calibrate,
    score_images,
    shrunk_covariance,
    threshold_at,
    threshold_fault,
)

CLASSES = ["ant", "bee", "cat"]
TASK = find("classification")


def drawn(seed: int, images: int, scale: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits times `scale`, and labels that are drawn from the probabilities of the logits themselves."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, 3))
    labels = (scaled_softmax(logits.astype(np.float32)).cumsum(1) < random.random((images, 1))).sum(1)
    return (scale * logits).astype(np.float32), labels.clip(0, 2).astype(np.int64)


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_temperature_is_the_factor_by_which_logits_are_too_large(scale: float) -> None:
    logits, labels = drawn(0, 20_000, scale)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(scale, rel=0.05)
    before, after = (calibration_error(reliability(logits, labels, t)) for t in (1.0, temperature))
    assert after < 0.02
    assert after <= before + 0.01


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0.1, 20))
def test_no_other_temperature_is_likelier(seed: int, images: int, scale: float) -> None:
    """The likelihood with the labels smoothed by one further image of an unknown class, minimized by SciPy."""
    logits, labels = drawn(seed, images, scale)
    weight = 1 / (images + 1)
    targets = (1 - weight) * np.eye(3)[labels] + weight / 3

    def smoothed(log_temperature: float) -> float:
        return float(-(targets * np.log(np.maximum(scaled_softmax(logits, math.exp(log_temperature)), 1e-300))).sum())

    best = optimize.minimize_scalar(smoothed, bounds=(math.log(0.01), math.log(100)), method="bounded")
    assert smoothed(math.log(fit_temperature(logits, labels))) <= best.fun + 1e-6 * max(1.0, abs(best.fun))


def test_a_classifier_that_is_always_right_does_not_become_certain() -> None:
    logits = 0.5 * np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    temperature = fit_temperature(logits, np.arange(30) % 3)
    assert 0.05 < temperature < 0.5
    assert scaled_softmax(logits, temperature).max() < 1 - 1e-3
    assert fit_temperature(np.ones((30, 3), np.float32), np.arange(30) % 3) == 1.0


def test_a_temperature_is_kept_only_where_the_labels_show_that_it_is_better() -> None:
    """Of classifiers whose probabilities are right, hardly more than one in twenty gets another temperature than 1; of wrong ones nearly all."""
    right, wrong = ([temperature_for(*drawn(seed, 150, scale)) for seed in range(300)] for scale in (1.0, 3.0))
    assert np.mean([t != 1 for t in right]) < 0.1
    assert np.mean([t > 1.5 for t in wrong]) > 0.95
    logits, labels = drawn(1, 150, 3.0)
    assert temperature_for(logits, labels) == fit_temperature(logits, labels)


def test_calibration_error_and_likelihood_as_they_are_defined() -> None:
    logits, labels = drawn(3, 400, 3.0)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error, images = 0.0, 0
    for k in range(15):
        inside = [i for i in range(400) if k / 15 < probabilities[i].max() <= (k + 1) / 15]
        if inside:
            right = sum(probabilities[i].argmax() == labels[i] for i in inside) / len(inside)
            error += len(inside) / 400 * abs(right - float(np.mean([probabilities[i].max() for i in inside])))
            images += len(inside)
    assert images == 400
    assert calibration_error(reliability(logits, labels)) == pytest.approx(error, abs=1e-6)
    nll = -np.mean([np.log(probabilities[i, labels[i]]) for i in range(400)])
    assert negative_log_likelihood(logits, labels) == pytest.approx(nll, rel=1e-5)
    assert np.isfinite(negative_log_likelihood(np.array([[1e4, 0, 0]], np.float32), np.array([1])))  # no overflow


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.data())
def test_the_interval_of_a_threshold_is_that_of_the_beta_distribution(samples: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, samples))
    expected = stats.beta.ppf([0.025, 0.975], k, samples + 1 - k)
    assert of_order_statistic(k, samples) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize(("share", "images"), [(0.05, 20), (0.05, 399), (0.2, 57), (0.01, 99)])
def test_a_further_image_falls_below_the_threshold_as_often_as_was_asked(share: float, images: int) -> None:
    """Over many sets of images; the rate is k / (n + 1) whatever the distribution."""
    sets = np.random.default_rng(0).standard_cauchy((4000, images + 1))
    k = math.floor(share * (images + 1) + 1e-9)
    assert threshold_at(sets[0, :-1], share)[0] == np.sort(sets[0, :-1])[k - 1]
    below = float((sets[:, -1] < np.sort(sets[:, :-1], axis=1)[:, k - 1]).mean())
    expected = k / (images + 1)
    assert 0 < expected <= share
    assert abs(below - expected) < 5 * math.sqrt(expected / 4000)


def test_fewer_images_than_a_rate_needs() -> None:
    assert [fewest_images(share) for share in (0.5, 0.05, 0.01, 0.001)] == [20, 20, 99, 999]
    for share in (0.05, 0.01):  # with as many, there is a threshold
        scores = np.arange(float(fewest_images(share)))
        assert threshold_at(scores, share)[0] == 0


def test_the_covariance_and_the_distance() -> None:
    random = np.random.default_rng(1)
    classes = random.integers(0, 3, 60)
    values = (random.normal(0, 1, (60, 5)) @ random.normal(0, 1, (5, 5)) + 4 * classes[:, None]).astype(np.float32)
    means = np.stack([values[classes == k].astype(np.float64).mean(0) for k in range(3)])
    covariance, _ = ledoit_wolf(values - means[classes], assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(values.astype(np.float64) - means[classes]), covariance, rtol=1e-9)
    geometry = Geometry.of(EMBEDDING, values, classes)
    assert geometry is not None
    inverse = np.linalg.inv(covariance)
    naive = [min(float((v - m) @ inverse @ (v - m)) for m in means) for v in values.astype(np.float64)]
    np.testing.assert_allclose(geometry.squared_distances(values), naive, rtol=1e-4)


def test_a_class_without_images_and_values_without_spread() -> None:
    values = np.random.default_rng(0).normal(0, 1, (40, 4)).astype(np.float32)
    geometry = Geometry.of("logits", values, np.full(40, 7))
    assert geometry is not None
    assert geometry.means.shape == (1, 4)
    assert Geometry.of("logits", np.ones((40, 4), np.float32), np.zeros(40, np.int64)) is None


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_accepts_the_known_and_not_the_far(rule: str) -> None:
    """Known images are clear; the others lie between the classes, close to zero."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    clear = (6 * np.eye(3)[labels] + random.normal(0, 0.5, (300, 3))).astype(np.float32)
    vague = random.normal(0, 0.2, (50, 3)).astype(np.float32)
    geometry = Geometry.of("logits", clear, labels)
    confidence = calibrate(clear, labels, rule, 0.05, geometry, clear, "probe images")  # type: ignore[arg-type]
    known = Known(confidence, geometry if rule == "distance" else None)
    assert (TASK.decisions({"logits": vague}, known) == -1).all()
    decided = TASK.decisions({"logits": clear}, known)
    assert (decided == -1).sum() == math.floor(
        0.05 * 301
    ) - 1  # those below the threshold, which is an image's own score
    assert (decided[decided >= 0] == labels[decided >= 0]).all()
    quality = TASK.quality_of({"logits": clear}, labels, known, decided, "test images")
    assert quality.unknown == pytest.approx((decided == -1).mean())
    assert quality.agreement == 1.0
    assert quality.answered_accuracy == 1.0


def test_scores_as_the_papers_define_them() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [1000.0, 0.0, 0.0]], np.float32)
    exponentials = np.exp(logits[0].astype(np.float64))
    energy = score_images("energy", logits, 1.0, None, None)
    assert energy[0] == pytest.approx(np.log(exponentials.sum()))
    assert energy[1] == pytest.approx(1000)
    probability = score_images("probability", logits, 2.0, None, None)
    halved = np.exp(logits[0].astype(np.float64) / 2)
    assert probability[0] == pytest.approx(halved.max() / halved.sum())
    assert probability[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("rule", "threshold", "fault"),
    [
        ("probability", 1.5, "1.5 is not a probability from 0 to 1"),
        ("probability", 0.5, ""),
        ("distance", 3.0, "above 0"),
        ("distance", -3.0, ""),
        ("energy", 3.0, ""),
        ("energy", math.nan, "nan is not a number"),
    ],
)
def test_a_threshold_that_no_image_can_have(rule: str, threshold: float, fault: str) -> None:
    found = threshold_fault(rule, threshold)  # type: ignore[arg-type]
    assert fault in found
    assert bool(found) == bool(fault)


def test_the_answer_in_words() -> None:
    classes = [("cat", 0.57), ("dog", 0.22)]
    assert Prediction(classes).line() == "cat 57.0%  dog 22.0%"
    assert Prediction(classes).as_json().keys() == {"classes"}  # of a bundle without a rule, as before
    far = Prediction(classes, None, True, -80.5, -12.0)
    assert (far.answer, far.line()) == (UNKNOWN, "unknown (cat 57.0%  dog 22.0%)")
    assert Prediction([], None, True, -80.5, -12.0).line() == "unknown"
    assert Prediction([], None, False, -8.5, -12.0).answer is None
    written = far.as_json()
    assert (written["answer"], written["unknown"], written["score"], written["threshold"]) == (
        "unknown",
        True,
        -80.5,
        -12.0,
    )
    near = Prediction(classes, None, False, -3.0, -12.0)
    assert (near.answer, near.as_json()["answer"], near.as_json()["unknown"]) == ("cat", "cat", False)
