"""The order statistic that is a threshold for one further draw, whatever the distribution (Vovk et al. 2005, conformal prediction).

Of n draws, the k-th from one end, with k = floor(share * (n + 1)): a further draw of the same kind is beyond it with the probability
k / (n + 1), which is at most `share`. Cheap to import: a command's options need it.
"""

from __future__ import annotations

import math

_ROUNDING = 1e-9  # 0.05 * 20 counts as 1, and 1 / 0.05 as 20, however floats round


def rank_beyond(share: float, samples: int) -> int:
    """Return k, from 1; 0 where there are too few draws.

    Args:
        share: largest probability of a further draw beyond the k-th, in (0, 1).
        samples: number of draws.
    """
    return min(samples, math.floor(share * (samples + 1) + _ROUNDING))


def fewest_samples(share: float) -> int:
    """Return the least number of draws for which `rank_beyond` is 1."""
    return math.ceil(1 / share - 1 - _ROUNDING)
