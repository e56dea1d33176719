"""From ONNX to the graph of a `.tflite`: the walk over the nodes, and what the tables of operators build with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edgekit.errors import ExportError
from edgekit.export.litert.facts import Facts
from edgekit.export.litert.graph import NONE, Graph, LiteTensor, Operator, Sides, constant
from edgekit.export.litert.layout import (
    ONE,
    Order,
    moves,
    only_units_move,
    ordered,
    plain,
    reshaping,
)

HINT = "leave --target litert out, or export a student whose operators it has (see docs/export.md)"
# Operators whose options hold an activation that may be fused into them.
_FUSING = {
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "AVERAGE_POOL_2D", "MAX_POOL_2D",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A node of ONNX, its attributes as Python values."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: NodeProto) -> Node:
        """The same node."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return cls(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def has(self, i: int) -> bool:
        """Whether an optional input is there."""
        return i < len(self.inputs) and bool(self.inputs[i])

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class Value:
    """A value of ONNX as a tensor: what it lies in, and in which order (see `layout`)."""

    tensor: LiteTensor
    order: Order


Lower = Callable[["Lowering", Node], None]


@dataclass
class Lowering:
    """A graph being built.

    Attributes:
        facts: about the ONNX.
        readers: how often each ONNX value is read, outputs of the graph included.
        graph: what is built.
        node: the one being lowered.
    """

    facts: Facts
    readers: Counter[str]
    graph: Graph = field(default_factory=Graph)
    node: Node = field(default_factory=lambda: Node("", "", (), (), {}))
    _values: dict[str, Value] = field(default_factory=dict)
    _moved: dict[tuple[int, Order], LiteTensor] = field(default_factory=dict)
    _constants: dict[tuple[Any, ...], LiteTensor] = field(default_factory=dict)

    def refuse(self, why: str = "") -> ExportError:
        """The error for the node that is being lowered.

        Args:
            why: what about it is not there; empty: all of the operator.
        """
        where = f"{self.node.op} (node {self.node.name or '?'})"
        if why:
            return ExportError(f"LiteRT: the operator {where} cannot be written: {why}", HINT)
        return ExportError(f"LiteRT does not have the operator {where}", HINT)

    def sides(self, name: str) -> Sides:
        """The logical sides of a value."""
        return self.facts.sides[name]

    def array(self, name: str) -> NDArray[Any] | None:
        """A value that is known; None where it depends on pixels or the batch."""
        return self.facts.constants.get(name)

    def known(self, name: str, what: str) -> NDArray[Any]:
        """A value that must be known.

        Raises:
            ExportError: it is computed.
        """
        found = self.array(name)
        if found is None:
            raise self.refuse(f"its {what} is computed in the graph")
        return found

    def value(self, name: str) -> Value:
        """A value as a tensor, in the order in which it lies.

        Raises:
            ExportError: it is a computation with the batch size.
        """
        if name not in self._values:
            array = self.array(name)
            if array is not None:
                self._values[name] = Value(self.constant(array), plain(array.ndim))
            elif name in self.facts.repeated:
                self._values[name] = self._repeated(name)
            else:
                raise self.refuse(f"its input {name} is computed from the batch size")
        return self._values[name]

    def physical(self, name: str, order: Order) -> LiteTensor:
        """A value in a certain order; transposed where it lies in another."""
        array = self.array(name)
        if array is not None:
            return self.constant(array.transpose(order))
        value = self.value(name)
        return self.moved(value, self.sides(name), order)

    def moved(self, value: Value, sides: Sides, order: Order) -> LiteTensor:
        """A tensor in another order."""
        if value.order == order:
            return value.tensor
        key = id(value.tensor), tuple(moves(value.order, order))
        if key not in self._moved:
            after = ordered(sides, order)
            if only_units_move(sides, value.order, order):
                self._moved[key] = self.reshape(value.tensor, after)
            else:
                permutation = self.constant(np.array(moves(value.order, order), np.int32))
                self._moved[key] = self.emit(
                    "TRANSPOSE", [value.tensor, permutation], after, source=value.tensor.source
                )
        return self._moved[key]

    def constant(self, array: NDArray[Any]) -> LiteTensor:
        """A constant; float64 becomes float32, the same constant is one tensor."""
        if array.dtype in (np.float64, np.float16):
            array = array.astype(np.float32)
        array = np.ascontiguousarray(array)
        key = array.dtype.str, array.shape, array.tobytes() if array.size <= 4096 else id(array)
        if key not in self._constants:
            self._constants[key] = constant(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def emit(
        self,
        kind: str,
        inputs: Sequence[LiteTensor | None],
        sides: Sides,
        *,
        source: str = "",
        dtype: Any = np.float32,
        **options: Any,
    ) -> LiteTensor:
        """Add an operator with one output.

        Args:
            kind: in the schema.
            inputs: None is one that is left out.
            sides: of the output, physical.
            source: the ONNX value that the output holds.
            dtype: of the output.
            options: fields of the operator's options in the schema.
        """
        if kind in _FUSING:
            options.setdefault("fusedActivationFunction", NONE)
        output = LiteTensor(f"{self.node.name or self.node.op}/{kind.lower()}", sides, np.dtype(dtype), source=source)
        self.graph.operators.append(Operator(kind, list(inputs), [output], options, self.node.name))
        return output

    def reshape(self, tensor: LiteTensor, sides: Sides) -> LiteTensor:
        """The same memory with other sides."""
        if tensor.sides == sides:
            return tensor
        open_axes = [i for i, side in enumerate(sides) if side[0] != side[1]]
        shape = [-1 if i in open_axes[:1] else side[0] for i, side in enumerate(sides)]
        if len(open_axes) > 1:
            raise self.refuse("two axes of its shape depend on the batch")
        sizes = self.constant(np.array(shape, np.int32))
        return self.emit("RESHAPE", [tensor, sizes], sides, source=tensor.source, newShape=shape)

    def set(self, name: str, tensor: LiteTensor, order: Order) -> None:
        """Say what holds an ONNX value."""
        if not tensor.source or tensor.source == name:
            tensor.source = name
        self._values[name] = Value(tensor, order)

    def alias(self, name: str, value: Value) -> None:
        """Say that an ONNX value is another one."""
        self._values[name] = value

    def result(self, tensor: LiteTensor, order: Order) -> None:
        """Say what holds the node's first output."""
        self.set(self.node.outputs[0], tensor, order)

    def as_shape(self, name: str, target: Sides) -> Value:
        """A value with other logical sides (a Reshape of ONNX)."""
        sides = self.sides(name)
        how = reshaping(sides, self.value(name).order, target)
        tensor = self.physical(name, how.before)
        return Value(self.reshape(tensor, ordered(target, how.after)), how.after)

    def fuse(self, name: str, activation: int) -> bool:
        """Make an activation part of the operator that computes its input; whether that was possible."""
        value = self._values.get(name)
        if value is None or self.readers[name] != 1:
            return False
        maker = self.graph.operators[-1] if self.graph.operators else None
        if maker is None or value.tensor not in maker.outputs:
            maker = self.graph.maker(value.tensor)
        if maker is None or maker.kind not in _FUSING or maker.options.get("fusedActivationFunction", NONE) != NONE:
            return False
        if value.tensor.source != name or any(value.tensor in op.inputs for op in self.graph.operators):
            return False
        maker.options["fusedActivationFunction"] = activation
        value.tensor.source = ""
        self.result(value.tensor, value.order)
        return True

    def _repeated(self, name: str) -> Value:
        """A constant, repeated as often as there are images: added to nothing taken from every image."""
        array, sides = self.facts.repeated[name], self.sides(name)
        image = self.graph.operators[0].outputs[0]  # the pixels as numbers, all of them finite
        if sides[0] != image.sides[0] or array.dtype != np.float32:
            raise self.refuse(f"its input {name} is a constant, repeated by the batch size in a way that is not known")
        rank = len(image.sides)
        begin, end, strides = (self.constant(np.array(v, np.int32)) for v in ([0] * rank, [1] * rank, [1] * rank))
        pixel = self.emit(
            "STRIDED_SLICE", [image, begin, end, strides], (image.sides[0], *[ONE] * (rank - 1)), beginMask=1, endMask=1
        )
        nothing = self.emit("MUL", [pixel, self.constant(np.zeros(1, np.float32))], pixel.sides)
        shaped = self.reshape(nothing, (sides[0], *[ONE] * (len(sides) - 1)))
        return Value(self.emit("ADD", [shaped, self.constant(array)], sides), plain(len(sides)))
