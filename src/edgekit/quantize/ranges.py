"""The ranges of a network's activations: collected in one pass over images, in memory that does not grow with their number.

The float ONNX runs in ONNX Runtime with every float activation as an extra output. Each has a running minimum and maximum, and
a histogram with a fixed number of bins, whose range doubles when a value exceeds it. They give the ranges of every method:

- `minmax`: the extremes.
- `percentile`: 99.99 % of the values, half of the rest cut off at either end, as ONNX Runtime's percentile calibrator does.
- `entropy`: the threshold at which the clipped and quantized distribution diverges least from the original (Kullback-Leibler).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgekit.errors import ExportError
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.padding import only_pooled
from edgekit.onnx_graph.tail import tail_of
from edgekit.progress import Advance

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99  # of the values that a range keeps
BINS = (
    8192  # over both signs: at least 2048 of them between 0 and the largest magnitude, however often the range doubled
)
_SMALLEST = 1e-30  # the range of a histogram that has seen only zeros


class Histogram:
    """The distribution of one tensor, value by value: exact extremes, and counts in `BINS` equal bins over (-reach, reach)."""

    def __init__(self) -> None:
        self.lowest, self.highest = np.inf, -np.inf
        self.reach = 0.0
        self.counts = np.zeros(BINS, np.int64)

    @property
    def width(self) -> float:
        """The width of one bin."""
        return 2 * self.reach / BINS

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of a batch, of any shape; all must be finite.

        Raises:
            FloatingPointError: one of them is not a finite number.
        """
        if not values.size:
            return
        flat = values.reshape(-1)
        lowest, highest = float(flat.min()), float(flat.max())  # NaN if any value is
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise FloatingPointError
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        self._widen(max(-lowest, highest, _SMALLEST))
        # Rounding may put a value at a border into the neighboring bin, and the largest one beyond the last.
        index = (flat * np.float32(1 / self.width)).astype(np.float32)
        bins = np.floor(index, out=index).astype(np.int32) + BINS // 2
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1, out=bins), minlength=BINS)

    def range(self, method: Method, symmetric: bool = False) -> tuple[float, float]:
        """The lowest and highest value that the quantized tensor should represent.

        Args:
            method: of `METHODS`.
            symmetric: half of the 256 integers are for either sign, even if all values have one sign; the
                divergence depends on it.
        """
        if not self.counts.any():
            return 0.0, 0.0
        if method == "percentile":
            return self.percentile(PERCENTILE)
        if method == "entropy":
            one_sided = self.lowest >= 0 or self.highest <= 0
            reach = self.entropy_threshold(256 if one_sided and not symmetric else 128)
            return max(self.lowest, -reach), min(self.highest, reach)
        return self.lowest, self.highest

    def percentile(self, percent: float) -> tuple[float, float]:
        """The range that holds `percent` of the values; half of the rest is cut off at either end."""
        cut = (100.0 - percent) / 200.0
        low, high = (self._quantile(q) for q in (cut, 1.0 - cut))
        return max(low, self.lowest), min(high, self.highest)

    def entropy_threshold(self, levels: int = 128) -> float:
        """The magnitude to clip at: the one with the least Kullback-Leibler divergence.

        Migacz, "8-bit inference with TensorRT" (GTC 2017): clip the histogram of magnitudes after each bin i in turn, counting the
        values beyond into bin i; merge the i bins into `levels`, spread each level evenly over its non-empty bins, and compare.
        The bin at 0, where ReLU puts half of all values and which the integers represent exactly, counts no more than its
        neighbor, as in NVIDIA's pytorch-quantization. There are 2048 to 4096 bins; 256 thresholds are tried.
        """
        half = BINS // 2
        magnitudes = (self.counts[half:] + self.counts[:half][::-1]).astype(np.float64)
        used = int(np.flatnonzero(magnitudes)[-1]) + 1
        if used <= levels:
            return used * self.width
        magnitudes = magnitudes[:used]
        magnitudes[0] = magnitudes[1]
        beyond = magnitudes.sum() - np.cumsum(magnitudes)
        ends = np.unique(np.linspace(levels, used, 257).round().astype(int))
        divergences = np.array([_divergence(magnitudes[:end], beyond[end - 1], levels) for end in ends])
        least = len(ends) - 1 - int(divergences[::-1].argmin())  # of equal divergences, the one that clips least
        return float(ends[least]) * self.width

    def _widen(self, magnitude: float) -> None:
        """Double the range until it holds `magnitude`: bins merge in pairs, counted from zero, so that no count moves across it."""
        if self.reach == 0.0 or (self.reach == _SMALLEST and magnitude > _SMALLEST):
            self.reach = magnitude  # only zeros were counted, if anything
            zeros = int(self.counts.sum())
            self.counts[:] = 0
            self.counts[BINS // 2] = zeros
        while self.reach < magnitude:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.reach *= 2

    def _quantile(self, q: float) -> float:
        below = np.cumsum(self.counts)
        target = q * below[-1]
        i = int(np.searchsorted(below, target))
        inside = (target - (below[i] - self.counts[i])) / self.counts[i] if self.counts[i] else 0.0
        return float(-self.reach + (i + inside) * self.width)


def _divergence(clipped: NDArray[np.float64], beyond: float, levels: int) -> float:
    """The Kullback-Leibler divergence between a clipped distribution and its quantization; infinite if the latter has gaps."""
    reference = clipped.copy()
    reference[-1] += beyond
    filled = clipped > 0
    if reference[-1] > 0 and not filled[-1]:
        return np.inf
    starts = -(-np.arange(levels) * len(clipped) // levels)  # bin j belongs to level floor(j * levels / bins)
    sizes = np.diff(np.append(starts, len(clipped)))
    totals, members = np.add.reduceat(clipped, starts), np.add.reduceat(filled.astype(np.float64), starts)
    even = np.repeat(totals / np.maximum(members, 1), sizes)[filled]
    p, q = reference[filled] / reference.sum(), even / clipped.sum()
    return float((p * np.log(p / q)).sum())


def collect(model: Path, images: NDArray[np.uint8], advance: Advance) -> dict[str, Histogram]:
    """Run a float ONNX over images and count the values of every activation.

    Args:
        model: takes uint8 (n, h, w, 3) as its one input.
        images: uint8 (n, h, w, 3); read and run batch by batch.
        advance: called with the number of images done.

    Returns:
        A histogram for each float32 tensor that a node computes, outside a tail that stays in float32. The fill values of
        padding before a max pooling are not counted.

    Raises:
        ExportError: an activation is not finite, or ONNX Runtime cannot run the model.
    """
    graph = read_onnx(model)
    inside = {name for node in tail_of(graph) for name in node.output}
    names = [name for name in activations(graph) if name not in inside]
    (image,) = (i.name for i in graph.graph.input)
    histograms = {name: Histogram() for name in names}
    padded = {name: source for name, source in only_pooled(graph).items() if source in histograms}
    names = [name for name in names if name not in padded]
    session = observing(graph, names)
    for batch in batches(images):
        for name, values in zip(names, session.run(names, {image: batch}), strict=True):
            try:
                histograms[name].add(values)
            except FloatingPointError:
                raise ExportError(
                    f"the activation {name} is not finite on the calibration images",
                    "export it without --precision int8",
                ) from None
        advance(len(batch))
    return histograms | {name: histograms[source] for name, source in padded.items()}


def batch_size(images: NDArray[np.uint8]) -> int:
    """The number of images in about a quarter of a million pixels: memory holds the activations of one batch."""
    return max(1, 2**18 // (images.shape[1] * images.shape[2]))


def batches(images: NDArray[np.uint8]) -> Any:
    """The images in batches of `batch_size`."""
    size = batch_size(images)
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])


def activations(model: ModelProto) -> list[str]:
    """Names of the float32 tensors that the nodes of a graph compute."""
    typed = onnx.shape_inference.infer_shapes(model).graph
    of_float = {v.name for v in (*typed.value_info, *typed.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in model.graph.node for name in node.output if name in of_float]


def observing(model: ModelProto, names: Sequence[str]) -> Any:
    """An ONNX Runtime session that also gives the inner tensors `names` of a model; the model is not changed.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    watched = ModelProto()
    watched.CopyFrom(model)
    known = {output.name for output in watched.graph.output}
    typed = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    unknown = {name: onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names}
    watched.graph.output.extend((unknown | typed)[name] for name in names if name not in known)
    options = session_options()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but RuntimeError and Exception
        raise ExportError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:200]}") from error


def select(
    histograms: Mapping[str, Histogram], method: Method, symmetric: bool = False
) -> dict[str, tuple[float, float]]:
    """The ranges of all tensors by one method; see `Histogram.range`."""
    return {name: histogram.range(method, symmetric) for name, histogram in histograms.items()}
