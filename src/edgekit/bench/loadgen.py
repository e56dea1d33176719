"""Run a session under MLCommons LoadGen, the load generator of MLPerf Inference (github.com/mlcommons/inference, loadgen)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.measure import Timed, warm_up
from edgekit.bench.prctl import sharp_timers
from edgekit.bench.request import Request
from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes.streams import Streams

SUMMARY = "mlperf_log_summary.txt"
_SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
_MARGIN = 1.1  # an offline run gets this many times the samples that fill its time


def check_installed() -> None:
    """Check that LoadGen can be used.

    Raises:
        RuntimeMissing: LoadGen is not installed.
    """
    if util.find_spec("mlperf_loadgen") is None:
        raise RuntimeMissing("MLCommons LoadGen is not installed", "install edgekit's wheel with the extra [loadgen]")


def run(
    request: Request, streams: Streams, images: NDArray[np.uint8], stop: Callable[[], bool]
) -> tuple[Timed, dict[str, Any]]:
    """Let LoadGen send its queries to a model, in performance mode; its logs go into `request.loadgen`.

    A LoadGen sample is one image. A server or single-stream query has one sample, a multi-stream query `request.query` of
    them, and the single offline query, which has all samples, is cut into batches.

    Args:
        request: scenario, time, runs, rate and bound.
        streams: run the batches.
        images: uint8 (n, H, W, 3), the sample library.
        stop: polled while LoadGen runs. LoadGen itself cannot be stopped, so the result is what it has done by then.

    Returns:
        The times measured around the session (of a query, from when LoadGen issued it; offline, of a batch, from when a stream
        took it), and LoadGen's version, scenario and summary.
    """
    import mlperf_loadgen as lg

    warmup_runs, stable = warm_up(lambda: _run_once(streams, images[: request.batch]), stop=stop)
    rate = _batches_per_second(streams, images[: request.batch])
    sut = _Sut(lg, streams, images, request)
    folder = Path(request.loadgen or ".")
    folder.mkdir(parents=True, exist_ok=True)
    sharp_timers()
    settings, logs = _settings(lg, request, rate), _log_settings(lg, folder)
    test = lg.ConstructSUT(sut.issue, sut.flush)
    library = lg.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
    began = time.perf_counter_ns()
    # LoadGen blocks its thread until it is done; this thread, which gets the signals, waits.
    thread = threading.Thread(target=lg.StartTestWithLogSettings, args=(test, library, settings, logs, ""), daemon=True)
    thread.start()
    while thread.is_alive() and not stop():
        thread.join(0.1)
    interrupted = thread.is_alive()
    if not interrupted:
        lg.DestroyQSL(library)
        lg.DestroySUT(test)
    timed = Timed(sut.samples, warmup_runs, stable, interrupted, began, sut.ended or began)
    summary = {} if interrupted else read_summary(folder / SUMMARY)
    return timed, {
        "version": metadata.version("mlcommons-loadgen"),
        "scenario": _SCENARIOS[request.scenario],
        "summary": summary,
        "logs": folder.name,
    }


class _Sut:
    """The system under test: receives queries (lists of samples) and completes each sample."""

    def __init__(self, lg: Any, streams: Streams, images: NDArray[np.uint8], request: Request) -> None:
        self._lg, self._streams, self._images, self._batch = lg, streams, images, request.batch
        self._offline = request.scenario == "offline"
        self._latencies: dict[int, int] = {}
        self._issued = 0
        self.ended = 0

    @property
    def samples(self) -> list[int]:
        """The latencies in nanoseconds: of every query, in the order of issue; offline, of every batch."""
        known = list(self._latencies.items())  # copied at once: after an interruption LoadGen's threads go on
        return [latency for _, latency in sorted(known)]

    def issue(self, query: list[Any]) -> None:
        """Run a query's samples, in batches, on the streams."""
        began = time.perf_counter_ns()
        for start in range(0, len(query), self._batch):
            if self._offline:
                self._streams.ready()
                began = time.perf_counter_ns()
            part = query[start : start + self._batch]
            indices = [sample.index for sample in part]
            indices += indices[:1] * (self._batch - len(part))  # padded: the graph may have a fixed batch size
            self._streams.submit(self._images[indices], partial(self._complete, part, self._issued, began))
            self._issued += self._offline
        if len(query) > self._batch:
            self._streams.wait()
        self._issued += not self._offline

    def _complete(self, part: list[Any], number: int, began: int, output: NDArray[np.float32]) -> None:
        self.ended = time.perf_counter_ns()
        self._latencies[number] = self.ended - began  # for a query of several batches, the last one counts
        self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(s.id, 0, 0) for s in part])

    def flush(self) -> None:
        """Wait for the answers; LoadGen calls it when all queries are issued."""
        self._streams.wait()


def _settings(lg: Any, request: Request, batches_per_second: float) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, _SCENARIOS[request.scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(request.seconds * 1000)
    settings.min_query_count = request.runs
    # LoadGen creates its queries from this before it begins; if they are too few, it creates more.
    settings.single_stream_expected_latency_ns = round(1e9 / batches_per_second)
    if request.scenario == "multi-stream":
        settings.multi_stream_samples_per_query = request.query
        settings.multi_stream_expected_latency_ns = round(1e9 / batches_per_second * request.query / request.batch)
    if request.scenario == "offline":
        settings.offline_expected_qps = batches_per_second * request.batch * _MARGIN
        settings.min_query_count = 1
    if request.scenario == "server":
        settings.server_target_qps = request.rate
        settings.server_target_latency_percentile = 0.99
        # Without a bound, LoadGen's verdict (VALID) uses one that is always kept.
        settings.server_target_latency_ns = round((request.bound_ms or 1e6) * 1e6)
        settings.schedule_rng_seed = request.seed
    return settings


def _log_settings(lg: Any, folder: Path) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def read_summary(path: Path) -> dict[str, str]:
    """Read LoadGen's summary: its lines of `name : value`, unchanged.

    Raises:
        BundleError: LoadGen wrote none.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise BundleError(
            f"{path}: LoadGen wrote no summary: {error.strerror}", "see its other logs in that folder"
        ) from error
    pairs = (line.partition(" : ") for line in lines if " : " in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def percentile_ms(summary: dict[str, str], percentile: float) -> float | None:
    """Return a latency percentile from LoadGen's summary, in milliseconds; None if it has none (offline)."""
    value = summary.get(f"{percentile:.2f} percentile latency (ns)")
    return int(value) / 1e6 if value else None


def _run_once(streams: Streams, batch: NDArray[np.uint8]) -> None:
    streams.submit(batch, lambda _: None)
    streams.wait()


def _batches_per_second(streams: Streams, batch: NDArray[np.uint8]) -> float:
    """Measure the batches per second with every stream busy; LoadGen needs this before it begins."""
    count = 8 * streams.count
    began = time.perf_counter()
    for _ in range(count):
        streams.submit(batch, lambda _: None)
    streams.wait()
    return count / (time.perf_counter() - began)
