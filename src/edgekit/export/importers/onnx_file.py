"""Importer of `model.onnx`: a float classifier from any exporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, inliner

from edgekit.errors import EdgekitError, ExportError, typed_reason_of
from edgekit.export.importers import onnx_checks, rewire
from edgekit.export.importers.answers import count_of_classes, single_label
from edgekit.export.importers.batch import free_batch
from edgekit.export.importers.onnx_reference import OnnxReference
from edgekit.export.importers.opset import to_opset, version_of
from edgekit.export.importers.own_file import own_pixels
from edgekit.export.importers.ports import ImageInput, find_input
from edgekit.export.importers.request import ImportedGraph, ModelRequest, Network, PixelFormat
from edgekit.models.pixels import Channels, Statistics
from edgekit.onnx_graph.build import save
from edgekit.sizes import ImageSize, SizeLike

_CLOSE = 1e-3  # of the largest logit: float32 rounding stays below it; a wrong batch axis changes everything


def from_onnx(request: ModelRequest, classes: int | None) -> Network:
    """Import a foreign ONNX file.

    Args:
        request: the user's request.
        classes: number of the user's names; the graph's number of classes cannot be changed.

    Raises:
        ExportError: the file is damaged, is not an image classifier, or uses an operator that no target supports.
    """
    path = Path(request.model).expanduser()
    if request.weights is not None:
        raise ExportError(f"--weights: {request.model} already holds its weights", "leave out --weights")
    model, digest = onnx_checks.read(path)
    with _one_line(request.model):
        return _opened(request, path, model, digest)


def _opened(request: ModelRequest, path: Path, model: ModelProto, digest: str) -> Network:
    onnx_checks.refuse_what_no_target_takes(model, path)
    onnx_checks.refuse_training(model, path)
    image = find_input(model, request.model)
    size = _size(request, image)
    if image.is_pixels and (request.pixels.mean is not None or request.pixels.std is not None):
        raise ExportError(
            f"{request.model}: takes uint8 pixels, so it normalizes them itself", "leave out --mean and --std"
        )
    reference = OnnxReference(model, image, request.model, size, request.output_name)
    output = reference.output
    if request.several and (output.function in {"Softmax", "LogSoftmax"} or output.reading == "probabilities"):
        raise single_label(request.model)
    note = output.note(request.model)
    provenance = {
        "model": request.model,
        "weights": request.model,
        "weights_file_sha256": digest,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": version_of(model),
        "input": f"{image.name}, {'uint8' if image.is_pixels else 'float32'} {image.layout}",
        "output": output.name,
        "output_is": output.function or output.reading,
    }
    foreign = _Foreign(model, image, reference, request.model)
    return Network(
        module=None,
        classes=count_of_classes(output.numbers, output.reading),
        pixels=own_pixels(model, size) if image.is_pixels else PixelFormat(size=size),
        provenance=provenance,
        graph=ImportedGraph(foreign.write, reference.run),
        notes=[note] if note else [],
    )


def _size(request: ModelRequest, image: ImageInput) -> ImageSize:
    requested = request.pixels.size
    if image.size is not None and requested not in (None, image.size):
        raise ExportError(
            f"{request.model}: takes images of {image.size} px, but --size is {requested}",
            f"leave out --size, or give {image.size.option}",
        )
    size = image.size or requested
    if size is None:
        raise ExportError(f"{request.model}: takes images of any size", "choose one, for example --size 224")
    return size


class _Foreign:
    """Rewrites a foreign graph.

    Args:
        model: the graph, with all weights inside; it is not changed.
        image: its image input.
        reference: runs the original file.
        file: its path, for messages.
    """

    def __init__(self, model: ModelProto, image: ImageInput, reference: OnnxReference, file: str) -> None:
        self.model, self.image, self.reference, self.file = model, image, reference, file

    def write(
        self, path: Path, size: SizeLike, mean: Statistics, std: Statistics, channels: Channels, classes: list[str]
    ) -> None:
        """Write the graph in edgekit's form; run it on three images to check that its outputs are the same.

        Raises:
            ExportError: the graph cannot be converted to opset 17, has control flow, or its batch axis cannot be freed.
        """
        size = ImageSize.of(size)
        images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
        with _one_line(self.file):
            expected = self.reference.run(mean, std, channels)(images)
            model, image, source = self._converted(size)
        failures: list[ExportError] = []
        for batch, every in self._attempts():
            graph = rewire.copy_of(model)
            try:
                with _one_line(self.file):
                    rewire.set_shape(graph, image, batch, size)
                    graph = rewire.folded(graph, "ONNX Runtime")
                    onnx_checks.refuse_control_flow(graph, Path(self.file))
                    if isinstance(batch, int):
                        free_batch(graph, batch, every=every)
                    rewire.take_pixels(graph, image, size, mean, std, channels)
                    rewire.name_logits(graph, self.reference.output, source, len(classes))
                    save(graph, path, classes)
            except ExportError as error:
                failures.append(error)
                continue
            if _answers(path, images, expected):
                return
        path.unlink(missing_ok=True)
        raise self._cannot(failures)

    def _attempts(self) -> list[tuple[int | str, bool]]:
        """The batch sizes to try in turn, each with whether to free every Reshape that may hold it.

        With batch size 1, computed shapes fold to constants. If that fixes too much, a free batch axis does not. If a larger batch size is
        fixed throughout the graph, only that size fits.
        """
        fixed = self.reference.batch
        if fixed is None:
            return [(1, False), ("batch", False), (1, True)]
        return [(1, False), *([(fixed, False)] if fixed > 1 else []), (fixed, True)]

    def _cannot(self, failures: list[ExportError]) -> ExportError:
        for failure in failures:
            if isinstance(failure, onnx_checks.ControlFlow):
                return failure
        reason = failures[0].message if failures else "the rewritten graph gives other outputs"
        fixed = self.reference.batch
        return ExportError(
            f"{self.file}: its batch axis{f', fixed to {fixed},' if fixed else ''} cannot be freed: {reason}",
            "export it with a free batch axis (torch: dynamic_axes or dynamic_shapes)",
        )

    def _converted(self, size: ImageSize) -> tuple[ModelProto, ImageInput, str]:
        """The graph in opset 17 without edgekit's reserved names, its input, and the tensor that its logits come from."""
        model = rewire.copy_of(self.model)
        if model.functions:
            model = inliner.inline_local_functions(model)
        output = self.reference.output
        rewire.set_shape(model, self.image, self.reference.batch or "batch", size)
        rewire.observe(model, [output.source], output.rank)
        model = to_opset(model, self.file)
        new = rewire.step_aside(model)
        image = self.image
        named = ImageInput(new.get(image.name, image.name), image.layout, image.is_pixels, image.batch, image.size)
        return model, named, new.get(output.source, output.source)


@contextmanager
def _one_line(file: str) -> Iterator[None]:
    """Turn any exception of onnx, ONNX Runtime or protobuf into a one-line error that names the file.

    Raises:
        ExportError: instead of any other exception.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:  # they raise many kinds without a common base
        reason = typed_reason_of(error)
        raise ExportError(
            f"{file}: cannot be rewritten: {reason}",
            "check it with onnx.checker, or export it again with opset 17",
        ) from error


def _answers(path: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> bool:
    """Whether a graph gives these logits, both image by image and for all images at once."""
    from edgekit.runtimes import open_session

    try:
        session = open_session("onnxruntime", path, threads=1)
        try:
            together = session.run(images)
            alone = np.concatenate([session.run(np.ascontiguousarray(image[None])) for image in images])
        finally:
            session.close()
    except Exception:  # for example a Reshape that no longer fits; the runtime raises many kinds
        return False
    reach = max(float(np.abs(expected).max()), 1e-6)
    return all(
        got.shape == expected.shape and float(np.abs(got - expected).max()) <= _CLOSE * reach
        for got in (together, alone)
    )
