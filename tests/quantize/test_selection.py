"""Selection of calibration images: drawn from clusters of the network's own embedding, reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export import pipeline
from edgekit.export.pipeline import export_classifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize.qdq import last_layer
from edgekit.quantize.selection import CalibrationPool, draw, embed, proportional, stratified
from tests.helpers import exported


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(exported.pixels(), path, image_size=16, classes=exported.splits().classes)
    return path


@pytest.fixture(scope="module")
def pool() -> NDArray[np.uint8]:
    return exported.splits().pool.center_crop(16).images


def candidates(pool: NDArray[np.uint8], count: int, seed: int = 0) -> CalibrationPool:
    return CalibrationPool(len(pool), lambda rows: pool[rows], "digits", count, classes=10, seed=seed)


def test_a_draw_is_said_and_can_be_repeated(model: Path, pool: NDArray[np.uint8]) -> None:
    first = draw(model, candidates(pool, 50))
    assert len(set(first.rows.tolist())) == 50
    assert (first.images == pool[first.rows]).all()
    assert first.record == {
        **first.record,
        "drawn": "clusters",
        "pool": len(pool),
        "seed": 0,
        "embedded": 1000,
        "clusters": 32,
    }
    again = draw(model, candidates(pool, 50))
    assert (again.rows == first.rows).all()
    assert again.record == first.record
    other = draw(model, candidates(pool, 50, seed=1))
    assert other.record["images_sha256"] != first.record["images_sha256"]
    assert candidates(pool, 50, seed=1).key != candidates(pool, 50).key != candidates(pool, 51).key


def test_few_images_still_hold_every_class(model: Path, pool: NDArray[np.uint8]) -> None:
    """On images of ten clear classes: a random draw of 20 images mostly misses one, clusters do not."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    read_as = session.run(None, {"image": pool})[0].argmax(1)

    def held(how: str, seed: int) -> int:
        return len(set(read_as[draw(model, candidates(pool, 20, seed), how).rows]))  # type: ignore[arg-type]

    seeds = range(3)
    assert sum(held("clusters", seed) for seed in seeds) > sum(held("random", seed) for seed in seeds)
    assert min(held("clusters", seed) for seed in seeds) == 10


def test_a_small_pool_is_taken_whole(model: Path, pool: NDArray[np.uint8]) -> None:
    whole = draw(model, candidates(pool[:30], 300))
    assert (whole.images == pool[:30]).all()
    assert whole.record["drawn"] == "all"
    with pytest.raises(ExportError, match="no calibration images"):
        draw(model, candidates(pool[:0], 300))


def test_an_export_draws_from_a_pool_and_says_how(
    pool: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, data = exported.splits(), exported.RECIPE.data
    assert splits.test.labels is not None

    def export(count: int) -> Bundle:
        return export_classifier(
            exported.pixels(),
            classes=splits.classes,
            preprocessing=data.preprocessing(),
            calibration=candidates(pool, count),
            evaluation=(splits.test.images, splits.test.labels),
            output=tmp_path / "export",
            targets=["onnx"],
            precisions=["int8"],
            timed=False,
        )

    calibration = exported.quantization(export(20)).calibration
    assert calibration is not None
    assert (calibration.drawn, calibration.images, calibration.pool, calibration.seed) == ("clusters", 20, len(pool), 0)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pipeline, "draw", fail)  # the same pool and number: nothing is embedded, drawn or made again
    export(20)
    with pytest.raises(AssertionError):
        export(21)


def test_the_embedding_is_what_the_classifier_sees(model: Path, pool: NDArray[np.uint8]) -> None:
    features = embed(model, np.arange(20), lambda rows: pool[rows])
    layer = last_layer(onnx.load(model))
    assert layer is not None
    assert layer.op_type == "Gemm"
    assert features.shape == (20, exported.classifier().head.in_features)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_clusters_give_in_proportion_their_center_first() -> None:
    generator = np.random.default_rng(0)
    centers = np.eye(4, dtype=np.float32) * 10
    sizes = [600, 300, 90, 10]
    labels = np.repeat(np.arange(4), sizes)
    features = (centers[labels] + generator.normal(size=(1000, 4)) * 0.1).astype(np.float32)
    rows, found = stratified(features, 100, 4, seed=0)
    assert sorted(found) == sorted(sizes)
    assert np.bincount(labels[rows]).tolist() == [60, 30, 9, 1]
    (rare,) = (row for row in rows if labels[row] == 3)
    distance = np.linalg.norm(features - features[labels == 3].mean(0), axis=1)
    assert rare == np.where(labels == 3, distance, np.inf).argmin()


def test_equal_images_make_one_cluster() -> None:
    rows, sizes = stratified(np.ones((40, 3), np.float32), 7, 5, seed=0)
    assert (len(set(rows.tolist())), sizes) == (7, [40])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.floats(0, 1))
def test_shares_are_whole_and_fair(sizes: list[int], part: float) -> None:
    count = round(part * sum(sizes))
    shares = proportional(sizes, count)
    assert sum(shares) == count
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert all(abs(share - size * count / sum(sizes)) < 1 + 1e-9 for share, size in zip(shares, sizes, strict=True))
