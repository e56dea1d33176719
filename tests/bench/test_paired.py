"""The rule that decides which of two is faster keeps its word on errors, and finds what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgekit.bench.paired import ERROR, LOOKS, MARGIN, compare, interval, judge

Draw = Callable[[np.random.Generator], float]
DISTRIBUTIONS: dict[str, Draw] = {
    "constant with jitter": lambda random: 1 + 1e-3 * random.random(),
    "log-normal": lambda random: float(random.lognormal(0, 1)),
    "preempted now and then": lambda random: 30.0 if random.random() < 0.3 else 1 + random.random(),
    "heavy tails": lambda random: 1 + abs(float(random.standard_cauchy())),
}


def rejected(count: int) -> int:
    """In how many pairs or fewer one side must be ahead for the interval at this look to leave out 1."""
    values = [*range(count)]
    low, _ = interval(values, ERROR / len(LOOKS))
    return int(low)


def test_two_equals_are_told_apart_no_more_often_than_stated() -> None:
    """Exactly, for every distribution: without a margin the verdict depends on the signs alone, which are fair coins."""
    alive, wrong = {0: 1.0}, 0.0  # wins of one side -> probability that it came to that, undecided so far
    for count in range(1, LOOKS[-1] + 1):
        after: dict[int, float] = {}
        for wins, p in alive.items():
            after[wins] = after.get(wins, 0) + p / 2
            after[wins + 1] = after.get(wins + 1, 0) + p / 2
        if count in LOOKS:
            few = rejected(count)
            wrong += sum(p for wins, p in after.items() if min(wins, count - wins) <= few)
            after = {wins: p for wins, p in after.items() if min(wins, count - wins) > few}
        alive = after
    assert 0 < wrong <= ERROR


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_equals_of_any_distribution_stay_undecided(name: str) -> None:
    draw, random, wrong, trials = DISTRIBUTIONS[name], np.random.default_rng(0), 0, 300
    for _ in range(trials):
        level = float(random.uniform(0.1, 10))  # of the machine, which changes meanwhile

        def pair(level: float = level) -> tuple[float, float]:
            return level * draw(random), level * draw(random)

        found = compare(pair, lambda: False, margin=0.0)
        assert found.low <= found.ratio <= found.high
        wrong += found.verdict != "undecided"
    # Of 300 with a chance of 1 % each, more than 12 are wrong with a probability below 1e-4; the draws are always the same.
    assert wrong <= 12


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("ratio", "verdict"), [(2.0, "faster"), (0.5, "slower")])
def test_a_planted_ratio_is_found(name: str, ratio: float, verdict: str) -> None:
    """In each of 20 trials nothing else than the truth or `undecided`, and the truth wherever the noise lets it be seen."""
    draw, random, found = DISTRIBUTIONS[name], np.random.default_rng(1), []
    for _ in range(20):
        found.append(compare(lambda: (ratio * draw(random), draw(random)), lambda: False))
    assert {f.verdict for f in found} <= {verdict, "undecided"}
    assert sum(f.verdict == verdict for f in found) >= 16
    if name == "constant with jitter":
        assert all(f.pairs == LOOKS[0] and f.low < ratio * 1.001 and f.high > ratio * 0.999 for f in found)


def test_a_load_that_comes_in_bursts_moves_both_alike() -> None:
    """The machine becomes ten times slower for every other hundred pairs; within a pair both are as slow."""
    load: Iterator[float] = (10.0 if i // 7 % 2 else 1.0 for i in range(10_000))
    random = np.random.default_rng(2)

    def pair() -> tuple[float, float]:
        level = next(load)
        return 2 * level * (1 + random.random() / 10), level * (1 + random.random() / 10)

    found = compare(pair, lambda: False)
    assert found.verdict == "faster"
    assert 1.8 < found.ratio < 2.2


def test_it_ends_when_the_time_is_up_but_not_before_the_first_look() -> None:
    random = np.random.default_rng(3)
    noisy = compare(lambda: tuple(random.lognormal(0, 2, 2)), lambda: True)
    assert (noisy.pairs, noisy.verdict) == (LOOKS[0], "undecided")
    clear = compare(lambda: (2.0, 1.0), lambda: True)
    assert (clear.pairs, clear.verdict) == (LOOKS[0], "faster")
    asked: list[bool] = []
    late = compare(lambda: tuple(random.lognormal(0, 2, 2)), lambda: bool(asked.append(True)) or len(asked) > 5)
    assert late.pairs == LOOKS[0] + 5


def test_as_fast_as_each_other_is_an_answer_too_and_ends_the_measurement() -> None:
    equal = compare(lambda: (1.0, 1.0), lambda: False)
    assert (equal.verdict, equal.pairs, equal.ratio) == ("undecided", LOOKS[0], 1.0)
    just = compare(lambda: (1 + MARGIN / 2, 1.0), lambda: False)
    assert (just.verdict, just.pairs) == ("undecided", LOOKS[0])


def test_the_interval_is_that_of_the_tables() -> None:
    """Order statistics of the confidence interval of a median: at 95 % the 2nd of 10, the 6th of 20, the 18th of 50."""
    for count, rank in ((10, 2), (20, 6), (50, 18)):
        assert interval([float(i) for i in range(1, count + 1)], 0.05) == (rank, count + 1 - rank)
    with pytest.raises(ValueError, match="too few"):
        interval([1.0, 2.0, 3.0], 0.05)
    with pytest.raises(ValueError, match="too few"):
        judge([0.0] * 9)
    assert judge([math.log(3)] * 10).ratio == pytest.approx(3)
