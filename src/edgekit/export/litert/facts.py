"""What is known of every value of an ONNX graph: its type, its shape, and its numbers where they depend on no pixel.

Found by running the graph at two batch sizes rather than by inference, which gives up where shapes are computed. What differs between
the runs depends on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from edgekit.errors import ExportError
from edgekit.export.litert.graph import Sides

_BATCHES = (2, 3)  # `graph.at_one` relies on them
_SIDES = 4  # of an image: n, h, w, channels


@dataclass(frozen=True)
class Facts:
    """What is known of the values of a graph.

    Attributes:
        sides: of every value, logical, at both batch sizes.
        dtypes: of every value.
        constants: values that depend on neither pixels nor batch.
        repeated: values that depend on no pixel, and on the batch in nothing but how often they are repeated along axis 0: one of them.
        pixelless: names of all that depend on no pixel: those two, and arithmetic with the batch size.
        batch: the batch size that the graph fixes; None where it is free.
    """

    sides: dict[str, Sides]
    dtypes: dict[str, np.dtype[Any]]
    constants: dict[str, NDArray[Any]]
    repeated: dict[str, NDArray[Any]]
    pixelless: set[str]
    batch: int | None


def observe(model: ModelProto) -> Facts:
    """Run a graph at two batch sizes.

    Args:
        model: takes one image, uint8 (n, h, w, 3); its weights inside.

    Raises:
        ExportError: it does not fix height and width, or ONNX Runtime cannot run it.
    """
    batch, runs = _runs(model)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    sides: dict[str, Sides] = {name: tuple((s, s) for s in array.shape) for name, array in constants.items()}
    dtypes = {name: array.dtype for name, array in constants.items()}
    pixelless = set(constants)
    repeated: dict[str, NDArray[Any]] = {}
    image = model.graph.input[0].name
    for name, (one, other) in runs.items():
        sides[name] = tuple(zip(one.shape, other.shape, strict=True))
        dtypes[name] = one.dtype
    for node in model.graph.node:
        if not _of_shapes(node, pixelless, image):
            continue
        pixelless.update(node.output)
        for name in node.output:
            one, other = runs[name]
            if one.shape == other.shape and np.array_equal(one, other):
                constants[name] = one
            elif one.ndim and one.shape[1:] == other.shape[1:] and (one == one[:1]).all() and (other == one[:1]).all():
                repeated[name] = one[:1]
    return Facts(sides, dtypes, constants, repeated, pixelless, batch)


def _of_shapes(node: NodeProto, pixelless: set[str], image: str) -> bool:
    """Whether what a node computes depends on no pixel."""
    return node.op_type == "Shape" or (bool(node.input) and all(not name or name in pixelless for name in node.input))


def _runs(model: ModelProto) -> tuple[int | None, dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Every computed value at two batch sizes; at the one that the graph fixes, twice the same."""
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    image = model.graph.input[0]
    shape = image.type.tensor_type.shape.dim
    if len(shape) != _SIDES or not all(side.HasField("dim_value") and side.dim_value > 0 for side in list(shape)[1:]):
        raise ExportError(
            "LiteRT: the graph leaves the height or width of its images open",
            "export a network with one image size",
        )
    batch = shape[0].dim_value if shape[0].HasField("dim_value") else None
    watched = ModelProto()
    watched.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del watched.graph.value_info[:]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    generator = np.random.default_rng(0)
    found = []
    try:
        session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for size in _BATCHES if batch is None else (batch,):
            pixels = generator.integers(0, 256, (size, *(s.dim_value for s in list(shape)[1:])), dtype=np.uint8)
            found.append(
                {image.name: pixels, **dict(zip(names, session.run(names, {image.name: pixels}), strict=True))}
            )
    except Exception as error:  # its exceptions share no base but Exception
        raise ExportError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:200]}") from error
    return batch, {name: (found[0][name], found[-1][name]) for name in found[0]}
