"""The task `anomaly`: its comparisons of two models against their definitions, its labels, and its thresholds."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.tasks import find
from edgekit.tasks.alarms import alarm_quality, set_alarm
from edgekit.tasks.anomaly import ANOMALY_DETECTION as TASK
from edgekit.tasks.anomaly import MAP, SCORE, UNMASKED, image_labels


def outputs(scores: object, side: int = 4) -> dict[str, np.ndarray]:
    values = np.asarray(scores, np.float32)
    return {SCORE: values, MAP: np.repeat(values, side * side).reshape(-1, side, side)}


SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(SCORES, st.randoms(use_true_random=False))
def test_agreement_and_loss_are_their_definitions(trained: list[int], random: object) -> None:
    got = list(trained)
    random.shuffle(got)  # type: ignore[attr-defined]
    kept = weights = 0.0
    each = []
    for i in range(len(trained)):
        own = total = 0.0
        for j in range(len(trained)):
            weight = abs(trained[i] - trained[j])
            own += weight * (1 + np.sign(got[i] - got[j]) * np.sign(trained[i] - trained[j])) / 2
            total += weight
        each.append(own / total if total else 1.0)
        kept, weights = kept + own, weights + total
    np.testing.assert_allclose(TASK.agreement(outputs(got), outputs(trained)), each)
    assert TASK.expected_drop(outputs(got), outputs(trained)) == pytest.approx(1 - kept / weights if weights else 0)


@given(SCORES, st.integers(1, 5), st.integers(-3, 3))
def test_another_scale_and_zero_of_the_scores_costs_nothing(trained: list[int], factor: int, shift: int) -> None:
    got = outputs([factor * value + shift for value in trained])
    assert TASK.agreement(got, outputs(trained)) == pytest.approx(1)
    assert TASK.expected_drop(got, outputs(trained)) == pytest.approx(0)
    assert TASK.expected_drop(outputs([-value for value in trained]), outputs(trained)) in (0, 1)


def test_labels_are_numbers_or_masks_of_both_kinds() -> None:
    assert find("anomaly") is TASK
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[1, 2, 2], masks[2] = 1, UNMASKED
    assert image_labels(masks).tolist() == [False, True, True]
    assert TASK.labels_fault(masks, 3, []) == ""
    assert TASK.labels_fault(np.array([0, 1, 1]), 3, []) == ""
    for wrong in (
        np.array([0, 0, 0]),
        np.array([1, 1, 1]),
        np.array([0, 1, 2]),
        np.array([0, 1]),
        masks + 1,
        np.zeros(3),
    ):
        assert TASK.labels_fault(wrong, 3, [])


def test_an_image_without_a_mask_counts_for_the_image_score_alone() -> None:
    masks = np.zeros((4, 4, 4), np.uint8)
    masks[1, :2, :2], masks[3] = 1, UNMASKED
    found = outputs([0.1, 0.2, 0.3, 0.9])
    found[MAP][1][:2, :2] = 5
    scores = TASK.score(found, masks)
    assert scores["auroc"] == pytest.approx(0.75)  # 0.2 < 0.3 is the one pair of four in the wrong order
    assert (scores["pixel_auroc"], scores["pro"]) == (1.0, 1.0)
    assert set(TASK.score(found, image_labels(masks).astype(int))) == {"auroc"}


def test_answers_with_and_without_a_threshold() -> None:
    found = outputs([1.0, 3.0])
    found[MAP][1, 2, 3] = 9
    normal, bad = TASK.answers(found, [], 1, 2.0)
    assert (normal.line(), bad.line()) == ("normal 1 (threshold 2)", "anomalous 3 (threshold 2)")
    assert bad.as_json() == {"answer": "anomalous", "score": 3.0, "threshold": 2.0, "place": [2, 3]}
    unknown = TASK.answers(found, [], 1, math.inf)[0]
    assert (unknown.anomalous, unknown.line()) == (None, "score 1")
    assert unknown.as_json()["answer"] is None


def test_a_threshold_of_few_images_says_what_it_stands_for() -> None:
    scores = np.arange(1, 20)
    enough = set_alarm(outputs(scores), np.zeros(19, bool), "normal", 0.05, 0.0, "images")
    assert (enough.threshold, enough.false_alarms, enough.images) == (19, 0.05, 19)
    few = set_alarm(outputs(scores[:9]), np.zeros(9, bool), "normal", 0.05, 0.0, "images")
    assert (few.threshold, few.false_alarms) == (9, pytest.approx(0.1))
    trimmed = set_alarm(outputs([*scores, 50]), np.zeros(20, bool), "normal", 0.05, 0.05, "images")
    assert (trimmed.threshold, trimmed.images, trimmed.trimmed) == (19, 19, 1)


def test_the_stated_false_alarms_hold_on_further_images() -> None:
    """Over many draws of 39 held-out images, the mean share of further ones above the threshold is at most the stated one."""
    random = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        alarm = set_alarm(outputs(random.normal(size=39)), np.zeros(39, bool), "normal", 0.05, 0.0, "images")
        shares.append((random.normal(size=500) > alarm.threshold).mean())
    assert 0.03 < np.mean(shares) < 0.06  # exactly 0.05 in expectation, with a standard error of 0.002


def test_the_quality_of_a_threshold_counts_both_kinds() -> None:
    labels = np.array([bool(i) for i, _ in product((0, 1), range(4))])
    quality = alarm_quality(np.array([0, 0, 0, 5, 1, 5, 5, 5]), labels, 2, "test images", labels)
    assert (quality.false_alarms, quality.missed, quality.f1) == (0.25, 0.25, pytest.approx(0.75))
    assert quality.agreement == 0.75
