"""The task `multilabel`: metrics, thresholds and temperature against their definitions, answers, and comparisons without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score

from edgekit.abstention import DISTANCE
from edgekit.confidence import ClassThresholds
from edgekit.tasks import MULTILABEL as NAME
from edgekit.tasks import find
from edgekit.tasks.classification import LOGITS
from edgekit.tasks.multilabel import F1_MACRO, F1_MICRO, MAP, MULTILABEL, Labels
from edgekit.tasks.multilabel_metrics import (
    FEWEST_POSITIVES,
    average_precisions,
    best_threshold,
    binary_cross_entropy,
    class_thresholds,
    class_wise_error,
    f1_scores,
    fit_sigmoid_temperature,
    sigmoid,
    sigmoid_temperature_for,
    weighted_precisions,
)
from edgekit.tasks.unknown import Known

Case = tuple[NDArray[np.float32], NDArray[np.int64]]


@st.composite
def cases(draw: st.DrawFn, ties: bool = True) -> Case:
    """Logits (n, k) and labels; with ties, many logits are equal, else none."""
    n, k = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    values = st.integers(-3, 3) if ties else st.floats(-8, 8, width=32)
    logits = draw(arrays(np.float32, (n, k), elements=values, unique=not ties))
    return logits, draw(arrays(np.int64, (n, k), elements=st.integers(0, 1)))


def naive_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """By every threshold, from the highest: the recall gained there, times the precision there."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = truth[found].sum() / truth.sum()
        total += (recall - before) * truth[found].sum() / found.sum()
        before = recall
    return total


@given(cases())
def test_average_precision_is_that_of_its_definition_and_of_scikit_learn(case: Case) -> None:
    logits, truth = case
    for c, found in enumerate(average_precisions(logits, truth)):
        if not truth[:, c].any():
            assert np.isnan(found)
            continue
        assert found == pytest.approx(naive_precision(logits[:, c], truth[:, c]))
        assert found == pytest.approx(average_precision_score(truth[:, c], logits[:, c]))


@given(cases())
def test_f1_is_that_of_its_definition_and_of_scikit_learn(case: Case) -> None:
    logits, truth = case
    predicted = (logits >= 0).astype(np.int64)
    micro, macro = f1_scores(predicted, truth)
    both = [(int((p & t).sum()), int(p.sum() + t.sum())) for p, t in zip(predicted.T, truth.T, strict=True)]
    total = sum(b for _, b in both)
    assert micro == pytest.approx(2 * sum(a for a, _ in both) / total if total else 1.0)
    known = [2 * a / b for a, b in both if b]
    assert macro == pytest.approx(sum(known) / len(known) if known else 1.0)
    if total and truth.shape[1] > 1:  # of one column scikit-learn counts the zeros as a class, too
        assert micro == pytest.approx(f1_score(truth, predicted, average="micro"))


@given(cases())
def test_a_threshold_has_the_highest_f1_of_all(case: Case) -> None:
    logits, truth = case
    scores, there = sigmoid(logits[:, 0]), truth[:, 0]
    if not there.any():
        return

    def f1(threshold: float) -> float:
        return f1_scores((scores >= threshold)[:, None], there[:, None])[0]

    found = best_threshold(scores, there)
    assert 0 <= found <= 1
    assert f1(found) == pytest.approx(max(f1(value) for value in {0.0, *scores.tolist()}))
    assert not np.isclose(scores, found, rtol=0, atol=1e-9).any() or found == 0, "not on an image's own score"


def test_a_class_with_few_images_takes_the_shared_threshold() -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros((100, 2), np.int64)
    truth[: FEWEST_POSITIVES - 1, 0] = 1
    truth[: 2 * FEWEST_POSITIVES, 1] = 1
    scores = np.clip(0.3 * truth + 0.5 * generator.random((100, 2)), 0, 1)
    each, shared, own = class_thresholds(scores, truth)
    assert own == 1
    assert each[0] == shared
    assert each[1] == best_threshold(scores[:, 1], truth[:, 1])
    nothing = class_thresholds(scores, np.zeros_like(truth))
    assert nothing == ([0.5, 0.5], 0.5, 0)


@settings(max_examples=25)
@given(cases(ties=False))
def test_the_temperature_has_the_least_smoothed_cross_entropy(case: Case) -> None:
    logits, truth = case
    found = fit_sigmoid_temperature(logits, truth)
    if not np.abs(logits).max() > 1e-3:
        return
    unsure = 1 / (len(logits) + 1)
    target = (1 - unsure) * truth + unsure / 2

    def loss(temperature: float) -> float:
        z = logits.astype(np.float64) / temperature
        return float((np.logaddexp(0, z) - target * z).mean())

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.01, 100, 81)) + 1e-9
    p = np.clip(sigmoid(logits), 1e-300, 1)
    gain = truth.size * (binary_cross_entropy(logits, truth) - binary_cross_entropy(logits, truth, found))
    assert sigmoid_temperature_for(logits, truth) == (found if gain > 1.92 else 1.0)
    plain = -np.where(truth, np.log(p), np.log(np.clip(sigmoid(-logits), 1e-300, 1))).mean()
    assert binary_cross_entropy(logits, truth) == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_the_class_wise_error_is_the_mean_of_the_gaps_of_the_bins() -> None:
    probabilities = np.array([[0.05, 0.95], [0.05, 0.9], [0.52, 0.95]])
    truth = np.array([[0, 1], [1, 0], [1, 1]])
    first = (abs(1 - 0.1) + abs(1 - 0.52)) / 3  # two in the lowest bin, one of them true; one in the middle
    second = (abs(2 - 1.9) + abs(0 - 0.9)) / 3
    assert class_wise_error(probabilities, truth) == pytest.approx((first + second) / 2)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert class_wise_error(sure, sure.astype(np.int64)) == 0


def test_the_task_is_found_by_its_name_and_refuses_other_shapes_and_labels() -> None:
    assert find(NAME) is MULTILABEL
    assert MULTILABEL.fault(["a"], {LOGITS: [1]}) == ""
    assert "2 classes" in MULTILABEL.fault(["a", "b"], {LOGITS: [3]})
    assert MULTILABEL.fault([], {LOGITS: [0]})
    good = np.array([[0, 1], [0, 0]])
    assert MULTILABEL.labels_fault(good, 2, ["a", "b"]) == ""
    for bad in (good[:1], np.array([0, 1]), good * 2, good * 0):
        assert MULTILABEL.labels_fault(bad, 2, ["a", "b"])


def test_answers_are_all_classes_from_their_threshold_on_the_likeliest_first() -> None:
    logits = np.array([[2.0, -3.0, 0.5], [-2.0, -2.0, -2.0]], np.float32)
    found, none = MULTILABEL.answers({LOGITS: logits}, ["a", "b", "c"], top=1, threshold=None)
    assert isinstance(found, Labels)
    assert [name for name, _ in found.classes] == ["a", "c"], "top cuts nothing off"
    assert found.line() == "a 88.1%  c 62.2%"
    assert none.line() == "no class"
    assert none.as_json() == {"classes": []}
    every, also = MULTILABEL.answers({LOGITS: logits}, ["a", "b", "c"], 1, 0.0)
    assert len(every.found) == len(also.found) == 3, "a threshold of 0 that a user gives leaves nothing out"  # type: ignore[attr-defined]
    assert {found.threshold for found in every.found} == {0.0}  # type: ignore[attr-defined]
    (only,) = MULTILABEL.answers({LOGITS: logits[:1]}, ["a", "b", "c"], 3, 0.7)
    assert only.as_json()["classes"] == [{"class": "a", "probability": 0.880797, "threshold": 0.7}]
    record = ClassThresholds(
        temperature=2.0, thresholds=[0.9, 0.1, 0.5], shared=0.5, own=2, images=9, are="probe images"
    )
    (calibrated,) = MULTILABEL.answers_knowing({LOGITS: logits[:1]}, ["a", "b", "c"], 3, None, Known(record))
    assert isinstance(calibrated, Labels)
    assert [(one.name, one.threshold) for one in calibrated.found] == [("c", 0.5), ("b", 0.1)]
    assert calibrated.found[0].probability == pytest.approx(1 / (1 + np.exp(-0.25)))
    (over,) = MULTILABEL.answers_knowing({LOGITS: logits[:1]}, ["a", "b", "c"], 3, 0.7, Known(record))
    assert [name for name, _ in over.classes] == ["a"]  # type: ignore[attr-defined]


def test_thresholds_are_calibrated_and_measured_on_other_images() -> None:
    generator = np.random.default_rng(1)
    truth = (generator.random((400, 3)) < 0.3).astype(np.int64)
    logits = (4 * (truth - 0.5) + 2 * generator.standard_normal((400, 3)) - 3).astype(np.float32)  # too low by 3
    outputs, others = {LOGITS: logits[:200]}, {LOGITS: logits[200:]}
    record = MULTILABEL.calibrated(outputs, truth[:200], DISTANCE, 0.05, None, "probe images")
    assert record is not None
    quality = MULTILABEL.quality_of(others, truth[200:], Known(record), None, "test images")
    assert quality.f1_micro[1] > quality.f1_micro[0] + 0.1
    assert quality.f1_micro[0] == f1_scores(logits[200:] >= 0, truth[200:])[0]
    same = MULTILABEL.decisions(others, Known(record))
    assert MULTILABEL.quality_of(others, truth[200:], Known(record), same, "test images").agreement == 1
    assert MULTILABEL.calibrated(outputs, np.zeros_like(truth[:200]), DISTANCE, 0.05, None, "probe images") is None


@given(cases(ties=False))
def test_a_model_agrees_with_itself_and_is_expected_to_lose_nothing(case: Case) -> None:
    outputs, truth = {LOGITS: case[0]}, case[1]
    assert (MULTILABEL.agreement(outputs, outputs) == 1).all()
    assert MULTILABEL.expected_drop(outputs, outputs) == 0
    scores = MULTILABEL.score(outputs, truth)
    assert set(scores) == {MAP, F1_MICRO, F1_MACRO}
    assert all(0 <= value <= 1 + 1e-12 for value in scores.values())
    assert MULTILABEL.dropped(scores, scores) == 0
    groups = MULTILABEL.groups(outputs, truth)
    counts = truth.sum(axis=0)
    for row, group in zip(truth, groups, strict=True):
        assert group == len(row) if not row.any() else counts[group] == counts[row == 1].min()


@given(cases(ties=False), st.integers(0, 1000))
def test_no_other_ranking_is_expected_to_do_better_than_the_models_own(case: Case, seed: int) -> None:
    own = {LOGITS: case[0]}
    other = {LOGITS: np.random.default_rng(seed).standard_normal(case[0].shape).astype(np.float32)}
    assert MULTILABEL.expected_drop(other, own) >= -1e-9
    certain = {LOGITS: np.where(case[1], 40, -40).astype(np.float32)}
    if case[1].any(axis=0).all():  # with a model that is certain, the expected loss is the loss
        each = average_precisions(other[LOGITS], case[1])
        assert MULTILABEL.expected_drop(other, certain) == pytest.approx(1 - each.mean(), abs=1e-6)
    assert np.nanmax(weighted_precisions(own[LOGITS], sigmoid(own[LOGITS]))) <= 1 + 1e-9


def test_agreement_is_the_jaccard_index_and_the_drop_the_largest_of_map_and_micro_f1() -> None:
    trained = {LOGITS: np.array([[1, 1, -1], [-1, -1, -1], [1, -1, -1]], np.float32)}
    got = {LOGITS: np.array([[1, -1, 1], [-1, -1, -1], [-1, -1, -1]], np.float32)}
    assert MULTILABEL.agreement(got, trained).tolist() == pytest.approx([1 / 3, 1, 0])
    before, after = {MAP: 0.8, F1_MICRO: 0.7, F1_MACRO: 0.6}, {MAP: 0.79, F1_MICRO: 0.65, F1_MACRO: 0.1}
    assert MULTILABEL.dropped(before, after) == pytest.approx(0.05)
    assert MULTILABEL.dropped(before, {**before, MAP: 0.9}) == 0


def test_the_same_probabilities_for_all_images_are_doubted() -> None:
    logits = np.tile(np.array([[1.0, -1.0]], np.float32), (10, 1))
    assert "same probabilities" in MULTILABEL.doubts({LOGITS: logits}, None, ["a", "b"])[0]
    logits[0] = 5
    assert MULTILABEL.doubts({LOGITS: logits}, None, ["a", "b"]) == []


def test_average_precision_by_class_leaves_out_classes_without_images() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert MULTILABEL.per_class({LOGITS: logits}, np.array([[1, 0], [0, 0]]), ["a", "b"]) == {"a": 1.0}
