"""Run the files of a bundle on images while it is exported: for the confidence, and for the thresholds of anomaly detection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.export.verify import exact_threads
from edgekit.runtimes import open_session
from edgekit.runtimes.session import run_in_batches
from edgekit.targets import find_runtime
from edgekit.tasks import Outputs, Task

Run = Callable[[NDArray[np.uint8]], Outputs]


@contextmanager
def running(
    runtime: str, path: Path, task: Task, batch: int, settings: Mapping[str, str] | None = None, threads: int = 0
) -> Iterator[Run]:
    """Yield a function that runs a model file: uint8 images (n, h, w, 3) -> the task's outputs, and the optional ones that the graph gives.

    Args:
        runtime: its name.
        path: of the file.
        task: what the model answers.
        batch: images that are run at once, at most.
        settings, threads: of the session.
    """
    session = open_session(runtime, path, threads=threads, settings=settings or {}, task=task)

    def run(images: NDArray[np.uint8]) -> Outputs:
        found = run_in_batches(session, images, min(batch, len(images)))
        return {name: values for name, values in found.items() if name in (*task.required, *task.optional)}

    try:
        yield run
    finally:
        session.close()


@contextmanager
def running_variant(variant: Variant, folder: Path, task: Task, batch: int) -> Iterator[Run]:
    """Yield a function that runs a variant of the bundle in `folder`, as its verification does; see `running`."""
    runtime = find_runtime(variant.runtime)
    settings = {**variant.settings, **(runtime.checking if runtime else {})}
    path = folder / variant.files[0].path
    with running(variant.runtime, path, task, batch, settings, exact_threads(variant)) as run:
        yield run
