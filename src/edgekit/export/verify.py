"""Verification: compare each variant with the trained model, in the runtime that will serve it if it can run on this machine.

Float variants must predict the trained model's class on every golden image, in every batch size. All variants must keep the accuracy within
`max_drop` and compute the same for every batch size (see `batches`). `edgekit.parity` holds the tolerances of the outputs.

Without labels the loss of accuracy is estimated by the trained model's own confidence: where a variant decides for another class, it
loses what the model gives its own choice and gains what it gives the other. For a calibrated model that is the expected loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Accuracy, Bundle, Parity, Variant
from edgekit.errors import BundleError, ExportError
from edgekit.export.batches import BatchCheck, compare_batches
from edgekit.parity import (
    EmbeddingParity,
    LogitsParity,
    compare_embeddings,
    compare_logits,
    embedding_fault,
    logits_fault,
    shape_fault,
)
from edgekit.progress import progress
from edgekit.runtimes import load, open_session, why_not
from edgekit.runtimes.session import EMBEDDING, OUTPUT, run_in_batches
from edgekit.shares import difference, hundredths, percent
from edgekit.targets import find_runtime

GOLDEN = 16
Outputs = dict[str, NDArray[np.float32]]
Run = Callable[
    [NDArray[np.uint8]], Outputs
]  # images (n, s, s, 3) -> `logits` (n, classes), and `embedding` (n, d) or not
_RACES = (
    "on this CPU, OpenVINO's outputs vary from run to run with several threads and batches of several images; its figures are from one "
    "thread: run it with --threads 1, or one image at a time"
)
_ALIKE = 0.9  # below this agreement, a variant that passes gets a note
_TOP5_FROM = 6  # classes; with fewer, a top-5 accuracy says nothing


@dataclass(frozen=True)
class AccuracyBounds:
    """The bounds that a variant must meet.

    Attributes:
        max_drop: the largest loss of accuracy that passes, in percentage points.
        min_agreement: the least share of the evaluation set on which it must predict the trained model's class.
    """

    max_drop: float = 1.0
    min_agreement: float = 0.0


@dataclass(frozen=True)
class ReferenceOutputs:
    """The trained model's own outputs, in float, before any conversion.

    Attributes:
        images: the evaluation set, uint8 (n, s, s, 3).
        labels: its labels, int64 (n,); None where there are none.
        logits: float32 (n, classes).
        golden: rows of the golden images, spread over the classes.
        embedding: float32 (golden, d), of the golden images; None where the export has no such output.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    logits: NDArray[np.float32]
    golden: NDArray[np.int64]
    embedding: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, model: nn.Module | Run, images: NDArray[np.uint8], labels: NDArray[np.int64] | None
    ) -> ReferenceOutputs:
        """Run a model on the evaluation set.

        Args:
            model: a network from uint8 images (n, s, s, 3) to float32 logits (n, classes), or a function that gives all outputs.
            images, labels: the evaluation set; labels may be None.

        Raises:
            ExportError: the logits are not finite numbers.
        """
        run = runner(model) if isinstance(model, nn.Module) else model
        parts = []
        with progress("trained", len(images), unit="images") as advance:
            for start in range(0, len(images), size := _batch_size(images)):
                parts.append(run(np.ascontiguousarray(images[start : start + size]))[OUTPUT])
                advance(len(parts[-1]))
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise ExportError(
                "the trained model's logits are not finite numbers", "train it again with a lower learning rate"
            )
        golden = class_spread(logits.argmax(1) if labels is None else labels, GOLDEN)
        return cls(images, labels, logits, golden, run(np.ascontiguousarray(images[golden])).get(EMBEDDING))

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the trained model; None where there are no labels."""
        return None if self.labels is None else _accuracy(self.logits, self.labels)

    @property
    def golden_outputs(self) -> Outputs:
        """The outputs for the golden images, by name."""
        embedding = {} if self.embedding is None else {EMBEDDING: self.embedding}
        return {OUTPUT: self.logits[self.golden], **embedding}


def runner(model: nn.Module, *, embedding: bool = False) -> Run:
    """A function that runs a network, uint8 images (n, s, s, 3) -> float32 logits (n, classes), on the CPU.

    Args:
        model: the network; it is not changed.
        embedding: also give what the network's last linear layer sees, (n, d).

    Raises:
        ExportError: the network's last layer is not a linear one (raised when the function is called).
    """
    model = copy.deepcopy(model).cpu().float().eval()

    def run(batch: NDArray[np.uint8]) -> Outputs:
        images = torch.from_numpy(np.array(batch))
        with torch.inference_mode():
            logits, seen = with_embedding(model, images) if embedding else (model(images), None)
        return {OUTPUT: logits.numpy()} | ({} if seen is None else {EMBEDDING: seen.numpy()})

    return run


def with_embedding(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (n, classes) of some images, and what the linear layer that makes them sees (n, d), not normalized.

    Raises:
        ExportError: the last layer is not a linear one, or it sees something else than one vector an image.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((inputs[0], output))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    # Whatever follows the last layer (a cast to the type that it has) leaves its numbers.
    if not seen or seen[-1][0].ndim != 2 or seen[-1][1].shape != logits.shape or not torch.equal(seen[-1][1], logits):
        raise ExportError(
            "the network has no embedding to give: its logits do not come from a linear layer over one vector an image",
            "export it without --embedding",
        )
    return logits, seen[-1][0]


def class_spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of `count` images (or all, if there are fewer), taking classes in turn and each class's images in order."""
    queues = [list(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rows: list[int] = []
    while len(rows) < min(count, len(labels)):
        for queue in queues:
            if queue and len(rows) < count:
                rows.append(int(queue.pop(0)))
    return np.array(rows, dtype=np.int64)


def verify(variant: Variant, folder: Path, reference: ReferenceOutputs, bounds: AccuracyBounds) -> Variant:
    """Run a variant and return it with parity, accuracy, drop and status.

    Args:
        variant: its files are in `folder`.
        folder: folder of the bundle.
        reference: the trained model's outputs.
        bounds: the bounds that it must meet.
    """
    if missing := why_not(variant.runtime):
        return variant.model_copy(
            update={
                "executed": False,
                "status": "unexecuted",
                "note": _join(variant.note, f"not run here: {missing.message}"),
            }
        )
    runtime = find_runtime(variant.runtime)
    # Nothing is timed here, and other variants may be made at the same time.
    settings = {**variant.settings, **(runtime.checking if runtime else {})}
    path = folder / variant.files[0].path
    try:
        logits, embedding, batches = _answers(variant, path, settings, reference)
    except BundleError as error:
        raise ExportError(f"{variant.id}: exported, but its runtime cannot run it: {error.message}") from error
    golden = np.ascontiguousarray(reference.images[reference.golden])
    if exact_threads(variant) and not _same_with_threads(variant, path, settings, golden, logits[reference.golden]):
        variant = variant.model_copy(update={"note": _join(variant.note, _RACES)})
    return judge(variant, logits, embedding, reference, bounds, batches)


def _answers(
    variant: Variant, path: Path, settings: dict[str, str], reference: ReferenceOutputs
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, BatchCheck]:
    """A variant's logits of the evaluation set, its embedding of the golden images, and how it depends on the batch size."""
    images, size = reference.images, _batch_size(reference.images)
    golden = np.ascontiguousarray(images[reference.golden])
    session = open_session(variant.runtime, path, threads=exact_threads(variant), settings=settings)
    try:
        with progress(variant.id, len(images), unit="images") as advance:
            logits = run_in_batches(session, images, size, logits_only=True, advance=advance)[OUTPUT]
        outputs = {} if reference.embedding is None else run_in_batches(session, golden, len(golden))
        also = {} if session.batch else {size: logits[reference.golden]}
        return (
            logits,
            outputs.get(EMBEDDING),
            compare_batches(session, golden, reference.logits[reference.golden], also),
        )
    finally:
        session.close()


def check_batches(bundle: Bundle, variant: Variant) -> BatchCheck:
    """Check on the golden images, in the variant's runtime on this machine, that it computes the same for every batch size.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.

    Raises:
        RuntimeMissing, BundleError: see `edgekit.runtimes.load`.
    """
    images, logits = bundle.golden()
    session = load(bundle, variant, threads=exact_threads(variant))
    try:
        return compare_batches(session, images, logits)
    finally:
        session.close()


def exact_threads(variant: Variant) -> int:
    """The number of threads for reproducible outputs of a variant; 0: the runtime decides (see `Runtime.exact_threads`)."""
    runtime = find_runtime(variant.runtime)
    return runtime.exact_threads.get(variant.precision, 0) if runtime else 0


def _same_with_threads(
    variant: Variant, path: Path, settings: dict[str, str], images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> bool:
    """Whether a variant gives the same outputs three times with the runtime's default number of threads."""
    session = open_session(variant.runtime, path, settings=settings)
    try:
        close = 1e-3 * float(np.abs(expected).max())
        again = (run_in_batches(session, images, len(images), logits_only=True)[OUTPUT] for _ in range(3))
        return all(np.abs(logits - expected).max() <= close for logits in again)
    finally:
        session.close()


def judge(
    variant: Variant,
    logits: NDArray[np.float32],
    embedding: NDArray[np.float32] | None,
    reference: ReferenceOutputs,
    bounds: AccuracyBounds,
    batches: BatchCheck | None = None,
) -> Variant:
    """Judge a variant by its outputs; return it with parity, accuracy, drop and status.

    Args:
        variant: the variant that gave them.
        logits: its own, float32 (n, classes), of the evaluation set.
        embedding: its own, float32 (golden, d), of the golden images; None where it has no such output, which is a fault where the
            trained model has one.
        reference: the trained model's answers.
        bounds: the bounds that it must meet.
        batches: how its outputs depend on the batch size; None if that was not checked.
    """
    near = compare_logits(logits[reference.golden], reference.logits[reference.golden])
    finite = bool(np.isfinite(logits).all())
    agreement = float((logits.argmax(1) == reference.logits.argmax(1)).mean())
    accuracy = None
    if reference.labels is not None and reference.accuracy is not None:
        accuracy = _accuracy(logits, reference.labels)
        accuracy.agreement = agreement
        drop = difference(reference.accuracy.top1, accuracy.top1)
    else:
        drop = _expected_drop(logits, reference.logits)
    faults = [] if finite else ["its logits are not finite numbers"]
    if drop * 100 > bounds.max_drop + 1e-9:
        loses = "loses" if accuracy is not None else "is expected to lose"
        faults.append(f"it {loses} {hundredths(drop, 2)} points of accuracy, more than {bounds.max_drop:g}")
    if agreement < bounds.min_agreement - 1e-9:
        faults.append(
            f"it decides as the trained model does on {percent(agreement)} of the images, fewer than {percent(bounds.min_agreement)}"
        )
    if finite:
        agreed = min(near.top1_agreement, batches.top1 if batches else 1)
        faults.append(logits_fault(replace(near, top1_agreement=agreed), variant.precision))
    turned, fault = _compare_embedding(variant, embedding, reference.embedding)
    faults.append(fault)
    if batches is not None and not batches.agree:
        faults.append(batches.fault())
    faults = [fault for fault in faults if fault]
    return variant.model_copy(
        update={
            "executed": True,
            "status": "rejected" if faults else "verified",
            "parity": _parity(near, turned, batches) if finite else None,
            "accuracy": accuracy,
            "agreement": agreement,
            "drop": drop,
            "drop_is": "measured" if accuracy is not None else "expected",
            "note": _join(variant.note, f"rejected: {' and '.join(faults)}" if faults else _differs(agreement)),
        }
    )


def _differs(agreement: float) -> str:
    """The note on a variant that passes but is another classifier: as good on average, but not image by image."""
    if agreement >= _ALIKE:
        return ""
    return f"its class differs from the trained model's on {percent(difference(1, agreement))} of the images (--min-agreement limits this)"


def _compare_embedding(
    variant: Variant, embedding: NDArray[np.float32] | None, trained: NDArray[np.float32] | None
) -> tuple[EmbeddingParity | None, str]:
    """How near an embedding (golden, d) comes to the trained one, and what is wrong with it; None where they cannot be compared."""
    if trained is None:
        return None, ""
    if embedding is None:
        return None, "it gives no embedding"
    if fault := shape_fault(EMBEDDING, embedding, trained):
        return None, fault
    found = compare_embeddings(embedding, trained)
    return found, embedding_fault(found, variant.precision)


def _parity(near: LogitsParity, turned: EmbeddingParity | None, batches: BatchCheck | None) -> Parity:
    """The record of the golden images."""
    parity = Parity(
        samples=near.samples,
        top1_agreement=near.top1_agreement,
        max_abs_diff=near.max_abs_diff,
        sqnr_db=near.sqnr_db if np.isfinite(near.sqnr_db) else None,
    )
    if batches is not None:
        parity.batches = list(batches.sizes)
        parity.batches_sqnr_db = batches.sqnr_db if np.isfinite(batches.sqnr_db) else None
    if turned is not None and turned.finite:
        parity.embedding_max_abs_diff, parity.embedding_cosine = turned.max_abs_diff, turned.cosine
    return parity


def _expected_drop(logits: NDArray[np.float32], trained: NDArray[np.float32]) -> float:
    """The accuracy that the trained model, where its confidence is right, expects to lose, as a share."""
    shifted = np.exp(trained - trained.max(1, keepdims=True), dtype=np.float64)
    probabilities = shifted / shifted.sum(1, keepdims=True)
    rows = np.arange(len(logits))
    return float((probabilities.max(1) - probabilities[rows, logits.argmax(1)]).mean())


def _accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Accuracy:
    top5 = None
    if logits.shape[1] >= _TOP5_FROM:
        best = np.argpartition(-logits, 5, axis=1)[:, :5]
        top5 = float((best == labels[:, None]).any(axis=1).mean())
    return Accuracy(top1=float((logits.argmax(1) == labels).mean()), top5=top5, samples=len(labels))


def _batch_size(images: NDArray[np.uint8]) -> int:
    """The batch size of a run: all images, or about 4 million pixels."""
    return min(len(images), max(1, min(256, 2**22 // (images.shape[1] * images.shape[2]))))


def _join(*sentences: str) -> str:
    return "; ".join(s for s in sentences if s)
