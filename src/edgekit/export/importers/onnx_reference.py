"""Runs the original foreign ONNX file: in ONNX Runtime without optimizations, on images normalized by NumPy.

It shares no code with the rewritten graph, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgekit.errors import ExportError, reason_of
from edgekit.export.importers import rewire
from edgekit.export.importers.determinism import determinism_fault
from edgekit.export.importers.onnx_output import Values, choose, paths
from edgekit.export.importers.ports import ImageInput
from edgekit.models.pixels import Channels, Statistics
from edgekit.onnx_graph.operators import refused
from edgekit.sizes import ImageSize

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_SAME = 1e-3  # of the largest logit: tolerance for float32 rounding


class OnnxReference:
    """Runs a foreign file and gives its logits.

    Args:
        model: the graph, with all weights inside; nodes that no output depends on may be added to it.
        image: its image input.
        file: its path, for messages.
        size: of the images, in pixels.
        wanted: the output that the user chose; None: not chosen.

    Attributes:
        output: the output that holds the classes.
        batch: the batch size that it takes; None: any.

    Raises:
        ExportError: ONNX Runtime cannot run it, it is not a classifier, or its output for an image varies.
    """

    def __init__(self, model: ModelProto, image: ImageInput, file: str, size: ImageSize, wanted: str | None) -> None:
        self.model, self.image, self.file = model, image, file
        self.batch, self.size = image.batch, size
        found = paths(model)
        tensors = list(dict.fromkeys(n for path in found for n in (*path.tensors, *path.seen)))
        inputs, values = self._probed(tensors) if tensors else ([], [{}])
        count = len(inputs[0]) if inputs else 1
        self.output = choose(model, found, values, count, wanted, file)
        self._refuse_mixed(inputs[0])

    def run(self, mean: Statistics, std: Statistics, channels: Channels) -> Run:
        """A function from RGB images, uint8 (n, h, w, 3), to logits, float32 (n, classes)."""
        names = [self.output.source, self.output.name]
        session = self._session(names)

        def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            step = self.batch or len(images)
            parts = []
            for start in range(0, len(images), step):
                part = images[start : start + step]
                filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
                outputs = self._run(session, names, self.image.of_pixels(filled, mean, std, channels))
                parts.append(self.output.decode(outputs[names[0]], outputs[names[1]], self.file)[: len(part)])
            return np.concatenate(parts)

        return answer

    def _probed(self, tensors: list[str]) -> tuple[list[NDArray[np.generic]], list[Values]]:
        """Test inputs, in batches that the file takes, and the values of these tensors for each."""
        probes, session = self.image.probes(self.size), self._session(tensors)
        if self.batch is None:
            try:
                return [probes], [self._run(session, tensors, probes)]
            except ExportError:  # the file declares a free batch axis, but may work only for one image
                self.batch = 1
        filled = np.resize(probes, (-(-len(probes) // self.batch) * self.batch, *probes.shape[1:]))
        inputs = [filled[i : i + self.batch] for i in range(0, len(filled), self.batch)]
        return inputs, [self._run(session, tensors, part) for part in inputs]

    def _refuse_mixed(self, inputs: NDArray[np.generic]) -> None:
        """Refuse networks whose output for an image is random or depends on the other images of the batch."""
        name = self.output.source
        session = self._session([name])

        def answer(images: NDArray[np.generic]) -> NDArray[np.generic]:
            return self._run(session, [name], images)[name]

        images = np.roll(inputs, -1, axis=0)  # the first of `ImageInput.probes` is blank
        others = np.repeat(
            images[:1], len(images), axis=0
        )  # the same number of images, because some files take no other
        fault = determinism_fault(self.file, answer, images, others, _SAME)
        if fault is not None:
            raise fault

    def _session(self, names: Sequence[str]) -> Any:
        import onnxruntime as ort

        from edgekit.runtimes.onnxruntime import session_options

        watched = rewire.copy_of(self.model)
        rewire.observe(watched, names)
        options = session_options()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but RuntimeError and Exception
            hint = "export it again with other operators, or check it with onnx.checker"
            raise refused("ONNX Runtime", self.model, error, f"{self.file}: {hint}") from error

    def _run(self, session: Any, names: Sequence[str], images: NDArray[np.generic]) -> Values:
        try:
            return dict(zip(names, session.run(list(names), {self.image.name: images}), strict=True))
        except Exception as error:  # as above
            reason = reason_of(error)
            raise ExportError(
                f"{self.file}: fails on images of {self.size} px: {reason}", "give the image size that it takes: --size"
            ) from error
