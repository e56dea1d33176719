"""Threads that decode, and progress for work that may take long."""

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

CHUNK = 64  # images per task of a thread
BAR_AFTER_SECONDS = 2.0

T = TypeVar("T")


def in_order(total: int, work: Callable[[int, int], T], title: str) -> Iterator[T]:
    """Yield the results of `work(start, stop)` for every `CHUNK` images, in order, computed on all processors; with progress.

    The number of tasks in flight is bounded: if decoding ran ahead of the consumer, all images would be in memory.

    Args:
        total: number of images.
        work: computes the result of a range of images.
        title: of the progress.
    """
    threads = usable_cpus()
    with ExitStack() as stack:
        # Pillow warns about odd metadata and large images; it only matters whether a file decodes.
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
    """Show progress only if the work takes longer than two seconds."""
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
