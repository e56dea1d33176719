"""`edgekit bench` on a real bundle, with real worker processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench import rounds
from edgekit.bench.choose import choose
from edgekit.bench.golden import Proof, prove
from edgekit.bench.outcome import RoundOutcome, RoundTimeline, Watch
from edgekit.bench.process import run_worker
from edgekit.bench.request import Request
from edgekit.bench.rounds import BenchPlan, bench
from edgekit.bench.statistics import percentiles
from edgekit.bundle import MANIFEST, Bundle, BundleFile
from edgekit.cli.bench import command
from edgekit.errors import BundleError, EdgekitError, RuntimeMissing
from edgekit.result import Latency, Result
from edgekit.runtimes import load
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers.patience import until
from tests.helpers.tiny_bundle import make_bundle

STAGES = [
    "import", "load", "first_run", "preprocess", "host_to_device", "compute", "device_to_host", "run", "postprocess", "end_to_end",
]  # fmt: skip
TRANSFERS = {"host_to_device", "compute", "device_to_host"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export").path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run" / "export"))


def edgekit(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest in place."""
    content = json.loads((folder / MANIFEST).read_text())
    edit(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def request(folder: Path, **other: Any) -> Request:
    fields = {"variant": "onnx-fp32", "runtime": "onnxruntime", "batch": 1, "threads": 1, "seconds": 0.05, "runs": 20}
    return Request(bundle=str(folder), **{**fields, **other})


def test_a_quick_bench_measures_every_variant_and_writes_its_results(folder: Path) -> None:
    (folder.parent / "recipe.yaml").write_text("")
    done = edgekit("bench", str(folder), "--quick", "--seconds", "0.2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    for shown in ("onnx-fp32", "openvino-fp16", "p99", "90.0%", "short: less than 10 s or 662 samples"):
        assert shown in done.stdout
    files = sorted((folder.parent / "bench").iterdir())
    assert [path.name for path in files] == ["onnx-fp32-b1-t1.json", "openvino-fp16-b1-t1.json"]
    for path in files:
        result = Result.read(path)
        latency = result.measurement
        assert isinstance(latency, Latency)
        assert latency.bundle_digest == Bundle.open(folder).digest
        assert latency.quick
        assert not latency.interrupted
        assert latency.warmup_runs >= 10
        assert sum(latency.rounds) == len(latency.samples_ns)
        assert sum(latency.samples_ns) >= 0.2e9 * 0.9
        assert min(latency.samples_ns) > 0
        milliseconds = np.array(latency.samples_ns) / 1e6
        assert latency.percentiles_ms["p50"] == pytest.approx(float(np.median(milliseconds)))
        assert latency.throughput == pytest.approx(1000 / milliseconds.mean())
        assert list(latency.stages_ms) == STAGES
        for name, value in latency.stages_ms.items():
            assert (value is None) if name in TRANSFERS else (value is not None and value > 0), name
        assert latency.golden_agreement == 1
        assert latency.golden_max_abs_diff is not None
        assert latency.golden_max_abs_diff < 0.05
        assert latency.threads == 1
        assert set(latency.affinity) <= set(os.sched_getaffinity(0))
        assert latency.settings
        assert "governor" in latency.conditions
        assert result.command[1] == "bench"


def test_the_help_of_quick_says_which_percentiles_are_missing() -> None:
    """One second is enough for every percentile of a fast model: the number of samples decides, not --quick."""
    text = {parameter.name: getattr(parameter, "help", None) for parameter in command.params}["quick"]
    assert text == "A first look: one short round. A percentile that needs more samples than that gives is n/a."
    plan, seconds_of_a_run = BenchPlan.quick(), 0.0005
    found = percentiles(np.arange(plan.seconds / seconds_of_a_run))
    assert [name for name, value in found.items() if value is None] == ["p99.9"]
    assert [name for name, value in percentiles(np.arange(plan.runs)).items() if value is not None] == ["p50"]


def test_json_and_several_batches(folder: Path, tmp_path: Path) -> None:
    done = edgekit(
        "bench", str(folder), "--quick", "--seconds", "0.1", "--threads", "1", "--batch", "1", "--batch", "3",
        "--variant", "onnx-fp32", "--json", "--output", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [row["batch"] for row in content["results"]] == [1, 3]
    assert content["results"][0]["speedup_over_fp32"] == {"median": 1.0, "low": None, "high": None}
    assert "samples_ns" not in content["results"][0]
    assert content["results"][1]["throughput"] == pytest.approx(3000 / content["results"][1]["mean_ms"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["onnx-fp32-b1-t1.json", "onnx-fp32-b3-t1.json"]


def test_results_of_a_bundle_without_a_run_go_here(folder: Path, tmp_path: Path) -> None:
    done = edgekit("bench", str(folder), "--quick", "--seconds", "0.05", "--variant", "onnx-fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench-tiny" / "onnx-fp32-b1.json").is_file()


def test_variants_take_turns_in_processes_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def record(request: Request) -> RoundOutcome:
        asked.append(request)
        return run_worker(request)

    monkeypatch.setattr(rounds, "run_worker", record)
    bundle = Bundle.open(folder)
    advanced: list[str] = []
    outcome = bench(
        bundle, choose(bundle)[0], tmp_path / "out", threads=1, plan=BenchPlan(seconds=0.06, runs=40, rounds=2),
        advance=lambda steps, note: advanced.append(note),
    )  # fmt: skip
    turns = ["onnx-fp32", "openvino-fp16"] * 2
    assert [r.variant for r in asked] == turns
    assert advanced == turns
    assert [r.runs for r in asked] == [20] * 4
    for _, latency, path in outcome.results:
        assert len(latency.rounds) == 2
        assert all(count >= 20 for count in latency.rounds)
        assert Result.read(path).measurement == latency


def test_what_is_left_out_is_listed_with_the_reason(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        first = manifest["variants"][0]
        manifest["variants"] += [
            {**first, "id": "onnx-int8", "precision": "int8", "status": "rejected", "note": "lost 7 points"},
            {**first, "id": "trt-fp16", "runtime": "tensorrt", "status": "unexecuted", "executed": False},
        ]

    change(folder, edit)
    bundle = Bundle.open(folder)
    chosen, left_out = choose(bundle)
    assert [v.id for v in chosen] == ["onnx-fp32", "openvino-fp16"]
    reasons = {variant.id: reason for variant, reason in left_out}
    assert "rejected at export: lost 7 points" in reasons["onnx-int8"]
    assert "tensorrt is not installed" in reasons["trt-fp16"] or "no NVIDIA GPU" in reasons["trt-fp16"]
    assert [v.id for v in choose(bundle, ["onnx-int8", "onnx-int8"])[0]] == ["onnx-int8"], "named, so it is measured"
    with pytest.raises(RuntimeMissing, match="tensorrt"):
        choose(bundle, ["trt-fp16"])
    with pytest.raises(BundleError, match="no variant"):
        choose(bundle, ["none"])


def test_nothing_to_measure_is_an_error(folder: Path) -> None:
    change(folder, lambda m: [v.update(status="rejected") for v in m["variants"]])
    done = edgekit("bench", str(folder), "--quick")
    assert done.returncode == 2
    ids = ", ".join(variant.id for variant in Bundle.open(folder).manifest.variants)
    assert f"no variant can be measured on this machine ({ids}: rejected at export)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_variant_that_fails_is_told_and_the_others_are_measured(folder: Path, tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        (folder / "broken.onnx").write_bytes(b"not a model")
        broken = BundleFile.of(folder, "broken.onnx").model_dump()
        manifest["variants"].insert(0, {**manifest["variants"][0], "id": "broken", "files": [broken]})

    change(folder, edit)
    done = edgekit("bench", str(folder), "--quick", "--seconds", "0.05", "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "ONNX Runtime cannot load it" in done.stdout
    assert "1 of 3 measurements failed" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2
    done = edgekit("bench", str(folder), "--quick", "--variant", "broken", "--output", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "ONNX Runtime cannot load it" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_float_variant_that_computes_something_else_is_not_measured(folder: Path) -> None:
    with np.load(folder / "golden.npz") as archive:
        np.savez(folder / "golden.npz", images=archive["images"], logits=archive["logits"] + np.float32(0.5))
    change(folder, lambda m: m.update(golden=BundleFile.of(folder, "golden.npz").model_dump()))
    with pytest.raises(BundleError, match="its outputs differ from the trained model's"):
        run_worker(request(folder))


def test_a_float_variant_that_decides_otherwise_is_refused_whatever_the_tolerance(folder: Path) -> None:
    bundle = Bundle.open(folder)
    golden = bundle.golden_outputs()
    variant = bundle.variant("onnx-fp32")
    session = load(bundle, variant, threads=1)
    classes = golden["logits"].argmax(1)
    one, other = golden["images"][0], golden["images"][np.argmax(classes != classes[0])]
    shares = np.linspace(0, 1, 2001)[:, None, None, None]
    images = np.round(one * (1 - shares) + other * shares).astype(
        np.uint8
    )  # from one class to another: somewhere they nearly tie
    logits = session.run(images)
    best = np.sort(logits, axis=1)
    nearest = int(np.argmin(best[:, -1] - best[:, -2]))
    images, logits = images[nearest : nearest + 1], logits[nearest : nearest + 1].copy()
    assert prove(session, variant, {"images": images, "logits": logits}, 1, CLASSIFICATION).agreement == 1
    first, second = np.argsort(-logits[0])[:2]
    logits[0, [first, second]] = logits[0, [second, first]]
    assert abs(logits[0, first] - logits[0, second]) < 1e-3 * max(1, np.abs(logits).max())  # within the tolerance
    with pytest.raises(BundleError, match="decides otherwise on 100% of the golden images"):
        prove(session, variant, {"images": images, "logits": logits}, 1, CLASSIFICATION)
    int8 = variant.model_copy(update={"precision": "int8"})
    assert (
        "does not hold on this machine"
        in prove(session, int8, {"images": images, "logits": logits}, 1, CLASSIFICATION).warning
    )


def test_an_int8_variant_that_agrees_less_than_where_it_was_exported_is_warned_about(folder: Path) -> None:
    bundle = Bundle.open(folder)
    golden = bundle.golden_outputs()
    int8 = bundle.variant("onnx-fp32").model_copy(update={"precision": "int8"})
    session = load(bundle, int8, threads=1)
    assert prove(session, int8, golden, 5, CLASSIFICATION).warning == ""
    proof = prove(session, int8, {**golden, "logits": np.roll(golden["logits"], 1, axis=1)}, 5, CLASSIFICATION)
    assert proof.agreement < 0.5
    assert "its recorded accuracy does not hold on this machine" in proof.warning


def test_the_workers_own_error_comes_back_as_it_was(folder: Path) -> None:
    with pytest.raises(BundleError, match="no variant onnx-fp31") as caught:
        run_worker(request(folder, variant="onnx-fp31"))
    assert "onnx-fp32" in caught.value.hint
    with pytest.raises(BundleError, match="no such bundle"):
        run_worker(request(folder / "none"))


def test_a_worker_that_dies_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EdgekitError, match=r"onnx-fp32: the measuring process died \(exit code 1\).*MemoryError|.*died"
    ) as caught:
        run_worker(request(folder, batch=2**40))
    assert "\n" not in str(caught.value)


def test_nothing_of_the_users_folder_is_imported_by_the_worker(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    assert len(run_worker(request(folder)).samples_ns) >= 20


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGINT, []),
        (signal.SIGTERM, ["--scenario", "server", "--rate", "5000"]),
        pytest.param(signal.SIGINT, ["--scenario", "offline", "--batch", "1"], marks=pytest.mark.extra),
        pytest.param(
            signal.SIGINT, ["--scenario", "multi-stream", "--batch", "1", "--query", "4"], marks=pytest.mark.extra
        ),
        # LoadGen makes all its queries beforehand: at this rate as few as fit into memory.
        pytest.param(signal.SIGINT, ["--loadgen", "--scenario", "server", "--rate", "1000"], marks=pytest.mark.extra),
    ],
)
def test_a_stopped_bench_leaves_valid_results_marked_interrupted(
    folder: Path, tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    out = tmp_path / "out"
    # A process group of its own, and one signal to the parent alone: it has to pass it on.
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", str(folder), "--seconds", "3000", "--threads", "1", "--variant", "onnx-fp32", "--output", str(out),
         *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    worker = worker_of(child)
    if "--loadgen" in options:
        until(
            lambda: "generated_query_duration" in "".join(p.read_text() for p in out.glob("*-logs/*_detail.txt")), child
        )
    # To load this model, prove it and warm up takes a fraction of a second of the processor's time.
    measuring = cpu_seconds(worker) + (0.5 if "--loadgen" in options else 2)
    until(lambda: cpu_seconds(worker) > measuring, child)
    child.send_signal(number)
    stdout, stderr = child.communicate()
    assert child.returncode == 128 + number, stderr
    assert "onnx-fp32: interrupted before it was complete" in stdout
    assert "partial results were saved and marked as interrupted" in stderr
    [path] = out.glob("*.json")
    latency = Result.read(path).measurement
    assert isinstance(latency, Latency)
    assert latency.interrupted
    assert latency.samples_ns
    assert "interrupted before it was complete" in latency.warnings
    assert not Path(f"/proc/{worker}").exists()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def cpu_seconds(pid: int) -> float:
    """The processor's time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def worker_of(child: subprocess.Popen[Any]) -> int:
    """The process that measures for a bench, once it has loaded its runtime."""
    worker = until(lambda: children(child.pid), child)[0]
    until(lambda: "onnxruntime" in maps(worker), child)
    return worker


def maps(pid: int) -> str:
    """The libraries that a process has loaded."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def outcome(samples: list[int], **other: Any) -> RoundOutcome:
    """What a worker brings back, made up, for the arithmetic of putting rounds together; `other` are parts of any of its parts."""
    conditions = {
        "governor": None, "clock_mhz": {"before": 1.0, "after": 2.0}, "temperature_c": {"before": None, "after": None},
        "load": {"before": 0.1, "after": 0.2}, "throttled": None, "other_cores_busy": 0.01,
        "gpu_clock_mhz": {"before": None, "after": None}, "throttled_by": [],
    }  # fmt: skip
    line = {
        "seconds": [0.0], "cost_seconds": 0.001, "clock_mhz": [1.0], "gpu_clock_mhz": [None], "temperature_c": [None],
        "power_w": [None], "throttled": [None],
    }  # fmt: skip
    made: dict[str, Any] = {
        "samples_ns": samples, "began_ns": 0, "ended_ns": sum(samples), "streams": 1, "device_memory_bytes": None,
        "warmup_runs": 10, "settled": True, "interrupted": False, "runtime_version": "1", "settings": {},
        "affinity": [0], "stages_ms": {"import": 5.0}, "peak_rss_bytes": 10, "conditions": conditions,
        "golden": Proof(max_abs_diff=0.0, agreement=1.0, warning=""),
    }  # fmt: skip
    for key, value in other.items():
        next(part for part in (made, conditions, line) if key in part)[key] = value
    return RoundOutcome(**made, watch=Watch(RoundTimeline(**line)))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_a_worker_does_not_outlive_the_command_that_is_killed(folder: Path, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", str(folder), "--seconds", "3000", "--threads", "1", "--variant", "onnx-fp32", "--output",
         str(tmp_path / "out")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    worker = worker_of(child)
    child.kill()
    child.wait()
    until(lambda: not maps(worker))  # a process that has ended maps nothing


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({}, None),
        ({"samples_ns": [10**7] * 1400 + [9 * 10**7] * 30}, "coefficient of variation"),
        ({"samples_ns": [10**7 + 600 * i for i in range(1400)]}, r"drifts: .* 7\.5% slower"),
        ({"samples_ns": [10**7] * 50}, "short: less than 10 s"),
        ({"settled": False}, "did not become stable"),
        ({"throttled": True}, "throttled"),
        ({"other_cores_busy": 0.7}, "other processes kept 0.7 cores busy"),
        ({"cost_seconds": 0.13}, None),
        ({"cost_seconds": 0.3}, "reading the sensors kept 2.1% of a processor busy meanwhile"),
    ],
)
def test_each_warning_is_given_when_it_is_due_and_only_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], warning: str | None
) -> None:
    made = dataclasses.replace(outcome([10**7] * 1400, **change), ended_ns=14 * 10**9)
    monkeypatch.setattr(rounds, "run_worker", lambda request: made)
    bundle = Bundle.open(folder)
    results = bench(bundle, choose(bundle, ["onnx-fp32"])[0], tmp_path, plan=BenchPlan(rounds=1)).results
    warnings = results[0][1].warnings
    if warning is None:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert re.search(warning, warnings[0])


def test_another_bench_at_the_same_time_is_a_warning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "bench_lock", lambda: nullcontext(lambda: False))
    monkeypatch.setattr(rounds, "run_worker", lambda request: outcome([10**7] * 1400))
    bundle = Bundle.open(folder)
    results = bench(bundle, choose(bundle, ["onnx-fp32"])[0], tmp_path, plan=BenchPlan(rounds=1)).results
    assert results[0][1].warnings == ["another `edgekit bench` ran on this machine at the same time"]


def test_rounds_are_put_together_without_losing_a_sample(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(
        [
            outcome([3, 1], peak_rss_bytes=7, stages_ms={"import": 1.0, "load": 4.0}),
            outcome([2], peak_rss_bytes=9, stages_ms={"import": 2.0, "load": 6.0}),
            outcome([5, 4], peak_rss_bytes=8, stages_ms={"import": 9.0, "load": 5.0}),
        ]
    )
    monkeypatch.setattr(rounds, "run_worker", lambda request: next(made))
    bundle = Bundle.open(folder)
    latency = bench(bundle, choose(bundle, ["onnx-fp32"])[0], tmp_path).results[0][1]
    assert latency.samples_ns == [3, 1, 2, 5, 4]
    assert latency.rounds == [2, 1, 2]
    assert latency.warmup_runs == 30
    assert latency.peak_rss_bytes == 9
    assert latency.stages_ms["import"] == 2.0
    assert latency.stages_ms["load"] == 5.0
    assert latency.stages_ms["preprocess"] is None
