"""Comparison of a variant's outputs with the trained model's, and the tolerances that they must meet.

Export, doctor and bench all use this module, so that none refuses what another accepts. It needs only NumPy.

A float variant computes the same function: its values may differ by rounding alone. INT8 computes a neighboring function: the direction of a
vector says whether it is still the same one. Which outputs a model has, what they decide, and which rule holds for which of them, is said by
its task (`edgekit.tasks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class OutputParity:
    """One output of a variant beside the trained model's, for the same images.

    Attributes:
        samples: how many images.
        finite: whether all values are finite numbers; where they are not, the cosine is -1.
        max_abs_diff: largest difference of a value.
        largest: largest absolute value of the trained model's output.
        sqnr_db: signal to quantization noise, see `decibels`.
        cosine: the smallest of `cosines`, an image's values being one vector.
    """

    samples: int
    finite: bool
    max_abs_diff: float
    largest: float
    sqnr_db: float
    cosine: float


def compare_outputs(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> OutputParity:
    """Hold an output (n, ...) against the trained model's of the same shape, n >= 1."""
    finite = bool(np.isfinite(got).all())
    return OutputParity(
        samples=len(got),
        finite=finite,
        max_abs_diff=_max_abs_diff(got, trained) if finite else np.inf,
        largest=float(np.abs(trained).max(initial=0)),
        sqnr_db=decibels(power(trained), noise(got, trained)),
        cosine=float(cosines(_flat(got), _flat(trained)).min()) if finite else -1.0,
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


def finite_fault(name: str, whose: str = "its") -> str:
    """What is wrong with an output of that name which holds other numbers than finite ones, in a clause."""
    return f"{whose} {name} {'are' if name.endswith('s') else 'is'} not finite numbers"


def values_fault(value: str, found: OutputParity, precision: str, smallest: float = 0.0) -> str:
    """Why a float variant's output is not the trained model's, in a clause; empty where it is, and of INT8.

    Args:
        value: what one value of the output is called.
        found: how near it comes, its values being finite.
        precision: of the variant.
        smallest: the least that `TOLERANCE` is a share of.
    """
    tolerance = TOLERANCE.get(precision, np.inf) * max(smallest, found.largest)
    if precision not in TOLERANCE or found.max_abs_diff <= tolerance:
        return ""
    return f"a golden {value} differs by {found.max_abs_diff:.3g}, more than {tolerance:.3g}"


def direction_fault(name: str, found: OutputParity, precision: str, floor: float = COSINE_FLOOR) -> str:
    """Why vectors are not those of the trained model, in a clause; empty where they are.

    Args:
        name: of the output.
        found: how near they come, their values being finite.
        precision: of the variant. A float one must keep the values within `TOLERANCE`, INT8 the direction.
        floor: the smallest cosine of INT8: `COSINE_FLOOR` where it is exported, `OTHER_VECTOR` on any other machine.
    """
    if precision in TOLERANCE:
        near = found.max_abs_diff <= TOLERANCE[precision] * found.largest
    else:
        near = found.cosine >= floor
    if near:
        return ""
    return (
        f"the golden {name} differs by {found.max_abs_diff:.3g} of up to {found.largest:.3g}, "
        f"its cosine is {found.cosine:.3f} at worst"
    )


def _max_abs_diff(got: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> float:
    return float(np.abs(got.astype(np.float64) - trained).max(initial=0))


def _flat(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """One vector an image."""
    return values.reshape(len(values), -1)


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The rows scaled to length 1; rows of zeros stay zero. In float64 the squares of float32 neither overflow nor underflow."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1.0)
