"""`model.onnx`: a float classifier of any exporter, given the treatment that edgekit's own get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgekit.errors import ExportError
from edgekit.export.graph.onnx import save
from edgekit.export.graph.operators import refused
from edgekit.export.sources import onnx_checks, rewire
from edgekit.export.sources.asked import Asked, Graph, Network, Pixels
from edgekit.export.sources.opset import to_opset, version_of
from edgekit.export.sources.own_file import own_pixels
from edgekit.files import sha256
from edgekit.models.pixels import Statistics

_Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_CLOSE = (
    1e-3  # of the logits' reach: what the order of float32 additions may change; a wrong batch axis changes everything
)


def from_onnx(asked: Asked, classes: int | None) -> Network:
    """A foreign ONNX file.

    Args:
        asked: what the user said.
        classes: how many names the user gave; the graph cannot be changed to it.

    Raises:
        ExportError: it is damaged, no image classifier, or uses what no target can do.
    """
    path = Path(asked.model).expanduser()
    if asked.weights is not None:
        raise ExportError(f"--weights: {asked.model} holds its weights already", "leave --weights out")
    model = onnx_checks.read(path)
    onnx_checks.refuse_what_no_target_takes(model, path)
    ports = rewire.find_ports(model, asked.model)
    pixels = asked.pixels
    if ports.size and pixels.size not in {None, ports.size}:
        raise ExportError(
            f"{asked.model}: takes images of {ports.size} px, --size says {pixels.size}",
            f"leave --size out, or give {ports.size}",
        )
    size = ports.size or pixels.size
    if size is None:
        raise ExportError(f"{asked.model}: takes images of any size", "say which: --size 224")
    if ports.is_pixels and (pixels.mean is not None or pixels.std is not None):
        raise ExportError(
            f"{asked.model}: takes uint8 pixels, so it normalises them itself", "leave --mean and --std out"
        )
    foreign = _Foreign(model, ports, asked.model)
    logits = foreign.run(0.0, 1.0)(np.zeros((1, size, size, 3), np.uint8))
    notes = []
    if ports.logits != ports.output:
        notes.append(f"{asked.model}: its Softmax is left out: the bundle's logits are what it saw")
    provenance = {
        "model": asked.model,
        "weights": asked.model,
        "weights_file_sha256": sha256(path),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": version_of(model),
        "input": f"{ports.input}, {'uint8' if ports.is_pixels else 'float32'} {ports.layout}",
        "output": ports.output,
    }
    return Network(
        module=None,
        classes=logits.shape[1],
        pixels=own_pixels(model, size) if ports.is_pixels else Pixels(size=size),
        provenance=provenance,
        graph=Graph(foreign.write, foreign.run),
        notes=notes,
    )


class _Foreign:
    """A foreign graph: run as it is, and rewritten.

    Args:
        model: with all weights inside; it is not changed.
        ports: its input and output.
        here: its path, for messages.
    """

    def __init__(self, model: ModelProto, ports: rewire.Ports, here: str) -> None:
        self.model, self.ports, self.here = model, ports, here

    def run(self, mean: Statistics, std: Statistics) -> _Run:
        """What the file itself answers in ONNX Runtime, not optimised, to images that NumPy normalises: a way to the logits that
        shares nothing with the rewritten graph.

        Raises:
            ExportError: ONNX Runtime does not take the graph, or it fails on such images.
        """
        import onnxruntime as ort

        from edgekit.runtimes.onnxruntime import session_options

        watched = _copy(self.model)
        rewire.observe(watched, self.ports)
        options = session_options()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but RuntimeError and Exception
            hint = "export it again with other operators, or check it with onnx.checker"
            raise refused("ONNX Runtime", self.model, error, f"{self.here}: {hint}") from error

        def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            step = self.ports.batch or len(images)
            parts = []
            for start in range(0, len(images), step):
                part = images[start : start + step]
                filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
                try:
                    (logits,) = session.run(
                        [self.ports.logits], {self.ports.input: self._normalised(filled, mean, std)}
                    )
                except Exception as error:
                    reason = " ".join(str(error).split())[:200]
                    raise ExportError(
                        f"{self.here}: fails on images of {images.shape[1]} px: {reason}",
                        "give the --size that it takes",
                    ) from error
                parts.append(self._flat(np.asarray(logits), step)[: len(part)])
            return np.concatenate(parts)

        return answer

    def write(self, path: Path, size: int, mean: Statistics, std: Statistics, classes: list[str]) -> None:
        """Write the graph in edgekit's form, and run it on three images to see that it still answers the same.

        Raises:
            ExportError: it cannot be converted to opset 17, holds control flow, or its batch axis cannot be freed.
        """
        images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        expected = self.run(mean, std)(images)
        model = self._in_opset()
        # First with a batch of one, which lets shapes that are computed fold to constants; where that freezes something, without.
        failure: ExportError | None = None
        for batch in (1, "batch") if self.ports.batch is None else (1,):
            graph = _copy(model)
            rewire.set_shape(graph, self.ports, batch, size)
            graph = rewire.folded(graph, "ONNX Runtime")
            onnx_checks.refuse_control_flow(graph, Path(self.here))
            rewire.free_batch(graph)
            rewire.take_pixels(graph, self.ports, size, mean, std)
            rewire.name_logits(graph, self.ports, len(classes))
            try:
                save(graph, path, classes)
            except ExportError as error:
                failure = error
                continue
            if _answers(path, images, expected):
                return
        path.unlink(missing_ok=True)
        reason = failure.message if failure is not None else "the rewritten graph answers otherwise"
        raise ExportError(
            f"{self.here}: its batch axis{f', fixed to {self.ports.batch},' if self.ports.batch else ''} cannot be freed: {reason}",
            "export it with a free batch axis (torch: dynamic_axes or dynamic_shapes)",
        ) from failure

    def _in_opset(self) -> ModelProto:
        model = _copy(self.model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        rewire.observe(model, self.ports)
        return to_opset(model, self.here)

    def _normalised(self, images: NDArray[np.uint8], mean: Statistics, std: Statistics) -> NDArray[np.generic]:
        pixels: NDArray[np.generic] = images
        if not self.ports.is_pixels:
            pixels = ((images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self.ports.layout == "NCHW" else pixels)

    def _flat(self, logits: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        if logits.ndim < 2 or logits.shape[0] != count or logits.size != count * logits.shape[1]:
            raise ExportError(
                f"{self.here}: its output {self.ports.output} is {logits.shape} for {count} images, not logits (n, classes)",
                "give an image classifier",
            )
        return logits.reshape(count, -1)


def _answers(path: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> bool:
    """Whether a graph gives these logits, image by image and all at once."""
    from edgekit.runtimes import open_session

    session = open_session("onnxruntime", path, threads=1)
    try:
        together = session.run(images)
        alone = np.concatenate([session.run(np.ascontiguousarray(image[None])) for image in images])
    except Exception:  # a Reshape that no longer fits; whatever the runtime calls it
        return False
    finally:
        session.close()
    reach = max(float(np.abs(expected).max()), 1e-6)
    return all(
        got.shape == expected.shape and float(np.abs(got - expected).max()) <= _CLOSE * reach
        for got in (together, alone)
    )


def _copy(model: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    return result
