"""INT8: a float graph with integers in it, by LiteRT's own rules (www.tensorflow.org/lite/performance/quantization_spec).

Activations are int8, asymmetric, one scale a tensor; weights int8, symmetric, one scale an output channel; biases int32 with the product of
both scales. Pooling, reshaping and their like keep the scale of what they read, the sigmoid's output has the scale that the specification
gives it. A linear layer that reads floats gives floats, and quantizes each row of what it reads as it runs: it needs no range, and a large
number in one row costs the others nothing. What XNNPACK does not compute in INT8 stays in float, and so does an activation whose range
nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgekit.export.litert.graph import (
    NONE,
    RELU,
    RELU6,
    RELU_N1_TO_1,
    Graph,
    LiteScale,
    LiteTensor,
    Operator,
    constant,
)
from edgekit.export.litert.rewrites import REWRITES, Range, for_integers
from edgekit.export.litert.scales import asymmetric, same, weights

_LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # the axis of the weight's output channels
_ARITHMETIC = {"ADD", "SUB", "MUL"}
# Operators whose output has the scale of their input, and is INT8 where that is.
_MOVING = {
    "RESHAPE", "TRANSPOSE", "STRIDED_SLICE", "PAD", "MAX_POOL_2D", "CONCATENATION", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
    "RESIZE_BILINEAR", "AVERAGE_POOL_2D",
}  # fmt: skip
_FIXED = {"LOGISTIC": LiteScale.single(1 / 256, -128), "TANH": LiteScale.single(1 / 128, 0)}
_REDUCING = {"MEAN"}
_ALONE = {"LEAKY_RELU"}
_BOUNDS: dict[int, tuple[float, float]] = {
    NONE: (-np.inf, np.inf), RELU: (0.0, np.inf), RELU6: (0.0, 6.0), RELU_N1_TO_1: (-1.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Kernels:
    """What a runtime computes in INT8, beyond what every one of them does.

    Attributes:
        lacks: kinds of operators that it does not have, and that are written with others.
        has: further kinds that it has.
        one_scale: of all kinds, those that take the integers of their input for integers of their output's scale.
        rows: whether a linear layer can read floats and quantize each of their rows.
    """

    lacks: frozenset[str] = frozenset()
    has: frozenset[str] = frozenset()
    one_scale: frozenset[str] = frozenset()
    rows: bool = False


XNNPACK = Kernels(lacks=frozenset(REWRITES), rows=True)
# TFLite Micro's RELU6 compares integers and converts none (micro/kernels/activations_common.cc); its RELU does.
MICRO = Kernels(has=frozenset({"HARD_SWISH", "RELU", "RELU6"}), one_scale=frozenset({"RELU6"}))


@dataclass
class OperatorCounts:
    """How much of a graph is in INT8.

    Attributes:
        int8: operators that compute in INT8.
        by_row: those of them that read and give floats.
        in_float: operators that compute in float, by kind.
    """

    int8: int = 0
    by_row: int = 0
    in_float: dict[str, int] = field(default_factory=dict)


def quantize(
    graph: Graph, ranges: Mapping[str, Range], kept: Collection[str], bits: int = 8, kernels: Kernels = XNNPACK
) -> tuple[Graph, OperatorCounts]:
    """A graph in INT8; the float one is left as it is.

    Args:
        graph: float.
        ranges: of the activations, by ONNX value.
        kept: names of the ONNX nodes that stay in float.
        bits: of the weights.
        kernels: of the runtime.
    """
    rewritten = for_integers(graph, ranges, set(kept), kernels.lacks)
    return _Quantizer(rewritten, ranges, set(kept), bits, kernels).run()


class _Quantizer:
    def __init__(self, graph: Graph, ranges: Mapping[str, Range], kept: set[str], bits: int, kernels: Kernels) -> None:
        self.alone, self.one_scale, self.rows = _ALONE | kernels.has, _MOVING | kernels.one_scale, kernels.rows
        self.graph, self.ranges, self.kept, self.bits = graph, ranges, kept, bits
        self.attention = any(operator.kind == "BATCH_MATMUL" for operator in graph.operators)
        self.known = self._known_ranges()
        self.chosen: set[int] = set()
        self.by_row: set[int] = set()
        self.scales: dict[int, LiteScale] = {}
        self.made: dict[tuple[int, bytes], LiteTensor] = {}
        self.floats: dict[int, LiteTensor] = {}
        self.operators: list[Operator] = []

    def run(self) -> tuple[Graph, OperatorCounts]:
        """Choose what is in INT8, give every tensor its scale, and write the graph anew."""
        self._choose()
        self._find_scales()
        counts = OperatorCounts()
        for operator in self.graph.operators:
            if id(operator) in self.chosen:
                counts.int8 += 1
                self._integer(operator)
            elif id(operator) in self.by_row:
                counts.int8 += 1
                counts.by_row += 1
                self._of_rows(operator)
            else:
                counts.in_float[operator.kind] = counts.in_float.get(operator.kind, 0) + 1
                inputs = [None if tensor is None else self._as_float(tensor) for tensor in operator.inputs]
                self.operators.append(
                    Operator(operator.kind, inputs, operator.outputs, operator.options, operator.node)
                )
        outputs = {name: self._as_float(tensor) for name, tensor in self.graph.outputs.items()}
        return Graph(self.operators, list(self.graph.inputs), outputs, dict(self.graph.metadata)), counts

    def _known_ranges(self) -> dict[int, Range]:
        """The range of every tensor that has one: as calibrated, or as what computes it makes it."""
        found: dict[int, Range] = {}
        for operator in self.graph.operators:
            output = operator.outputs[0]
            low, high = _BOUNDS[operator.options.get("fusedActivationFunction", NONE)]
            first = operator.inputs[0]
            if output.source in self.ranges:
                a, b = self.ranges[output.source]
                found[id(output)] = max(a, low), min(b, high)
            elif np.isfinite(low) and np.isfinite(high):
                found[id(output)] = low, high
            elif operator.kind == "MUL" and first is not None and id(first) in found:
                factor = operator.inputs[1]
                if factor is not None and factor.data is not None and factor.data.size == 1:
                    ends = [end * float(factor.data.reshape(-1)[0]) for end in found[id(first)]]
                    found[id(output)] = min(ends), max(ends)
            elif operator.kind in _MOVING and first is not None and id(first) in found:
                found[id(output)] = found[id(first)]
        return found

    def _choose(self) -> None:
        """Which operators are in INT8: layers; arithmetic between what is; whatever moves it. Linear layers of floats are so by row."""
        integer: set[int] = set()  # tensors that such an operator makes
        for operator in self.graph.operators:
            kind, output = operator.kind, operator.outputs[0]
            if operator.node in self.kept:
                continue
            read = [t for t in operator.inputs if t is not None and t.data is None]
            layer = kind in _LAYERS and operator.inputs[1] is not None and operator.inputs[1].data is not None
            if layer and self.rows and kind == "FULLY_CONNECTED" and id(operator.inputs[0]) not in integer:
                self.by_row.add(id(operator))
                continue
            if any(id(t) not in self.known for t in (*read, output)):
                continue
            follows = all(id(t) in integer for t in read) and bool(read)
            between = kind in _ARITHMETIC | _REDUCING | self.alone | set(_FIXED) and not self.attention
            moves = kind in _MOVING and all(
                t.dtype != np.float32 or t.data is None for t in operator.inputs if t is not None
            )
            if layer or (follows and (between or moves)):
                self.chosen.add(id(operator))
                integer.add(id(output))

    def _find_scales(self) -> None:
        """Tensors that must have one scale get one that holds all of them."""
        group: dict[int, int] = {}

        def of(tensor: int) -> int:
            while group.setdefault(tensor, tensor) != tensor:
                tensor = group[tensor]
            return tensor

        fixed: dict[int, LiteScale] = {}
        for operator in self.graph.operators:
            if id(operator) not in self.chosen:
                continue
            if operator.kind in _FIXED:
                fixed[id(operator.outputs[0])] = _FIXED[operator.kind]
        for operator in self.graph.operators:
            if id(operator) in self.chosen and operator.kind in _MOVING:
                for read in operator.inputs:
                    if read is not None and id(read) in self.known and id(read) not in fixed:
                        group[of(id(read))] = of(id(operator.outputs[0]))
        whole: dict[int, Range] = {}
        for tensor, (low, high) in self.known.items():
            a, b = whole.get(of(tensor), (0.0, 0.0))
            whole[of(tensor)] = min(a, low), max(b, high)
        self.scales = {tensor: fixed.get(tensor) or asymmetric(*whole[of(tensor)]) for tensor in self.known}

    def _integer(self, operator: Operator) -> None:
        output = operator.outputs[0]
        scale = self.scales[id(output)]
        inputs: list[LiteTensor | None]
        if operator.kind in _LAYERS:
            inputs = self._layer_inputs(operator)
        elif operator.kind in self.one_scale:
            inputs = [
                None if t is None else self._with_scale(t, scale) if t.dtype == np.float32 else t
                for t in operator.inputs
            ]
        else:
            inputs = [
                None if t is None else self._as_integer(t) if t.dtype == np.float32 else t for t in operator.inputs
            ]
        result = LiteTensor(output.name, output.sides, np.dtype(np.int8), source=output.source, scale=scale)
        self.made[id(output), b""] = result
        self.operators.append(Operator(operator.kind, inputs, [result], operator.options, operator.node))

    def _of_rows(self, operator: Operator) -> None:
        """A linear layer of floats with weights in INT8."""
        image, weight, *bias = operator.inputs
        assert image is not None
        assert weight is not None
        assert weight.data is not None
        integers, scales = weights(weight.data, 0, self.bits, None, 1.0)
        kernel = constant(f"{weight.name}/int8", integers)
        kernel.scale = LiteScale(scales, np.zeros(len(scales), np.int64))
        options = {**operator.options, "asymmetricQuantizeInputs": True}
        inputs = [self._as_float(image), kernel, *bias]
        self.operators.append(Operator(operator.kind, inputs, operator.outputs, options, operator.node))

    def _layer_inputs(self, operator: Operator) -> list[LiteTensor | None]:
        image, weight, bias = (*operator.inputs, None)[:3]
        assert image is not None
        assert weight is not None
        assert weight.data is not None
        read = self._as_integer(image)
        assert read.scale is not None
        axis = _LAYERS[operator.kind]
        numbers = None if bias is None else bias.data
        integers, scales = weights(weight.data, axis, self.bits, numbers, float(read.scale.scale[0]))
        zeros = np.zeros(len(scales), np.int64)
        kernel = constant(f"{weight.name}/int8", integers)
        kernel.scale = LiteScale(scales, zeros, axis)
        if numbers is None:
            return [read, kernel, None]
        products = scales * read.scale.scale[0]
        added = constant(f"{weight.name}/bias", np.rint(numbers.astype(np.float64) / products).astype(np.int32))
        added.scale = LiteScale(products.astype(np.float32), zeros, 0)
        return [read, kernel, added]

    def _as_integer(self, tensor: LiteTensor) -> LiteTensor:
        """A tensor in INT8, in the scale that it has."""
        if tensor.data is not None:
            scale = asymmetric(float(min(tensor.data.min(), 0)), float(max(tensor.data.max(), 0)))
            return self._constant(tensor, scale)
        if (id(tensor), b"") not in self.made:
            self.made[id(tensor), b""] = self._convert(tensor, self.scales[id(tensor)], tensor)
        return self.made[id(tensor), b""]

    def _with_scale(self, tensor: LiteTensor, scale: LiteScale) -> LiteTensor:
        """A tensor in INT8, in a scale that another tensor has."""
        if tensor.data is not None:
            return self._constant(tensor, scale)
        own = self._as_integer(tensor)
        assert own.scale is not None
        if same(own.scale, scale):
            return own
        key = id(tensor), scale.scale.tobytes() + scale.zero.tobytes()
        if key not in self.made:
            self.made[key] = self._convert(own, scale, tensor)
        return self.made[key]

    def _convert(self, read: LiteTensor, scale: LiteScale, tensor: LiteTensor) -> LiteTensor:
        result = LiteTensor(f"{tensor.name}/int8", tensor.sides, np.dtype(np.int8), source="", scale=scale)
        self.operators.append(Operator("QUANTIZE", [read], [result], {}, "quantize"))
        return result

    def _as_float(self, tensor: LiteTensor) -> LiteTensor:
        """A tensor in float: as it was made, or from its integers."""
        made = self.made.get((id(tensor), b""))
        if (
            tensor.dtype != np.float32
            or made is None
            or not any(made in op.outputs and op.kind != "QUANTIZE" for op in self.operators)
        ):
            return tensor
        if id(tensor) not in self.floats:
            result = LiteTensor(f"{tensor.name}/float", tensor.sides, source=tensor.source)
            self.operators.append(Operator("DEQUANTIZE", [made], [result], {}, "dequantize"))
            self.floats[id(tensor)] = result
        return self.floats[id(tensor)]

    def _constant(self, tensor: LiteTensor, scale: LiteScale) -> LiteTensor:
        assert tensor.data is not None
        integers = np.clip(np.rint(tensor.data / scale.scale[0]) + scale.zero[0], -128, 127).astype(np.int8)
        found = constant(f"{tensor.name}/int8", integers)
        found.scale = scale
        return found
