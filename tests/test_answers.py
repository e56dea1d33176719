"""Answers to single images: written, read back, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.answers import Answers, read_answers
from edgekit.files import sha256
from edgekit.foreign import Unreadable
from tests.helpers.report_sample import make_answers


def test_what_is_written_is_read_back_and_equal_answers_are_equal_bytes(tmp_path: Path) -> None:
    answers = make_answers(10)
    for name in ("a.npz", "b.npz"):
        answers.write(tmp_path / name)
    assert sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")
    read = read_answers(tmp_path / "a.npz", 10)
    assert np.array_equal(read.truth, answers.truth)
    assert np.array_equal(read.thumbnails, answers.thumbnails)
    for model in ("teacher", "student", "supervised"):
        assert np.array_equal(read.predicted[model], answers.predicted[model])
        assert np.array_equal(read.probability[model], answers.probability[model])
    assert read.top1("student") == pytest.approx(1 - 12 / 360)


def test_the_confusion_matrix_counts_rows_by_truth() -> None:
    truth, predicted = np.array([0, 0, 1, 2], np.int32), np.array([0, 2, 1, 1], np.int32)
    answers = Answers(truth, {"student": predicted}, {"student": np.ones(4, np.float32)})
    assert answers.confusion("student", 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"truth": np.zeros(360, np.int64)},
        {"truth": np.full(360, 10, np.int32)},
        {"truth": np.full(360, -1, np.int32)},
        {"truth": np.zeros((360, 1), np.int32)},
        {"truth": np.int32(3)},
        {"student.predicted": np.zeros(359, np.int32)},
        {"student.probability": np.zeros(360, np.int8)},
        {"student.probability": None},
        {"worst": np.zeros(3, np.int32)},
        {"worst": None},
        {"thumbnails": np.zeros((12, 32, 32), np.uint8)},
        {"thumbnails": np.zeros((12, 32, 32, 3), np.float32)},
    ],
)
def test_what_is_no_answers_is_refused(tmp_path: Path, changes: dict[str, np.ndarray | None]) -> None:
    path = tmp_path / "answers.npz"
    make_answers(10).write(path)
    with np.load(path) as whole:
        arrays = {name: whole[name] for name in whole.files}
    arrays |= {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if value is None:
            del arrays[name]
    np.savez(path, **arrays)
    with pytest.raises(Unreadable):
        read_answers(path, 10)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Unreadable):
        read_answers(path, 10)
