"""The signals that ask this process to stop, and the exit code that says which one it was: 130 for Ctrl-C, 143 for SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; what systemd, containers, batch systems and `kill` send
_received: list[int] = []


def remember(number: int) -> None:
    """Remember a signal for the exit code; the first one counts."""
    _received.append(number)


def exit_code() -> int:
    """Return the exit code of a process that stopped as it was asked to, as a shell reports it."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def was_stopped(code: int) -> bool:
    """Return whether an exit code is one of `exit_code`."""
    return code - 128 in STOPS


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as Python does on Ctrl-C: temporary files are deleted, and child processes end."""
    _received.clear()
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # ignored, or the caller's
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        remember(number)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
