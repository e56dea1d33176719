"""How a training ends early: a loss that is no number, too little memory, a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgekit import stopping
from edgekit.errors import EdgekitError


class Diverged(EdgekitError):
    """The loss is no longer a number."""


class OutOfMemory(EdgekitError):
    """A batch does not fit into the device's memory."""


class TrainingInterrupted(BaseException):
    """Ctrl-C or a termination signal; unlike KeyboardInterrupt, Lightning lets it pass."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `TrainingInterrupted` on Ctrl-C and termination; the last checkpoint is complete at any time."""

    def stop(number: int, frame: Any) -> None:
        stopping.remember(number)
        raise TrainingInterrupted

    try:
        before = {number: signal.signal(number, stop) for number in stopping.STOPS}
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
