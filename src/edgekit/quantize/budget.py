"""The time limit of the accuracy search.

The search stops between two steps, so it exceeds the limit by one step at most (a quantization and a short run). A search that was stopped
early may give another result than on a faster machine; its record says so (`cut`). A search that was not stopped does not depend on the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edgekit.progress import duration
from edgekit.quantization import Quantization, SearchRecord

SEARCH_MINUTES = 10.0


class Budget:
    """The time limit of one search, counted from the creation of the object.

    Args:
        seconds: the limit; infinite: no limit.
        minutes: the user's limit for all searches of the export together, for the bundle; None if not given.
        clock: returns seconds; tests pass their own.
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
        """Whether the time is up. If so, the search counts as cut: call this only when there is another step to start."""
        if self.spent < self.seconds:
            return False
        self.cut = True
        return True

    def share(self, part: float) -> Callable[[], bool]:
        """A function like `over`, for a share (0 to 1) of the time that is left now."""
        until = self.spent + part * self.left

        def over() -> bool:
            if self.spent < until:
                return False
            self.cut = True
            return True

        return over

    def __str__(self) -> str:
        """For example `6:12 of 10:00 left`; empty without a limit."""
        return "" if math.isinf(self.seconds) else f"{duration(self.left)} of {duration(self.seconds)} left"

    def describe(self) -> SearchRecord:
        """The record for the bundle."""
        limit = None if math.isinf(self.seconds) else round(self.seconds, 1)
        return SearchRecord(minutes=self.minutes, limit_seconds=limit, seconds=round(self.spent, 1), cut=self.cut)


def cut_short(quantization: Quantization | None, minutes: float) -> bool:
    """Whether a variant's search was cut and today's limit is longer.

    Args:
        quantization: the variant's record.
        minutes: today's limit for all searches together.
    """
    search = quantization.search if quantization is not None else None
    return search is not None and search.cut and minutes > (search.minutes or 0)
