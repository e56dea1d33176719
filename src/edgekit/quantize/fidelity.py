"""How closely a quantized file reproduces the trained model's outputs, on unlabeled images, in the runtime that will serve it.

The accuracy search chooses between the candidates of one strategy by this alone. The labels of the evaluation set choose nothing: the
accuracy on it only decides whether the chosen candidate passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.data.images import spread_rows
from edgekit.errors import BundleError, ExportError
from edgekit.quantization import UnlabeledComparison
from edgekit.quantize.ranges import batch_size
from edgekit.runtimes import open_session
from edgekit.runtimes.session import run_in_batches, share_graph
from edgekit.targets import find_runtime
from edgekit.tasks import Outputs, Task

if TYPE_CHECKING:
    from edgekit.quantize.selection import CalibrationPool, Drawn

IMAGES = 256  # enough to tell candidates apart (the standard error of an agreement of 95 % is 1.4 points), few enough to be quick
_RECOVER = 4096  # images to distill on


@dataclass(frozen=True)
class Fidelity:
    """How close a quantized file is to the trained model.

    Attributes:
        agreement: share of the images on which both decide the same.
        sqnr_db: signal to quantization noise of the task's main output, 10 log10(sum y^2 / sum (y' - y)^2); infinite where they are equal.
        images: number of images.
    """

    agreement: float
    sqnr_db: float
    images: int

    @property
    def standard_error(self) -> float:
        """Standard error of the agreement, with one disagreement added, so that a perfect score does not count as certain."""
        p = (self.agreement * self.images) / (self.images + 1)
        return math.sqrt(p * (1 - p) / self.images)

    def describe(self) -> UnlabeledComparison:
        """The record for the bundle; an infinite SQNR becomes null."""
        sqnr = round(self.sqnr_db, 2) if math.isfinite(self.sqnr_db) else None
        return UnlabeledComparison(agreement=self.agreement, sqnr_db=sqnr, images=self.images)

    def better_than(self, other: Fidelity) -> bool:
        """Whether to prefer this: by agreement where it differs by more than a standard error, else by the output's noise."""
        if abs(self.agreement - other.agreement) > max(self.standard_error, other.standard_error):
            return self.agreement > other.agreement
        return self.sqnr_db > other.sqnr_db


def compare(task: Task, outputs: Outputs, trained: Outputs) -> Fidelity:
    """The fidelity of outputs to the trained model's; of one that is not finite, none."""
    found = task.compare(outputs, trained)
    main = found.outputs[task.main]
    return Fidelity(found.agreement, main.sqnr_db, main.samples)


class Judge:
    """Compares files with the float model on unlabeled images.

    Args:
        float_onnx: the float model that was trained.
        images: uint8 (n, h, w, 3); `IMAGES` of them are used, spread over the whole.
        task: the model's.
    """

    def __init__(self, float_onnx: Path, images: NDArray[np.uint8], task: Task) -> None:
        self.images = np.ascontiguousarray(images[spread_rows(len(images), IMAGES)])
        self.task = task
        self.trained = run("onnxruntime", float_onnx, self.images, task)

    def __call__(self, answer: Callable[[NDArray[np.uint8]], Outputs]) -> Fidelity:
        """Compare a file with the float model.

        Args:
            answer: runs the file: images uint8 (n, h, w, 3) -> the outputs that the task requires.
        """
        return compare(self.task, answer(self.images), self.trained)


def further(candidates: CalibrationPool, drawn: Drawn, recover: bool) -> NDArray[np.uint8]:
    """Unlabeled images for comparison or distillation, spread over the pool, without the calibration images.

    Args:
        candidates: the pool that the calibration images were drawn from.
        drawn: the calibration images; returned if the pool has no others.
        recover: whether to distill: then up to `_RECOVER` images, at most a quarter of a gigabyte.
    """
    others = np.setdiff1d(np.arange(candidates.total), drawn.rows)
    if not len(others):
        return drawn.images
    count = min(_RECOVER, max(IMAGES, 2**28 // drawn.images[0].size)) if recover else IMAGES
    return candidates.read(others[spread_rows(len(others), count)])


def run(
    runtime: str, model: Path, images: NDArray[np.uint8], task: Task, settings: Mapping[str, str] | None = None
) -> Outputs:
    """The outputs that a task requires, of images uint8 (n, h, w, 3).

    Raises:
        ExportError: the runtime cannot load or run the file.
        RuntimeMissing: the runtime is not installed.
    """
    try:
        found = find_runtime(runtime)
        threads = found.exact_threads.get("int8", 0) if found else 0
        session = open_session(runtime, model, threads=threads, settings=settings or {}, task=task)
        # As the file is shipped. Compiling a graph for each batch size would also take longer than running it.
        share_graph(session)
        try:
            outputs = run_in_batches(session, images, batch_size(images), only="" if task.others else task.main)
            return {name: outputs[name] for name in task.required}
        finally:
            session.close()
    except BundleError as error:
        raise ExportError(f"{model.name}: exported, but its runtime cannot run it: {error.message}") from error
