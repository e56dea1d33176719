"""LiteRT (TensorFlow Lite) on the CPU, with its XNNPACK delegate."""

from __future__ import annotations

import os
import queue
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgekit.errors import BundleError, reason_of
from edgekit.processors import narrowed_threads, physical_cores, usable_cpus
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.native_output import caught_stderr
from edgekit.runtimes.session import OUTSIDE, PARTITIONS, PROVIDER, check_cpu, check_graph, check_images
from edgekit.runtimes.streams import Streams, ThreadStreams

DELEGATE = "DELEGATE"  # what LiteRT calls a part of the graph that XNNPACK computes
_NOISE = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."  # written to standard error once a process


class LiteRtSession:
    """A session of LiteRT (see `edgekit.runtimes.Session`).

    An interpreter has memory for one batch size; another size resizes it, which takes some milliseconds.

    Args:
        model: the .tflite file, by its path or as files that are checked when they are opened.
        threads: threads of an operator; 0: one per physical core, at most the number of processors that this process may use.
        settings: `provider`, which is `cpu`.
        copies: number of runs at the same time; each has its own interpreter and memory.

    Raises:
        BundleError: LiteRT cannot load the file.
    """

    runtime = "litert"

    def __init__(self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str], *, copies: int = 1) -> None:
        files = files_of(model)
        check_cpu(self.runtime, settings, files.path)
        threads = threads or narrowed_threads() or physical_cores() or usable_cpus()
        self._opened = (files, threads, dict(settings))
        content = files.read(files.path.name)
        interpreters = [_interpreter(content, files.path, threads) for _ in range(copies)]
        first = interpreters[0]
        inputs = [
            (x["name"], np.dtype(x["dtype"]).name, [None if side < 0 else int(side) for side in _signature(x)])
            for x in first.get_input_details()
        ]
        output_indices = {x["name"]: x["index"] for x in first.get_output_details()}
        self.outputs = list(output_indices)
        self._main = files.task.main
        _, self._shape, self.batch = check_graph(files.path, inputs, self.outputs, files.task)
        index = first.get_input_details()[0]["index"]
        # A run takes one out and puts it back.
        self._free: queue.SimpleQueue[_Sized] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._free.put(_Sized(interpreter, index, output_indices, self.batch))
        self.version: str = metadata.version("ai-edge-litert")
        with _reported(files.path):
            partitions, outside = executed(first)
        self.settings = {
            PROVIDER: "cpu",
            "num_threads": str(threads),
            PARTITIONS: str(partitions),
            OUTSIDE: ", ".join(f"{count} {kind}" for kind, count in outside.items()) or "nothing",
        }

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the main output (n, …) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        check_images(images, self._shape, self.batch)
        with self._taken() as interpreter:
            return interpreter(images, [self._main])[self._main]

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        with self._taken() as interpreter:
            return interpreter(images, self.outputs)

    @contextmanager
    def _taken(self) -> Iterator[_Sized]:
        interpreter = self._free.get()
        try:
            yield interpreter
        finally:
            self._free.put(interpreter)

    def streams(self, count: int = 0, batch: int = 1) -> Streams:
        """Threads that run the same model at the same time (see `Streaming.streams`), each with an interpreter of its own."""
        files, threads, settings = self._opened
        count = count or threads or usable_cpus()
        return ThreadStreams(LiteRtSession(files, max(1, threads // count), settings, copies=count), count)

    def close(self) -> None:
        """Release the model."""
        while not self._free.empty():
            self._free.get()


class _Sized:
    """An interpreter and the batch size that it has memory for."""

    def __init__(self, interpreter: Any, index: int, outputs: Mapping[str, int], batch: int | None) -> None:
        self._interpreter, self._index, self._outputs = interpreter, index, outputs
        self._batch = batch or 1

    def __call__(self, images: NDArray[np.uint8], names: list[str]) -> dict[str, NDArray[np.float32]]:
        """Return the named outputs of a batch, in newly allocated memory."""
        if len(images) != self._batch:
            self._batch = 0  # until it has succeeded
            self._interpreter.resize_tensor_input(self._index, images.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(images)
        self._interpreter.set_tensor(self._index, images)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(self._outputs[name]) for name in names}


def executed(interpreter: Any) -> tuple[int, Counter[str]]:
    """Return the number of parts of the graph that XNNPACK runs, and the number of operators of each kind that LiteRT runs itself.

    LiteRT also lists the operators that a part replaces, so the operators that run are found from the outputs backwards.
    """
    makers: dict[int, Mapping[str, Any]] = {}
    for operator in getattr(interpreter, "_get_ops_details", list)():  # not public: another release may not have it
        for tensor in operator["outputs"]:
            if operator["op_name"] == DELEGATE or int(tensor) not in makers:
                makers[int(tensor)] = operator
    wanted = [int(output["index"]) for output in interpreter.get_output_details()]
    running: dict[int, str] = {}
    while wanted:
        operator = makers.get(wanted.pop(), {})
        if operator and operator["index"] not in running:
            running[operator["index"]] = operator["op_name"]
            wanted.extend(int(tensor) for tensor in operator["inputs"] if tensor >= 0)
    kinds = Counter(running[index] for index in sorted(running))
    return kinds.pop(DELEGATE, 0), kinds


def _signature(details: Mapping[str, Any]) -> list[int]:
    """Return the shape of an input; -1 is a free axis."""
    return list(details["shape_signature"]) or list(details["shape"])


def _interpreter(content: bytes, path: Path, threads: int) -> Any:
    with _without_noise(), _reported(path):
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.get_input_details(), interpreter.get_output_details()  # which fail where a name is no text
    return interpreter


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what LiteRT raises when it cannot read a file into one error."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # what its own code raises; the former for a name that is no text
        raise BundleError(f"{path}: LiteRT cannot load it: {reason_of(error)}", "export the bundle again") from error


@contextmanager
def _without_noise() -> Iterator[None]:
    """Remove LiteRT's start message from standard error; other output is passed on."""
    caught = None
    try:
        with caught_stderr() as caught:
            yield
    finally:
        left = b"".join(line for line in (caught.content if caught else b"").splitlines(True) if line.strip() != _NOISE)
        if left:
            os.write(2, left)


def devices() -> list[str]:
    """Return the devices that LiteRT runs on, for `edgekit doctor`."""
    return ["CPU (XNNPACK)"]
