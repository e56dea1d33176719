"""The resolution at which a network fits a board, found by converting the same network for smaller images and measuring what it needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx import ModelProto

from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.micro.limits import largest_that, measure
from edgekit.export.micro.rules import quantize_for_micro
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.simplify import fix_batch
from edgekit.progress import say
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.ranges import select
from edgekit.sizes import ImageSize, SizeLike
from edgekit.tasks import Task

STEP = 16  # pixels: the resolutions that are tried
LEAST = 32


@dataclass
class Fitting:
    """The arena of a network at other resolutions.

    Attributes:
        calibration: of the float network, with its file and its ranges.
        kept: names of the nodes that stay in float.
        task: of the network.
        image_size: size of the images that it was exported for, in pixels.
    """

    calibration: Calibration
    kept: Collection[str]
    task: Task
    image_size: ImageSize
    _measured: dict[ImageSize, int | None] = field(default_factory=dict)

    def largest(self, ram: int) -> tuple[ImageSize, int] | None:
        """The largest resolution of the same shape below the network's own whose arena has at most `ram` bytes, and those bytes; None where none has.

        A larger image never needs a smaller arena, so that some four conversions find it.

        Raises:
            ValueError: the network cannot be converted for other resolutions.
        """
        sizes = [self.image_size.with_shorter(side) for side in range(LEAST, self.image_size.shorter, STEP)]
        if sizes:
            say(f"measuring at which of {len(sizes)} smaller resolutions the network fits {ram:,} bytes of RAM")
        size = largest_that(lambda size: self._needed(size) <= ram, sizes)
        return None if size is None else (size, self._needed(size))

    def _needed(self, size: ImageSize) -> int:
        arena = self.arena(size)
        if arena is None:
            raise ValueError(f"cannot be converted for images of {size} pixels")
        return arena

    def arena(self, size: SizeLike) -> int | None:
        """The bytes of the arena for images of another size, measured; None where the network cannot be converted for them."""
        size = ImageSize.of(size)
        if size not in self._measured:
            self._measured[size] = self._measure(size)
        return self._measured[size]

    def _measure(self, size: ImageSize) -> int | None:
        with TemporaryDirectory(prefix="micro-") as folder:
            path = Path(folder) / "model.tflite"
            try:
                graph = lower(fix_batch(with_size(read_onnx(self.calibration.model), size), 1))
                ranges = select(self.calibration.histograms, "minmax")
                path.write_bytes(serialize(quantize_for_micro(graph, ranges, self.kept, 8)[0]))
                return measure(path, self.task).arena_bytes
            except (
                Exception
            ):  # a size inside the network is in the way, and whoever meets it first says so in its own way
                return None


def with_size(model: ModelProto, size: ImageSize) -> ModelProto:
    """A graph for images of another size; what it knew of its values' shapes is dropped. Changes `model`."""
    shape = model.graph.input[0].type.tensor_type.shape
    for i, side in enumerate(size, start=1):
        shape.dim[i].Clear()
        shape.dim[i].dim_value = side
    del model.graph.value_info[:]
    return model
