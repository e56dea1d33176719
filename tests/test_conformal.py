"""The rank of a conformal threshold, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest

from edgekit.conformal import fewest_samples, rank_beyond


@pytest.mark.parametrize("share", ["0.001", "0.01", "0.05", "0.1", "1/3", "0.5", "0.9"])
def test_the_rank_is_the_largest_that_keeps_the_share(share: str) -> None:
    exact = Fraction(share)
    for samples in range(2500):
        k = rank_beyond(float(exact), samples)
        assert Fraction(k, samples + 1) <= exact < Fraction(k + 1, samples + 1)
        assert (k > 0) == (samples >= fewest_samples(float(exact)))
