"""Several runs in flight at the same time: for throughput, and for requests that arrive during another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.runtimes.session import Session

OnLogits = Callable[[NDArray[np.float32]], object]


class Streams(Protocol):
    """A model that runs several batches at the same time.

    Attributes:
        count: maximum number of batches in flight.
        settings: see `Session.settings`.
    """

    count: int
    settings: dict[str, str]

    def ready(self) -> None:
        """Return when a stream is free, so that the next `submit` does not wait. For a single submitting thread."""
        ...

    def submit(self, images: NDArray[np.uint8], done: OnLogits) -> None:
        """Start a run; if all streams are busy, wait for a free one.

        Args:
            images: see `Session.run`; not copied, so do not change them until `done` was called.
            done: called with the main output (n, …), on one of the streams' threads.

        Raises:
            DataError: the images are not valid for the model.
            Exception: the error of an earlier run.
        """
        ...

    def wait(self) -> None:
        """Return when all runs have finished.

        Raises:
            Exception: the first error of a run, or of a `done`.
        """
        ...

    def close(self) -> None:
        """Wait for all runs, then release the model's memory."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A session that can open streams."""

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Load the same model for several runs at a time.

        The session's threads are divided among the streams.

        Args:
            count: runs in flight at the same time; 0: the runtime chooses for throughput.
            batch: images per run.
        """
        ...


def open_streams(session: Session, count: int = 0, batch: int = 1) -> Streams:
    """Open streams of a session; if its runtime has none, runs are made one after another.

    Raises:
        EdgekitError: more than one stream is requested from a runtime that runs one batch at a time.
    """
    if isinstance(session, Streaming):
        return session.streams(count, batch)
    if count > 1:
        raise EdgekitError(f"{session.runtime} only runs one batch at a time, not {count}", "leave out --streams")
    return OneByOne(session)


class OneByOne:
    """A single stream: `submit` runs the batch on the calling thread and returns when it is done."""

    count = 1

    def __init__(self, session: Session) -> None:
        self._session = session
        self.settings = session.settings

    def ready(self) -> None:
        """Return at once."""

    def submit(self, images: NDArray[np.uint8], done: OnLogits) -> None:
        """Run a batch (see `Streams.submit`)."""
        done(self._session.run(images))

    def wait(self) -> None:
        """Return at once, as nothing is in flight."""

    def close(self) -> None:
        """Do nothing: the session belongs to the caller."""


class ThreadStreams:
    """Streams of a session whose `run` allows several threads at a time; each thread is a stream.

    Args:
        session: its threads inside an operator count for each stream; it is closed with the streams.
        count: number of threads.
    """

    def __init__(self, session: Session, count: int) -> None:
        self.count = count
        self.settings = {**session.settings, "streams": str(count)}
        self._session = session
        self._free = threading.Semaphore(count)
        self._error: BaseException | None = None
        self._queue: queue.SimpleQueue[tuple[Any, OnLogits] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            images, done = item
            try:
                done(self._session.run(images))
            except BaseException as error:  # raised in `wait` or `submit`
                self._error = self._error or error
            finally:
                del item, images, done
                self._free.release()

    def ready(self) -> None:
        """Return when a thread is free (see `Streams.ready`)."""
        self._free.acquire()
        self._free.release()

    def submit(self, images: NDArray[np.uint8], done: OnLogits) -> None:
        """Start a run (see `Streams.submit`)."""
        self._raise()
        self._free.acquire()
        self._queue.put((images, done))

    def wait(self) -> None:
        """Return when no run is in flight (see `Streams.wait`)."""
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
