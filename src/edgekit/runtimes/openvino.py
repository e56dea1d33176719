"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtimes.session import EMBEDDING, OUTPUT, check_graph, check_images, check_settings, wrong_images

DEVICE = "CPU"
# A graph compiled for a fixed batch size runs a small model 5 to 15 % faster than one with a free batch axis, so the first few sizes
# that are asked for get graphs of their own; whoever asks for many shares one with a free axis.
_FIXED_SIZES = 4
# The type that float layers are computed in. OpenVINO's own default depends on the machine (bf16 where the CPU has it, which
# is less exact and there even slower), so it is always told: by the variant, else f32.
PRECISION = "INFERENCE_PRECISION_HINT"
_TYPES = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}


class OpenVinoSession:
    """A session of OpenVINO: CPU, tuned for the latency of one request (see `edgekit.runtimes.Session`).

    Args:
        model: the .xml of an IR with its .bin beside it, or an .onnx file.
        threads: threads of the inference; 0 leaves it to OpenVINO.
        settings: takes `INFERENCE_PRECISION_HINT`: f32 (the default), f16 or bf16.

    Raises:
        BundleError: OpenVINO cannot load the file, or this machine does not compute in the precision that was asked for.
    """

    runtime = "openvino"

    def __init__(self, model: Path, threads: int, settings: Mapping[str, str]) -> None:
        check_settings(self.runtime, settings, [PRECISION])
        precision = settings.get(PRECISION, "f32")
        if precision not in _TYPES:
            raise BundleError(f"{model}: {PRECISION} is {precision}, not one of {', '.join(_TYPES)}", "export it again")
        self._told: dict[str, Any] = {PRECISION: _TYPES[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._told["INFERENCE_NUM_THREADS"] = threads
        try:
            self._core = ov.Core()
            self._graph: Any = self._core.read_model(model)
            inputs = [(x.get_any_name(), _dtype(x.get_element_type()), _shape(x)) for x in self._graph.inputs]
            self.outputs = [_output_name(x) for x in self._graph.outputs]
            _, self._shape, self.batch = check_graph(model, inputs, self.outputs)
            compiled = self._compile(self.batch or 1)
        except RuntimeError as error:
            raise BundleError(f"{model}: OpenVINO cannot load it: {error}", "export the bundle again") from error
        answered = _name(compiled.get_property(PRECISION))
        if answered != precision:
            raise BundleError(
                f"{model}: asked OpenVINO to compute in {precision}, this machine answers {answered}",
                "use another variant of the bundle here",
            )
        self._calls = {self.batch or 1: _call_of(compiled)}  # by batch size; 0 takes any
        self.version: str = ov.__version__
        self.settings = {
            "device": ", ".join(compiled.get_property("EXECUTION_DEVICES")),
            PRECISION: answered,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(compiled.get_property("INFERENCE_NUM_THREADS")),
            "NUM_STREAMS": str(compiled.get_property("NUM_STREAMS")),
        }

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (n, classes) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        # One chained test is all that a good batch pays for; what is wrong with a bad one is found out afterwards.
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.shape[1:] != self._shape
            or len(images) != (self.batch or len(images) or 1)
        ):
            raise wrong_images(images, self._shape, self.batch)
        infer, output = self._calls.get(len(images)) or self._call(len(images))
        # The input's memory is shared, which is safe since the call returns after the inference; the output is a copy.
        logits: NDArray[np.float32] = infer(images, share_inputs=True)[output]
        return logits

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        infer, _ = self._calls.get(len(images)) or self._call(len(images))
        return dict(zip(self.outputs, infer(images, share_inputs=True).to_tuple(), strict=True))

    def _call(self, batch: int) -> tuple[Any, Any]:
        """How to infer a batch size that has no graph of its own yet, and what to look the logits up by."""
        size = batch if len(self._calls) < _FIXED_SIZES else 0
        if size not in self._calls:
            self._calls[size] = _call_of(self._compile(size))
        return self._calls[size]

    def _compile(self, batch: int) -> Any:
        """The graph compiled for one batch size, or for any (0)."""
        graph = self._graph
        if batch and not self.batch:
            graph = graph.clone()
            graph.reshape([batch, *self._shape])
        return self._core.compile_model(graph, DEVICE, self._told)

    def close(self) -> None:
        """Release the model."""
        self._calls.clear()
        self._graph = None


def _call_of(compiled: Any) -> tuple[Any, Any]:
    return compiled.create_infer_request().infer, compiled.output(OUTPUT)


def _output_name(output: Any) -> str:
    """The name that an output was exported under; conversions add names of their own to it."""
    names = output.get_names()
    return next((name for name in (OUTPUT, EMBEDDING) if name in names), output.get_any_name())


def _name(kind: Any) -> str:
    """OpenVINO's own name of an element type: f32, u8, …"""
    name: str = kind.get_type_name()
    return name


def _dtype(kind: Any) -> str:
    """NumPy's name of an element type, or OpenVINO's where NumPy has none."""
    return _name(kind) if kind == ov.Type.bf16 else str(kind.to_dtype())


def _shape(node: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in node.get_partial_shape()]
