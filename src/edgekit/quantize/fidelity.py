"""How faithfully a quantized file answers as the trained model does, on images without labels, in the runtime that will serve it.

This alone chooses between candidates of one rung of the ladder. The labels of the evaluation set choose nothing: the loss of
accuracy on it is the gate that a chosen candidate passes or does not.
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
from edgekit.parity import compare_logits
from edgekit.quantization import UnlabeledComparison
from edgekit.quantize.ranges import batch_size
from edgekit.runtimes import open_session
from edgekit.runtimes.session import OUTPUT, run_in_batches, share_graph
from edgekit.targets import find_runtime

if TYPE_CHECKING:
    from edgekit.quantize.selection import Candidates, Drawn

IMAGES = 256  # enough to tell candidates apart (the standard error of an agreement of 95 % is 1.4 points), few enough to be quick
_RECOVER = 4096  # images to distill on


@dataclass(frozen=True)
class Fidelity:
    """What a quantized file keeps of the trained model.

    Attributes:
        agreement: share of the images that both classify the same.
        sqnr_db: signal to quantization noise of the logits, 10 log10(sum y^2 / sum (y' - y)^2); infinite where they are equal.
        images: how many.
    """

    agreement: float
    sqnr_db: float
    images: int

    @property
    def standard_error(self) -> float:
        """Of the agreement, with one disagreement more than was seen, so that a perfect score is not taken for certainty."""
        p = (self.agreement * self.images) / (self.images + 1)
        return math.sqrt(p * (1 - p) / self.images)

    def describe(self) -> UnlabeledComparison:
        """For the bundle; an infinite SQNR is null there."""
        sqnr = round(self.sqnr_db, 2) if math.isfinite(self.sqnr_db) else None
        return UnlabeledComparison(agreement=self.agreement, sqnr_db=sqnr, images=self.images)

    def better_than(self, other: Fidelity) -> bool:
        """Whether to prefer this: by agreement where it differs by more than a standard error, else by the logits' noise."""
        if abs(self.agreement - other.agreement) > max(self.standard_error, other.standard_error):
            return self.agreement > other.agreement
        return self.sqnr_db > other.sqnr_db


def compare(logits: NDArray[np.float32], trained: NDArray[np.float32]) -> Fidelity:
    """The fidelity of logits (n, classes) to the trained model's (n, classes); of one that is not finite, none."""
    found = compare_logits(logits, trained)
    return Fidelity(found.top1_agreement, found.sqnr_db, found.samples)


class Judge:
    """Compares files with the float model on some unlabeled images.

    Args:
        float_onnx: the float model that was trained.
        images: uint8 (n, s, s, 3); `IMAGES` of them are used, spread over the whole.
    """

    def __init__(self, float_onnx: Path, images: NDArray[np.uint8]) -> None:
        self.images = np.ascontiguousarray(images[spread_rows(len(images), IMAGES)])
        self.trained = run("onnxruntime", float_onnx, self.images)

    def __call__(self, answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Fidelity:
        """Hold a file against the model.

        Args:
            answer: runs the file: images uint8 (n, s, s, 3) -> logits float32 (n, classes).
        """
        return compare(answer(self.images), self.trained)


def further(candidates: Candidates, drawn: Drawn, recover: bool) -> NDArray[np.uint8]:
    """Images without labels beside those of the calibration, spread over the pool: enough to compare, or to distill on.

    Args:
        candidates: where the calibration's images were drawn from.
        drawn: the calibration's; where there are no others, these.
        recover: whether to distill: then as many as `_RECOVER`, within a quarter of a gigabyte.
    """
    others = np.setdiff1d(np.arange(candidates.total), drawn.rows)
    if not len(others):
        return drawn.images
    count = min(_RECOVER, max(IMAGES, 2**28 // drawn.images[0].size)) if recover else IMAGES
    return candidates.read(others[spread_rows(len(others), count)])


def run(
    runtime: str, model: Path, images: NDArray[np.uint8], settings: Mapping[str, str] | None = None
) -> NDArray[np.float32]:
    """Logits (n, classes) of images uint8 (n, s, s, 3).

    Raises:
        ExportError: the runtime does not load the file, or fails when it runs it.
        RuntimeMissing: the runtime is not installed.
    """
    try:
        found = find_runtime(runtime)
        threads = found.exact_threads.get("int8", 0) if found else 0
        session = open_session(runtime, model, threads=threads, settings=settings or {})
        # As the file is shipped; and to compile a graph for each batch size would take longer than to run it.
        share_graph(session)
        try:
            return run_in_batches(session, images, batch_size(images), logits_only=True)[OUTPUT]
        finally:
            session.close()
    except BundleError as error:
        raise ExportError(f"{model.name}: exported, but its runtime does not run it: {error.message}") from error
