"""Find which of two is faster: measure in pairs until that is certain enough or the time is up.

The rule uses only the ratio within each pair. If both are equally fast and each pair's order is random, each of them wins with
probability 1/2, whatever the distribution of the times and however it changes: a sign test is exact. Its confidence interval
of the median needs no other assumption (W. J. Conover, Practical Nonparametric Statistics, 3.2; Hollander and
Wolfe, Nonparametric Statistical Methods, 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Verdict

ERROR = 0.01  # largest probability that two equally fast ones get a verdict
LOOKS = (
    10,
    20,
    40,
    80,
    160,
)  # numbers of pairs after which to decide whether to go on; each look has its share of ERROR (Bonferroni)
# A smaller difference gets no verdict: sessions of the same model differ by some percent as long as they live, because of where their
# memory lies; and for less than this, the less exact variant should not be the default.
MARGIN = 0.1


@dataclass(frozen=True)
class Paired:
    """The result of a paired comparison.

    Attributes:
        ratio: the median over the pairs of first / second: above 1, the second is the faster one.
        low: the lower end of the ratio's confidence interval; all looks together miss the true ratio with probability `ERROR` at most.
        high: its upper end.
        verdict: `faster` if the second one is, by more than `MARGIN`; `slower`; or `undecided`.
        pairs: number of measured pairs.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    pairs: int


def compare(
    measure: Callable[[], tuple[float, float]], out_of_time: Callable[[], bool], margin: float = MARGIN
) -> Paired:
    """Measure pairs until the verdict is clear, or neither is faster by more than the margin, or the time is up.

    Args:
        measure: returns the times of one pair, both above 0, in any unit; it chooses their order at random.
        out_of_time: called after each pair from the first look on; before that nothing can be decided.
        margin: see `MARGIN`.
    """
    logs: list[float] = []
    while True:
        first, second = measure()
        logs.append(math.log(first / second))
        ended = len(logs) >= LOOKS[0] and (len(logs) == LOOKS[-1] or out_of_time())
        if not ended and len(logs) not in LOOKS:
            continue
        result = judge(logs, margin)
        if ended or result.verdict != "undecided" or max(result.high, 1 / result.low) < 1 + margin:
            return result


def judge(logs: Sequence[float], margin: float = MARGIN) -> Paired:
    """Return the verdict of one look.

    Args:
        logs: natural logarithms of the ratios, at least `LOOKS[0]`.
        margin: see `MARGIN`.
    """
    low, high = (math.exp(end) for end in interval(logs, ERROR / len(LOOKS)))
    verdict: Verdict = "faster" if low > 1 + margin else "slower" if high < 1 / (1 + margin) else "undecided"
    return Paired(math.exp(float(np.median(logs))), low, high, verdict, len(logs))


def interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """Return the confidence interval of the median between two order statistics; it misses the median with probability `error` at most.

    Raises:
        ValueError: there are too few values: even the smallest and largest miss the median more often.
    """
    count = len(values)
    missed, rank = 0, 0  # of 2**count equally likely rows of signs, those with `rank` of one sign or fewer, both tails
    while rank < count / 2 and 2 * (missed + math.comb(count, rank)) <= error * 2**count:
        missed += math.comb(count, rank)
        rank += 1
    if rank == 0:
        raise ValueError(f"{count} values are too few for an interval with an error of {error:g}")
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]
