"""The highest rate of arrivals at which a latency bound is kept."""

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
    """Of what a request measured, what the search needs (see `edgekit.bench.measure.Timed`)."""

    @property
    def samples_ns(self) -> list[int]: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def began_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...


Ask = Callable[[Request], TimedRequests]
PROBES = 10
# A rate below this share of what the streams can serve hardly queues: where it breaks the bound, a lower one would too.
_LEAST_SHARE = 1 / 20


def find_rate(
    ask: Ask,
    request: Request,
    bound_ms: float,
    *,
    seconds: float = 2.5,
    resolution: float = 0.03,
    advance: Callable[[str], None] = lambda note: None,
) -> tuple[float, list[RateProbe]]:
    """Bisect between nothing and what the streams serve when they are always busy.

    A rate keeps the bound when so few of its queries are late that p99 is under the bound at confidence 0.99
    (`statistics.allowed_over`), with at least the 662 queries that allow for one late one. That errs on the safe side, the less
    the more queries a probe has. Every probe is a fresh process.

    Args:
        ask: measures what a request says.
        request: of the server scenario; its rate is what is looked for.
        bound_ms: the latency that p99 is to keep.
        seconds: least time of a probe's arrivals.
        resolution: the search ends where the rates that keep and do not keep the bound are that near, as a share.
        advance: told after every probe what it found.

    Returns:
        The highest rate, in queries a second, that was found to keep the bound, and all probes.

    Raises:
        EdgekitError: a single query alone takes longer than the bound, or no rate that was tried keeps it.
    """
    request = replace(request, loadgen=None, stages=False)
    alone = ask(replace(request, scenario="single-stream", streams=1, seconds=0.5, runs=SAMPLES_NEEDED["p50"]))
    alone_ms = median(alone.samples_ns) / 1e6
    none = EdgekitError(
        f"{request.variant}: no rate keeps p99 under {bound_ms:g} ms: even a run alone takes {alone_ms:.3g} ms (p50)",
        "give a longer bound, or a faster variant",
    )
    if alone_ms > bound_ms:
        raise none
    busy = ask(replace(request, scenario="offline", seconds=1.0, runs=SAMPLES_NEEDED["p50"]))
    capacity = len(busy.samples_ns) / ((busy.ended_ns - busy.began_ns) / 1e9)
    low, high = 0.0, capacity
    probes: list[RateProbe] = []
    while len(probes) < PROBES and high - low > resolution * high and high > _LEAST_SHARE * capacity:
        rate = (low + high) / 2
        probe = _probe(ask, replace(request, rate=rate), bound_ms, seconds)
        probes.append(probe)
        low, high = (rate, high) if probe.kept else (low, rate)
        advance(f"{request.variant}: {rate:.4g}/s {'keeps' if probe.kept else 'breaks'} {bound_ms:g} ms")
    if not low:
        raise none
    return low, probes


def _probe(ask: Ask, request: Request, bound_ms: float, seconds: float) -> RateProbe:
    queries = max(SAMPLES_NEEDED["p99"], math.ceil(request.rate * seconds))
    allowed = allowed_over(queries)
    bound_ns = round(bound_ms * 1e6)
    outcome = ask(
        replace(request, scenario="server", seconds=0.0, runs=queries, over_ns=bound_ns, over_allowed=allowed)
    )
    over = sum(latency > bound_ns for latency in outcome.samples_ns)
    kept = over <= allowed and not outcome.interrupted
    return RateProbe(rate=request.rate, queries=len(outcome.samples_ns), over=over, allowed=allowed, kept=kept)
