"""Scales of integers: of weights, one for each output channel, and of activations, one for a tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.graph import LiteScale

_LEAST = 1e-8  # the smallest scale
_MOST_BIAS = 2**30


def weights(
    array: NDArray[np.float32], axis: int, bits: int, bias: NDArray[np.float32] | None, read: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A layer's weights as integers.

    Args:
        array: float.
        axis: of the output channels.
        bits: of the integers, the sign included.
        bias: of the layer: where it would not fit 32 bits, the channel's scale is larger.
        read: the scale of what the layer reads.

    Returns:
        int8 of the same shape, and the scale of each channel.
    """
    largest = 2 ** (bits - 1) - 1
    others = tuple(i for i in range(array.ndim) if i != axis)
    scales = np.abs(array).max(axis=others).astype(np.float64) / largest
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (read * _MOST_BIAS))
    scales = np.maximum(scales, _LEAST).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    integers = np.clip(np.rint(array / scales.reshape(shape)), -largest, largest)
    return integers.astype(np.int8), scales


def asymmetric(low: float, high: float) -> LiteScale:
    """A scale whose 256 integers hold a range and zero, which is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:  # always zero, which any scale holds; XNNPACK does not add what has a scale of another order
        return LiteScale.single(1 / 255, -128)
    scale = max((high - low) / 255, _LEAST)
    zero = int(np.clip(np.rint(-128 - low / scale), -128, 127))
    return LiteScale.single(scale, zero)


def same(one: LiteScale, other: LiteScale) -> bool:
    return bool(one.scale[0] == other.scale[0] and one.zero[0] == other.zero[0])
