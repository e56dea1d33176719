"""Proof that a session computes what was trained, on the golden tensors, before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.errors import BundleError
from edgekit.runtimes import Session
from edgekit.runtimes.session import run_in_batches

# Largest logit difference of a float variant, as a share of the largest golden logit: sums in another order, FP16 weights.
_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
_AGREEMENT_LOSS = 0.05


@dataclass(frozen=True)
class Proof:
    """How near a session comes to the golden logits on this machine."""

    max_abs_diff: float
    top1_agreement: float
    warning: str


def prove(
    session: Session, variant: Variant, images: NDArray[np.uint8], logits: NDArray[np.float32], batch: int
) -> Proof:
    """Run the golden images, in batches of `batch`, and compare with the golden logits.

    INT8 may differ from machine to machine (CPUs without VNNI saturate): where its top-1 agreement is more than 5 points
    below the one recorded at export, the proof carries a warning. A float variant must agree.

    Raises:
        BundleError: a float variant computes something else on this machine, or any variant gives values that are not finite.
    """
    got = run_in_batches(session, images, batch)["logits"]
    if got.shape != logits.shape:
        raise BundleError(
            f"{variant.id}: gives logits of shape {got.shape}, the golden ones are {logits.shape}", "export again"
        )
    difference = float(np.abs(got - logits).max())
    agreement = float((got.argmax(1) == logits.argmax(1)).mean())
    tolerance = _TOLERANCE.get(variant.precision, np.inf) * max(1.0, float(np.abs(logits).max()))
    if not np.isfinite(got).all() or difference > tolerance:
        raise BundleError(
            f"{variant.id}: does not compute what was trained on this machine: a golden logit differs by {difference:.3g}, "
            f"top-1 agrees on {agreement:.1%} of {len(images)}",
            "use another variant; please report it with the output of `edgekit bench --json`",
        )
    warning = ""
    if variant.parity and agreement < variant.parity.top1_agreement - _AGREEMENT_LOSS:
        warning = (
            f"top-1 agrees with the trained model on {agreement:.1%} of the golden images here, on "
            f"{variant.parity.top1_agreement:.1%} where it was exported: its recorded accuracy does not hold on this machine"
        )
    return Proof(difference, agreement, warning)
