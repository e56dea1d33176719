"""The statistics against naive NumPy, and what too few samples must not say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bench.output import default_output, file_name
from edgekit.bench.statistics import (
    SAMPLES_NEEDED,
    coefficient_of_variation,
    drift,
    fp32_of,
    percentiles,
    speedup,
)
from edgekit.bundle import Bundle
from edgekit.result import Latency


def latency(samples: list[int], rounds: list[int] | None = None, **other: object) -> Latency:
    """A measurement of which only the samples and what is given matter."""
    fields: dict[str, object] = {
        "bundle": "b", "bundle_digest": "d", "variant": "onnx-fp32", "runtime": "onnxruntime", "runtime_version": "1",
        "precision": "fp32", "settings": {}, "batch": 1, "threads": 1, "affinity": [0], "quick": False, "warmup_runs": 10,
        "samples_ns": samples, "rounds": rounds or [len(samples)], "percentiles_ms": {}, "mean_ms": 1.0, "cv": 0.0, "drift": 0.0,
        "throughput": 1.0, "stages_ms": {}, "peak_rss_bytes": None, "golden_max_abs_diff": None,
        "golden_agreement": None, "conditions": {}, "warnings": [],
    }  # fmt: skip
    return Latency.model_validate({**fields, **other})


def naive_percentile(samples: list[float], share: float) -> float:
    """Sort, and interpolate between the two neighbors of position share * (n - 1)."""
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def test_percentiles_equal_a_naive_version() -> None:
    samples = np.random.default_rng(0).gamma(3, 1, 7000).tolist()
    got = percentiles(samples)
    for name, value in got.items():
        assert value == pytest.approx(naive_percentile(samples, float(name[1:]) / 100), rel=1e-12)


def test_a_percentile_needs_its_samples() -> None:
    assert SAMPLES_NEEDED == {"p50": 11, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6636}
    for name, needed in SAMPLES_NEEDED.items():
        assert percentiles(np.ones(needed))[name] == 1
        assert percentiles(np.ones(needed - 1))[name] is None
    assert set(percentiles([]).values()) == {None}


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=400))
def test_variation_and_drift_equal_naive_versions(samples: list[int]) -> None:
    mean = sum(samples) / len(samples)
    deviation = (sum((x - mean) ** 2 for x in samples) / len(samples)) ** 0.5
    assert coefficient_of_variation(samples) == pytest.approx(deviation / mean, abs=1e-9)
    tenth = max(1, len(samples) // 10)
    first, last = sorted(samples[:tenth]), sorted(samples[-tenth:])
    middle = [(x[(tenth - 1) // 2] + x[tenth // 2]) / 2 for x in (first, last)]
    assert drift(samples) == pytest.approx(middle[1] / middle[0] - 1, abs=1e-9)


def test_a_planted_drift_is_seen_with_its_sign_and_outliers_are_not_drift() -> None:
    steady = np.full(1000, 100.0)
    assert drift(steady * np.linspace(1, 1.2, 1000)) == pytest.approx(0.18, abs=0.01)
    assert drift(steady * np.linspace(1.2, 1, 1000)) < -0.1
    spiked = steady.copy()
    spiked[[3, 990, 995]] = 5000
    assert drift(spiked) == 0
    assert coefficient_of_variation(spiked) > 1


def test_a_speed_up_is_compared_round_by_round() -> None:
    # The machine was twice as slow in the second round; the variant is exactly twice as fast in each.
    base = latency([100] * 5 + [200] * 5, rounds=[5, 5])
    fast = latency([50] * 7 + [100] * 3, rounds=[7, 3])
    got = speedup(base, fast)
    assert got is not None
    assert (got.median, got.low, got.high) == (2, 2, 2)
    uneven = speedup(base, latency([50] * 5 + [50] * 5, rounds=[5, 5]))
    assert uneven is not None
    assert (uneven.low, uneven.median, uneven.high) == (2, 3, 4)


def test_a_speed_up_of_one_process_has_no_range() -> None:
    got = speedup(latency([100, 110, 120], rounds=[3]), latency([50, 55, 60], rounds=[3]))
    assert got is not None
    assert (got.median, got.low, got.high) == (2, None, None)
    # A second round without samples on one side leaves one pair of processes.
    got = speedup(latency([100, 110, 120], rounds=[3, 0]), latency([50, 55, 60, 60], rounds=[3, 1]))
    assert got is not None
    assert (got.median, got.low, got.high) == (2, None, None)


def test_a_speed_up_needs_the_same_rounds() -> None:
    assert speedup(latency([1, 1], rounds=[2]), latency([1, 1], rounds=[1, 1])) is None


def test_the_base_of_a_speed_up_computes_in_fp32_and_is_otherwise_alike() -> None:
    int8 = latency([1], variant="onnx-int8", precision="int8")
    fp32 = latency([1])
    others = [
        latency([1], batch=2),
        latency([1], threads=2),
        latency([1], runtime="openvino"),
        latency([1], bundle_digest="x"),
    ]
    assert fp32_of(int8, [*others, int8]) is None
    assert fp32_of(int8, [*others, int8, fp32]) is fp32
    assert fp32_of(fp32, [fp32]) is fp32
    fp16 = latency([1], precision="fp16", settings={"INFERENCE_PRECISION_HINT": "f32"})
    half = latency([1], precision="fp16", settings={"INFERENCE_PRECISION_HINT": "f16"})
    assert fp32_of(int8, [half]) is None
    assert fp32_of(int8, [half, fp16]) is fp16
    assert fp32_of(int8, [half, fp16, fp32]) is fp32


def test_each_variant_batch_and_thread_count_has_its_file() -> None:
    assert file_name(latency([1])) == "onnx-fp32-b1-t1.json"
    assert file_name(latency([1], threads=0, batch=8)) == "onnx-fp32-b8.json"


def test_results_go_beside_the_export_of_a_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    class Named:
        name = "my/../fancy name"

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "export").mkdir(parents=True)
    bundle = Bundle(tmp_path / "run" / "export", Named(), "")  # type: ignore[arg-type]
    assert str(default_output(bundle)) == "bench-my-..-fancy-name"
    (tmp_path / "run" / "recipe.yaml").write_text("")
    assert default_output(bundle) == tmp_path / "run" / "bench"
    monkeypatch.chdir(tmp_path / "run")
    assert default_output(Bundle(bundle.path.relative_to(tmp_path / "run"), Named(), "")) == tmp_path / "run" / "bench"  # type: ignore[arg-type]


def test_golden_figures_of_an_older_result_are_read_by_their_names_today() -> None:
    now = latency([1], golden_agreement=0.5, golden_figures={"embedding_cosine": 0.9, "embedding_max_abs_diff": 0.1})
    older = now.model_dump(exclude={"golden_agreement", "golden_figures", "accuracy_metric"})
    older |= {"golden_top1_agreement": 0.5, "golden_embedding_cosine": 0.9, "golden_embedding_max_abs_diff": 0.1}
    assert Latency.model_validate(older).model_dump() == now.model_dump()
    without = {**older, "golden_embedding_cosine": None, "golden_embedding_max_abs_diff": None}
    assert Latency.model_validate(without).golden_figures == {}
