"""Comparing two measurements: what pairs with what, intervals that cover what they say, and gates that noise does not fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.compare import compare
from edgekit.bench.figures import Metric, _of_latency, read
from edgekit.bench.gate import Gate
from edgekit.bundle import BundleFile, Variant
from edgekit.errors import EdgekitError
from edgekit.result import Evaluation, Latency, Result, Score
from tests.helpers.report_sample import make_bundle, make_latency, write_result

CLI = Callable[..., tuple[int, str, str]]


def latency_of(samples_ns: np.ndarray, name: str = "onnx-int8", **changes: object) -> Latency:
    """A latency of a variant of ONNX Runtime in INT8 with these samples."""
    variant = Variant(
        id=name, runtime="onnxruntime", precision="int8", executed=True, status="verified",
        files=[BundleFile(path="model.u8.onnx", bytes=1, sha256="0" * 64)],
    )  # fmt: skip
    return make_latency(variant, "0" * 64, np.rint(samples_ns).astype(int).tolist(), **changes)


def saved(path: Path, measurement: Latency | Evaluation) -> Path:
    write_result(path, measurement)
    return path


def written(
    folder: Path, name: str, factor: float = 1.0, seed: int = 0, of: str = "onnx-int8", **changes: object
) -> Path:
    """A result file whose samples are a noisy 0.4 ms times `factor`, in three rounds."""
    noise = np.random.default_rng(seed).lognormal(0, 0.05, 900)
    fields = {"accuracy": 0.95, "accuracy_samples": 360, "threads": 0, **changes}
    return saved(folder / name, latency_of(noise * factor * 4e5, of, **fields))


def test_a_change_comes_with_an_interval_that_holds_it(tmp_path: Path) -> None:
    before, after = written(tmp_path, "a.json"), written(tmp_path, "b.json", factor=1.2, seed=1)
    (pair,) = compare(before, after).pairs
    rows = {row.metric: row for row in pair.rows}
    for metric in ("p50", "p90", "p99"):
        low, high = rows[metric].interval or (0.0, 0.0)
        assert low < 0.2 < high
        assert high - low < 0.1
    low, high = rows["throughput"].interval or (0.0, 0.0)
    assert low < 1 / 1.2 - 1 < high
    assert rows["accuracy"].change == 0.0
    assert compare(before, after).pairs[0].rows == pair.rows, "the bootstrap is seeded"


def test_the_interval_covers_what_it_says() -> None:
    """Of 95 % intervals of a median, from independent samples, about 95 % hold the true one."""
    held, trials = 0, 120
    for seed in range(trials):
        generator = np.random.default_rng(seed)
        latency = latency_of(generator.exponential(1e6, 200) + 1e6, rounds=[200])
        figure = _of_latency(latency, {}, "").figures["p50"]
        assert figure.draw is not None
        low, high = np.percentile(figure.draw(seed, 200), [2.5, 97.5])
        held += low <= 1 + np.log(2) <= high
    assert 0.85 < held / trials <= 1.0


def test_noise_that_follows_time_widens_the_interval() -> None:
    """The same values, sorted into slow and fast stretches, say less: neighbors are drawn together."""
    values = np.random.default_rng(0).normal(1e6, 1e5, 900).astype(int)
    widths = []
    for ordered in (values, np.sort(values)):
        latency = latency_of(ordered, rounds=[900])
        figure = _of_latency(latency, {}, "").figures["mean"]
        assert figure.draw is not None
        widths.append(np.ptp(np.percentile(figure.draw(1, 300), [2.5, 97.5])))
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(
    ("factor", "condition", "verdict"),
    [
        (1.2, "p90 > +5%", "fail"),
        (1.0, "p90 > +5%", "pass"),
        (1.045, "p50 > +4.5%", "uncertain"),
        (0.8, "p90 > +5%", "pass"),
        (0.8, "p90 < -10%", "fail"),
        (1.0, "p99 > 20ms", "pass"),
        (1.0, "p50 > 300us", "fail"),
        (1.0, "accuracy < 90%", "pass"),
        (1.0, "accuracy < -0.5pt", "pass"),
        (1.3, "throughput < -10%", "fail"),
    ],
)
def test_a_gate_fails_where_the_whole_interval_does(
    tmp_path: Path, factor: float, condition: str, verdict: str
) -> None:
    # 1.045 times slower, within a fraction of a percent: its interval lies on both sides of 4.5 %.
    seed = 0 if verdict == "uncertain" else 1
    before, after = (
        written(tmp_path, "a.json"),
        written(tmp_path, "b.json", factor=factor + 1e-6 * (verdict == "uncertain"), seed=seed),
    )
    ((checked,),) = [pair.checked for pair in compare(before, after, [Gate.parse(condition)]).pairs]
    assert checked.verdict == verdict


def test_accuracy_of_few_images_does_not_fail_by_chance(tmp_path: Path) -> None:
    def evaluation(top1: float, samples: int, name: str) -> Path:
        score = Score(model="student", metric="top1", value=top1, samples=samples, protocol="single center view")
        return saved(tmp_path / name, Evaluation(run="r", data=f"x: test set of {samples} images", scores=[score]))

    gate = [Gate.parse("accuracy < -0.5pt")]
    few = compare(evaluation(0.93, 360, "a.json"), evaluation(0.92, 360, "b.json"), gate)
    many = compare(evaluation(0.93, 100_000, "c.json"), evaluation(0.92, 100_000, "d.json"), gate)
    assert few.pairs[0].checked[0].verdict == "uncertain"
    assert many.pairs[0].checked[0].verdict == "fail"


def test_folders_are_paired_by_variant_and_setting(tmp_path: Path) -> None:
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        written(tmp_path / side, "one.json")
        written(tmp_path / side, "four.json", batch=4)
    written(tmp_path / "old", "gone.json", of="onnx-fp32")
    found = compare(tmp_path / "old", tmp_path / "new")
    assert sorted(pair.name for pair in found.pairs) == ["onnx-int8", "onnx-int8, batch 4"]
    assert (found.missing, found.new) == (["onnx-fp32"], [])


def test_two_single_files_are_compared_whatever_they_hold_and_differences_are_said(tmp_path: Path) -> None:
    (pair,) = compare(written(tmp_path, "a.json"), written(tmp_path, "b.json", of="onnx-fp32", threads=2)).pairs
    assert pair.name == "onnx-int8 → onnx-fp32, threads 2"
    assert pair.unlike == ["threads: the runtime's choice before, 2 after"]


def test_bundles_are_compared_in_accuracy_and_size(tmp_path: Path) -> None:
    make_bundle(tmp_path / "a", [str(i) for i in range(10)])
    make_bundle(tmp_path / "b", [str(i) for i in range(10)])
    found = compare(
        tmp_path / "a", tmp_path / "b" / "bundle.json", [Gate.parse("size > +0.1%"), Gate.parse("accuracy < -0.5pt")]
    )
    assert len(found.pairs) == 6
    assert sum(len(pair.checked) for pair in found.pairs) == 11, "one variant was run on neither side"
    assert all(row.change == 0 for pair in found.pairs for row in pair.rows if row.after is not None)
    assert not found.failed


def test_the_command_gates_with_its_exit_code(tmp_path: Path, edgekit: CLI) -> None:
    before, after = written(tmp_path, "a.json"), written(tmp_path, "b.json", factor=1.3, seed=1)
    code, out, _ = edgekit("compare", before, after, "--fail-if", "p90 > +50%")
    assert code == 0
    assert "+30" in out
    code, _, errors = edgekit("compare", before, after, "--fail-if", "p90 > +5%", "--fail-if", "accuracy < -0.5pt")
    assert code == 1
    assert "1 of the conditions failed" in errors
    assert "p90 > +5%" in errors
    code, out, _ = edgekit("compare", before, after, "--json", "--fail-if", "p50 > +1%")
    content = json.loads(out)
    assert code == 1
    assert content["pairs"][0]["gates"][0]["verdict"] == "fail"
    code, out, _ = edgekit("compare", before, after, "--markdown")
    assert code == 0
    assert "| p50 |" in out


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("p90 + 5%", "not a condition"),
        ("p42 > +5%", "no measurement has the metric p42"),
        ("p90 > +5ms", "needs the unit % or pt"),
        ("p90 > 5%", "is in ms"),
        ("p90 > +1pt", "is in ms"),
        ("p90 > 5parsec", "unknown unit"),
        ("p99.9 > +5%", "900 samples, but 6636 are needed"),
        ("energy > +5%", "no sensor"),
        ("accuracy > 20MB", "a share of images"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path: Path, edgekit: CLI, condition: str, says: str) -> None:
    code, _, errors = edgekit(
        "compare", written(tmp_path, "a.json"), written(tmp_path, "b.json"), "--fail-if", condition
    )
    assert (code, errors.count("error: ")) == (2, 1)
    assert says in errors


def test_sides_with_nothing_in_common_or_nothing_at_all_are_refused(tmp_path: Path, edgekit: CLI) -> None:
    latency = written(tmp_path, "a.json")
    evaluation = saved(
        tmp_path / "e.json",
        Evaluation(
            run="r",
            data="x: test set of 9 images",
            scores=[Score(model="student", metric="top1", value=0.9, samples=9, protocol="p")],
        ),
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    for other, says in ((evaluation, "no measurement in common"), (tmp_path / "empty", "has no result"),
                        (tmp_path / "broken.json", "not a result file"), (tmp_path / "none.json", "no such result")):  # fmt: skip
        code, _, errors = edgekit("compare", latency, other)
        assert (code, errors.count("error: ")) == (2, 1)
        assert says in errors
    with pytest.raises(EdgekitError):
        read(tmp_path / "broken.json")
    assert isinstance(read(latency)[0].figures["p50"], Metric)
    assert isinstance(Result.read(latency).measurement, Latency)
