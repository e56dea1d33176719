"""TFLite Micro, the runtime of microcontrollers, in its interpreter for a computer: the outputs and the memory are a board's, the time is not."""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro import runtime
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from edgekit.errors import BundleError, one_line, reason_of
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.native_output import caught_stderr
from edgekit.runtimes.session import PROVIDER, check_cpu, check_graph, check_images

_IDENTIFIER = b"TFL3"
_ALLOCATION = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_WIDEST = 8  # bytes of an element: the arena below is never too small for the tensors
# What reading a damaged file raises: its tables are offsets and indices.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, struct.error)
_DTYPES = {schema.TensorType.UINT8: "uint8", schema.TensorType.INT8: "int8", schema.TensorType.FLOAT32: "float32"}


@dataclass(frozen=True)
class Arena:
    """The memory that a model needs, as TFLite Micro's recording allocator prints it, in bytes.

    Attributes:
        total: the smallest arena.
        head: of it, for activations, which share it.
        tail: of it, for what stays: descriptions of tensors, operators and their data.
    """

    total: int
    head: int
    tail: int


class MicroSession:
    """A session of TFLite Micro (see `edgekit.runtimes.Session`). It computes one image at a time, in one thread.

    Args:
        model: the .tflite file, by its path or as files that are checked when they are opened.
        threads: has no effect.
        settings: `provider`, which is `cpu`.

    Raises:
        BundleError: TFLite Micro cannot load the file.
    """

    runtime = "tflite-micro"

    def __init__(self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> None:
        files = files_of(model)
        check_cpu(self.runtime, settings, files.path)
        content = files.read(files.path.name)
        graph = _graph(content, files.path)
        self.outputs = [graph.tensors[i].name.decode() for i in graph.outputs]
        inputs = [
            (tensor.name.decode(), _DTYPES.get(tensor.type, "another type"), _sides(tensor))
            for tensor in (graph.tensors[i] for i in graph.inputs)
        ]
        self._main = files.task.main
        _, self._shape, batch = check_graph(files.path, inputs, self.outputs, files.task)
        if batch != 1:
            free = "a free batch axis" if batch is None else f"the batch size {batch}"
            raise BundleError(
                f"{files.path}: TFLite Micro takes one image at a time, but the graph has {free}",
                "export it for the target micro",
            )
        self.batch: int | None = 1
        self._interpreter: Any = _interpreter(content, graph, files.path)
        self._turn = threading.Lock()
        self.version: str = metadata.version("tflite-micro")
        self.settings = {PROVIDER: "cpu", "num_threads": "1"}

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the main output (1, …) float32 of an image (1, H, W, 3) uint8 (see `Session.run`)."""
        return self.run_all(images)[self._main]

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        with self._turn:
            self._interpreter.set_input(np.ascontiguousarray(images), 0)
            self._interpreter.invoke()
            return {name: np.array(self._interpreter.get_output(i)) for i, name in enumerate(self.outputs)}

    def arena(self) -> Arena:
        """The memory that the model needs, measured while it runs an image."""
        self.run_all(np.zeros((1, *self._shape), np.uint8))
        with self._turn, caught_stderr() as caught:
            self._interpreter.print_allocations()
        found = {which: int(size) for line in caught.lines for which, size in _ALLOCATION.findall(line)}
        return Arena(found["total"], found["head"], found["tail"])

    def close(self) -> None:
        """Release the model."""
        self._interpreter = None


def _graph(content: bytes, path: Path) -> Any:
    """The graph of a file, read whole: TFLite Micro itself does not check what it is given."""
    try:
        if content[4:8] != _IDENTIFIER:
            raise ValueError("it is not a .tflite")
        model = schema.ModelT.InitFromPackedBuf(content)
        (graph,) = model.subgraphs
        for index in (*graph.inputs, *graph.outputs):
            graph.tensors[index].name.decode()
        for operator in graph.operators:
            model.operatorCodes[_index(operator.opcodeIndex)]
            for index in (*operator.inputs, *operator.outputs):
                graph.tensors[-1 if index == -1 else _index(index)]  # -1: an input that is left out
        for tensor in graph.tensors:
            held = model.buffers[tensor.buffer].data
            if held is not None and len(held) > math.prod(map(int, tensor.shape)) * _WIDEST:
                raise ValueError("a tensor is smaller than its data")
    except _UNREADABLE as error:
        raise BundleError(
            reason_of(error), "export the bundle again", where=f"{path}: TFLite Micro cannot load it"
        ) from error
    return graph


def _index(index: int) -> int:
    """An index that counts from the beginning."""
    if index < 0:
        raise IndexError("list index out of range")
    return int(index)


def _sides(tensor: Any) -> list[int | None]:
    """The shape of an input; None is a free axis."""
    signature = tensor.shapeSignature
    sides = tensor.shape if signature is None or not len(signature) else signature
    return [None if side < 0 else int(side) for side in sides]


def _interpreter(content: bytes, graph: Any, path: Path) -> Any:
    """An interpreter with more memory than the model can need: every tensor beside every other."""
    numbers = sum(math.prod(map(int, tensor.shape)) for tensor in graph.tensors if tensor.shape is not None)
    arena = (1 << 20) + _WIDEST * numbers + 4096 * len(graph.operators)
    with caught_stderr() as caught:
        try:
            return runtime.Interpreter.from_bytes(content, arena_size=arena)
        except (RuntimeError, MemoryError, *_UNREADABLE) as error:
            failed = error
    reasons = "; ".join(caught.lines[:3]) or str(failed) or type(failed).__name__
    raise BundleError(
        one_line(reasons, 300), "export the bundle again", where=f"{path}: TFLite Micro cannot load it"
    ) from failed


def devices() -> list[str]:
    """Return the devices that it runs on, for `edgekit doctor`."""
    return ["CPU, one thread, as a reference for boards"]
