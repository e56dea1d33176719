"""Confidence intervals of accuracies and of differences of two accuracies, from counts, with NumPy only.

All are two-sided at 95 %. A difference whose interval contains 0 is called "no significant difference", everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_Z = 1.959964  # of the normal distribution, two-sided 95 %
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom: SciPy is not on the devices.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def wilson(share: float, samples: int, z: float = _Z) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of `samples` independent trials (Wilson 1927); (0, 1) without samples."""
    if samples <= 0:
        return 0.0, 1.0
    center = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, center - half), min(1.0, center + half)


def of_order_statistic(k: int, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of a population below the k-th smallest of `samples` independent draws from it.

    That share has the distribution Beta(k, samples + 1 - k), whatever the population's own is (Wilks 1941), and it is below p with the
    probability that at least k of the draws are: a binomial one.

    Args:
        k: from 1 to `samples`.
        samples: number of draws.
    """

    def above(p: float) -> float:
        """The probability of at least k successes of probability p, each term from its logarithm."""
        terms = (
            math.lgamma(samples + 1) - math.lgamma(i + 1) - math.lgamma(samples - i + 1) + i * math.log(p) + (samples - i) * math.log1p(-p)
            for i in range(k)
        )  # fmt: skip
        return 1 - math.fsum(map(math.exp, terms))

    ends = []
    for chance in (0.025, 0.975):
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if above(middle) < chance else (low, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]


def unpaired(first: float, second: float, samples: tuple[int, int]) -> tuple[float, float]:
    """Return the interval of `first` - `second`, two shares of independent trials (Newcombe 1998, method 10).

    For two models on the same images it is wider than needed, since their errors correlate: a difference that it shows is real.

    Args:
        first: a share.
        second: another.
        samples: trials of each.
    """
    (low1, high1), (low2, high2) = wilson(first, samples[0]), wilson(second, samples[1])
    difference = first - second
    return (
        difference - math.hypot(first - low1, high2 - second),
        difference + math.hypot(high1 - first, second - low2),
    )


def paired(differences: NDArray[np.int8], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean difference of two models on the same images, over images and label draws.

    The images are resampled, each with its differences in all draws. With several draws, the draws are resampled, too. Resampling few
    draws underestimates their variance, which the factor sqrt(d / (d - 1)) corrects; the estimate of the variance is uncertain, so
    Student's t replaces the normal distribution. If the draws differ little, the interval of few draws is wider than necessary.

    Args:
        differences: (draws, images) of -1, 0 and 1: whether the first model is right, minus whether the second is.
        seed: of the resampling.
        resamples: number of resamples.

    Returns:
        Low and high, each in [-1, 1].
    """
    draws, images = differences.shape
    if images == 0:
        return -1.0, 1.0
    rng = np.random.default_rng(seed)
    # Images with the same differences in every draw are interchangeable: only the number of each kind matters.
    kinds, counts = np.unique(differences, axis=1, return_counts=True)
    drawn = rng.multinomial(images, counts / images, size=resamples)
    means = drawn @ kinds.T / images  # (resamples, draws)
    values = means.mean(axis=1)
    if draws > 1:
        chosen = rng.integers(0, draws, (resamples, draws))
        spread = np.take_along_axis(means, chosen, axis=1).mean(axis=1) - values
        values = values + spread * math.sqrt(draws / (draws - 1)) * (_t(draws - 1) / _Z)
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return max(-1.0, float(low)), min(1.0, float(high))


def shown_less(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> bool:
    """Return whether a model is significantly less often correct than another: by the bootstrap, and by McNemar's test at 5 %.

    Args:
        first: (n,) whether the first model is correct on each image.
        second: (n,) whether the second model is.
    """
    difference = first.astype(np.int8) - second.astype(np.int8)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return better < worse and paired(difference[None])[1] < 0 and mcnemar(better, worse) < 0.05


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    The null hypothesis: of the images that only one model classifies correctly, each model has half.

    Args:
        first_only: number of images that only the first model classifies correctly.
        second_only: number of images that only the second model does.
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if n == 0:
        return 1.0
    # In logarithms: as a float, 0.5 ** n is 0 for n >= 1,075.
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2))
        for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def _t(degrees: int) -> float:
    return _T[degrees - 1] if degrees <= len(_T) else _Z + 2.5 / degrees
