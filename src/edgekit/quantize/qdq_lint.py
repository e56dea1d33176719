"""Lint of a Q/DQ model for TensorRT: find what its parser would refuse or misread.

There are three kinds of faults. The parser refuses some (non-zero zero points, INT32 biases). It accepts some with a warning and computes
something else (uint8 Q/DQ, which NNCF writes after a ReLU, becomes INT8 and clips half of the range). And it accepts some but runs them slower
than FP16 (Q/DQ between nodes that it would otherwise fuse). The rules are those of TensorRT's guide and of its ONNX parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.onnx_graph.build import OPSET
from edgekit.quantize.signed import (
    CONVOLUTIONS,
    FEWEST_CHANNELS,
    LAYERS,
    Wiring,
    attribute,
    layer_channels,
    output_axis,
)

QDQ_OPERATORS = {"QuantizeLinear", "DequantizeLinear"}
# Operators that TensorRT fuses into the layer before them; Q/DQ between the two prevents that.
_ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Softmax",
    "Elu",
    "Selu",
    "Gelu",
    "Erf",
}
# Operators allowed between Q/DQ and a layer: TensorRT moves Q/DQ across them.
_COMMUTING = {
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Slice",
    "Concat",
    "Gather",
    "Split",
}


@dataclass(frozen=True)
class Fault:
    """One place where TensorRT would refuse or misread a model.

    Attributes:
        node: name of the node; of the graph if no node is at fault.
        operator: its type.
        reason: what is wrong, and what TensorRT does with it.
    """

    node: str
    operator: str
    reason: str


def lint(model: ModelProto) -> list[Fault]:
    """Return the faults of a model for TensorRT, in the order of the graph. A model without Q/DQ has none if TensorRT reads its opset.

    Args:
        model: with its weights inside.
    """
    graph = _Linted(model)
    faults = [Fault(model.graph.name, "graph", reason) for reason in _opset(model)]
    for node in model.graph.node:
        faults += [Fault(node.name, node.op_type, reason) for reason in graph.check(node)]
    return faults


def _opset(model: ModelProto) -> Iterator[str]:
    for imported in model.opset_import:
        if imported.domain in {"", "ai.onnx"} and imported.version > OPSET:
            yield f"opset {imported.version}: TensorRT 8.6 reads {OPSET} at most"


class _Linted(Wiring):
    def __init__(self, model: ModelProto) -> None:
        super().__init__(model)
        self.outputs = {output.name for output in model.graph.output}
        self.consumers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((node, i))

    def check(self, node: NodeProto) -> Iterator[str]:
        if node.op_type in QDQ_OPERATORS:
            yield from self._pair(node)
        elif node.op_type in LAYERS:
            yield from self._layer(node)
        elif node.op_type == "Add":
            yield from self._sum(node)
        elif node.op_type in _ACTIVATIONS and self._dequantized(node.input[0]):
            yield "its input is dequantized, so it cannot be fused into the layer before it"

    def _pair(self, node: NodeProto) -> Iterator[str]:
        if node.domain not in {"", "ai.onnx"}:
            yield f"operator of the domain {node.domain}, which TensorRT does not know"
        source = self.maker.get(node.input[0])
        follows = (
            source is not None and source.op_type == "QuantizeLinear"
        )  # the same fault is reported once, at the QuantizeLinear
        if follows and source is not None and not self._same(source, node):
            yield "its scale or zero point differs from that of its QuantizeLinear"
        if not follows:
            yield from self._zero_point(node)
            yield from self._scale(node)
        if node.op_type == "QuantizeLinear":
            if any(reader.op_type != "DequantizeLinear" for reader, _ in self.consumers.get(node.output[0], [])):
                yield "a node other than a DequantizeLinear reads its output"
            return
        if source is None:
            stored = self.constants.get(node.input[0])
            kind = TensorProto.DataType.Name(stored.data_type) if stored is not None else "an input"
            if kind == "INT32":
                yield "an INT32 bias: TensorRT dequantizes only INT8; leave biases in float"
            else:
                yield f"dequantizes {kind} without a QuantizeLinear before it: store weights in float, with Q/DQ of their own"
        if node.output[0] in self.outputs:
            yield "an output of the graph is quantized"
        elif not self._useful(node.output[0]):
            yield "no quantized layer reads it: this Q/DQ costs time and accuracy, and prevents fusion"

    def _zero_point(self, node: NodeProto) -> Iterator[str]:
        point = self.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if point is None:
            given = len(node.input) > 2 and node.input[2]
            yield (
                "its zero point is not a constant"
                if given
                else "no zero point, so its type is UINT8: TensorRT reads it as INT8"
            )
            return
        if point.data_type == TensorProto.UINT8:
            yield "UINT8: TensorRT warns (`Defaulting to INT8`), then clips the upper half of the range"
        elif point.data_type not in {TensorProto.INT8, TensorProto.INT32}:  # INT32: reported as a bias
            yield f"{TensorProto.DataType.Name(point.data_type)}, not INT8"
        if numpy_helper.to_array(point).any():
            yield "a zero point other than 0: TensorRT's quantization is symmetric"

    def _scale(self, node: NodeProto) -> Iterator[str]:
        scale = self.constants.get(node.input[1])
        if scale is None:
            yield "its scale is not a constant"
            return
        values = numpy_helper.to_array(scale)
        if not (np.isfinite(values).all() and (values > 0).all()):
            yield "a scale that is not a positive number"
        if values.size > 1 and not self._is_weight(node):
            yield "an activation with one scale per channel: TensorRT takes one per tensor"

    def _layer(self, node: NodeProto) -> Iterator[str]:
        activation, weight = (self._dequantized(name) for name in node.input[:2])
        if len(node.input) > 2 and self._dequantized(node.input[2]):
            yield "its bias is dequantized: TensorRT takes biases only in float"
        if bool(activation) != bool(weight):
            yield f"its {'activation' if activation else 'weight'} is quantized and its {'weight' if activation else 'activation'} is not"
        if weight is None:
            return
        stored = self._stored(weight)
        if stored is None:
            return
        scale = self.constants.get(weight.input[1])
        count = int(np.prod(scale.dims)) if scale is not None else 1
        channels, axis = int(stored.dims[output_axis(node)]), output_axis(node)
        if count == 1 and channels > 1:
            yield "its weight has one scale for all output channels, not one per channel"
        elif count > 1 and attribute(weight, "axis", 1) % len(stored.dims) != axis:
            yield f"its weight is scaled along axis {attribute(weight, 'axis', 1)}, not along its output channels, axis {axis}"
        if node.op_type in CONVOLUTIONS:
            read = layer_channels(node, stored)
            if read < FEWEST_CHANNELS:
                yield f"a quantized convolution of {read} channels: TensorRT has no INT8 kernel, or a slow one, for fewer than {FEWEST_CHANNELS}"
            elif read % 4:
                yield f"a quantized convolution of {read} channels: TensorRT's INT8 kernels take multiples of 4"

    def _sum(self, node: NodeProto) -> Iterator[str]:
        if any(name in self.constants for name in node.input):
            return
        dequantizes = [self._dequantized(name) for name in node.input]
        if all(dequantizes):
            if any(self._of_convolution(pair.input[0]) for pair in dequantizes if pair is not None):
                yield "both inputs are dequantized: the convolution's output must enter the sum without Q/DQ to be fused with it"
            return
        found = self.residual(node)
        if found is None:
            return
        main, skip = found
        convolution = self.maker[node.input[main]]
        if self._dequantized(convolution.input[1]) and not dequantizes[skip]:
            yield "a residual sum whose skip input is not quantized: it cannot be fused into the INT8 convolution"

    def _dequantized(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that a tensor comes from, directly or through operators that TensorRT moves Q/DQ across; None if there is none."""
        source = self.maker.get(name)
        while source is not None and source.op_type in _COMMUTING:
            source = self.maker.get(source.input[0])
        return source if source is not None and source.op_type == "DequantizeLinear" else None

    def _useful(self, name: str) -> bool:
        """Whether a layer, or a residual sum, reads a dequantized tensor."""
        for reader, i in self.consumers.get(name, []):
            if reader.op_type in LAYERS and i < 2:
                return True
            if reader.op_type == "Add" and not any(other in self.constants for other in reader.input):
                return True
            if reader.op_type in {"AveragePool", "GlobalAveragePool"}:  # TensorRT has INT8 kernels for these
                return True
            if reader.op_type in _COMMUTING and self._useful(reader.output[0]):
                return True
        return False

    def _of_convolution(self, name: str) -> bool:
        """Whether a quantized tensor is a convolution's output that nothing else reads."""
        quantize = self.maker.get(name)
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return False
        source = self.maker.get(quantize.input[0])
        return source is not None and source.op_type == "Conv" and self.readers[quantize.input[0]] == 1

    def _is_weight(self, node: NodeProto) -> bool:
        source = node
        if node.op_type == "DequantizeLinear":
            source = self.maker.get(node.input[0], node)
        return source.input[0] in self.constants

    def _stored(self, dequantize: NodeProto) -> TensorProto | None:
        quantize = self.maker.get(dequantize.input[0])
        return self.constants.get(quantize.input[0] if quantize is not None else dequantize.input[0])

    def _same(self, one: NodeProto, other: NodeProto) -> bool:
        for a, b in zip(one.input[1:], other.input[1:], strict=False):
            if a not in self.constants or b not in self.constants:
                return False
            if not np.array_equal(numpy_helper.to_array(self.constants[a]), numpy_helper.to_array(self.constants[b])):
                return False
        return len(one.input) == len(other.input)
