"""The scenarios besides single-stream, as MLPerf Inference defines them (Reddi et al. 2020, arXiv:1911.02549, section III-C).

| scenario | a query | the next query comes | metric |
|---|---|---|---|
| single-stream | one batch | when the last is answered | percentiles of the latency |
| multi-stream | N images | when the last is answered | p99 of the latency of a query |
| offline | one batch | at once: every stream is always busy | images per second |
| server | one batch | at random (Poisson process), whether or not the last is answered | p99 at a rate; the highest rate |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.measure import Timed, measure, warm_up
from edgekit.bench.prctl import sharp_timers
from edgekit.runtimes.streams import Streams

Stop = Callable[[], bool]
Clock = Callable[[], int]
# Longest sleep while waiting for an arrival, so that an interruption is noticed.
_NAP_SECONDS = 0.2


def multi_stream(
    streams: Streams, parts: Sequence[NDArray[np.uint8]], seconds: float, runs: int, stop: Stop = lambda: False
) -> Timed:
    """Time queries of several batches that start together; a query ends when its last batch does.

    Args:
        streams: run the batches.
        parts: the batches of a query.
        seconds: minimum measuring time.
        runs: minimum number of queries.
        stop: called between two queries.
    """

    def query() -> None:
        for part in parts:
            streams.submit(part, _forget)
        streams.wait()

    return measure(query, seconds, runs, stop=stop)


def offline(
    streams: Streams,
    batch: NDArray[np.uint8],
    seconds: float,
    runs: int,
    stop: Stop = lambda: False,
    clock: Clock = time.perf_counter_ns,
) -> Timed:
    """Keep every stream busy; a sample is the time from when a stream takes a batch to the end of the batch.

    Args:
        streams: run the batches.
        batch: the images of each batch.
        seconds: minimum measuring time.
        runs: minimum number of batches.
        stop: called between two batches.
        clock: monotonic time in nanoseconds.
    """
    warmup_runs, settled = warm_up(lambda: _fill(streams, batch), stop=stop, clock=clock)
    taken: list[int] = []
    finished: dict[int, int] = {}
    began = clock()
    end = began + int(seconds * 1e9)
    interrupted = False

    def finish(i: int, _: object) -> None:
        finished[i] = clock()

    while (clock() < end or len(taken) < runs) and not (interrupted := stop()):
        streams.ready()
        taken.append(clock())
        streams.submit(batch, partial(finish, len(taken) - 1))
    streams.wait()
    ended = max(finished.values(), default=began)
    samples = [finished[i] - start for i, start in enumerate(taken)]
    return Timed(samples, warmup_runs * streams.count, settled, interrupted, began, ended)


def server(
    streams: Streams,
    batch: NDArray[np.uint8],
    rate: float,
    seconds: float,
    runs: int,
    seed: int,
    stop: Stop = lambda: False,
    give_up: Callable[[int], bool] | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> Timed:
    """Time queries that arrive as a Poisson process, from their scheduled arrival to their answer. This includes queueing, and
    every delay that the measurement itself causes.

    Args:
        streams: answer the queries, in the order of arrival.
        batch: the images of each query.
        rate: mean arrivals per second.
        seconds: minimum time of the arrivals.
        runs: minimum number of queries.
        seed: seed of the arrival times.
        stop: called between two arrivals.
        give_up: called with every latency; the measurement ends when it returns True.
        clock: monotonic time in nanoseconds.
        sleep: called with seconds.
    """
    warmup_runs, settled = warm_up(lambda: _fill(streams, batch), stop=stop, clock=clock)
    sharp_timers()
    expected = rate * seconds
    arrivals = arrival_times(rate, max(runs, int(expected + 6 * expected**0.5) + 2), seed)
    arrivals = arrivals[: max(runs, int(np.searchsorted(arrivals, seconds * 1e9)) + 1 if seconds else 0)]
    finished: dict[int, int] = {}
    hopeless = interrupted = False
    began = clock()
    issued = 0

    def answered(i: int, due: int, _: object) -> None:
        nonlocal hopeless
        finished[i] = clock()
        if give_up is not None and give_up(finished[i] - due):
            hopeless = True

    for i, offset in enumerate(arrivals):
        due = began + int(offset)
        while not (interrupted := stop()) and not hopeless and (ahead := (due - clock()) / 1e9) > 0:
            sleep(min(ahead, _NAP_SECONDS))
        if interrupted or hopeless:
            break
        streams.submit(batch, partial(answered, i, due))
        issued += 1
    streams.wait()
    samples = [finished[i] - began - int(arrivals[i]) for i in range(issued)]
    ended = max(finished.values(), default=began)
    return Timed(samples, warmup_runs * streams.count, settled, interrupted or hopeless, began, ended)


def arrival_times(rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """Return the arrival times of a Poisson process, in nanoseconds from its beginning: gaps are exponential with mean 1 / rate.

    Args:
        rate: arrivals per second.
        count: number of arrivals.
        seed: the same seed gives the same times, in proportion to 1 / rate.
    """
    gaps: NDArray[np.float64] = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.cumsum(gaps)


def _fill(streams: Streams, batch: NDArray[np.uint8]) -> None:
    """Run one batch on every stream."""
    for _ in range(streams.count):
        streams.submit(batch, _forget)
    streams.wait()


def _forget(_: object) -> None:
    """Ignore the outputs."""
