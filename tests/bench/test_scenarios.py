"""The scenarios with a clock that the test turns, so that every latency can be told beforehand; and their commands with real
workers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench import scenarios
from edgekit.bench.device_memory import held_by
from edgekit.bench.find_rate import find_rate
from edgekit.bench.measure import Timed
from edgekit.bench.request import Request
from edgekit.bench.scenarios import arrival_times
from edgekit.bench.statistics import SAMPLES_NEEDED, allowed_over
from edgekit.bench.workload import SCENARIOS, Workload, batch_sizes, check_parallel
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError
from edgekit.result import Latency, Profile, Result
from tests.helpers.tiny_bundle import make_bundle, write_onnx

MS = 1_000_000
Command = Callable[..., tuple[int, str, str]]


class Device:
    """Streams of one on a clock of their own: every batch takes what is planned, in nanoseconds, and the last plan for ever."""

    count = 1

    def __init__(self, *service: int) -> None:
        self.now = self.submitted = 0
        self.settings: dict[str, str] = {}
        self.service: Iterator[int] = chain(service, repeat(service[-1]))

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(1, int(seconds * 1e9))

    def ready(self) -> None: ...

    def submit(self, images: Any, done: Callable[[Any], object]) -> None:
        self.now += next(self.service)
        self.submitted += 1
        done(None)

    def wait(self) -> None: ...

    def close(self) -> None: ...


def serve(device: Device, rate: float, queries: int, **other: Any) -> Any:
    return scenarios.server(
        device, np.zeros(1, np.uint8), rate, 0.0, queries, 7, clock=device.clock, sleep=device.sleep, **other
    )


def queued(arrivals: np.ndarray, service: list[int]) -> list[int]:
    """Lindley's recursion: a query starts when it has arrived and the one before it is answered."""
    free, latencies = 0, []
    for arrival, work in zip(arrivals.astype(int), service, strict=True):
        free = max(free, arrival) + work
        latencies.append(free - arrival)
    return latencies


def test_a_servers_latencies_are_those_of_its_queue() -> None:
    device = Device(5 * MS)
    timed = serve(device, 160, 2000)  # 80 % busy
    expected = queued(arrival_times(160, 2000, 7), [5 * MS] * 2000)
    np.testing.assert_allclose(timed.samples_ns, expected, atol=5)  # a sleep ends a nanosecond late
    # The mean of an M/D/1 queue (Pollaczek and Khinchine): s + rho s / (2 (1 - rho)) = 15 ms; 2000 queries come near it.
    assert np.mean(timed.samples_ns) == pytest.approx(15 * MS, rel=0.25)
    assert timed.ended_ns - timed.began_ns == pytest.approx(2000 / 160 * 1e9, rel=0.1)


def test_arrivals_go_on_for_the_time_that_was_asked_for() -> None:
    for seed in range(20):
        device = Device(1 * MS)
        timed = scenarios.server(
            device, np.zeros(1, np.uint8), 100, 10.0, 5, seed, clock=device.clock, sleep=device.sleep
        )  # fmt: skip
        assert 10e9 <= timed.ended_ns - timed.began_ns < 10.2e9
        assert len(timed.samples_ns) == pytest.approx(1000, abs=150)


def test_a_stall_counts_for_every_query_that_waits_through_it() -> None:
    # A measuring that waits for each answer before it asks again would see one slow query of 1000.
    warm = Device(1 * MS)
    serve(warm, 100, 1)
    service = [1 * MS] * (warm.submitted + 300)
    service[-1] = 1000 * MS  # the 300th query or so stalls for a second, in which 100 more arrive
    device = Device(*service, 1 * MS)
    timed = serve(device, 100, 1000)
    late = [latency for latency in timed.samples_ns if latency > 50 * MS]
    assert 80 <= len(late) <= 130
    assert max(late) == pytest.approx(1001 * MS, rel=0.02)


def test_arrivals_are_a_poisson_process_that_its_seed_decides() -> None:
    times = arrival_times(50, 20_000, 3)
    gaps = np.diff(times, prepend=0) / 1e9
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03), "exponential: as wide as its mean"
    assert (gaps < 1 / 50).mean() == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert np.array_equal(times, arrival_times(50, 20_000, 3))
    np.testing.assert_allclose(arrival_times(100, 20_000, 3), times / 2)
    assert not np.array_equal(times, arrival_times(50, 20_000, 4))


def test_offline_keeps_the_device_busy_and_every_sample() -> None:
    device = Device(*[2 * MS] * 500, 90 * MS, 2 * MS)
    timed = scenarios.offline(device, np.zeros(1, np.uint8), 2.0, 10, clock=device.clock)
    assert sum(timed.samples_ns) == timed.ended_ns - timed.began_ns, "no gap between two batches"
    assert sorted(timed.samples_ns)[-2:] == [2 * MS, 90 * MS]
    assert timed.ended_ns - timed.began_ns >= 2e9


def test_a_query_of_several_batches_is_timed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(3 * MS)
    monkeypatch.setattr(scenarios, "measure", lambda call, *a, **k: [call(), device.now])
    assert scenarios.multi_stream(device, [np.zeros(1, np.uint8)] * 4, 1, 1) == [None, 12 * MS]


@pytest.mark.parametrize("after", [0, 40, 700])
def test_stopping_any_scenario_keeps_what_was_measured(after: int) -> None:
    for scenario in ("offline", "server"):
        device = Device(MS)
        stop = lambda device=device: device.submitted >= after  # noqa: E731
        if scenario == "offline":
            timed = scenarios.offline(device, np.zeros(1, np.uint8), 5.0, 10, stop, device.clock)
        else:
            timed = serve(device, 500, 3000, stop=stop)
        assert timed.interrupted
        assert timed.warmup_runs + len(timed.samples_ns) == device.submitted == after


def test_the_sample_size_rule_is_the_binomials() -> None:
    for name, needed in SAMPLES_NEEDED.items():
        p = float(name[1:]) / 100
        assert (allowed_over(needed - 1, p), allowed_over(needed, p)) == (0, 1)
    for n in (458, 459, 700, 1500, 3000):
        chance, t = 0.0, -1
        while (chance := chance + comb(n, t + 1) * 0.01 ** (t + 1) * 0.99 ** (n - t - 1)) <= 0.01:
            t += 1
        assert allowed_over(n) == t
    assert allowed_over(1_000_000) == pytest.approx(10_000 - 2.326 * 99.5, rel=0.005)  # the normal approximation


def plan(**other: Any) -> Request:
    fields = {
        "bundle": "b",
        "variant": "v",
        "runtime": "onnxruntime",
        "batch": 1,
        "threads": 1,
        "seconds": 1.0,
        "runs": 11,
    }
    return Request(**{**fields, "scenario": "server", **other})


def ask_a_device(service: int, asked: list[Request]) -> Callable[[Request], Timed]:
    """What workers would bring from a device whose every batch takes `service` nanoseconds."""

    def ask(request: Request) -> Timed:
        asked.append(request)
        device = Device(service)
        if request.scenario != "server":
            timed = scenarios.offline(device, np.zeros(1, np.uint8), 0.2, request.runs, clock=device.clock)
        else:
            over = iter(range(10**9))
            give_up = lambda latency: latency > request.over_ns and next(over) >= request.over_allowed  # noqa: E731
            timed = serve(device, request.rate, request.runs, give_up=give_up)
        return timed

    return ask


def test_the_rate_that_is_found_keeps_the_bound_and_a_little_more_does_not() -> None:
    asked: list[Request] = []
    ask = ask_a_device(4 * MS, asked)
    rate, probes = find_rate(ask, plan(), 20.0)
    assert 0 < rate < 250
    verdicts = {probe.rate: probe.kept for probe in probes}
    broken = min(r for r, kept in verdicts.items() if not kept)
    assert max(r for r, kept in verdicts.items() if kept) == rate < broken <= rate / 0.97 + 1e-9
    for probe in probes:
        queries = next(r.runs for r in asked if r.rate == probe.rate)
        assert queries >= 662
        assert probe.allowed == allowed_over(queries)
        if not probe.kept:
            assert probe.over > probe.allowed
            assert probe.queries <= queries
    # A long run at the rate keeps the bound, one well above it does not; more queries a probe come nearer to the edge.
    assert np.percentile(serve(Device(4 * MS), rate, 20_000).samples_ns, 99) < 20 * MS
    nearer, _ = find_rate(ask, plan(), 20.0, seconds=60)
    assert np.percentile(serve(Device(4 * MS), nearer, 20_000).samples_ns, 99) < 20.5 * MS
    assert np.percentile(serve(Device(4 * MS), nearer * 1.1, 20_000).samples_ns, 99) > 20 * MS
    assert rate <= nearer < find_rate(ask, plan(), 60.0)[0]


def test_a_bound_below_a_single_run_is_refused() -> None:
    with pytest.raises(EdgekitError, match=r"no rate keeps p99 under 3 ms: a single run already takes 4 ms"):
        find_rate(ask_a_device(4 * MS, []), plan(), 3.0)


def test_more_threads_than_any_use_could_be_made_of_are_refused() -> None:
    processors = os.cpu_count() or 1
    check_parallel(8 * processors, Workload("offline", streams=32 * processors))
    with pytest.raises(
        EdgekitError, match=rf"--threads 9999 is too many: this machine has {processors} processors .give at most"
    ):
        check_parallel(9999, Workload())
    with pytest.raises(EdgekitError, match=r"--streams 5000 is too many: .* to let the runtime decide"):
        check_parallel(0, Workload("offline", streams=5000))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scenario": "sever"}, "unknown scenario sever .did you mean server"),
        ({"scenario": "server"}, "exactly one of --rate or --find-rate"),
        ({"scenario": "server", "rate": 5.0, "bound_ms": 3.0}, "exactly one of --rate or --find-rate"),
        ({"scenario": "server", "rate": 0.0}, "a rate of 0 is not possible"),
        ({"scenario": "server", "rate": float("nan")}, "a rate of nan"),
        ({"scenario": "server", "bound_ms": -2.0}, "a bound of -2"),
        ({"rate": 3.0}, "are not for the scenario single-stream"),
        ({"streams": 2}, "single-stream runs one batch at a time, not 2"),
        ({"provider": "cudda"}, "unknown provider cudda .did you mean cuda"),
        ({"cpus": (0, 4095)}, r"this process may not use processor 4095 \(choose from"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        Workload(**fields)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export")


def test_batch_sizes_follow_the_scenario_and_the_graph(bundle: Bundle) -> None:
    multi = Workload("multi-stream", streams=2, query=8)
    assert batch_sizes(bundle, Workload(), ()) == (1,)
    assert batch_sizes(bundle, Workload("offline", streams=0), ()) == (1, 2, 4, 8, 16, 32)
    assert batch_sizes(bundle, multi, ()) == (4,)
    assert batch_sizes(bundle, Workload(), (8, 1, 8)) == (8, 1)
    with pytest.raises(EdgekitError, match=r"--query 8 is not a multiple of the batch size \(3\)"):
        batch_sizes(bundle, multi, (3,))
    with pytest.raises(EdgekitError, match="single images, not batches of 4"):
        batch_sizes(bundle, Workload(loadgen=True), (4,))
    manifest = bundle.manifest.model_copy(deep=True)
    manifest.input.shape[0] = 4
    fixed = Bundle(bundle.path, manifest, bundle.digest)
    assert batch_sizes(fixed, Workload(), ()) == (4,)
    with pytest.raises(BundleError, match=r"only take batches of 4, not 1 .use --batch 4"):
        batch_sizes(fixed, Workload(), (1,))


def measured(folder: Path) -> list[Latency]:
    found = [Result.read(path).measurement for path in sorted(folder.glob("*.json"))]
    assert all(isinstance(latency, Latency) for latency in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (
            ["multi-stream", "--query", "6"],
            "onnx-fp32-b6-t1-multi-stream-s1-q6",
            {"query": None, "streams": 1, "batch": 6},
        ),
        (["offline", "--batch", "4", "--streams", "2"], "onnx-fp32-b4-t1-offline-s2", {"streams": 2, "batch": 4}),
    ],
)
def test_queries_and_streams_are_measured_by_a_real_worker(
    bundle: Bundle, tmp_path: Path, edgekit: Command, options: list[str], name: str, expected: dict[str, Any]
) -> None:
    code, out, err = edgekit(
        "bench", bundle.path, "--quick", "--seconds", "0.3", "--threads", "1", "--variant", "onnx-fp32", "--output", tmp_path,
        "--cpus", min(os.sched_getaffinity(0)), "--scenario", *options,
    )  # fmt: skip
    assert code == 0, err
    assert "streams" in out
    [latency] = measured(tmp_path)
    assert latency.scenario == options[0]
    for key, value in expected.items():
        assert getattr(latency, key) == value, key
    assert (tmp_path / f"{name.removesuffix('-q6')}.json").is_file()
    assert latency.affinity == [min(os.sched_getaffinity(0))]
    assert len(latency.samples_ns) >= 11
    assert latency.throughput > 0
    assert latency.stages_ms["end_to_end"] is not None
    assert latency.quick


def test_a_rate_is_found_by_real_workers(bundle: Bundle, tmp_path: Path, edgekit: Command) -> None:
    code, out, err = edgekit(
        "bench", bundle.path, "--quick", "--seconds", "0.2", "--threads", "1", "--variant", "onnx-fp32", "--output", tmp_path,
        "--scenario", "server", "--find-rate", "2000", "--json",
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(out)["results"][0]
    assert row["bound_ms"] == 2000
    assert row["probes"]
    assert row["rate"] == max(p["rate"] for p in row["probes"] if p["kept"])
    [latency] = measured(tmp_path)
    assert latency.scenario == "server"
    assert latency.rate == row["rate"]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx-fp32-b1-t1-server-s1-p99-2000ms.json"]


def test_a_profile_tells_where_the_time_goes(bundle: Bundle, tmp_path: Path, edgekit: Command) -> None:
    code, out, err = edgekit("bench", bundle.path, "--profile", "--quick", "--threads", "1", "--output", tmp_path)
    assert code == 0, err
    assert [line.split(" (")[0] for line in out.splitlines() if "layers, a run" in line] == [
        "onnx-fp32",
        "openvino-fp16",
    ]
    for path in (tmp_path / "onnx-fp32-b1-t1-profile.json", tmp_path / "openvino-fp16-b1-t1-profile.json"):
        profile = Result.read(path).measurement
        assert isinstance(profile, Profile)
        assert sum(layer.share for layer in profile.layers) == pytest.approx(1)
        assert profile.layers_ms == pytest.approx(sum(layer.ms for layer in profile.layers))
        assert profile.by_operator()[0].operator in {layer.operator for layer in profile.layers}
        assert sum(row.ms for row in profile.by_operator()) == pytest.approx(profile.layers_ms)
        assert profile.run_ms > 0
    code, _, err = edgekit("bench", bundle.path, "--profile", "--scenario", "offline")
    assert code == 2
    assert "--profile cannot be combined with --scenario" in err


def test_a_graph_that_fixes_its_batch_is_not_given_another(bundle: Bundle, tmp_path: Path, edgekit: Command) -> None:
    # A manifest that promises a free batch and a graph that does not have one.
    import shutil

    from edgekit.bundle import BundleFile, write_manifest

    folder = Path(shutil.copytree(bundle.path, tmp_path / "export"))
    write_onnx(folder / "model.onnx", batch=4)
    manifest = bundle.manifest.model_copy(deep=True)
    manifest.variants = manifest.variants[:1]
    manifest.variants[0].files = [BundleFile.of(folder, "model.onnx")]
    write_manifest(folder, manifest)
    code, _, err = edgekit("bench", folder, "--quick", "--output", tmp_path / "out")
    assert code == 2
    assert "its graph only takes batches of 4, not 1" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenario", "server", "--rate", "-1"], "--rate: -1.0 is not a number above 0"),
        (["--cpus", "4095"], "may not use processor 4095"),
        (["--cpus", "0,x"], "'x' is not a processor number"),
        (["--provider", "gpu", "--variant", "onnx-fp32"], "onnxruntime has no provider gpu"),
        (["--provider", "npu"], "OpenVINO does not find the device NPU on this machine"),
        (["--scenario", "burst"], "'burst' is not one of"),
        (["--provider", "tpu"], "'tpu' is not one of"),
    ],
)
def test_bad_options_are_one_line(
    bundle: Bundle, tmp_path: Path, edgekit: Command, options: list[str], message: str
) -> None:
    code, _, err = edgekit("bench", bundle.path, "--quick", "--output", tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_memory_of_a_gpu_is_read_from_what_nvidia_smi_lists() -> None:
    listed = "1234, 512\n99, 3000\n1234, 100\n77, [N/A]\n"
    assert held_by(1234, listed) == 612 << 20
    assert held_by(77, listed) is None
    assert held_by(5, listed) is None
    assert held_by(5, "") is None


def test_scenarios_are_those_of_the_command() -> None:
    from edgekit.cli.bench import command
    from edgekit.targets import runtimes

    choices = {p.name: tuple(p.type.choices) for p in command.params if hasattr(p.type, "choices")}
    assert choices["scenario"] == SCENARIOS
    assert set(choices["provider"]) == {name for runtime in runtimes().values() for name in runtime.providers}


def test_loadgen_runs_the_same_session_and_leaves_its_logs(
    bundle: Bundle, tmp_path: Path, edgekit: Command, require_module: Callable[[str, str], None]
) -> None:
    require_module("mlperf_loadgen", "runs a session under MLCommons LoadGen")
    for options in (["single-stream"], ["multi-stream", "--batch", "2", "--query", "6"], ["offline", "--batch", "4"]):
        code, out, err = edgekit(
            "bench", bundle.path, "--quick", "--seconds", "0.2", "--threads", "1", "--variant", "onnx-fp32", "--loadgen",
            "--output", tmp_path, "--scenario", *options,
        )  # fmt: skip
        assert code == 0, err
        assert "LoadGen:" in out
        [path] = tmp_path.glob("*.json")
        latency = Result.read(path).measurement
        assert isinstance(latency, Latency)
        assert latency.loadgen is not None
        summary = latency.loadgen["summary"]
        assert summary["Scenario"].lower() == options[0].replace("-", "")
        logs = tmp_path / latency.loadgen["logs"]
        assert (logs / "mlperf_log_detail.txt").stat().st_size > 0
        if options[0] != "offline":
            # Both clocks frame the same queries, LoadGen's with its own overhead around them.
            theirs = int(summary["50.00 percentile latency (ns)"])
            assert theirs >= latency.percentiles_ms["p50"] * 1e6 * 0.9  # type: ignore[operator]
            assert f"{len(latency.samples_ns)}" in (logs / "mlperf_log_detail.txt").read_text()
        path.unlink()


def test_loadgen_that_is_not_installed_names_the_extra(
    bundle: Bundle, edgekit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.bench import loadgen

    monkeypatch.setattr(loadgen.util, "find_spec", lambda name: None)
    code, _, err = edgekit("bench", bundle.path, "--loadgen")
    assert code == 2
    assert "LoadGen is not installed" in err
    assert "[loadgen]" in err
