"""Check, before anything is timed, that a session computes the trained model's outputs on the golden tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.errors import BundleError
from edgekit.parity import (
    AGREEMENT_LOSS,
    COSINE_LOSS,
    OTHER_VECTOR,
    EmbeddingParity,
    LogitsParity,
    compare_embeddings,
    compare_logits,
    embedding_fault,
    logits_fault,
    shape_fault,
)
from edgekit.runtimes import Session
from edgekit.runtimes.session import EMBEDDING, OUTPUT, run_in_batches
from edgekit.shares import percent

_HINT = "use another variant; please report it with the output of `edgekit bench --json`"


@dataclass(frozen=True)
class Proof:
    """How close a session's outputs are to the golden outputs on this machine.

    Attributes:
        max_abs_diff: largest absolute difference of a logit.
        top1_agreement: share of the golden images that the session classifies as the trained model does.
        warning: why the recorded accuracy does not hold here; empty if it does.
        embedding_max_abs_diff: largest absolute difference of an embedding component; None if the bundle has no embedding.
        embedding_cosine: smallest cosine between an image's embedding and the golden one.
    """

    max_abs_diff: float
    top1_agreement: float
    warning: str
    embedding_max_abs_diff: float | None = None
    embedding_cosine: float | None = None


def prove(session: Session, variant: Variant, golden: Mapping[str, NDArray[Any]], batch: int) -> Proof:
    """Run the golden images in batches of `batch`, and compare with the golden logits and, if there is one, the embedding.

    INT8 may differ between machines (CPUs without VNNI saturate): the proof has a warning if the top-1 agreement is more than
    5 points below the one recorded at export, or the embedding's cosine more than 0.05 below. A float variant must agree, and
    every variant's embedding must match (`edgekit.parity` defines the limits).

    Args:
        session: the loaded variant.
        variant: the variant that the session runs.
        golden: `Bundle.golden_outputs()`: `images`, `logits` and optionally `embedding`.
        batch: images per run.

    Raises:
        BundleError: a float variant gives other logits on this machine, or any variant gives another embedding or values
            that are not finite.
    """
    outputs = run_in_batches(session, golden["images"], batch)
    _check_shape(variant, OUTPUT, outputs[OUTPUT], golden[OUTPUT])
    logits = compare_logits(outputs[OUTPUT], golden[OUTPUT])
    if fault := logits_fault(logits, variant.precision):
        raise _mismatch(variant, fault)
    if EMBEDDING not in golden:
        return Proof(logits.max_abs_diff, logits.top1_agreement, _accuracy_warning(variant, logits))
    _check_shape(variant, EMBEDDING, outputs.get(EMBEDDING), golden[EMBEDDING])
    embedding = compare_embeddings(outputs[EMBEDDING], golden[EMBEDDING])
    if fault := embedding_fault(embedding, variant.precision, floor=OTHER_VECTOR):
        raise _mismatch(variant, fault)
    warnings = "; ".join(filter(None, (_accuracy_warning(variant, logits), _embedding_warning(variant, embedding))))
    return Proof(logits.max_abs_diff, logits.top1_agreement, warnings, embedding.max_abs_diff, embedding.cosine)


def _accuracy_warning(variant: Variant, logits: LogitsParity) -> str:
    """Return a warning if the logits agree less with the trained model than at export; otherwise an empty text."""
    if variant.parity is None or logits.top1_agreement >= variant.parity.top1_agreement - AGREEMENT_LOSS:
        return ""
    return (
        f"top-1 agrees with the trained model on {percent(logits.top1_agreement)} of the golden images here, but on "
        f"{percent(variant.parity.top1_agreement)} at export: the recorded accuracy does not hold on this machine"
    )


def _embedding_warning(variant: Variant, embedding: EmbeddingParity) -> str:
    """Return a warning if the embedding's cosine is lower than at export; otherwise an empty text."""
    exported = variant.parity.embedding_cosine if variant.parity else None
    if exported is None or embedding.cosine >= exported - COSINE_LOSS:
        return ""
    return f"its embedding's cosine with the trained one is {embedding.cosine:.3f} here, {exported:.3f} at export"


def _check_shape(variant: Variant, name: str, got: NDArray[Any] | None, golden: NDArray[Any]) -> None:
    fault = f"it has no output {name}" if got is None else shape_fault(name, got, golden)
    if fault:
        raise BundleError(fault, "export the bundle again", where=variant.id)


def _mismatch(variant: Variant, how: str) -> BundleError:
    return BundleError(f"its outputs differ from the trained model's on this machine: {how}", _HINT, where=variant.id)
