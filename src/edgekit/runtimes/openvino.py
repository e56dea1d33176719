"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtimes.session import OUTPUT, check_graph, check_settings, wrong_images

DEVICE = "CPU"
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
        told: dict[str, Any] = {PRECISION: _TYPES[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            told["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            graph = core.read_model(model)
            inputs = [(x.get_any_name(), _dtype(x.get_element_type()), _shape(x)) for x in graph.inputs]
            outputs = [name for x in graph.outputs for name in x.get_names()]
            self._input, self._shape = check_graph(model, inputs, outputs)
            compiled = core.compile_model(graph, DEVICE, told)
            answered = {key: compiled.get_property(key) for key in (PRECISION, "INFERENCE_NUM_THREADS", "NUM_STREAMS")}
            devices = compiled.get_property("EXECUTION_DEVICES")
            self._output = compiled.output(OUTPUT)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise BundleError(f"{model}: OpenVINO cannot load it: {error}", "export the bundle again") from error
        if _name(answered[PRECISION]) != precision:
            raise BundleError(
                f"{model}: asked OpenVINO to compute in {precision}, this machine answers {_name(answered[PRECISION])}",
                "use another variant of the bundle here",
            )
        self.version: str = ov.__version__
        self.settings = {
            "device": ", ".join(devices),
            PRECISION: _name(answered[PRECISION]),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(answered["INFERENCE_NUM_THREADS"]),
            "NUM_STREAMS": str(answered["NUM_STREAMS"]),
        }

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (n, classes) float32 of images (n, H, W, 3) uint8 (see `Session.run`)."""
        # One chained test is all that a good batch pays for; what is wrong with a bad one is found out afterwards.
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.shape[1:] != self._shape
            or not len(images)
        ):
            raise wrong_images(images, self._shape)
        # The input's memory is shared, which is safe since the call returns after the inference; the output is a copy.
        logits: NDArray[np.float32] = self._request.infer({self._input: images}, share_inputs=True)[self._output]
        return logits

    def close(self) -> None:
        """Release the model."""
        self._request = None
        self._output = None


def _name(kind: Any) -> str:
    """OpenVINO's own name of an element type: f32, u8, …"""
    name: str = kind.get_type_name()
    return name


def _dtype(kind: Any) -> str:
    """NumPy's name of an element type, or OpenVINO's where NumPy has none."""
    return _name(kind) if kind == ov.Type.bf16 else str(kind.to_dtype())


def _shape(node: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in node.get_partial_shape()]
