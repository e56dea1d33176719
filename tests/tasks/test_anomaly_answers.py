"""The file of a detector's answers: written, read, and refused where it is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.foreign import Unreadable
from edgekit.tasks.anomaly_answers import AnomalyAnswers, read_anomaly_answers


def made(count: int = 14, threshold: float | None = 1.5) -> AnomalyAnswers:
    random = np.random.default_rng(0)
    return AnomalyAnswers.of(
        [f"test/{i}.png" for i in range(count)],
        ["good" if i % 2 else "dent" for i in range(count)],
        random.normal(size=count).astype(np.float32),
        random.normal(size=(count, 256, 128)).astype(np.float32),
        random.integers(0, 256, (count, 256, 128, 3), dtype=np.uint8),
        random.normal(size=5).astype(np.float32),
        threshold,
    )


@pytest.mark.parametrize(("count", "threshold"), [(14, 1.5), (3, None), (0, 1.0)])
def test_what_was_written_is_read(tmp_path: Path, count: int, threshold: float | None) -> None:
    answers = made(count, threshold)
    answers.write(tmp_path / "a.npz")
    found = read_anomaly_answers(tmp_path / "a.npz")
    assert found.names == answers.names
    assert found.defects == answers.defects
    assert found.threshold == threshold
    for name in ("scores", "held_out", "shown", "pictures", "maps"):
        assert np.array_equal(getattr(found, name), getattr(answers, name))
    assert found.labels.tolist() == [1 - i % 2 for i in range(count)]
    answers.write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_most_anomalous_images_have_small_pictures() -> None:
    answers = made()
    assert len(answers.shown) == 10
    assert answers.scores[answers.shown].tolist() == sorted(answers.scores.tolist(), reverse=True)[:10]
    assert answers.pictures.shape == (10, 192, 96, 3)
    assert answers.maps.shape == (10, 192, 96)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("names", np.arange(15)),
        ("defects", np.array(["a"])),
        ("scores", np.zeros(14)),
        ("scores", np.full(14, np.nan, np.float32)),
        ("scores", np.zeros(13, np.float32)),
        ("held_out", np.zeros((2, 2), np.float32)),
        ("threshold", np.zeros(3)),
        ("shown", np.arange(10, dtype=np.int32) + 10),
        ("shown", np.zeros(11, np.int32)),
        ("pictures", np.zeros((10, 4, 4, 3), np.uint8)),
        ("maps", np.zeros((10, 4, 4), np.float32)),
    ],
)
def test_other_content_is_refused(tmp_path: Path, name: str, value: np.ndarray) -> None:
    made().write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        content = {**arrays, name: value}
    np.savez(tmp_path / "b.npz", **content)
    with pytest.raises(Unreadable):
        read_anomaly_answers(tmp_path / "b.npz")
