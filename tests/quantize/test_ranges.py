"""The ranges of activations: collected as a stream, compared with all values in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgekit.errors import ExportError
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize import calibration as calibrating
from edgekit.quantize import ranges
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.ranges import BINS, METHODS, Histogram, activations, observing
from tests.helpers import exported

FLOATS = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)
BATCHES = st.lists(hnp.arrays(np.float32, st.integers(0, 40), elements=FLOATS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(exported.pixels(), path, image_size=16, classes=exported.splits().classes)
    return path


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return exported.splits().pool.center_crop(16).images[:105]


@pytest.fixture(scope="module")
def everything(model: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Every activation over all images."""
    graph = onnx.load(model)
    names = activations(graph)
    return dict(zip(names, observing(graph, names).run(names, {"image": images}), strict=True))


def counted(values: NDArray[np.float32], parts: int = 1) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.reshape(-1), parts):
        histogram.add(part)
    return histogram


def test_one_pass_sees_what_all_activations_in_memory_hold(
    model: Path, images: NDArray[np.uint8], everything: dict[str, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "batches", lambda images: np.array_split(images, [10, 20, 30, 101]))  # a last one of 4
    seen = []
    histograms = ranges.collect(model, images, lambda steps=1, note="": seen.append(steps))
    assert seen == [10, 10, 10, 71, 4]
    assert set(histograms) == set(everything)
    assert len(everything) > 20
    for name, values in everything.items():
        histogram, flat = histograms[name], values.reshape(-1).astype(np.float64)
        assert (histogram.lowest, histogram.highest) == pytest.approx((flat.min(), flat.max()), rel=1e-5, abs=1e-6)
        assert histogram.counts.sum() == flat.size
        assert histogram.counts.nbytes == BINS * 8  # whatever the images
        assert histogram.width <= 2 * np.abs(flat).max() / 2048 * 1.001
        cut = (100 - ranges.PERCENTILE) / 200
        expected = np.quantile(flat, [cut, 1 - cut], method="inverted_cdf")
        assert histogram.percentile(ranges.PERCENTILE) == pytest.approx(expected, abs=1.01 * histogram.width)


def test_percentile_is_that_of_onnxruntime(everything: dict[str, NDArray[np.float32]]) -> None:
    from onnxruntime.quantization.calibrate import HistogramCollector

    parts = {name: np.array_split(values, 3) for name, values in everything.items()}
    theirs = HistogramCollector("percentile", False, 2048, 128, ranges.PERCENTILE, None)
    for i in range(3):
        theirs.collect({name: some[i] for name, some in parts.items()})
    for name, (lowest, highest, *_) in theirs.compute_percentile().items():
        ours = counted(everything[name], 3)
        edges = theirs.histogram_dict[name][1]
        bin_of_theirs = float(edges[1] - edges[0])
        assert ours.range("percentile") == pytest.approx(
            (float(lowest), float(highest)), abs=1.01 * (bin_of_theirs + ours.width)
        )


@given(BATCHES)
@settings(max_examples=150)
def test_a_histogram_that_doubles_counts_what_one_made_at_once_would(batches: list[NDArray[np.float32]]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    flat = np.concatenate(batches).astype(np.float64)
    assert histogram.counts.sum() == flat.size
    if not flat.size:
        assert all(histogram.range(method) == (0.0, 0.0) for method in METHODS)
        return
    assert (histogram.lowest, histogram.highest) == (flat.min(), flat.max())
    assert histogram.reach >= np.abs(flat).max() > histogram.reach / 2 or histogram.reach <= 1.01e-30
    edges = -histogram.reach + histogram.width * np.arange(BINS + 1)
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    slack = histogram.width * 1e-2  # of rounding at a border
    assert (below >= np.searchsorted(np.sort(flat), edges - slack, "left") - (edges >= edges[-1])).all()
    assert (below[:-1] <= np.searchsorted(np.sort(flat), edges[:-1] + slack, "right")).all()
    for method in METHODS:
        low, high = histogram.range(method)
        assert histogram.lowest <= low <= high + histogram.width
        assert high <= histogram.highest


def test_a_range_that_grew_says_the_same_as_one_that_did_not() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    values[-1] = 60.0  # the first parts know nothing of it
    grown, at_once = counted(values, 50), counted(values)
    for method in ("minmax", "percentile"):
        assert grown.range(method) == pytest.approx(at_once.range(method), abs=2 * max(grown.width, at_once.width))
    assert grown.range("minmax")[1] == 60.0
    assert grown.range("percentile")[1] < 5


def naive_entropy_threshold(values: NDArray[np.float64], bins: int, levels: int) -> tuple[float, list[float]]:
    """Migacz's pseudo-code, written out; zeros count as often as their neighbors."""
    counts, edges = np.histogram(np.abs(values), bins=bins, range=(0, np.abs(values).max()))
    counts = counts.astype(float)
    counts[0] = counts[1]
    divergences = []
    for i in range(levels, bins + 1):
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        for level in range(levels):
            members = [j for j in range(i) if j * levels // i == level]
            filled = [j for j in members if counts[j] > 0]
            for j in filled:
                q[j] = counts[members].sum() / len(filled)
        if ((p > 0) & (q == 0)).any():
            divergences.append(np.inf)
            continue
        p, q = p / p.sum(), q / q.sum()
        divergences.append(float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)))
    return float(edges[levels + int(np.argmin(divergences))]), divergences


def test_entropy_is_the_published_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "BINS", 512)  # 256 bins of magnitudes, so that the naive one ends
    generator = np.random.default_rng(0)
    values = np.maximum(generator.standard_t(3, 50_000), 0).astype(np.float32)  # half zeros, a long tail
    expected, divergences = naive_entropy_threshold(values.astype(np.float64), 256, 128)
    found = counted(values).entropy_threshold(128)
    assert found == pytest.approx(expected, abs=2 * float(values.max()) / 256)
    assert found < 0.6 * values.max()  # the tail is worth clipping
    index = round(found / (values.max() / 256)) - 128
    assert divergences[index] <= 1.05 * min(divergences)


def test_what_uses_the_integers_differently_is_clipped_differently() -> None:
    values = np.maximum(np.random.default_rng(0).standard_t(4, 100_000), 0).astype(np.float32)
    histogram = counted(values)
    assert histogram.range("entropy")[1] > histogram.range("entropy", symmetric=True)[1]


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4, 4, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, 4, 3])
    nodes = [helper.make_node("Cast", ["image"], ["pixels"], to=1), helper.make_node("Log", ["pixels"], ["logits"])]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [image], [logits]), opset_imports=[helper.make_opsetid("", 17)]
    )
    graph.ir_version = 8
    onnx.save(graph, tmp_path / "log.onnx")
    black = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ExportError, match="logits is not finite"):
        _ = Calibration(tmp_path / "log.onnx", black, tmp_path).histograms
    with pytest.raises(FloatingPointError):
        Histogram().add(np.array([1, np.nan, 2], np.float32))


def test_ranges_are_collected_once(
    model: Path, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    collect = ranges.collect
    monkeypatch.setattr(calibrating.ranges, "collect", lambda *a: made.append(1) or collect(*a))
    first = Calibration(model, images, tmp_path).histograms
    again = Calibration(model, images, tmp_path).histograms
    assert len(made) == 1
    for name, histogram in first.items():
        assert (again[name].counts == histogram.counts).all()
        assert all(again[name].range(m) == histogram.range(m) for m in ("minmax", "percentile"))
    again[name].add(np.full(3, 1e6, np.float32))  # a loaded one can go on counting
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])  # of a process that died
    _ = Calibration(model, images, tmp_path).histograms
    _ = Calibration(model, images[:50], tmp_path).histograms
    assert len(made) == 3


def test_no_images_no_ranges(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no calibration images"):
        Calibration(model, np.zeros((0, 16, 16, 3), np.uint8), tmp_path)


def test_the_model_is_run_as_it_is(
    model: Path, images: NDArray[np.uint8], everything: dict[str, NDArray[np.float32]]
) -> None:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": images})[0], everything["logits"], atol=1e-4)
