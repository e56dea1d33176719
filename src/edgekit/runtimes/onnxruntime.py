"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes.session import OUTPUT, check_graph, check_images, check_settings, wrong_images

PROVIDER = "CPUExecutionProvider"
# Whether idle threads of the pool spin while they wait. On by default, which is the lowest latency for one session; where
# several sessions live in one process on few cores, spinning inflates each by 2 to 5 times: set it to "0" there.
SPINNING = "session.intra_op.allow_spinning"


class OnnxRuntimeSession:
    """A session of ONNX Runtime: CPU provider, one node after the other (see `edgekit.runtimes.Session`).

    Args:
        model: the .onnx file.
        threads: threads inside an operator; 0 leaves it to ONNX Runtime (one a physical core).
        settings: takes `session.intra_op.allow_spinning`, "0" or "1".

    Raises:
        BundleError: ONNX Runtime cannot load the file.
        RuntimeMissing: this build of ONNX Runtime does not give the provider that was asked for.
    """

    runtime = "onnxruntime"

    def __init__(self, model: Path, threads: int, settings: Mapping[str, str]) -> None:
        check_settings(self.runtime, settings, [SPINNING])
        spinning = settings.get(SPINNING, "1")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry(SPINNING, spinning)
        options.log_severity_level = (
            3  # errors only: they become exceptions, and warnings are about choices made at export
        )
        try:
            session = ort.InferenceSession(str(model), options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's own exception classes share no base but Exception
            raise BundleError(f"{model}: ONNX Runtime cannot load it: {error}", "export the bundle again") from error
        if session.get_providers() != [PROVIDER]:  # ONNX Runtime falls back to others without an error
            raise RuntimeMissing(
                f"{model}: asked ONNX Runtime for {PROVIDER}, got {', '.join(session.get_providers())}",
                "install edgekit's wheel with the extra [ort]",
            )
        inputs = [
            (x.name, _dtype(x.type), [s if isinstance(s, int) else None for s in x.shape]) for x in session.get_inputs()
        ]
        self.outputs = [x.name for x in session.get_outputs()]
        self._input, self._shape, self.batch = check_graph(model, inputs, self.outputs)
        self._logits = [OUTPUT]
        self._session: Any = session
        self.version: str = ort.__version__
        told = session.get_session_options()
        self.settings = {
            "provider": session.get_providers()[0],
            "intra_op_num_threads": str(told.intra_op_num_threads),
            "inter_op_num_threads": str(told.inter_op_num_threads),
            "execution_mode": told.execution_mode.name,
            "graph_optimization_level": told.graph_optimization_level.name,
            SPINNING: told.get_session_config_entry(SPINNING),
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
        logits: NDArray[np.float32] = self._session.run(self._logits, {self._input: images})[0]
        return logits

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output by its name (see `Session.run_all`)."""
        check_images(images, self._shape, self.batch)
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: images}), strict=True))

    def close(self) -> None:
        """Release the model."""
        self._session = None


def _dtype(kind: str) -> str:
    """NumPy's name for ONNX Runtime's `tensor(uint8)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
