"""What Linux does for a process that asks it (prctl(2)); elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


def sharp_timers() -> None:
    """Wake this thread when it is due and not up to 50 µs later."""
    _ask(_PR_SET_TIMERSLACK, 1)


def end_with_the_parent() -> None:
    """End this process at once when the one that started it ends, however that came about.

    A worker has a session of its own, so whatever kills the command (a time limit, a closed terminal, SIGKILL) would leave it running, and
    spoil every measurement after it.
    """
    _ask(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ask(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
