"""How long INT8 that keeps the accuracy is searched for.

The search is cut between two of its steps, so it overruns by one step at most (a quantization and a short run). A search that is cut may end
elsewhere than one on a faster machine, so what it delivers says that it was cut; one that was not cut does not depend on the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edgekit.progress import duration
from edgekit.quantization import Quantization, SearchRecord

SEARCH_MINUTES = 10.0


class Budget:
    """The time of one search, which begins when the object is made.

    Args:
        seconds: how long it may take; infinite: as long as it wants.
        minutes: what the user gave all searches of the export together, for the bundle; None where nobody said.
        clock: gives seconds; another one in tests.
    """

    def __init__(
        self, seconds: float = math.inf, minutes: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.minutes, self.clock = seconds, minutes, clock
        self.began = clock()
        self.cut = False

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds from now, never negative."""
        return max(0.0, self.seconds - self.spent)

    def over(self) -> bool:
        """Whether no other step may begin. Where it says yes, the search counts as cut, so ask only if there is a step to begin."""
        if self.spent < self.seconds:
            return False
        self.cut = True
        return True

    def share(self, part: float) -> Callable[[], bool]:
        """Like `over`, of a part of what is left now."""
        until = self.spent + part * self.left

        def over() -> bool:
            if self.spent < until:
                return False
            self.cut = True
            return True

        return over

    def __str__(self) -> str:
        """As in `6:12 of 10:00 left`; empty where there is no end."""
        return "" if math.isinf(self.seconds) else f"{duration(self.left)} of {duration(self.seconds)} left"

    def describe(self) -> SearchRecord:
        """For the bundle."""
        limit = None if math.isinf(self.seconds) else round(self.seconds, 1)
        return SearchRecord(minutes=self.minutes, limit_seconds=limit, seconds=round(self.spent, 1), cut=self.cut)


def cut_short(quantization: Quantization | None, minutes: float) -> bool:
    """Whether a variant's search was cut though it might go on now.

    Args:
        quantization: of the variant.
        minutes: what the user gives all searches today.
    """
    search = quantization.search if quantization is not None else None
    return search is not None and search.cut and minutes > (search.minutes or 0)
