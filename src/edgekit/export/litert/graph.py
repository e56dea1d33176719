"""The graph of a `.tflite` before it is written: tensors and operators, with what later passes need to know of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One side of a tensor at two batch sizes: equal where it does not depend on the batch.
Side = tuple[int, int]
Sides = tuple[Side, ...]

NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)  # fused activations
SAME, VALID = range(2)  # padding


def fixed(shape: Iterable[int]) -> Sides:
    """Sides that do not depend on the batch."""
    return tuple((int(side), int(side)) for side in shape)


@dataclass(frozen=True)
class LiteScale:
    """How integers stand for numbers: number = scale * (integer - zero).

    Attributes:
        scale: one, or one for each index along `axis`; float32.
        zero: as many, int64.
        axis: of several scales.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int = 0

    @classmethod
    def single(cls, scale: float, zero: int) -> LiteScale:
        """One scale for the whole tensor."""
        return cls(np.array([scale], np.float32), np.array([zero], np.int64))


@dataclass(eq=False)
class LiteTensor:
    """A tensor; two are the same only if they are one object.

    Attributes:
        name: unique in the graph when it is written.
        sides: of its axes, in the order in which they lie in memory.
        dtype: of its elements.
        data: of a constant; None of what is computed.
        source: the ONNX value whose numbers these are, in whatever layout: what calibration knows it by. Empty where there is none.
        scale: of a quantized tensor.
    """

    name: str
    sides: Sides
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    data: NDArray[Any] | None = None
    source: str = ""
    scale: LiteScale | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """At batch 1, or at the batch that the graph fixes."""
        return tuple(at_one(side) for side in self.sides)


def at_one(side: Side) -> int:
    """A side that was seen at the batch sizes 2 and 3, at batch 1; one that does not depend on the batch as it is."""
    return 2 * side[0] - side[1]


@dataclass(eq=False)
class Operator:
    """An operator.

    Attributes:
        kind: its name in the schema, for instance CONV_2D.
        inputs: None is an input that is left out.
        outputs: what it computes.
        options: fields of its options in the schema.
        node: the name of the ONNX node that it comes from.
    """

    kind: str
    inputs: list[LiteTensor | None]
    outputs: list[LiteTensor]
    options: dict[str, Any] = field(default_factory=dict)
    node: str = ""


@dataclass
class Graph:
    """A graph in topological order.

    Attributes:
        operators: in their order.
        inputs: of the graph.
        outputs: of the graph, by the names that they are given.
        metadata: written into the file, by name.
    """

    operators: list[Operator] = field(default_factory=list)
    inputs: list[LiteTensor] = field(default_factory=list)
    outputs: dict[str, LiteTensor] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)

    def maker(self, tensor: LiteTensor) -> Operator | None:
        """The operator that computes a tensor; a late one is found first."""
        return next((op for op in reversed(self.operators) if tensor in op.outputs), None)

    def readers(self, tensor: LiteTensor) -> list[Operator]:
        """The operators that read a tensor."""
        return [op for op in self.operators if tensor in op.inputs]

    def remove_dead(self) -> None:
        """Remove operators that no output depends on."""
        alive = {id(tensor) for tensor in self.outputs.values()}
        kept: list[Operator] = []
        for operator in reversed(self.operators):
            if any(id(tensor) in alive for tensor in operator.outputs):
                kept.append(operator)
                alive.update(id(tensor) for tensor in operator.inputs if tensor is not None)
        self.operators = kept[::-1]

    def tensors(self) -> list[LiteTensor]:
        """Every tensor once, in the order in which it is first met."""
        found: dict[int, LiteTensor] = {}
        for tensor in (
            *self.inputs,
            *(t for op in self.operators for t in (*op.inputs, *op.outputs)),
            *self.outputs.values(),
        ):
            if tensor is not None:
                found.setdefault(id(tensor), tensor)
        return list(found.values())


def constant(name: str, data: NDArray[Any] | Sequence[Any]) -> LiteTensor:
    """A constant tensor."""
    array = np.ascontiguousarray(data)
    return LiteTensor(name, fixed(array.shape), array.dtype, array)
