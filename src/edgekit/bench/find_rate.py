"""Find the highest arrival rate that keeps a latency bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Protocol

from edgekit.bench.request import Request
from edgekit.bench.statistics import SAMPLES_NEEDED, allowed_over
from edgekit.errors import EdgekitError
from edgekit.result import RateProbe


class TimedRequests(Protocol):
    """The part of a measurement that the search needs (see `edgekit.bench.measure.Timed`)."""

    @property
    def samples_ns(self) -> list[int]: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def began_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...


RunRequest = Callable[[Request], TimedRequests]
PROBES = 10
# Below this share of the streams' capacity there is hardly any queue: if such a rate breaks the bound, a lower one does too.
_LEAST_SHARE = 1 / 20


def find_rate(
    run: RunRequest,
    request: Request,
    bound_ms: float,
    *,
    seconds: float = 2.5,
    resolution: float = 0.03,
    advance: Callable[[str], None] = lambda note: None,
) -> tuple[float, list[RateProbe]]:
    """Bisect between 0 and the capacity of the streams when they are always busy.

    A rate keeps the bound if so few of its queries are late that p99 is under the bound at confidence 0.99
    (`statistics.allowed_over`), with at least the 662 queries that allow for one late query. This is conservative, less so
    with more queries per probe. Every probe runs in a new process.

    Args:
        run: measures a request.
        request: of the server scenario; the search sets its rate.
        bound_ms: the upper bound of p99.
        seconds: minimum time of a probe's arrivals.
        resolution: the search ends when the relative gap between the rates that keep and break the bound is this small.
        advance: called with a note after every probe.

    Returns:
        The highest rate that kept the bound, in queries per second, and all probes.

    Raises:
        EdgekitError: a single query takes longer than the bound, or none of the probed rates keeps it.
    """
    request = replace(request, loadgen=None, stages=False)
    alone = run(replace(request, scenario="single-stream", streams=1, seconds=0.5, runs=SAMPLES_NEEDED["p50"]))
    alone_ms = median(alone.samples_ns) / 1e6
    no_rate = EdgekitError(
        f"{request.variant}: no rate keeps p99 under {bound_ms:g} ms: a single run already takes {alone_ms:.3g} ms (p50)",
        "give a larger bound, or use a faster variant",
    )
    if alone_ms > bound_ms:
        raise no_rate
    busy = run(replace(request, scenario="offline", seconds=1.0, runs=SAMPLES_NEEDED["p50"]))
    capacity = len(busy.samples_ns) / ((busy.ended_ns - busy.began_ns) / 1e9)
    low, high = 0.0, capacity
    probes: list[RateProbe] = []
    while len(probes) < PROBES and high - low > resolution * high and high > _LEAST_SHARE * capacity:
        rate = (low + high) / 2
        probe = _probe(run, replace(request, rate=rate), bound_ms, seconds)
        probes.append(probe)
        low, high = (rate, high) if probe.kept else (low, rate)
        advance(f"{request.variant}: {rate:.4g}/s {'keeps' if probe.kept else 'breaks'} {bound_ms:g} ms")
    if not low:
        raise no_rate
    return low, probes


def _probe(run: RunRequest, request: Request, bound_ms: float, seconds: float) -> RateProbe:
    queries = max(SAMPLES_NEEDED["p99"], math.ceil(request.rate * seconds))
    allowed = allowed_over(queries)
    bound_ns = round(bound_ms * 1e6)
    outcome = run(
        replace(request, scenario="server", seconds=0.0, runs=queries, over_ns=bound_ns, over_allowed=allowed)
    )
    over = sum(latency > bound_ns for latency in outcome.samples_ns)
    kept = over <= allowed and not outcome.interrupted
    return RateProbe(rate=request.rate, queries=len(outcome.samples_ns), over=over, allowed=allowed, kept=kept)
