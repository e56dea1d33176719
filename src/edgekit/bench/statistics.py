"""Statistics of latencies, and the number of samples that each needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.result import Latency

# The number of samples that a percentile needs, by the early-stopping rule of MLPerf LoadGen at confidence 0.99.
SAMPLES_NEEDED = {"p50": 11, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6636}
CV_LIMIT = 0.025
DRIFT_LIMIT = 0.05


def percentiles(samples: ArrayLike) -> dict[str, float | None]:
    """Return the percentiles of `SAMPLES_NEEDED`, in the unit of the samples; None where there are too few samples.

    Values between two samples are interpolated linearly, as in NumPy by default.
    """
    values = np.asarray(samples, dtype=np.float64)
    return {
        name: float(np.percentile(values, float(name[1:]))) if values.size >= needed else None
        for name, needed in SAMPLES_NEEDED.items()
    }


def coefficient_of_variation(samples: ArrayLike) -> float:
    """Return the standard deviation divided by the mean (0 for a single sample)."""
    values = np.asarray(samples, dtype=np.float64)
    return float(values.std() / values.mean())


def drift(samples: ArrayLike) -> float:
    """Return the median of the last tenth of the samples divided by that of the first tenth, minus 1: positive if it became slower."""
    values = np.asarray(samples, dtype=np.float64)
    tenth = max(1, values.size // 10)
    return float(np.median(values[-tenth:]) / np.median(values[:tenth]) - 1)


@dataclass(frozen=True)
class Speedup:
    """How many times faster one variant is than another: the median over the rounds, and the lowest and highest round; these two are None
    with a single round, because how much the ratio differs between processes is unknown then."""

    median: float
    low: float | None
    high: float | None


def speedup(base: Latency, other: Latency) -> Speedup | None:
    """Return how many times faster `other` is than `base`, compared round by round.

    None if they were not measured in the same number of rounds, or one of them has no complete round.
    """
    ratios = [
        float(np.median(a) / np.median(b))
        for a, b in zip(_rounds(base), _rounds(other), strict=False)
        if len(a) and len(b)
    ]
    if len(base.rounds) != len(other.rounds) or not ratios:
        return None
    several = len(ratios) > 1
    return Speedup(float(np.median(ratios)), min(ratios) if several else None, max(ratios) if several else None)


def gain(base: Latency, other: Latency) -> float | None:
    """Return how many times faster `other` is than `base` in their scenario's main metric: latency (round by round), throughput
    (offline), or the rate that keeps the bound (server); None if that is not known."""
    if other.scenario == "offline":
        return other.throughput / base.throughput if base.throughput else None
    if other.scenario == "server":
        return other.rate / base.rate if other.bound_ms and other.rate and base.rate else None
    ratio = speedup(base, other)
    return ratio.median if ratio else None


def _rounds(latency: Latency) -> list[NDArray[np.float64]]:
    edges = np.cumsum(latency.rounds)[:-1]
    return np.split(np.asarray(latency.samples_ns, dtype=np.float64), edges)


def fp32_of(latency: Latency, others: Sequence[Latency]) -> Latency | None:
    """Return the baseline of a variant's speed-up: among `others`, the one with the same bundle, runtime, batch and threads that
    computes in fp32, or None. This is the fp32 variant; otherwise an fp16 variant that was set to compute in fp32."""
    same = ("bundle_digest", "runtime", "batch", "threads", "scenario", "streams", "query", "provider", "bound_ms")
    alike = [other for other in others if all(getattr(other, key) == getattr(latency, key) for key in same)]
    fp32 = [other for other in alike if other.precision == "fp32"]
    fp32 += [o for o in alike if o.precision == "fp16" and o.settings.get("INFERENCE_PRECISION_HINT") == "f32"]
    return fp32[0] if fp32 else None


def allowed_over(samples: int, percentile: float = 0.99, confidence: float = 0.99) -> int:
    """Return how many of `samples` latencies may exceed a bound while the percentile is under it at the given confidence.

    It is the largest t with P(X <= t) <= 1 - confidence, X binomial over the samples with probability 1 - percentile: if the true
    percentile exceeded the bound, t or fewer would be unlikely. This is the early-stopping rule of MLPerf LoadGen's server scenario
    (github.com/mlcommons/inference, loadgen/early_stopping.cc, with tolerance 0); `SAMPLES_NEEDED` is its smallest count with t = 1.

    Returns:
        -1 if even zero latencies over the bound prove nothing (p99 with fewer than 459 samples).
    """
    over = 1 - percentile
    log_term = samples * math.log(percentile)  # of P(X = 0)
    total, t = math.exp(log_term), -1
    while total <= 1 - confidence and t < samples - 1:
        t += 1
        log_term += math.log((samples - t) / (t + 1)) + math.log(over / percentile)
        total += math.exp(log_term)
    return t
