"""Several runs in flight at the same time: for throughput, and for requests that arrive while another is being answered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.runtimes.session import Session

Done = Callable[[NDArray[np.float32]], object]


class Streams(Protocol):
    """A model that runs several batches at the same time.

    Attributes:
        count: how many batches are in flight at most.
        settings: what the runtime was told and what it answered; see `Session.settings`.
    """

    count: int
    settings: dict[str, str]

    def ready(self) -> None:
        """Return when a stream is free: the next `submit` does not wait. For one thread that submits."""
        ...

    def submit(self, images: NDArray[np.uint8], done: Done) -> None:
        """Start a run, after waiting for a free stream where all are busy.

        Args:
            images: see `Session.run`; neither copied nor to be changed until `done` was called.
            done: called with the main output (n, …), on a thread of the streams' own.

        Raises:
            DataError: not what the model takes; any error of an earlier run that failed.
        """
        ...

    def wait(self) -> None:
        """Return when every run that was started has finished.

        Raises:
            Exception: the first error of a run, or of a `done`.
        """
        ...

    def close(self) -> None:
        """Wait, then release the model's memory."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A session that can open streams."""

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Load the same model for several runs at a time.

        The session's threads are shared out over the streams.

        Args:
            count: runs in flight at the same time; 0 takes as many as the runtime finds best for throughput.
            batch: images a run.
        """
        ...


def open_streams(session: Session, count: int = 0, batch: int = 1) -> Streams:
    """The streams of a session; where its runtime has none of its own, one run after the other.

    Raises:
        EdgekitError: more than one stream is asked of a runtime that runs one batch at a time.
    """
    if isinstance(session, Streaming):
        return session.streams(count, batch)
    if count > 1:
        raise EdgekitError(f"{session.runtime} runs one batch at a time here, not {count}", "leave out --streams")
    return OneByOne(session)


class OneByOne:
    """Streams of one: `submit` runs the batch on the thread that calls it and returns when it is done."""

    count = 1

    def __init__(self, session: Session) -> None:
        self._session = session
        self.settings = session.settings

    def ready(self) -> None:
        """Always."""

    def submit(self, images: NDArray[np.uint8], done: Done) -> None:
        """Run a batch (see `Streams.submit`)."""
        done(self._session.run(images))

    def wait(self) -> None:
        """Nothing is in flight here."""

    def close(self) -> None:
        """The session stays its owner's."""


class ThreadStreams:
    """Streams of a session whose `run` may be called by several threads at a time; each thread is a stream.

    Args:
        session: its threads inside an operator are each stream's own; it is closed with the streams.
        count: how many threads.
    """

    def __init__(self, session: Session, count: int) -> None:
        self.count = count
        self.settings = {**session.settings, "streams": str(count)}
        self._session = session
        self._free = threading.Semaphore(count)
        self._error: BaseException | None = None
        self._queue: queue.SimpleQueue[tuple[Any, Done] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            images, done = item
            try:
                done(self._session.run(images))
            except BaseException as error:  # handed to whoever waits, whatever it is
                self._error = self._error or error
            finally:
                del item, images, done
                self._free.release()

    def ready(self) -> None:
        """Return when a thread is free (see `Streams.ready`)."""
        self._free.acquire()
        self._free.release()

    def submit(self, images: NDArray[np.uint8], done: Done) -> None:
        """Start a run (see `Streams.submit`)."""
        self._raise()
        self._free.acquire()
        self._queue.put((images, done))

    def wait(self) -> None:
        """Return when nothing is in flight (see `Streams.wait`)."""
        for _ in range(self.count):
            self._free.acquire()
        for _ in range(self.count):
            self._free.release()
        self._raise()

    def close(self) -> None:
        """End the threads and release the model."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._session.close()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
