"""Comparison of a variant's outputs with the trained model's, and the tolerances that they must meet.

Export, doctor and bench all use this module, so that none refuses what another accepts. It needs only NumPy.

A float variant computes the same function: its values may differ by rounding, and its decisions not at all. INT8 computes a neighboring
function: its accuracy says whether the logits are good enough, and the direction of its embedding whether that is still the same vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.shares import difference, percent

# Largest difference of a float variant, as a share of the largest value of the trained model: sums in another order, FP16 weights.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
# The smallest cosine of INT8's embedding with the trained one, on the worst of the golden images, where it is exported. Trained ResNet-10,
# MobileNetV3-small and EfficientNet-Lite0 gave 0.98 to 1.00 in ONNX Runtime and OpenVINO, in every configuration that the search tried, and
# a ViT-tiny that loses two points of accuracy still 0.97. At 0.9 the noise has a quarter of the signal's power (-6.3 dB), five times that
# of the worst good one.
COSINE_FLOOR = 0.9
# INT8 may differ between machines (CPUs without VNNI saturate). The first two: the further loss on another machine, compared with the export,
# that gives no warning. The last: the cosine below which an embedding is another vector: noise of three times the signal's power.
AGREEMENT_LOSS = 0.05
COSINE_LOSS = 0.05
OTHER_VECTOR = 0.5


@dataclass(frozen=True)
class LogitsParity:
    """Logits beside the trained model's.

    Attributes:
        samples: how many images.
        finite: whether all are finite numbers; where they are not, nothing agrees.
        max_abs_diff: largest difference of a logit.
        largest: largest absolute value of the trained model's logits.
        top1_agreement: share of the images that both classify the same.
        sqnr_db: signal to quantization noise, see `decibels`.
    """

    samples: int
    finite: bool
    max_abs_diff: float
    largest: float
    top1_agreement: float
    sqnr_db: float


@dataclass(frozen=True)
class EmbeddingParity:
    """Embeddings beside the trained model's.

    Attributes:
        finite: whether all values are finite numbers; where they are not, the cosine is -1.
        max_abs_diff: largest difference of a component.
        largest: largest absolute value of the trained model's components.
        cosine: the smallest of `cosines`.
    """

    finite: bool
    max_abs_diff: float
    largest: float
    cosine: float


def compare_logits(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> LogitsParity:
    """Hold logits (n, classes) against the trained model's (n, classes), n >= 1."""
    finite = bool(np.isfinite(got).all())
    return LogitsParity(
        samples=len(got),
        finite=finite,
        max_abs_diff=_max_abs_diff(got, trained) if finite else np.inf,
        largest=float(np.abs(trained).max()),
        top1_agreement=float((got.argmax(1) == trained.argmax(1)).mean()) if finite else 0.0,
        sqnr_db=decibels(power(trained), noise(got, trained)),
    )


def compare_embeddings(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> EmbeddingParity:
    """Hold embeddings (n, d) against the trained model's (n, d), n >= 1."""
    finite = bool(np.isfinite(got).all())
    return EmbeddingParity(
        finite=finite,
        max_abs_diff=_max_abs_diff(got, trained) if finite else np.inf,
        largest=float(np.abs(trained).max()),
        cosine=float(cosines(got, trained).min()) if finite else -1.0,
    )


def cosines(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The cosine of each row of `a` (n, d) with the same row of `b` (n, d), both finite.

    For two rows of zeros it is 1: they are the same vector. For a row of zeros and another row it is 0: the direction is lost.
    """
    a, b = _unit(a), _unit(b)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, np.clip((a * b).sum(axis=1), -1, 1))


def power(values: NDArray[np.floating[Any]]) -> float:
    """The sum of the squares."""
    return float((values.astype(np.float64) ** 2).sum())


def noise(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> float:
    """The power of the difference; infinite where a value is not a finite number."""
    with np.errstate(invalid="ignore"):
        found = power(got.astype(np.float64) - trained)
    return found if np.isfinite(found) else np.inf


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers: infinite without noise, minus infinite without a signal or with infinite noise."""
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal > 0 and np.isfinite(noise) else -np.inf


def shape_fault(name: str, got: NDArray[Any], trained: NDArray[Any]) -> str:
    """The reason, as a clause, why two outputs cannot be compared; empty if they can."""
    return "" if got.shape == trained.shape else f"its output {name} has shape {got.shape} instead of {trained.shape}"


def logits_fault(found: LogitsParity, precision: str) -> str:
    """Why logits are not those of the trained model, in a clause; empty where they may be.

    Of INT8 nothing but finite numbers is asked here: its accuracy is the measure.
    """
    if not found.finite:
        return "its logits are not finite numbers"
    tolerance = TOLERANCE.get(precision, np.inf) * max(1.0, found.largest)
    if precision in TOLERANCE and found.top1_agreement < 1:  # whatever the tolerance
        otherwise = percent(difference(1, found.top1_agreement), 0)
        return f"it decides otherwise on {otherwise} of the golden images, a golden logit differs by {found.max_abs_diff:.3g}"
    if found.max_abs_diff > tolerance:
        return f"a golden logit differs by {found.max_abs_diff:.3g}, more than {tolerance:.3g}"
    return ""


def embedding_fault(found: EmbeddingParity, precision: str, floor: float = COSINE_FLOOR) -> str:
    """Why embeddings are not those of the trained model, in a clause; empty where they are.

    Args:
        found: how near they come.
        precision: of the variant. A float one must keep the values within `TOLERANCE`, INT8 the direction.
        floor: the smallest cosine of INT8: `COSINE_FLOOR` where it is exported, `OTHER_VECTOR` on any other machine.
    """
    if not found.finite:
        return "its embedding is not finite numbers"
    if precision in TOLERANCE:
        near = found.max_abs_diff <= TOLERANCE[precision] * found.largest
    else:
        near = found.cosine >= floor
    if near:
        return ""
    return (
        f"the golden embedding differs by {found.max_abs_diff:.3g} of up to {found.largest:.3g}, "
        f"its cosine is {found.cosine:.3f} at worst"
    )


def _max_abs_diff(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> float:
    return float(np.abs(got.astype(np.float64) - trained).max())


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The rows scaled to length 1; rows of zeros stay zero. In float64 the squares of float32 neither overflow nor underflow."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1.0)
