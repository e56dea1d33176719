"""Proof that a session computes what was trained, on the golden tensors, before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.errors import BundleError
from edgekit.runtimes import Session
from edgekit.runtimes.session import EMBEDDING, OUTPUT, run_in_batches
from edgekit.shares import percent

# Largest difference of a float variant, as a share of the largest golden value: sums in another order, FP16 weights.
_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
_AGREEMENT_LOSS = 0.05
# INT8's embedding keeps its direction rather than its values: a warning where it has turned further away than it had at
# export, and no proof where the smallest cosine says that it is another vector.
_COSINE_LOSS = 0.05
_COSINE_FLOOR = 0.5
_HINT = "use another variant; please report it with the output of `edgekit bench --json`"


@dataclass(frozen=True)
class Proof:
    """How near a session comes to the golden outputs on this machine.

    Attributes:
        max_abs_diff: largest difference of a logit.
        top1_agreement: share of the golden images that it classifies as the trained model does.
        warning: why the recorded accuracy does not hold here; empty where it does.
        embedding_max_abs_diff: largest difference of a component of the embedding; None where the bundle has none.
        embedding_cosine: smallest cosine between an image's embedding and the golden one.
    """

    max_abs_diff: float
    top1_agreement: float
    warning: str
    embedding_max_abs_diff: float | None = None
    embedding_cosine: float | None = None


def prove(session: Session, variant: Variant, golden: Mapping[str, NDArray[Any]], batch: int) -> Proof:
    """Run the golden images, in batches of `batch`, and compare with the golden logits and, where there is one, the embedding.

    INT8 may differ from machine to machine (CPUs without VNNI saturate): where its top-1 agreement is more than 5 points
    below the one recorded at export, or its embedding's cosine more than 0.05, the proof carries a warning. A float variant must
    agree, and the embedding of any must be the same vector.

    Args:
        session: the loaded variant.
        variant: it.
        golden: `Bundle.golden_outputs()`: `images`, `logits` and maybe `embedding`.
        batch: images a run.

    Raises:
        BundleError: a float variant computes something else on this machine, or any variant gives another embedding or values
            that are not finite.
    """
    outputs = run_in_batches(session, golden["images"], batch)
    got, logits = outputs[OUTPUT], golden[OUTPUT]
    _check_shape(variant, OUTPUT, got, logits)
    difference = float(np.abs(got - logits).max())
    agreement = float((got.argmax(1) == logits.argmax(1)).mean())
    tolerance = _TOLERANCE.get(variant.precision, np.inf) * max(1.0, float(np.abs(logits).max()))
    decides_otherwise = variant.precision in _TOLERANCE and agreement < 1  # whatever the tolerance
    if not np.isfinite(got).all() or not difference <= tolerance or decides_otherwise:
        raise _something_else(
            variant,
            f"a golden logit differs by {difference:.3g}, top-1 agrees on {percent(agreement)} of {len(logits)}",
        )
    warnings = []
    if variant.parity and agreement < variant.parity.top1_agreement - _AGREEMENT_LOSS:
        warnings.append(
            f"top-1 agrees with the trained model on {percent(agreement)} of the golden images here, on "
            f"{percent(variant.parity.top1_agreement)} where it was exported: its recorded accuracy does not hold on this machine"
        )
    if EMBEDDING not in golden or EMBEDDING not in outputs:
        return Proof(difference, agreement, "; ".join(warnings))
    apart, cosine = _prove_embedding(variant, outputs[EMBEDDING], golden[EMBEDDING])
    exported = variant.parity.embedding_cosine if variant.parity else None
    if exported is not None and cosine < exported - _COSINE_LOSS:
        warnings.append(f"its embedding's cosine with the trained one is {cosine:.3f} here, {exported:.3f} at export")
    return Proof(difference, agreement, "; ".join(warnings), apart, cosine)


def _prove_embedding(variant: Variant, got: NDArray[np.float32], golden: NDArray[np.float32]) -> tuple[float, float]:
    """Largest difference and smallest cosine of embeddings (n, d)."""
    _check_shape(variant, EMBEDDING, got, golden)
    a, b = got.astype(np.float64), golden.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)  # two vectors of zeros point in one direction
    cosine = float(np.where(same, 1.0, (a * b).sum(1) / np.maximum(norms, 1e-30)).min())
    difference, largest = float(np.abs(a - b).max()), float(np.abs(b).max())
    exported = variant.parity.embedding_cosine if variant.parity else None
    floor = _COSINE_FLOOR if exported is None else min(_COSINE_FLOOR, exported - _COSINE_LOSS)
    near = difference <= _TOLERANCE[variant.precision] * largest if variant.precision in _TOLERANCE else cosine >= floor
    if not near or not np.isfinite(got).all():
        raise _something_else(
            variant,
            f"the golden embedding differs by {difference:.3g} of up to {largest:.3g}, its cosine is {cosine:.3f} at worst",
        )
    return difference, cosine


def _check_shape(variant: Variant, name: str, got: NDArray[Any], golden: NDArray[Any]) -> None:
    if got.shape != golden.shape:
        what = f"{variant.id}: gives {name} of shape {got.shape}, golden is {golden.shape}"
        raise BundleError(what, "export the bundle again")


def _something_else(variant: Variant, how: str) -> BundleError:
    return BundleError(f"{variant.id}: does not compute what was trained on this machine: {how}", _HINT)
