"""Names of images that arrive on a stream."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from edgekit.runtimes.sources import listed


def test_a_signal_that_does_not_end_a_read_ends_the_wait_for_names() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send() -> None:
        time.sleep(0.2)  # by then the main thread waits, mostly; sooner or later, it must stop
        signal.pthread_kill(
            threading.get_ident(), signal.SIGUSR1
        )  # ends a system call of this thread, not the main thread's
        in_time.append(stopped.wait(30))
        os.close(writer)

    def names() -> None:
        sender.start()
        list(listed(stream))

    reader, writer = os.pipe()
    stopped, in_time = threading.Event(), list[bool]()
    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with os.fdopen(reader, "rb") as stream, pytest.raises(KeyboardInterrupt):
            names()
        stopped.set()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert in_time == [True]
