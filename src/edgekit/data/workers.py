"""Threads that decode, and progress for what may take long."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from edgekit.processors import usable_cpus
from edgekit.progress import Advance, progress

CHUNK = 64  # images a task of a thread
BAR_AFTER_SECONDS = 2.0

T = TypeVar("T")


def in_order(total: int, work: Callable[[int, int], T], title: str) -> Iterator[T]:
    """`work(start, stop)` for every `CHUNK` images, on all processors, the results in order; with progress.

    A bounded number is under way: decoding must not run ahead of what is kept, or the memory would hold all of it.

    Args:
        total: number of images.
        work: from a range of them to a result.
        title: of the progress.
    """
    threads = usable_cpus()
    with ExitStack() as stack:
        # Pillow warns of odd metadata and large images; what matters about a file is whether it decodes.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        advance = stack.enter_context(slow_progress(title, total, "images"))
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix=title))
        starts = iter(range(0, total, CHUNK))
        waiting: deque[tuple[int, Future[T]]] = deque()
        while True:
            while len(waiting) < 4 * threads and (start := next(starts, None)) is not None:
                stop = min(start + CHUNK, total)
                waiting.append((stop - start, pool.submit(work, start, stop)))
            if not waiting:
                return
            count, future = waiting.popleft()
            result = future.result()
            advance(count)
            yield result


@contextmanager
def slow_progress(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Progress that is shown only once the work has taken two seconds."""
    began, done = time.monotonic(), 0
    with ExitStack() as stack:
        bar: Advance | None = None

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal bar, done
            if bar is None and time.monotonic() - began > BAR_AFTER_SECONDS:
                bar = stack.enter_context(progress(title, total, done, unit))
            done += steps
            if bar is not None:
                bar(steps, note)

        yield advance
