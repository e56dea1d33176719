"""Does a variant compute what was trained? Each is run in the runtime that will serve it, where that can run here.

Float variants must decide as the trained model does on every golden image; all must keep its accuracy within `max_drop`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Accuracy, Parity, Variant
from edgekit.errors import BundleError, ExportError
from edgekit.progress import Advance, progress
from edgekit.runtimes import open_session, why_not

GOLDEN = 16
_Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_TOP5_FROM = 6  # classes; with fewer, a top-5 accuracy says nothing


@dataclass(frozen=True)
class Reference:
    """What the trained model itself says, in float, before any conversion.

    Attributes:
        images, labels: the evaluation set, uint8 (n, s, s, 3) and int64 (n,).
        logits: float32 (n, classes).
        golden: rows of the golden images, spread over the classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    golden: NDArray[np.int64]

    @classmethod
    def of(cls, model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Reference:
        """Run a model, uint8 images (n, s, s, 3) -> float32 logits (n, classes), on the evaluation set."""
        model = copy.deepcopy(model).cpu().float().eval()

        def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits: NDArray[np.float32] = model(torch.from_numpy(np.array(batch))).numpy()
            return logits

        with progress("trained", len(images), unit="images") as advance:
            logits = _batched(run, images, advance)
        if not np.isfinite(logits).all():
            raise ExportError(
                "the trained model's logits are not finite numbers", "train it again with a lower learning rate"
            )
        return cls(images, labels, logits, class_spread(labels, GOLDEN))

    @property
    def accuracy(self) -> Accuracy:
        return _accuracy(self.logits, self.labels)


def class_spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of `count` images, the classes in turns, each class's in the order of the set (fewer where there are fewer)."""
    queues = [list(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rows: list[int] = []
    while len(rows) < min(count, len(labels)):
        for queue in queues:
            if queue and len(rows) < count:
                rows.append(int(queue.pop(0)))
    return np.array(rows, dtype=np.int64)


def verify(variant: Variant, folder: Path, reference: Reference, max_drop: float) -> Variant:
    """A variant with what was found about it: parity, accuracy, drop and status.

    Args:
        variant: its files are in `folder`.
        folder: of the bundle.
        reference: the trained model's answers.
        max_drop: the largest loss of accuracy that passes, in percentage points.
    """
    if missing := why_not(variant.runtime):
        return variant.model_copy(
            update={
                "executed": False,
                "status": "unexecuted",
                "note": _join(variant.note, f"not run here: {missing.message}"),
            }
        )
    try:
        session = open_session(variant.runtime, folder / variant.files[0].path, settings=variant.settings)
    except BundleError as error:
        raise ExportError(f"{variant.id}: exported, but its runtime does not load it: {error.message}") from error
    try:
        with progress(variant.id, len(reference.images), unit="images") as advance:
            logits = _batched(session.run, reference.images, advance)
    finally:
        session.close()
    finite = bool(np.isfinite(logits).all())
    parity = _parity(logits[reference.golden], reference.logits[reference.golden]) if finite else None
    accuracy = _accuracy(logits, reference.labels)
    accuracy.agreement = float((logits.argmax(1) == reference.logits.argmax(1)).mean())
    drop = reference.accuracy.top1 - accuracy.top1
    faults = []
    if parity is None:
        faults.append("its logits are not finite numbers")
    if drop * 100 > max_drop + 1e-9:
        faults.append(f"it loses {drop * 100:.2f} points of accuracy, more than {max_drop:g}")
    if parity is not None and variant.precision != "int8" and parity.top1_agreement < 1:
        faults.append(f"it decides otherwise on {1 - parity.top1_agreement:.0%} of the golden images")
    return variant.model_copy(
        update={
            "executed": True,
            "status": "rejected" if faults else "verified",
            "parity": parity,
            "accuracy": accuracy,
            "drop": drop,
            "note": _join(variant.note, f"rejected: {' and '.join(faults)}" if faults else ""),
        }
    )


def _parity(logits: NDArray[np.float32], trained: NDArray[np.float32]) -> Parity:
    difference = logits.astype(np.float64) - trained
    noise = float((difference**2).sum())
    signal = float((trained.astype(np.float64) ** 2).sum())
    return Parity(
        samples=len(logits),
        top1_agreement=float((logits.argmax(1) == trained.argmax(1)).mean()),
        max_abs_diff=float(np.abs(difference).max()),
        sqnr_db=float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else None,
    )


def _accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Accuracy:
    top5 = None
    if logits.shape[1] >= _TOP5_FROM:
        best = np.argpartition(-logits, 5, axis=1)[:, :5]
        top5 = float((best == labels[:, None]).any(axis=1).mean())
    return Accuracy(top1=float((logits.argmax(1) == labels).mean()), top5=top5, samples=len(labels))


def _batched(run: _Run, images: NDArray[np.uint8], advance: Advance) -> NDArray[np.float32]:
    batch = max(
        1, min(256, 2**22 // (images.shape[1] * images.shape[2]))
    )  # about 4 million pixels of activations at once
    parts = []
    for start in range(0, len(images), batch):
        part = np.ascontiguousarray(images[start : start + batch])
        parts.append(run(part))
        advance(len(part))
    return np.concatenate(parts)


def _join(*sentences: str) -> str:
    return "; ".join(s for s in sentences if s)
