"""A graph of ONNX as a network of torch that computes the same, node by node, with operators that ExecuTorch lowers to XNNPACK.

So a `.pte` is made of the graph that every other target is made of: rewritten, equalized, its biases corrected, its layers quantized with our
own ranges or kept in float. Tensors have the order that they have in ONNX (NCHW).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers OPERATORS, by which ExecuTorch recognizes INT8
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from edgekit.errors import ExportError, reason_of
from edgekit.export.litert.lowering import Node
from edgekit.export.litert.patterns import with_gelu

HINT = "leave --target executorch out, or export a student whose operators it has (see docs/export.md)"
LOWEST, HIGHEST = -128, 127  # of int8
OPERATORS = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Integers:
    """An activation in integers; each of its readers makes it float anew, the form in which XNNPACK recognizes INT8.

    Attributes:
        integers: int8.
        scale, zero: (q - zero) * scale is the number that q stands for.
    """

    integers: Tensor
    scale: float
    zero: int

    def dequantized(self, integers: Tensor | None = None) -> Tensor:
        """These integers, or others of the same scale, in float."""
        whole = self.integers if integers is None else integers
        found: Tensor = OPERATORS.dequantize_per_tensor(whole, self.scale, self.zero, LOWEST, HIGHEST, torch.int8)
        return found

    def quantized(self, value: Tensor) -> Tensor:
        """A value in integers of this scale."""
        found: Tensor = OPERATORS.quantize_per_tensor(value, self.scale, self.zero, LOWEST, HIGHEST, torch.int8)
        return found


Held: TypeAlias = "Tensor | Integers"


@dataclass(frozen=True)
class WeightScales:
    """How the integers of a weight stand for numbers: q * scale.

    Attributes:
        scales: one, or one per index of `axis`.
        axis: along which the scales lie; None: one scale.
    """

    scales: NDArray[np.float32]
    axis: int | None


class OnnxNetwork(nn.Module):
    """A graph of ONNX as a network: uint8 images (n, h, w, 3) -> a tuple of the graph's outputs.

    Args:
        model: opset 17, float or with Q/DQ nodes (activations uint8 or int8, weights int8); its batch is fixed, its weights inside.

    Raises:
        ExportError: it has an operator that this cannot compute.
    """

    def __init__(self, model: ModelProto) -> None:
        from edgekit.export.executorch.operators import TABLE

        super().__init__()
        self.table: Mapping[str, Compute] = TABLE
        self.input = model.graph.input[0].name
        self.outputs = [output.name for output in model.graph.output]
        self.known: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.scales: dict[str, WeightScales] = {}  # of integer constants
        self._attributes: dict[tuple[str, str], str] = {}
        sides = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
        self.image = torch.zeros(sides, dtype=torch.uint8)
        self.nodes: list[Node] = []
        with torch.no_grad():
            self._prepare(with_gelu(model))

    def _prepare(self, nodes: Sequence[Node]) -> None:
        """Run the graph once: what depends on no pixel becomes a constant, every other constant that is read a buffer."""
        self.values: dict[str, Held] = {self.input: self.image}
        for node in nodes:
            self.node = node
            if node.op == "DequantizeLinear" and node.inputs[0] in self.known:
                self._quantized_constant(node)
                continue
            found = self._compute(node)
            pixelless = node.op == "Shape" or all(name in self.known for name in node.inputs if name)
            if pixelless:
                self.known.update(
                    {n: v.numpy() for n, v in zip(node.outputs, found, strict=False) if isinstance(v, Tensor)}
                )
            else:
                self.values.update(zip(node.outputs, found, strict=False))
                self.nodes.append(node)
        self.values = {}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs in their order."""
        self.values = {self.input: image}
        for node in self.nodes:
            self.node = node
            self.values.update(zip(node.outputs, self._compute(node), strict=False))
        found = tuple(self.value(name) for name in self.outputs)
        self.values = {}
        return found

    def _compute(self, node: Node) -> tuple[Held, ...]:
        if node.op not in self.table:
            raise ExportError(f"ExecuTorch: the operator {node.op} (node {node.name or '?'}) is not supported", HINT)
        try:
            found = self.table[node.op](self, node)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise self.refuse(reason_of(error, 150)) from error
        return found if isinstance(found, tuple) else (found,)

    def refuse(self, why: str) -> ExportError:
        """The error for the node that is computed now."""
        where = f"{self.node.op} (node {self.node.name or '?'})"
        return ExportError(f"ExecuTorch: the operator {where} cannot be written: {why}", HINT)

    def value(self, name: str) -> Tensor:
        """A value in float."""
        if name not in self.known:
            held = self.values[name]
            return held.dequantized() if isinstance(held, Integers) else held
        return self.constant(name, "", lambda array: array)

    def array(self, name: str) -> NDArray[Any]:
        """A value that must not depend on pixels.

        Raises:
            ExportError: it does.
        """
        if name not in self.known:
            raise self.refuse(f"its input {name} is computed in the graph")
        if name in self.scales:
            raise self.refuse(f"its input {name} is in integers")
        return self.known[name]

    def dequantized(self, name: str) -> NDArray[np.float32]:
        """A constant in float, whether the graph holds it in integers or not."""
        array, scale = self.known[name].astype(np.float32), self.scales.get(name)
        if scale is None:
            return array
        shape = [1] * array.ndim
        if scale.axis is not None:
            shape[scale.axis] = -1
        return array * scale.scales.reshape(shape)

    def numbers(self, i: int) -> list[Any]:
        """The numbers of an input that must not depend on pixels."""
        found: list[Any] = self.array(self.node.inputs[i]).reshape(-1).tolist()
        return found

    def constant(
        self, name: str, form: str, change: Callable[[NDArray[Any]], NDArray[Any]], axis: int | None = None
    ) -> Tensor:
        """A constant in another form, which is stored once.

        Args:
            name: of the value.
            form: a name for the form.
            change: makes it.
            axis: where it puts the axis of the scales, if the constant has some.
        """
        if (name, form) not in self._attributes:
            attribute = self._attributes[name, form] = f"constant_{len(self._attributes)}"
            array = change(self.known[name])
            self.register_buffer(attribute, _tensor(array))
            if name in self.scales and self.scales[name].axis is not None:
                scales = torch.from_numpy(np.array(self.scales[name].scales, np.float32))
                self.register_buffer(f"{attribute}_scales", scales)
                self.register_buffer(f"{attribute}_zeros", torch.zeros(len(scales), dtype=torch.int64))
        attribute = self._attributes[name, form]
        stored: Tensor = getattr(self, attribute)
        scale = self.scales.get(name)
        if scale is None:
            return stored
        if scale.axis is None:
            return OPERATORS.dequantize_per_tensor(stored, float(scale.scales), 0, LOWEST, HIGHEST, torch.int8)
        scales, zeros = getattr(self, f"{attribute}_scales"), getattr(self, f"{attribute}_zeros")
        return OPERATORS.dequantize_per_channel(
            stored, scales, zeros, scale.axis if axis is None else axis, LOWEST + 1, HIGHEST, torch.int8
        )

    def extra(self, form: str, make: Callable[[], NDArray[Any]]) -> Tensor:
        """A constant that the graph does not hold; made once, and stored for the node under the name of a form."""
        self.known.setdefault("", np.zeros(0, np.float32))
        return self.constant("", f"{self.node.outputs[0]}/{form}", lambda _: make())

    def rank(self, name: str) -> int:
        """The number of a value's axes."""
        return self.known[name].ndim if name in self.known else self.value(name).ndim

    def ranked(self, name: str, rank: int) -> Tensor:
        """A value; a constant with leading axes of size 1, as many as are missing."""
        if name not in self.known or name in self.scales:
            return self.value(name)
        return self.constant(
            name, f"rank {rank}", lambda array: array.reshape((1,) * (rank - array.ndim) + array.shape)
        )

    def matrix(self, name: str, *, turned: bool) -> Tensor:
        """A constant weight (out, in); `turned`: it is (in, out) in the graph."""
        if self.known[name].ndim != 2:
            raise self.refuse("its weight is not a matrix")
        if not turned:
            return self.value(name)
        scale = self.scales.get(name)
        axis = None if scale is None or scale.axis is None else 1 - scale.axis
        return self.constant(name, "turned", lambda array: np.ascontiguousarray(array.T), axis)

    def columns(self, node: Node) -> int:
        """The number of outputs of a linear layer."""
        weight = self.known[node.inputs[1]]
        return int(weight.shape[0 if node.get("transB", 0) else 1])

    def _quantized_constant(self, node: Node) -> None:
        """Integers that stand for weights, or for a summand, which has a scale as activations do: that becomes the floats that they stand for."""
        integers, scales = self.known[node.inputs[0]], self.known[node.inputs[1]]
        zeros = self.known[node.inputs[2]] if node.has(2) else np.zeros(1, np.int8)
        name = node.outputs[0]
        axis = None if scales.size == 1 else int(node.get("axis", 1)) % integers.ndim
        if integers.dtype != np.int8 or zeros.any():
            shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
            centered = integers.astype(np.float32) - zeros.astype(np.float32).reshape(shape)
            self.known[name] = centered * scales.astype(np.float32).reshape(shape)
            return
        self.known[name] = integers
        self.scales[name] = WeightScales(scales.astype(np.float32).reshape(-1 if axis is not None else ()), axis)


Compute = Callable[[OnnxNetwork, Node], "Held | tuple[Tensor, ...]"]


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype in (np.float64, np.float16):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C"))
