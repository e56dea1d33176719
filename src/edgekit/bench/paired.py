"""Which of two is faster: measured in pairs, until that is certain enough or the time is up.

The rule asks for nothing but the ratio within each pair. Where both are equally fast and each pair's order is drawn by lot, either comes
out ahead with probability 1/2, whatever the distribution of the times and however it changes meanwhile: a sign test is exact. Its
confidence interval of the median needs no more than that either (W. J. Conover, Practical Nonparametric Statistics, 3.2; Hollander and
Wolfe, Nonparametric Statistical Methods, 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Verdict

ERROR = 0.01  # at most so often, two that are equally fast are told apart
LOOKS = (
    10,
    20,
    40,
    80,
    160,
)  # pairs after which it is decided whether to go on; each look has its share of ERROR (Bonferroni)
# What is nearer than this is not told apart: sessions of one and the same model differ by some percent for as long as they live, by
# where their memory lies; and for less no one needs the less exact variant by default.
MARGIN = 0.1


@dataclass(frozen=True)
class Paired:
    """What the pairs say.

    Attributes:
        ratio: the median over the pairs of first / second: above 1, the second is the faster one.
        low: the lower end of the ratio's confidence interval; all the looks together miss the true one at most `ERROR` of the time.
        high: its upper end.
        verdict: `faster`: the second one, by more than `MARGIN`; `slower`; or `undecided`.
        pairs: how many were measured.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    pairs: int


def compare(
    measure: Callable[[], tuple[float, float]], out_of_time: Callable[[], bool], margin: float = MARGIN
) -> Paired:
    """Measure pairs until their ratio says which is faster, or that neither is by more than the margin, or the time is up.

    Args:
        measure: the times of one pair, both above 0, in any unit; the order that they are taken in is drawn by lot.
        out_of_time: asked after each pair from the first look on, before which nothing can be decided.
        margin: see `MARGIN`.
    """
    logs: list[float] = []
    while True:
        first, second = measure()
        logs.append(math.log(first / second))
        ended = len(logs) >= LOOKS[0] and (len(logs) == LOOKS[-1] or out_of_time())
        if not ended and len(logs) not in LOOKS:
            continue
        found = judge(logs, margin)
        if ended or found.verdict != "undecided" or max(found.high, 1 / found.low) < 1 + margin:
            return found


def judge(logs: Sequence[float], margin: float = MARGIN) -> Paired:
    """What one look says.

    Args:
        logs: natural logarithms of the ratios, at least `LOOKS[0]`.
        margin: see `MARGIN`.
    """
    low, high = (math.exp(end) for end in interval(logs, ERROR / len(LOOKS)))
    verdict: Verdict = "faster" if low > 1 + margin else "slower" if high < 1 / (1 + margin) else "undecided"
    return Paired(math.exp(float(np.median(logs))), low, high, verdict, len(logs))


def interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """The confidence interval of the median between two order statistics, missed with probability `error` at most.

    Raises:
        ValueError: too few values for it: their smallest and largest already miss it more often.
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
